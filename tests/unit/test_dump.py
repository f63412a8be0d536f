"""Values as JSON text, made in parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network

import pytest

from xennetd.model.configuration import Match, Policy, Rule
from xennetd.model.dump import SLICE, TextOnce, to_json, to_text
from xennetd.model.errors import GuestError
from xennetd.model.status import VifState
from xennetd.model.vif import VifId


@dataclass(frozen=True)
class Of:
    """A value of anything."""

    a: object = None
    b: Mapping[str, object] = field(default_factory=dict)


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "text",
        (),
        [1],
        tuple(range(SLICE)),
        tuple(range(3 * SLICE + 1)),
        {},
        {str(number): (number,) for number in range(2 * SLICE + 1)},
        frozenset({1, 2}),
        VifState.ERROR,
        VifId(7, 0),
        IPv4Network("10.0.0.0/8"),
        GuestError("no"),
        Of(),
        Of(1),
        Of(b={"x": Of((1, Of()))}),
        Of(Of(Of([VifId(1, 2)]))),
        Policy(),
        Policy(rules=tuple(Rule(str(number), Match(vm=f"web-{number}"), deny="x") for number in range(99))),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_the_parts_are_the_whole(value: object) -> None:
    whole = json.dumps(to_json(value))
    assert "".join(to_text(value)) == whole
    once = TextOnce(value)
    assert ["".join(once.parts()) for _ in range(2)] == [whole, whole]


def test_a_part_has_few_items() -> None:
    policy = Policy(rules=tuple(Rule("", Match(vm=f"web-{number}"), deny="x") for number in range(2000)))
    assert max(part.count("web-") for part in to_text(policy)) == SLICE


def test_each_part_is_made_once_for_all_who_read_at_the_same_time() -> None:
    once = TextOnce(tuple(range(3 * SLICE)))
    whole = "".join(to_text(once.value))
    slow, fast = once.parts(), once.parts()
    begun = next(slow)
    assert "".join(fast) == whole
    assert next(once.parts()) is begun
    assert begun + "".join(slow) == whole

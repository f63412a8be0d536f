"""What the host must have for its guests: made for the first that needs it, gone with the last."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xennetd.daemon.ground import Ground, Owner
from xennetd.model.errors import HostError
from xennetd.model.ground import Element, GroundObject, OwnBridge, ProxyNeighbour, Setting
from xennetd.model.vif import VifId

ONE, OTHER = VifId(1, 0), VifId(2, 0)
PROXY = ProxyNeighbour("eth0", IPv4Address("192.0.2.7"))
FORWARDING = Setting(4, "eth0", "forwarding", 1)
HEEDING = Setting(6, "eth0", "accept_ra", 2)
FORWARDING6 = Setting(6, "all", "forwarding", 1)
BRIDGE = OwnBridge("xn-lab", "02:00:00:00:00:01")
THINGS: list[GroundObject] = [PROXY, FORWARDING, HEEDING, FORWARDING6, BRIDGE, Element("s", ("1",))]


class Heap:
    """A hand for everything: what there is, and in which order it came and went."""

    def __init__(self, *there: GroundObject) -> None:
        self.there: list[GroundObject] = list(there)
        self.done: list[str] = []
        self.refuses: GroundObject | None = None

    def holds(self, needed: GroundObject) -> bool:
        return needed in self.there

    def ensure(self, needed: Sequence[GroundObject]) -> None:
        for each in needed:
            if each == self.refuses:
                raise HostError(f"{each.describe()}: refused")
            if each not in self.there:
                self.there.append(each)
                self.done.append(f"+ {each.describe()}")

    def release(self, objects: Sequence[GroundObject]) -> None:
        for each in objects:
            if each in self.there:
                self.there.remove(each)
                self.done.append(f"- {each.describe()}")

    def ours(self) -> list[GroundObject]:
        return list(self.there)


def ground(heap: Heap) -> Ground:
    hands: Any = dict.fromkeys((type(each) for each in THINGS), heap)
    return Ground(hands)


def test_what_two_need_stays_until_the_last_has_gone() -> None:
    heap = Heap()
    kept = ground(heap)
    for vif in (ONE, OTHER):
        kept.ensure(vif, [PROXY])
        kept.claim(vif, frozenset({PROXY}))
    kept.claim(ONE, frozenset())
    assert heap.there == [PROXY]
    kept.claim(OTHER, frozenset())
    assert heap.there == []


def test_things_are_made_in_the_order_in_which_they_stand_on_each_other_and_go_in_reverse() -> None:
    heap = Heap()
    kept = ground(heap)
    kept.ensure(ONE, [PROXY, FORWARDING6, HEEDING, BRIDGE])
    kept.claim(ONE, frozenset({PROXY, FORWARDING6, HEEDING, BRIDGE}))
    kept.claim(ONE, frozenset())
    order = [BRIDGE.describe(), HEEDING.describe(), FORWARDING6.describe(), PROXY.describe()]
    assert heap.done == [f"+ {each}" for each in order] + [f"- {each}" for each in reversed(order)]


def test_nothing_that_is_still_needed_goes_while_needs_change() -> None:
    heap = Heap()
    kept = ground(heap)
    kept.ensure(ONE, [PROXY])
    kept.claim(ONE, frozenset({PROXY}))
    kept.ensure(ONE, [FORWARDING])
    assert heap.there == [PROXY, FORWARDING], "the old is there until the new is in place"
    kept.claim(ONE, frozenset({FORWARDING}))
    assert heap.there == [FORWARDING]


def test_what_an_earlier_daemon_left_goes_once_all_have_been_heard() -> None:
    heap = Heap(PROXY, FORWARDING)
    kept = ground(heap)
    assert kept.missing({PROXY}) == ()
    kept.claim(ONE, frozenset({PROXY}))
    assert heap.there == [PROXY, FORWARDING]
    kept.prune()
    assert heap.there == [PROXY]


def test_what_was_made_before_a_refusal_goes_with_its_owner() -> None:
    heap = Heap()
    heap.refuses = PROXY
    kept = ground(heap)
    with pytest.raises(HostError):
        kept.ensure(ONE, [PROXY, FORWARDING])
    assert heap.there == [FORWARDING]
    kept.claim(ONE, frozenset())
    assert heap.there == []


_Owners = st.sampled_from([ONE, OTHER, "lab"])
_Needs = st.frozensets(st.sampled_from(THINGS))


@given(st.lists(st.tuples(_Owners, _Needs)))
def test_there_is_what_somebody_needs_and_nothing_else(claims: list[tuple[Owner, frozenset[GroundObject]]]) -> None:
    heap = Heap()
    kept = ground(heap)
    last: dict[Owner, frozenset[GroundObject]] = {}
    for owner, needs in claims:
        kept.ensure(owner, kept.missing(needs))
        kept.claim(owner, needs)
        last[owner] = needs
        assert set(heap.there) == frozenset[GroundObject]().union(*last.values())
        assert all(kept.missing(wanted) == () for wanted in last.values())

"""Makes a decision again from what `xennetctl show --debug VIF` has printed: python -m tests.replay DUMP.json

It asks policy again, with the answers that the daemon had, and decides again from the same observation. It prints what
the daemon decided, and what this code decides; the exit status is 1 if they differ.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xennetd.model import attachment, configuration, errors, link, objects, offload, placement, status, topology, vif
from xennetd.model.configuration import Policy
from xennetd.model.dump import from_json
from xennetd.model.value import replace
from xennetd.plan import decide as deciding
from xennetd.plan import difference, observation, steps
from xennetd.plan.decide import Decision, decide
from xennetd.plan.observation import Observation
from xennetd.policy import addresses
from xennetd.policy.facts import Facts, RecordedAnswers
from xennetd.policy.resolve import resolve

_MODULES = (
    addresses, attachment, configuration, deciding, difference, errors, link, objects, observation, offload, placement,
    status, steps, topology, vif,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dump:
    """What the daemon had, and what it made of it."""

    answers: RecordedAnswers
    observation: Observation
    decision: Decision
    policy: Policy
    has_ipv6: bool
    forces_ipv6: bool


def read(text: str) -> Dump:
    """Return the dump that `text` is."""
    told = json.loads(text)
    answers, seen, decision, policy = (
        from_json(told[name], types()) for name in ("answers", "observation", "decision", "policy")
    )
    return Dump(answers, seen, decision, policy, told["has_ipv6"], told["forces_ipv6"])


def types() -> Iterator[type]:
    """Yield the types of everything that a dump may hold."""
    for module in _MODULES:
        yield from (each for _, each in inspect.getmembers(module, inspect.isclass))


def again(dump: Dump) -> Decision:
    """Return what this code decides. What the host lacked, and a conflict with other owners, is taken from the dump."""
    seen = dump.observation
    if seen.outcome is not None:
        facts = Facts.of(dump.answers, has_ipv6=dump.has_ipv6, forces_ipv6=dump.forces_ipv6)
        resolution = resolve(dump.policy, seen.vif, facts, facts)
        seen = replace(seen, assignment=resolution.assignment, outcome=resolution.outcome)
    return decide(seen)


def same(one: Decision, other: Decision) -> bool:
    """Return whether two decisions are one; errors are compared by what they say."""
    return bool(_told(one) == _told(other))


def _told(decision: Decision) -> Any:
    port, tap = (replace(each, error=None) for each in (decision.port, decision.tap))
    errors_of_both = [each.error and (type(each.error), each.error.detail) for each in (decision.port, decision.tap)]
    return replace(decision, port=port, tap=tap), errors_of_both


def describe(decision: Decision) -> list[str]:
    """Return a decision in lines."""
    said = [f"state   {decision.state.value}", f"reason  {decision.reason or '-'}"]
    said += [f"step    {step.describe()}" for step in decision.steps]
    said += [f"error   {each.error.detail}" for each in (decision.port, decision.tap) if each.error is not None]
    return [*said, f"verdict {decision.verdict}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", type=Path)
    dump = read(parser.parse_args().dump.read_text())
    now = again(dump)
    print("the daemon decided", *describe(dump.decision), "this code decides", *describe(now), sep="\n  ")
    return 0 if same(dump.decision, now) else 1


if __name__ == "__main__":
    sys.exit(main())

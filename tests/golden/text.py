"""What a daemon has done on a simulated host, as lines that a person can read."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from itertools import groupby

from tests.golden.serving import GIVEN_UP, LEFT_OVER, Done, Serving
from xennetd.model.objects import DhcpService, HostObject, Ruleset
from xennetd.model.status import VifState
from xennetd.model.vif import VifId
from xennetd.plan.difference import Change, Make
from xennetd.plan.steps import Step

_INDENT = "    "


def done_lines(daemon: Serving, done: Sequence[Done]) -> Iterator[str]:
    """Yield what was done, headed by whom it was for each time that changes."""
    for owner, several in groupby(done, key=lambda each: each.owner):
        yield _heading(daemon, owner)
        for each in several:
            if isinstance(each.what, str):
                yield f"{_INDENT}{each.what}"
            else:
                yield f"{_INDENT}{each.what.describe()}"
                yield from (f"{_INDENT * 2}{line}" for line in _details(each.what))


def state_lines(daemon: Serving) -> list[str]:
    """Return what is not as somebody wants it, and what is to be said of it."""
    policy = daemon.policy
    found = [f"check: {note.sentence}" for note in daemon.check(policy)]
    found += [f"status: {problem}" for problem in daemon.networks.problems()]
    for vif, record in sorted(daemon.records.items()):
        name = f"{vif} of {record.vif.vm}"
        if record.state is not VifState.CONNECTED:
            why = record.error.detail if record.error is not None else record.reason
            found.append(f"{name} is {record.state}: {why}")
        if record.attachment is not None and record.state is not VifState.IGNORED:
            found += [f"{name}: warning: {warning}" for warning in record.attachment.warnings]
    return found


def _heading(daemon: Serving, owner: VifId | str) -> str:
    if not isinstance(owner, VifId):
        return owner if owner in (GIVEN_UP, LEFT_OVER) else f"network {owner}"
    record = daemon.records[owner]
    assignment = record.assignment
    by = [f'policy "{assignment.policy}"'] if assignment is not None and assignment.policy is not None else []
    by += [f"network {assignment.network}"] if assignment is not None and assignment.network is not None else []
    return f"{owner} of {record.vif.vm}: {', '.join(by) or 'no policy'}"


def _details(step: Step) -> list[str]:
    """Return the lines of a large object, or how they change."""
    if isinstance(step, Make):
        return _lines(step.object)
    if isinstance(step, Change):
        was, now = _compared(step.was), _compared(step.object)
        return [line for line in difflib.unified_diff(was, now, n=0, lineterm="") if line[:2] in ("- ", "+ ")]
    return []


def _lines(there: HostObject) -> list[str]:
    match there:
        case Ruleset():
            return [
                line
                for chain in there.chains
                for line in (f"chain {chain.name}: {chain.hook}", *(f"{_INDENT}{rule}" for rule in chain.rules))
            ]
        case DhcpService():
            return there.configuration.splitlines()
    return []


def _compared(there: HostObject) -> list[str]:
    """Return the lines of an object such that each says by itself where it belongs."""
    if isinstance(there, Ruleset):
        return [f" {chain.name}: {rule}" for chain in there.chains for rule in chain.rules]
    return [f" {line}" for line in _lines(there)]

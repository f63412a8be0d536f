"""Records of repairs: one a minute for each vif and kind, and none goes uncounted."""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import pairwise
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_audit import Recorder
from xennetd.daemon.observability import drift
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.drift import MINUTE, SLICE, DriftLimit
from xennetd.model.event import Event, EventKind
from xennetd.model.value import replace
from xennetd.model.vif import VifId

VIF = Event(EventKind.DRIFT, "vif7.0 of web repaired: ip link set dev vif7.0 up", VifId(7, 0))
LAB = Event(EventKind.DRIFT, "network lab repaired: ip addr add 10.77.0.1/24 dev xn-lab", network="lab")


def test_the_first_is_recorded_at_once_and_those_of_a_minute_in_one_record() -> None:
    limit = DriftLimit()
    first = limit.repaired(VIF, "up", 0.0)
    assert first is not None
    assert (first.message, first.repairs) == (VIF.message, 1)
    assert [limit.repaired(VIF, "up", 0.001 * number) for number in range(1, 5001)] == [None] * 5000
    assert limit.due_at == MINUTE
    assert limit.due(MINUTE - 0.01) == []
    (record,) = limit.due(MINUTE)
    assert record.message == f"{VIF.message} (5000 times more since the last record; this is the last of them)"
    assert record.repairs == 5000
    assert limit.repaired(VIF, "up", MINUTE + 1) is None, "that was a record: the next is due a minute later"
    (record,) = limit.due(2 * MINUTE)
    assert "(once more since" in record.message
    assert limit.due(3 * MINUTE) == []
    assert limit.due_at is None, "after a quiet minute nothing is remembered"
    assert limit.repaired(VIF, "up", 3 * MINUTE) is not None


def test_other_kinds_and_other_subjects_have_their_own_records() -> None:
    limit = DriftLimit()
    assert all(
        limit.repaired(event, what, 0.0)
        for event, what in ((VIF, "up"), (VIF, "master"), (LAB, "up"), (LAB, "address"))
    )


@given(st.lists(st.tuples(st.floats(0.0, 90.0), st.sampled_from([VIF, LAB]), st.sampled_from(["up", "sysctl"]))))
def test_every_repair_is_in_one_record_and_records_are_a_minute_apart(
    repairs: list[tuple[float, Event, str]],
) -> None:
    limit, now, counted = DriftLimit(), 0.0, 0
    times: dict[tuple[object, ...], list[float]] = {}

    def note(event: Event, at: float) -> None:
        nonlocal counted
        counted += event.repairs or 0
        times.setdefault((event.vif, event.network), []).append(at)

    for gap, event, what in repairs:
        then = now + gap
        while (due_at := limit.due_at) is not None and due_at <= then:
            for record in limit.due(due_at):
                note(record, due_at)
        now = then
        if (first := limit.repaired(event, what, now)) is not None:
            note(first, now)
    for record in limit.flush():
        note(record, now)
    assert counted == len(repairs)
    assert limit.due_at is None
    for at in times.values():
        assert len(at) <= 2 * (2 + at[-1] // MINUTE), "two kinds: one record each a minute, and the flush"


def test_a_vif_that_goes_has_all_its_repairs_recorded() -> None:
    async def run() -> None:
        journal = Recorder()
        audit = Audit(journal)
        for event in (VIF, VIF, VIF, LAB, LAB):
            audit.repaired(event, "up")
        audit.flush(VifId(7, 0))
        assert [entry["XENNET_REPAIRS"] for entry in journal.entries] == [1, 1, 2]
        audit.flush()
        assert sum(int(entry["XENNET_REPAIRS"]) for entry in journal.entries) == 5

    asyncio.run(run())


def test_the_record_of_a_minute_comes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        journal = Recorder()
        audit = Audit(journal)
        for _ in range(3):
            audit.repaired(VIF, "up")
        assert len(journal.entries) == 1
        await asyncio.sleep(0.3)
        assert [entry["XENNET_REPAIRS"] for entry in journal.entries] == [1, 2]

    monkeypatch.setattr(drift, "MINUTE", 0.1)
    asyncio.run(run())


def test_the_records_of_many_vifs_are_made_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    vifs = 1000

    async def run() -> None:
        journal = Recorder()
        audit = Audit(journal)
        for domid in (*range(1, vifs + 1), *range(1, vifs + 1)):
            audit.repaired(replace(VIF, vif=VifId(domid, 0)), "up")
        time.sleep(0.25)  # noqa: ASYNC251 # it blocks the loop, so that all are due when the timer comes
        seen = [len(journal.entries)]
        while seen[-1] < 2 * vifs:
            await asyncio.sleep(0)
            seen.append(len(journal.entries))
        assert seen[0] == vifs
        assert max(after - before for before, after in pairwise(seen)) <= SLICE

    monkeypatch.setattr(drift, "MINUTE", 0.2)
    asyncio.run(asyncio.wait_for(run(), 10.0))


def test_what_a_repair_costs_does_not_grow_with_the_number_of_vifs() -> None:
    async def run() -> int:
        audit = Audit(Recorder())
        for domid in range(1, 4001):
            audit.repaired(replace(VIF, vif=VifId(domid, 0)), "up")
        calls = 0

        def count(frame: FrameType, event: str, arg: object) -> None:
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        audit.repaired(VIF, "up")
        sys.setprofile(None)
        return calls

    assert asyncio.run(run()) < 20

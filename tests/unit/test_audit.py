"""The audit trail: entries, monitors, the catalog."""

from __future__ import annotations

import asyncio
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from xennetd.daemon.observability.audit import BACKLOG, REMEMBERED, Audit, entry
from xennetd.daemon.observability.journal import Journal, JournalFields, Stderr
from xennetd.model.event import Event, EventKind
from xennetd.model.value import replace
from xennetd.model.vif import VifId

CATALOG = Path(__file__).parents[2] / "conf" / "xennetd.catalog"

ATTACH = Event(
    EventKind.ATTACH,
    "vif7.0 of web-1 is part of xenbr0.",
    vif=VifId(7, 0),
    vm="web-1",
    uuid="0f8e7c1a-36f5-4a5f-9d5c-0a7f6d1f0001",
    mac="00:16:3e:00:00:01",
    ips=("10.0.0.1", "fd00::1"),
    network="lan",
    bridge="xenbr0",
    vlan="20",
    policy="web tier",
    duration_us=512,
)


class Recorder(Journal):
    """A journal that keeps its entries."""

    def __init__(self) -> None:
        super().__init__("/nonexistent")
        self.entries: list[JournalFields] = []

    def send(self, fields: JournalFields) -> None:
        self.entries.append(fields)


def test_an_attach_is_one_entry_with_all_that_is_known() -> None:
    journal = Recorder()
    Audit(journal).record(ATTACH)
    assert journal.entries == [
        {
            "MESSAGE": "vif7.0 of web-1 is part of xenbr0.",
            "MESSAGE_ID": EventKind.ATTACH.message_id,
            "PRIORITY": 6,
            "XENNET_EVENT": "attach",
            "XENNET_VIF": "vif7.0",
            "XENNET_DOMID": 7,
            "XENNET_DEVID": 0,
            "XENNET_IPS": "10.0.0.1 fd00::1",
            "XENNET_VM": "web-1",
            "XENNET_UUID": "0f8e7c1a-36f5-4a5f-9d5c-0a7f6d1f0001",
            "XENNET_MAC": "00:16:3e:00:00:01",
            "XENNET_NETWORK": "lan",
            "XENNET_BRIDGE": "xenbr0",
            "XENNET_VLAN": "20",
            "XENNET_POLICY": "web tier",
            "XENNET_DURATION_US": 512,
        }
    ]


def test_what_is_not_known_is_left_out() -> None:
    fields = entry(Event(EventKind.RELOAD, "The policy was read again."))
    assert set(fields) == {"MESSAGE", "MESSAGE_ID", "PRIORITY", "XENNET_EVENT"}


@pytest.mark.parametrize(
    ("kind", "error", "priority"),
    [
        (EventKind.ERROR, "no bridge", 3),
        (EventKind.RELOAD, "line 3", 4),
        (EventKind.DRIFT, None, 4),
        (EventKind.DENIED, "quarantined", 5),
        (EventKind.DETACH, None, 6),
    ],
)
def test_priorities(kind: EventKind, error: str | None, priority: int) -> None:
    assert entry(Event(kind, "Something.", error=error))["PRIORITY"] == priority


def test_an_event_is_stamped_unless_it_has_its_time() -> None:
    audit = Audit(Recorder(), clock=lambda: 1234)
    audit.record(ATTACH)
    audit.record(replace(ATTACH, realtime_us=99))
    assert [event.realtime_us for event in audit.recent()] == [1234, 99]


def test_recent_events_of_one_vif() -> None:
    audit = Audit(Recorder())
    for domid in range(REMEMBERED + 10):
        audit.record(replace(ATTACH, vif=VifId(domid, 0)))
    assert len(audit.recent()) == REMEMBERED
    assert [event.vif for event in audit.recent(VifId(20, 0))] == [VifId(20, 0)]
    assert audit.recent(VifId(3, 0)) == []


def test_monitors_see_events_in_order_from_when_they_subscribed() -> None:
    async def scenario() -> list[tuple[str, int]]:
        audit = Audit(Recorder())
        audit.record(replace(ATTACH, message="before"))
        with audit.subscribe() as subscription:
            audit.record(replace(ATTACH, message="one"))
            asyncio.get_running_loop().call_later(0.01, audit.record, replace(ATTACH, message="two"))
            return [((await anext(subscription))[0].message, 0) for _ in range(2)]

    assert asyncio.run(scenario()) == [("one", 0), ("two", 0)]


def test_a_slow_monitor_loses_the_oldest_and_is_told_how_many() -> None:
    async def scenario() -> tuple[tuple[str, int], tuple[str, int]]:
        audit = Audit(Recorder())
        with audit.subscribe() as slow:
            for number in range(BACKLOG + 7):
                audit.record(replace(ATTACH, message=str(number)))
            (first, lost), (second, no_more) = await anext(slow), await anext(slow)
            return (first.message, lost), (second.message, no_more)

    assert asyncio.run(scenario()) == (("7", 7), ("8", 0))


def test_a_monitor_that_left_costs_nothing() -> None:
    async def scenario() -> int:
        audit = Audit(Recorder())
        with audit.subscribe() as gone:
            pass
        for _ in range(BACKLOG + 1):
            audit.record(ATTACH)
        return gone._lost

    assert asyncio.run(scenario()) == 0


def test_recording_is_fast() -> None:
    audit = Audit(Journal("/nonexistent", stderr=Stderr(-1)))
    took = []
    for _ in range(2000):
        begin = time.perf_counter()
        audit.record(ATTACH)
        took.append(time.perf_counter() - begin)
    assert statistics.median(took) < 0.001, "microseconds, even on a slow machine and with nowhere to write to"


def catalog() -> dict[str, str]:
    parts = re.split(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(), flags=re.MULTILINE)
    assert len(parts[1::2]) == len(set(parts[1::2])), "an id twice"
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_catalog_explains_each_event_and_no_other() -> None:
    assert set(catalog()) == {kind.message_id for kind in EventKind}


def test_the_catalog_speaks_of_fields_that_are_recorded() -> None:
    recorded = {*entry(replace(ATTACH, error="no bridge")), "SYSLOG_IDENTIFIER"}
    for text in catalog().values():
        head, _, body = text.strip().partition("\n\n")
        assert re.match(r"Subject: \S", head)
        assert "Defined-By: xennetd" in head
        assert body.strip(), "an explanation"
        assert set(re.findall(r"@([A-Z_]+)@", text)) <= recorded


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="no journalctl here")
def test_journalctl_takes_the_catalog(tmp_path: Path) -> None:
    directory = tmp_path / "usr/lib/systemd/catalog"
    directory.mkdir(parents=True)
    shutil.copy(CATALOG, directory)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    journalctl = ["journalctl", f"--root={tmp_path}"]
    update = subprocess.run([*journalctl, "--update-catalog"], capture_output=True, text=True, check=True)
    assert update.stderr == ""
    listed = subprocess.run([*journalctl, "--list-catalog"], capture_output=True, text=True, check=True).stdout
    assert all(kind.message_id in listed for kind in EventKind)

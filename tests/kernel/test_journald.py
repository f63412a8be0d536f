"""The audit trail in the real journald, and what journalctl makes of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed import xen
from tests.bed.netns import Host
from tests.kernel.conftest import make_or_skip
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.journal import Journal, Stderr
from xennetd.model.event import Event, EventKind
from xennetd.model.value import replace
from xennetd.model.vif import VifId

JOURNALD = Path("/lib/systemd/systemd-journald")
CATALOG = Path(__file__).parents[2] / "conf" / "xennetd.catalog"

ERROR = Event(
    EventKind.ERROR,
    "vif7.0 of web-1 has no network: there is no bridge xenbr9",
    VifId(7, 0),
    vm="web-1",
    bridge="xenbr9",
    error="there is no bridge xenbr9\nXENNET_VIF=vif0.0",
)


class Journald:
    """A systemd-journald of our own, its journal in the host's own /run."""

    def __init__(self) -> None:
        if not JOURNALD.exists():
            raise xen.Missing(f"no {JOURNALD} (Debian's package systemd)")
        xen.program("journalctl", "systemd")
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], check=True)  # It insists on one.
        Path("/run/log/journal").mkdir(parents=True)
        Path("/run/systemd/journald.conf.d").mkdir(parents=True)
        # Audit unset: journald leaves the kernel's auditing as it is.
        settings = "[Journal]\nStorage=volatile\nAudit=\nReadKMsg=no\nRateLimitBurst=0\n"
        Path("/run/systemd/journald.conf.d/test.conf").write_text(settings)
        if not Path("/etc/machine-id").exists():
            Path("/etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        # What systemd sets before it makes the journal's socket; the kernel's own is 10.
        Path("/proc/sys/net/unix/max_dgram_qlen").write_text("512")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([JOURNALD], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            while True:
                try:
                    return probe.connect("/run/systemd/journal/socket")
                except OSError:
                    assert time.monotonic() < deadline, "journald does not listen"
                    assert self._process.poll() is None, "journald has ended"
                    time.sleep(0.01)

    def stall(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.go_on()
        self._process.terminate()
        self._process.wait(10)

    def journalctl(self, *arguments: str) -> str:
        command = ["journalctl", "--directory=/run/log/journal", "--no-pager", "-t", "xennetd", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def entries(self, count: int = 0) -> list[dict[str, str]]:
        """What journalctl finds, once there are at least `count` entries."""
        deadline = time.monotonic() + 10
        while True:
            found = [json.loads(text) for text in self.journalctl("-o", "json", "--all").splitlines()]
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.05)


@pytest.fixture
def journald(host: Host) -> Iterator[Journald]:
    journald = make_or_skip(Journald)
    yield journald
    journald.close()


def test_journalctl_finds_an_event_by_its_fields(journald: Journald) -> None:
    Audit(Journal()).record(ERROR)
    Audit(Journal()).record(replace(ERROR, vif=VifId(8, 0), error=None))
    journald.entries(2)
    (found,) = [json.loads(text) for text in journald.journalctl("-o", "json", "XENNET_VIF=vif7.0").splitlines()]
    expected = {
        "MESSAGE": ERROR.message,
        "MESSAGE_ID": EventKind.ERROR.message_id,
        "PRIORITY": "3",
        "XENNET_EVENT": "error",
        "XENNET_DOMID": "7",
        "XENNET_VM": "web-1",
        "XENNET_ERROR": ERROR.error,
        "_TRANSPORT": "journal",
    }
    assert expected.items() <= found.items()


def test_journalctl_x_explains_it(journald: Journald) -> None:
    root = Path("/run/root")
    for directory in ("usr/lib/systemd/catalog", "var/lib/systemd/catalog"):
        (root / directory).mkdir(parents=True)
    shutil.copy(CATALOG, root / "usr/lib/systemd/catalog")
    subprocess.run(["journalctl", f"--root={root}", "--update-catalog"], check=True)
    subprocess.run(["mount", "--bind", root / "var/lib/systemd/catalog", "/var/lib/systemd/catalog"], check=True)
    Audit(Journal()).record(ERROR)
    journald.entries(1)
    text = journald.journalctl("-x")
    assert "░░ Subject: A guest's interface could not be attached" in text
    assert "`xennetctl retry vif7.0` tries at once" in text


def test_an_entry_too_large_for_a_datagram_arrives(journald: Journald) -> None:
    Journal().send({"MESSAGE": "large", "PRIORITY": 6, "XENNET_LARGE": "x" * (10 << 20)})
    (found,) = journald.entries(1)
    assert len(found["XENNET_LARGE"]) == 10 << 20


def test_a_burst_of_a_thousand_attaches_is_in_the_journal(journald: Journald) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    audit = Audit(Journal(stderr=Stderr(writer)))
    for number in range(1000):
        audit.record(Event(EventKind.ATTACH, f"vif{number}.0 is part of xenbr0", VifId(number, 0)))
        time.sleep(0.0003)  # as fast as xennetd attaches
    assert len(journald.entries(1000)) == 1000
    with pytest.raises(BlockingIOError):  # Nothing had to go to standard error.
        os.read(reader, 1000)
    os.close(reader)
    os.close(writer)


def test_a_stalled_journald_blocks_nothing_and_what_was_lost_is_told_later(journald: Journald) -> None:
    reader, writer = os.pipe()
    journal = Journal(stderr=Stderr(writer))
    audit = Audit(journal)
    journald.stall()
    worst = 0.0
    for number in range(3000):
        begin = time.perf_counter()
        audit.record(Event(EventKind.ATTACH, f"vif{number}.0 is part of xenbr0", VifId(number, 0)))
        worst = max(worst, time.perf_counter() - begin)
    assert worst < 0.1
    lost = journal.lost
    assert lost > 0, "neither journald's queue nor a pipe holds so many"
    on_stderr = os.read(reader, 1 << 20).count(b"XENNET_EVENT=attach")

    journald.go_on()
    delivered = len(journald.entries(3000 - lost - on_stderr))
    audit.record(Event(EventKind.DETACH, "vif0.0 is gone", VifId(0, 0)))
    *_, report, detach = journald.entries(delivered + 2)
    assert delivered == 3000 - lost - on_stderr
    assert report["MESSAGE"].endswith("not delivered")
    assert detach["XENNET_EVENT"] == "detach"
    os.close(reader)
    os.close(writer)


def test_a_restarted_journald_goes_on_getting_everything(journald: Journald) -> None:
    audit = Audit(Journal())
    audit.record(ERROR)
    assert len(journald.entries(1)) == 1
    journald.close()
    journald.start()
    audit.record(replace(ERROR, message="again"))
    assert [entry["MESSAGE"] for entry in journald.entries(2)] == [ERROR.message, "again"]

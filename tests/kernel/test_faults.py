"""A system call that fails: the daemon lives, the guest gets its network once the host has what it lacked."""

from __future__ import annotations

import resource
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import Daemon
from tests.bed.guest import Bed, Guest
from tests.bed.site import Site
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.every_mode import EVERY_MODE, SPECS
from tests.kernel.faults import ERRORS, Fault, calls, failed, failed_impossibly, failing, first, traced
from tests.kernel.status import status

pytestmark = [pytest.mark.usefixtures("dnsmasq"), pytest.mark.slow]

SOON = 1.0
"""Seconds in which a guest is connected in spite of a fault, or an error is told."""

HEALED = 15.0
"""Seconds in which all is well after the fault is over."""

LIKELIEST = (
    ("openat", "EMFILE", "/proc/sys/net/ipv6/conf/xn-lab"),
    ("openat", "EMFILE", "/var/lib/xennetd"),
    ("openat", "ENOSPC", "O_CREAT"),
    ("openat", "EROFS", "O_CREAT"),
    ("read", "EIO", ""),
    ("sendto", "ENOBUFS", ""),
    ("recvfrom", "ENOMEM", ""),
    ("recvmsg", "ENOBUFS", "NFT_MSG_NEWCHAIN"),
    ("socket", "EMFILE", "NETLINK_NETFILTER"),
    ("write", "ENOSPC", ""),
    ("rename", "ENOSPC", ""),
    ("newfstatat", "EACCES", "/var/lib/xennetd"),
    ("newfstatat", "EACCES", '""'),
    ("unlink", "EROFS", ""),
    ("accept4", "EMFILE", ""),
)
"""Calls and their errors; the first call whose line in a trace contains the text fails."""


OTHERS = {
    "edge": VifSpec(ip="192.0.2.19 203.0.113.13 2001:db8::19"),
    "alone": VifSpec(script="vif-xennetd-route", ip="192.0.2.20 203.0.113.14 2001:db8:5::14"),
}
"""The second guest, where the first has addresses of its own."""


class Stage:
    """A daemon with one guest, which goes and makes room for another while system calls fail."""

    def __init__(self, bed: Bed, make: MakeGuest, xennetd: Daemon, mode: str, trace: Path) -> None:
        bed.host.bridge("xenbr0")
        self._make, self.xennetd, self._mode, self.trace = make, xennetd, mode, trace
        self.guest = self.come()

    def come(self) -> Guest:
        return self._make(f"{self._mode}-1", SPECS[f"{self._mode}-1"])

    def turn(self) -> None:
        """Have the guest go, another one come, a question asked and the policy reloaded."""
        self.guest.destroy()
        self.guest = self.come()
        connected(self.guest, SOON)
        for verb in ("list", "check", "reload"):
            self.xennetd.ctl(verb, timeout=HEALED)

    def go_through(self, fault: Fault) -> str:
        """Fail a call meanwhile. Return what was wrong; empty if nothing was."""
        wrong: list[str] = []
        try:
            with failing(self.xennetd, fault, self.trace):
                self.turn()
        except subprocess.TimeoutExpired as error:
            wrong.append(f"no answer to {error.cmd[-1]}")
        if failed_impossibly(self.trace):
            self.xennetd.kill9()
            self.xennetd.start()
            return ""
        if self.xennetd.has_ended:
            ended = self.xennetd.stderr()[-300:]
            self.xennetd.wait()
            self.xennetd.start()
            return f"{fault}: ended the daemon: {ended}"
        if not connected(self.guest, HEALED):
            wrong.append(f"not healed: {self.guest.hotplug_error()}")
        other = self._make(f"{self._mode}-9", OTHERS.get(self._mode, SPECS[f"{self._mode}-1"]))
        if not connected(other, HEALED):
            wrong.append(f"another guest was not connected: {other.hotplug_error()}")
        other.destroy()
        if not within(HEALED, lambda: len(self.xennetd.ask("list")) == 1):
            wrong.append("the guests that went are still known")
        if not within(HEALED, lambda: not self._problems()):
            wrong.append(f"still a problem: {self._problems()}")
        return f"{fault}: {'; '.join(wrong)}" if wrong else ""

    def _problems(self) -> list[str]:
        problems: list[str] = status(self.xennetd)["problems"]
        if any("changed back" in problem for problem in problems):
            # Each fault costs a repair, and so many of them within minutes look like another program's work.
            self.xennetd.kill9()
            self.xennetd.start()
        return problems


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Wait until something holds. Returns whether it did, in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def connected(guest: Guest, seconds: float) -> bool:
    return within(seconds, lambda: guest.hotplug_status() == "connected")


@pytest.mark.parametrize("mode", ["lan", "lab"])
def test_the_likeliest_faults_end_nothing_and_heal(
    site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, mode: str, tmp_path: Path
) -> None:
    place = Stage(bed, guest, daemon(EVERY_MODE), mode, tmp_path / "fault")
    with traced(place.xennetd, tmp_path / "trace"):
        place.turn()
    faults = [
        Fault(call, error, number)
        for call, error, text in LIKELIEST
        if (number := first(tmp_path / "trace", call, text))
    ]
    assert len(faults) > 10
    wrong = list(filter(None, map(place.go_through, faults)))
    assert not wrong, "\n".join(wrong)


def test_a_daemon_without_descriptors_says_so_once_and_answers_later(bed: Bed, daemon: MakeDaemon) -> None:
    xennetd = daemon()
    limits = resource.prlimit(xennetd.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(xennetd.pid, resource.RLIMIT_NOFILE, (5, limits[1]))
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(xennetd.control))
        time.sleep(1.0)
        resource.prlimit(xennetd.pid, resource.RLIMIT_NOFILE, limits)
        assert xennetd.ask("list") == []
    assert xennetd.stderr().count("control connections can't be accepted now") == 1


@pytest.mark.long
@pytest.mark.parametrize("mode", ["lan", "lab", "edge", "store", "alone"])
def test_no_fault_ends_anything(
    site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, mode: str, tmp_path: Path
) -> None:
    place = Stage(bed, guest, daemon(EVERY_MODE), mode, tmp_path / "fault")
    with traced(place.xennetd, tmp_path / "trace"):
        place.turn()
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    for call, number in calls(tmp_path / "trace"):
        for error in ERRORS[call]:
            what = place.go_through(Fault(call, error, number))
            wrong += [what] if what else []
            outcome = "wrong" if what else "healed" if failed(place.trace) else "not reached"
            outcomes[f"{call} {error}: {outcome}"] += 1
            print(f"{mode} {call} {number} {error}: {what or outcome}", flush=True)
    print(mode, *sorted(f"{outcome} {count}" for outcome, count in outcomes.items()), sep="\n", flush=True)
    assert not wrong, "\n".join(wrong)

"""A system call that fails: the daemon lives, the guest gets its network once the host has what it lacked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import Daemon
from tests.bed.guest import Bed, Guest
from tests.bed.site import Site
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.every_mode import EVERY_MODE, SPECS
from tests.kernel.faults import ERRORS, Fault, calls, failing, traced
from tests.kernel.status import status

pytestmark = [pytest.mark.usefixtures("dnsmasq"), pytest.mark.slow]

SOON = 1.0
"""Seconds in which a guest is connected in spite of a fault, or an error is told."""

HEALED = 15.0
"""Seconds in which all is well after the fault is over."""

LIKELIEST = (
    Fault("openat", "EMFILE", 9),
    Fault("openat", "ENOSPC", 20),
    Fault("read", "EIO", 12),
    Fault("sendto", "ENOBUFS", 6),
    Fault("recvfrom", "ENOMEM", 15),
    Fault("socket", "EMFILE", 2),
    Fault("write", "ENOSPC", 2),
    Fault("rename", "ENOSPC", 1),
    Fault("mkdir", "EROFS", 1),
    Fault("newfstatat", "ENOMEM", 5),
    Fault("unlink", "EROFS", 1),
    Fault("accept4", "EMFILE", 1),
)
"""In the life of a guest of the network `lab`: its address, DHCP, a forwarded port and the filter."""


class Stage:
    """A daemon, and guests that come and go while its system calls fail."""

    def __init__(self, bed: Bed, guest: MakeGuest, xennetd: Daemon, mode: str) -> None:
        self._bed, self._guest, self.xennetd, self._mode = bed, guest, xennetd, mode

    def come(self) -> Guest:
        return self._guest(f"{self._mode}-1", SPECS[f"{self._mode}-1"])

    def live(self) -> None:
        """The life of a guest, with a question and a reload in it."""
        guest = self.come()
        connected(guest, SOON)
        self.xennetd.ctl("list")
        self.xennetd.ctl("reload")
        guest.destroy()
        self.gone()

    def gone(self) -> bool:
        """Whether the daemon has forgotten all guests, in time."""
        return within(HEALED, lambda: self.xennetd.ctl("list", "--json").stdout.strip() == "[]")

    def go_through(self, fault: Fault) -> str:
        """Have a guest come and go while a call fails. Return what was wrong; empty if nothing was."""
        with failing(self.xennetd, fault):
            self.live()
            guest = self.come()
            connected(guest, SOON)
        if self.xennetd.has_ended:
            ended = self.xennetd.stderr()[-500:]
            self.xennetd.wait()
            self.xennetd.start()
            guest.destroy()
            return f"ended the daemon: {ended}"
        wrong = "" if connected(guest, HEALED) else f"not healed: {guest.hotplug_error()}"
        guest.destroy()
        if not self.gone():
            wrong += f" not gone: {self.xennetd.ctl('list').stdout}"
        if not within(HEALED, lambda: not status(self.xennetd)["problems"]):
            wrong += f" still a problem: {status(self.xennetd)['problems']}"
        return wrong and f"{fault}: {wrong}"


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


def stage(bed: Bed, guest: MakeGuest, daemon: MakeDaemon, mode: str) -> Stage:
    bed.host.bridge("xenbr0")
    made = Stage(bed, guest, daemon(EVERY_MODE), mode)
    made.live()
    return made


def test_the_likeliest_faults_end_nothing_and_heal(site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    lab = stage(bed, guest, daemon, "lab")
    wrong = list(filter(None, map(lab.go_through, LIKELIEST)))
    assert not wrong, "\n".join(wrong)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["lan", "lab", "edge", "store", "alone"])
def test_no_fault_ends_anything(
    site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, mode: str, tmp_path: Path
) -> None:
    place = stage(bed, guest, daemon, mode)
    with traced(place.xennetd, tmp_path / "trace"):
        place.live()
        connected(place.come(), SOON)
    found = calls(tmp_path / "trace")
    outcomes: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    for call, count in sorted(found.items()):
        for number in range(1, count + 1):
            for error in ERRORS[call]:
                what = place.go_through(Fault(call, error, number))
                wrong += [what] if what else []
                outcomes[error, "wrong" if what else "healed"] += 1
        print(mode, call, dict(outcomes), flush=True)
        outcomes.clear()
    assert not wrong, "\n".join(wrong)

"""The machine that the tests are in: its own namespaces as a `Host`, systemd's and journald's answers."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.bed.netns import Host, NetNs
from tests.bed.rtnl import Rtnl
from tests.image import journal

UNIT = "xennetd.service"
CONFIGURATION = Path("/etc/xennetd/conf.d")

UNMANAGED = Path("/run/systemd/network/05-test.network")
ROLL_BACK = "xennetd-rollback.path"

T = TypeVar("T")


class Machine(Host):
    """The namespaces that we are in anyway, where systemd and its services are too."""

    def __init__(self) -> None:
        self.name = "host"
        self.fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.rtnl = Rtnl()
        self._before: list[int] = []
        self._guests: list[NetNs] = []
        self._taps = []
        Path("/run/netns").mkdir(exist_ok=True)

    def close(self) -> None:
        for guest in self._guests:
            subprocess.run(["ip", "netns", "delete", guest.name], check=True)
            guest.close()
        for name, link in self.links().items():
            kind = link.get("linkinfo", {}).get("info_kind")
            if kind in ("bridge", "bond", "dummy", "veth") and name != "xenbr0" and not name.startswith("xn-"):
                subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
        NetNs.close(self)


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; stdout and stderr together in stdout."""
    return subprocess.run(
        argv,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )


def do(*argv: str) -> str:
    """Run a command that must succeed, and return its output."""
    done = run(*argv)
    assert done.returncode == 0, f"{' '.join(argv)} ended with status {done.returncode}:\n{done.stdout}"
    return done.stdout


def until(what: Callable[[], T], timeout: float = 60.0) -> T:
    """Return what `what` returns as soon as that is true; TimeoutError if it never is."""
    deadline = time.monotonic() + timeout
    while not (answer := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s; the last answer was {answer!r}")
        time.sleep(0.1)
    return answer


def unit(name: str) -> str:
    """Return a property of the unit (systemd.directives(7), org.freedesktop.systemd1(5))."""
    return do("systemctl", "show", "--value", f"--property={name}", UNIT).removesuffix("\n")


@contextmanager
def left_alone(names: str) -> Iterator[None]:
    """Have networkd leave these links alone, and have no program wait beside each apply for its roll-back.

    networkd takes every link that it is not told to leave alone. The program takes 20 s of the emulated machine.
    """
    do("systemctl", "stop", ROLL_BACK)
    UNMANAGED.parent.mkdir(parents=True, exist_ok=True)
    UNMANAGED.write_text(f"[Match]\nName={names}\n[Link]\nUnmanaged=yes\n")
    do("networkctl", "reload")
    try:
        yield
    finally:
        UNMANAGED.unlink()
        do("networkctl", "reload")
        do("systemctl", "start", ROLL_BACK)


class Journal:
    """What xennetd's unit has written to the journal from now on."""

    def __init__(self) -> None:
        self.start = journal.mark()

    def entries(self, *matches: str) -> list[dict[str, str]]:
        return journal.since(self.start, f"_SYSTEMD_UNIT={UNIT}", *matches)

"""systemd's notify socket refuses, or is not read: the daemon serves all the same, and says so."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.daemon import Daemon
from tests.bed.guest import Bed
from tests.bed.systemd import parse_notification
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import MakeGuest
from tests.kernel.status import status
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually

WATCHDOG = 0.3
"""Seconds. A tenth of a second later, the daemon has more to say to systemd."""


class Deaf(Daemon):
    """A daemon whose NOTIFY_SOCKET is what a test makes of it, so that its READY=1 may never come."""

    def at(self, path: Path) -> Deaf:
        self.environment["NOTIFY_SOCKET"] = str(path)
        self.start(ready=False)
        eventually(self.serves)
        return self

    def serves(self) -> bool:
        return self.ctl("list").returncode == 0


@pytest.fixture
def xennetd(xenstored: Xenstored, bed: Bed, tmp_path: Path) -> Iterator[Deaf]:
    bed.host.bridge("xenbr0")
    daemon = Deaf(xenstored, tmp_path, watchdog=WATCHDOG)
    yield daemon
    daemon.close()


@contextlib.contextmanager
def bound(path: Path) -> Iterator[socket.socket]:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) as listener:
        listener.bind(str(path))
        yield listener


def fill(path: Path) -> None:
    """Send to a socket that nobody reads until its queue is full (net.unix.max_dgram_qlen).

    One sender alone would fill its own send buffer before.
    """
    with contextlib.ExitStack() as stack:
        sent = True
        while sent:
            sender = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
            sent = False
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.sendto(b"JUNK=1", str(path))
                    sent = True


def read(listener: socket.socket) -> list[dict[str, str]]:
    """All that waits in a socket, without what `fill` sent."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(dict(parse_notification(listener.recv(4096))))
    return [fields for fields in found if "JUNK" not in fields]


def test_a_socket_that_nobody_listens_on_is_a_problem_and_no_more(
    xennetd: Deaf, bed: Bed, guest: MakeGuest, tmp_path: Path
) -> None:
    path = tmp_path / "gone"
    with bound(path):
        pass
    xennetd.at(path)
    connected(bed, guest("web").vif)
    [problem] = status(xennetd)["problems"]
    assert problem.startswith("systemd takes no messages from xennetd (Connection refused; ")
    path.unlink()
    with bound(path) as listener:
        eventually(lambda: status(xennetd)["problems"] == [])
        told = read(listener)
        assert any(fields.get("READY") == "1" for fields in told), "systemd waits for it, however late it comes"
        assert any("WATCHDOG" in fields for fields in told)
    assert xennetd.terminate() == 0


def test_a_socket_that_nobody_reads_holds_nothing_up(xennetd: Deaf, bed: Bed, guest: MakeGuest, tmp_path: Path) -> None:
    path = tmp_path / "full"
    with bound(path) as listener:
        fill(path)
        xennetd.at(path)
        began = time.monotonic()
        connected(bed, guest("web").vif)
        assert xennetd.ctl("reload").returncode == 0
        assert time.monotonic() - began < 5
        eventually(lambda: any("systemd takes no messages" in text for text in status(xennetd)["problems"]))
        assert read(listener) == []
        told: list[dict[str, str]] = []

        def is_fed() -> bool:
            told.extend(read(listener))
            return any("WATCHDOG" in fields for fields in told)

        eventually(is_fed)
        order = [next(iter(fields)) for fields in told if {"RELOADING", "READY"} & fields.keys()]
        assert order[-1] == "READY", "a reload that does not end would be a failed one"
        fill(path)
        time.sleep(WATCHDOG)
        assert xennetd.terminate() == 0

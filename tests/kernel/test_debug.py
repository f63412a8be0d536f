"""Debug messages of a running daemon: from the start with --debug, switched by SIGUSR2."""

from __future__ import annotations

import signal
import socket

from tests.bed.daemon import Daemon
from tests.bed.systemd import Journal
from tests.kernel.conftest import MakeDaemon

ON, OFF = "debug messages are logged from now on", "debug messages are no longer logged"


def provoke(xennetd: Daemon, journal: Journal) -> int:
    """Have something happen that only a debug message tells of. Returns how many there are now."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(xennetd.control))
        peer.sendall(b"no JSON\0")
        assert peer.recv(1) == b"", "the daemon cuts it off"
    journal.catch_up()
    return len(journal.having(MESSAGE="A control connection has ended", PRIORITY="7"))


def switch(xennetd: Daemon, journal: Journal, announced: str) -> None:
    xennetd.signal(signal.SIGUSR2)
    journal.wait_for(MESSAGE=announced, PRIORITY="6")


def test_a_signal_switches_them_on_and_off_again(daemon: MakeDaemon, journal: Journal) -> None:
    xennetd = daemon()
    assert provoke(xennetd, journal) == 0
    switch(xennetd, journal, ON)
    assert provoke(xennetd, journal) == 1
    switch(xennetd, journal, OFF)
    assert provoke(xennetd, journal) == 1
    assert [len(journal.having(MESSAGE=announced)) for announced in (ON, OFF)] == [1, 1]


def test_an_option_has_them_logged_from_the_start(daemon: MakeDaemon, journal: Journal) -> None:
    xennetd = daemon(arguments=["--debug"])
    assert provoke(xennetd, journal) == 1
    switch(xennetd, journal, OFF)
    assert provoke(xennetd, journal) == 1

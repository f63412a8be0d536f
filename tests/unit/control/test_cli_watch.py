"""`xennetctl topology --watch`: what it draws and when, and that the terminal is its user's afterwards."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.unit.control.bed import Served
from tests.unit.control.command import Run, command, uncoloured
from tests.unit.control.test_cli_picture import guest, link
from xennetd.cli.watch import frame

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
SHOW = "\x1b[?25h"
HOME = "\x1b[1;1H"


class Terminal:
    """A terminal with xennetctl on it, as a user starts it."""

    def __init__(self, path: str, lines: int = 24) -> None:
        self.ours, self._theirs = os.openpty()
        self.resize(lines)
        self.before = self.modes()
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
        for name in ("COLUMNS", "LINES"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            command(path, "topology", "--watch"),
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env=environment,
            start_new_session=True,
        )
        self.out = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while chunk := os.read(self.ours, 65536):
                self.out += chunk.decode(errors="replace")
        except OSError:
            pass  # closed

    def resize(self, lines: int, columns: int = 80) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("=HHHH", lines, columns, 0, 0))

    def modes(self) -> list[object]:
        return termios.tcgetattr(self._theirs)

    def press(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def screen(self) -> list[str]:
        """The lines of the last frame, without empty ones at its end."""
        _, home, last = self.out.rpartition(HOME)
        lines = re.split(r"\x1b\[\d+;1H", uncoloured(last)) if home else []
        return "\n".join(line.rstrip() for line in lines).rstrip().split("\n")

    def shows(self, *lines: str) -> None:
        self.until(lambda: self.screen() == list(lines))

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, (self.screen(), self.process.poll())
            time.sleep(0.02)

    def given_back(self) -> bool:
        return self.out.endswith(SHOW + LEAVE) and self.modes() == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self._theirs)
        self._reader.join(10)
        os.close(self.ours)


@pytest.fixture
def terminal(served: Served, path: str) -> Iterator[Terminal]:
    served.daemon.all_links = [link("xenbr0", "bridge"), guest(1, "xenbr0")]
    terminal = Terminal(path)
    terminal.shows("xenbr0     bridge", "└─ vif1.0  vm-1    connected")
    yield terminal
    terminal.close()


def test_it_draws_anew_what_changes_and_writes_nothing_else(served: Served, terminal: Terminal) -> None:
    assert terminal.out.startswith(ENTER)
    served.daemon.all_links = [link("xenbr0", "bridge", up=False)]
    terminal.shows("xenbr0  bridge  down")
    drawn = terminal.out
    time.sleep(2.5)
    assert terminal.out == drawn


def test_q_ends_it_and_what_was_typed_is_not_in_the_picture(terminal: Terminal) -> None:
    terminal.press(b"xyz")
    time.sleep(0.1)
    assert "xyz" not in terminal.out
    terminal.press(b"q")
    assert terminal.process.wait(20) == 0
    terminal.until(terminal.given_back)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_the_terminal_is_given_back(terminal: Terminal, number: int, status: int) -> None:
    terminal.process.send_signal(number)
    assert terminal.process.wait(20) == status
    terminal.until(terminal.given_back)


def test_the_terminal_is_its_users_while_it_is_suspended(terminal: Terminal) -> None:
    terminal.process.send_signal(signal.SIGTSTP)
    terminal.until(terminal.given_back)
    terminal.process.send_signal(signal.SIGCONT)
    terminal.until(lambda: terminal.out.rfind(HOME) > terminal.out.rfind(ENTER) > 0)
    terminal.shows("xenbr0     bridge", "└─ vif1.0  vm-1    connected")


def test_it_waits_for_a_daemon_that_goes_away(served: Served, terminal: Terminal, path: str) -> None:
    served.stop()
    terminal.until(lambda: terminal.screen()[0].startswith("No answer since "))
    shown = " ".join(terminal.screen())
    assert f"this is an old picture: nothing listens on {path}: is xennetd running?" in shown
    assert terminal.screen()[-1] == "└─ vif1.0  vm-1    connected"
    again = Served(path)
    try:
        again.daemon.all_links = [link("xenbr0", "bridge")]
        terminal.shows("xenbr0  bridge")
    finally:
        again.stop()


def test_a_small_window_says_how_much_it_does_not_show(served: Served, terminal: Terminal) -> None:
    served.daemon.all_links = [link(f"br{number}", "bridge", what="x" * 100) for number in range(6)]
    terminal.until(lambda: len(terminal.screen()) == 6)
    assert {len(line) for line in terminal.screen()} == {80}
    terminal.resize(4, 10)
    terminal.process.send_signal(signal.SIGWINCH)
    terminal.shows("br0  brid…", "br1  brid…", "br2  brid…", "and 3 mor…")


def test_what_is_cut_is_counted() -> None:
    lines = [[(f"line {number}", "")] for number in range(5)]
    assert frame(lines, "", 80, 5) == lines
    assert frame(lines, "", 80, 4) == [*lines[:3], [("and 2 more lines: the window is too small", "head")]]
    assert frame(lines, "", 80, 1) == [[("and 5 more lines: the window is too small", "head")]]
    assert frame([], "", 80, 1) == []


def test_elsewhere_than_on_a_terminal_it_says_so(served: Served, run: Run, path: str) -> None:
    status, out, error = run("topology", "--watch")
    assert (status, out) == (2, "")
    assert error == "xennetctl: --watch draws on a terminal whose cursor can be moved, and standard output is none\n"
    status, out, error = run("topology", "--watch", "--format", "svg")
    assert (status, out) == (2, "")
    assert error == "xennetctl: --watch shows the picture as text: leave out --format svg\n"


def test_without_a_daemon_it_does_not_take_the_terminal(path: str) -> None:
    terminal = Terminal(path)
    try:
        assert terminal.process.wait(20) == 3
        terminal.until(lambda: "nothing listens" in terminal.out)
        assert ENTER not in terminal.out
    finally:
        terminal.close()

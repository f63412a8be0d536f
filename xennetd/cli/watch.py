"""The picture of the topology on the whole terminal, kept up to date until somebody ends it.

The daemon is asked once in a second: its events tell of guests, and not of carriers and addresses. Where nothing has
changed, nothing is written.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import textwrap
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from xennetd.cli import connection, picture
from xennetd.cli.host_graph import host_graph
from xennetd.cli.screen import coloured
from xennetd.cli.spans import Line, printable

_PERIOD = 1.0
"""Seconds from one answer of the daemon to the next question."""

_KEYS = 64
"""Bytes of input that are read at once."""


def watch(control: str, console: Console) -> None:
    """Show the picture of the daemon at the socket `control` until somebody presses q.

    `console` is a terminal, which is as before when this returns or raises. Raises KeyboardInterrupt for a ^C, Refusal,
    and Unreachable where there is no daemon at the beginning. A daemon that goes away later is waited for.
    """
    lines, trouble = _read(control), ""
    due = time.monotonic() + _PERIOD
    with _woken() as wait, _whole_screen(console) as draw:
        while True:
            draw(lines, trouble)
            if b"q" in wait(due - time.monotonic()):
                return
            if time.monotonic() >= due:
                try:
                    lines, trouble = _read(control), ""
                except connection.Unreachable as error:
                    trouble = trouble or f"No answer since {time.strftime('%H:%M:%S')}, this is an old picture: {error}"
                due = time.monotonic() + _PERIOD


def frame(lines: list[Line], trouble: str, width: int, height: int) -> list[Line]:
    """Return what of a picture is shown on a terminal of this size. `trouble` says why it is an old picture."""
    if trouble:
        why: list[Line] = [[(line, "bad")] for line in textwrap.wrap(printable(trouble), width)]
        lines = [*why, [], *([("".join(text for text, _ in line), "aside")] for line in lines)]
    if len(lines) <= height:
        return lines
    return [*lines[: height - 1], [(f"and {len(lines) - height + 1} more lines: the window is too small", "head")]]


def _read(control: str) -> list[Line]:
    return picture.tree(host_graph(connection.call(control, "Topology")["links"]))


@contextmanager
def _whole_screen(console: Console) -> Iterator[Callable[[list[Line], str], None]]:
    """Take the terminal over, and return the function that draws a frame on it. Give it back at the end, and for ^Z."""
    keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
    before = termios.tcgetattr(keyboard) if keyboard is not None else None
    shown: object = None

    def enter() -> None:
        if keyboard is not None:
            tty.setcbreak(keyboard)  # What is typed must not be shown in the picture.
        console.set_alt_screen(True)
        console.show_cursor(False)

    def leave() -> None:
        console.show_cursor(True)
        console.set_alt_screen(False)
        if keyboard is not None and before is not None:
            termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)

    def suspend(*_: object) -> None:
        nonlocal shown
        leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        enter()
        shown = None

    def draw(lines: list[Line], trouble: str) -> None:
        nonlocal shown
        size = console.size
        if shown == (lines, trouble, size):
            return
        shown = (lines, trouble, size)
        page = coloured(frame(lines, trouble, size.width, size.height))
        page.no_wrap, page.overflow = True, "ellipsis"
        console.update_screen(page)

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    # A shell that starts a program in the background has it ignore SIGINT: a ^C must end this one all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTSTP, suspend)
    signal.signal(signal.SIGTERM, end)
    try:
        enter()
        yield draw
    finally:
        leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _woken() -> Iterator[Callable[[float], bytes]]:
    """Return a function that waits for so many seconds, or until a key is pressed or a signal comes.

    It returns the keys that were pressed. A signal, such as that of another size of the terminal, wakes it by a pipe.
    """
    signalled, signals = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
    sources = [signalled] if keyboard is None else [signalled, keyboard]

    def wait(seconds: float) -> bytes:
        ready, _, _ = select.select(sources, [], [], max(seconds, 0))
        if signalled in ready:
            with suppress(BlockingIOError):
                os.read(signalled, _KEYS)
        if keyboard not in ready:
            return b""
        keys = os.read(keyboard, _KEYS)
        if not keys:  # The terminal is gone.
            sources.remove(keyboard)
        return keys

    signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
    signal.signal(signal.SIGWINCH, lambda *_: None)
    try:
        yield wait
    finally:
        signal.signal(signal.SIGWINCH, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.close(signals)
        os.close(signalled)

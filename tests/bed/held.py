"""Measures for how long xennetd holds its loop: `python -m tests.bed.held FILE python -m xennetd.daemon.main ...`.

The loop is held from when it has asked for events until it asks again. Nobody else is served meanwhile: no guest, no
request. Only the processor time of the loop's thread is counted. So neither a machine that does something else nor a
lock of the kernel's looks like a busy daemon, and a wait that stops the loop is not seen here.
"""

from __future__ import annotations

import os
import runpy
import selectors
import sys
import time
from pathlib import Path

NOTED = 0.002
"""Seconds. Shorter ones are not written down."""


class _Watching(selectors.EpollSelector):
    def __init__(self) -> None:
        super().__init__()
        self._notes = os.open(_notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        self._since = time.thread_time()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        held = time.thread_time() - self._since
        if held > NOTED:
            os.write(self._notes, f"{held:.6f}\n".encode())
        found = super().select(timeout)
        self._since = time.thread_time()
        return found


def wrapper(notes: Path) -> list[str]:
    """What to put before xennetd's command line (`Daemon.wrapper`)."""
    return [sys.executable, "-m", "tests.bed.held", str(notes)]


def seconds(notes: Path) -> list[float]:
    """How long the loop has been held each time that it was long, since the file was emptied last."""
    return [float(line) for line in notes.read_text().split()] if notes.exists() else []


if __name__ == "__main__":
    _notes = sys.argv[1]
    setattr(selectors, "DefaultSelector", _Watching)  # noqa: B010 - mypy takes no other class
    sys.argv[:] = sys.argv[4:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

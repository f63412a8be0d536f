"""`eventually` waits for what another program does in its own time; `paused` takes that time away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T | None], timeout: float = 10.0, interval: float = 0.005) -> T:
    """Call `look` until it returns something true, and return that. AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, f"still {found!r} after {timeout} s"
        time.sleep(interval)
    return found


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Have a process do nothing while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)

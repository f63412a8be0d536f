"""`eventually`: waits for what another program does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T], timeout: float = 10.0, interval: float = 0.005) -> T:
    """Call `look` until it returns something true, and return that. AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, f"still {found!r} after {timeout} s"
        time.sleep(interval)
    return found

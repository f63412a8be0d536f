"""Looks at a part of the host after each hint, and again after a growing pause while the part has a problem."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from xennetd.cancellation import heed_cancellation

_FIRST, _LONGEST = 1.0, 60.0
"""Seconds until the first look for a problem's sake, and between two such looks at most."""


async def take_care(wake: asyncio.Event, look: Callable[[], Awaitable[None]], troubled: Callable[[], bool]) -> None:
    """Look after each hint, which `wake` is, and while the part is `troubled` after pauses that double. Never returns.

    A look that fails leaves its hint.
    """
    patience = _FIRST
    while True:
        try:
            async with asyncio.timeout(patience if troubled() else None):
                await wake.wait()
            patience = _FIRST
        except TimeoutError:
            patience = min(patience * 2, _LONGEST)
        wake.clear()
        try:
            await look()
        except BaseException:
            wake.set()
            raise
        heed_cancellation()  # A look takes any exception for its part's.

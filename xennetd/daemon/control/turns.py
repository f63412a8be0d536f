"""Gives users other than root a small share of the daemon's time: they may look on, and guests come first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

REST = 9
"""How many times as long as a piece of work took the next one has to wait: all of them together get a tenth."""

_LONGEST_REST = 5.0
"""Seconds. A longer rest after a shared piece of work would let the next caller give up (cli.connection.TIMEOUT)."""


class Turns:
    """Turns on the daemon's loop, one at a time for all who take one, each followed by a rest."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[None, None]:
        """Wait for a turn. After it nobody has one for REST times as long as it took.

        What is done in a turn must not wait for anything.
        """
        await self._lock.acquire()
        began = time.perf_counter()
        try:
            yield
        finally:
            pause = REST * (time.perf_counter() - began)
            asyncio.get_running_loop().call_later(pause, self._lock.release)


class Shared(Generic[T]):
    """Work that many may ask for at once: it is done once at a time, and once for all who asked before it began.

    After it a rest follows, `rest` times as long as the work took.
    """

    def __init__(self, work: Callable[[], Awaitable[T]], *, rest: int) -> None:
        self._work = work
        self._rest = rest
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None

    async def result(self) -> T:
        """Return the result of work that begins after this call. Raises what the work raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._do())
            self._next.add_done_callback(_retrieve)  # All who asked for it may have gone by then.
        return await asyncio.shield(self._next)

    async def _do(self) -> T:
        await self._lock.acquire()
        self._next = None
        began = time.perf_counter()
        try:
            return await self._work()
        finally:
            pause = min(self._rest * (time.perf_counter() - began), _LONGEST_REST)
            asyncio.get_running_loop().call_later(pause, self._lock.release)


def _retrieve(task: asyncio.Task[T]) -> None:
    if not task.cancelled():
        task.exception()

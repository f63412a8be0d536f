"""Turns hints about vifs into calls of the reconciler: one at a time for one vif, at the same time for different vifs.

A hint says that a vif may need attention, and nothing else. A hint that comes during the call for its vif leads to
another call afterwards. The queue does not know what the call does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from xennetd.model.vif import VifId

LookAfter = Callable[[VifId, float], Awaitable[None]]
"""Reconciles one vif; the time is that of its hint (monotonic clock, seconds).

An exception ends `WorkQueue.run` with all calls. The vifs whose calls did not return are hinted at again, for the next
`run` (`daemon.tasks` starts the task again).
"""


_TOGETHER = 4
"""Calls that begin together at first. Fewer at a time cost a burst of attaches processor time: 7 % if it is one."""

_SHORT = 0.003
"""Seconds. Twice as many calls begin together next time if these took less than this, else half as many."""


class _Awaited:
    """The vifs that one call of `WorkQueue.look_at` waits for."""

    def __init__(self, vifs: set[VifId]) -> None:
        self.done = asyncio.Event()
        self._vifs = vifs

    def served(self, vif: VifId) -> None:
        self._vifs.discard(vif)
        if not self._vifs:
            self.done.set()


class WorkQueue:
    """The vifs that are to be reconciled."""

    def __init__(self) -> None:
        self._waiting: dict[VifId | asyncio.Future[None], float] = {}
        self._wake = asyncio.Event()
        self._busy: set[VifId] = set()
        self._awaited: list[_Awaited] = []
        self._timers: dict[VifId, asyncio.TimerHandle] = {}

    def hint(self, vif: VifId, at: float | None = None) -> None:
        """Ask for the reconciliation of one vif. `at` is when the cause came (monotonic clock, seconds), None for now.

        Of several such times the first one that is told counts.
        """
        self._waiting.setdefault(vif, time.monotonic() if at is None else at)
        self._wake.set()

    def hint_later(self, vif: VifId, seconds: float) -> None:
        """Ask for the reconciliation of one vif in some seconds. Of several such times the earliest counts."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(vif)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[vif] = loop.call_later(seconds, self._time_has_come, vif)

    def _time_has_come(self, vif: VifId) -> None:
        del self._timers[vif]
        self.hint(vif)

    def served(self, vif: VifId) -> None:
        """Drop the hint for a vif, because its reconciliation is about to observe the vif anew."""
        self._waiting.pop(vif, None)

    async def look_at(self, vifs: Sequence[VifId]) -> None:
        """Have these vifs reconciled, beginning in this order. Return when all are and none has a hint left."""
        if not vifs:
            return
        awaited = _Awaited(set(vifs))
        self._awaited.append(awaited)
        for vif in vifs:
            self._waiting[vif] = self._waiting.pop(vif, time.monotonic())
        self._wake.set()
        try:
            await awaited.done.wait()
        finally:
            self._awaited.remove(awaited)

    async def probe(self) -> None:
        """Return once a probe has gone through the queue, which proves that the queue serves hints."""
        probe: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[probe] = time.monotonic()
        self._wake.set()
        await probe

    async def run(self, look_after: LookAfter) -> None:
        """Call `look_after` for every hint until cancelled. No hint is lost, and the queue can be run again."""
        self._wake.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    await self._begin(tasks, look_after)
        finally:
            # Here no call runs any more. Some may have been cancelled before they began.
            self._waiting.update(dict.fromkeys(self._busy - self._waiting.keys(), time.monotonic()))
            self._busy.clear()

    async def _begin(self, tasks: asyncio.TaskGroup, look_after: LookAfter) -> None:
        """Begin the calls for all hints, in their order, and let others have the loop every few milliseconds.

        asyncio runs all tasks that are ready before it looks for events. A thousand calls that begin together would
        keep everybody else from being served for a second.
        """
        begun, together = 0, _TOGETHER
        for item in tuple(self._waiting):
            if item not in self._waiting:
                continue  # It was dropped meanwhile.
            if isinstance(item, asyncio.Future):
                del self._waiting[item]
                if not item.done():
                    item.set_result(None)
            elif item not in self._busy:
                hinted_at = self._waiting.pop(item)
                self._busy.add(item)
                tasks.create_task(self._work(look_after, item, hinted_at), name=str(item))
                begun += 1
                if begun == together:
                    began, begun = time.monotonic(), 0
                    await asyncio.sleep(0)
                    together = 2 * together if time.monotonic() - began < _SHORT else max(1, together // 2)

    async def _work(self, look_after: LookAfter, vif: VifId, hinted_at: float) -> None:
        try:
            await look_after(vif, hinted_at)
        except BaseException:
            self._waiting.setdefault(vif, hinted_at)
            raise
        finally:
            self._busy.discard(vif)
            if vif in self._waiting:
                self._wake.set()
            else:
                for awaited in self._awaited:
                    awaited.served(vif)

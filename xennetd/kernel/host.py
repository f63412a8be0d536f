"""The kernel as the daemon sees it: a kept view of the links, news of what changes, and a hand that does Steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import structlog

from xennetd.kernel.execute import execute
from xennetd.kernel.links import LinkChange, Links
from xennetd.kernel.rtnl import NetlinkFormatError, get_link
from xennetd.kernel.sockets import EventSocket, Overrun, RequestSocket
from xennetd.plan.steps import Step

_log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Kernel:
    """rtnetlink of one network namespace.

    `changed` is called, in the loop's thread, with every batch of changes of the view, whatever they came from.
    Requests run one after the other in one worker thread: whoever holds RTNL does not hold up the loop.
    `resyncs` counts how often everything was read anew because events were lost.
    """

    def __init__(self, changed: Callable[[list[LinkChange]], None], *, stand_in: bool = False) -> None:
        self.links = Links(stand_in=stand_in)
        self.resyncs = 0
        self._changed = changed
        self._events = EventSocket()
        self._requests = RequestSocket()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rtnetlink")
        self._stale = asyncio.Event()
        self._listening = False

    async def start(self) -> None:
        """Read everything and begin to follow the events."""
        await self._load()

    async def run(self) -> None:
        """Read everything anew whenever events were lost."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            self.resyncs += 1
            await self._load()

    def close(self) -> None:
        """Stop listening. The network stays as it is."""
        self._listen(False)
        self._worker.shutdown()
        self._events.close()
        self._requests.close()

    def poll(self) -> None:
        """Take in the events that are waiting, so that the view is as new as the kernel's last acknowledgement.

        While everything is being read anew they wait in the buffer: a dump is never put over what is newer than it.
        """
        if not self._listening:
            return
        try:
            changes = self.links.feed(self._events.drain())
        except Overrun:
            self._lost("the kernel had more link events than the buffer holds")
        except NetlinkFormatError as error:
            self._lost(f"a link event could not be read: {error}")
        else:
            if changes:
                self._changed(changes)

    async def execute(self, steps: tuple[Step, ...]) -> None:
        """Carry out Steps, and take in what they changed. Raises StepRefused."""
        try:
            await self._call(execute, self._requests, steps)
        finally:
            self.poll()

    async def look_at(self, index: int) -> None:
        """Read one link anew: for what the kernel changes without an event."""
        datagrams = await self._call(self._requests.ask_one, get_link, index)
        changes = self.links.feed(datagrams)
        if changes:
            self._changed(changes)

    def _listen(self, on: bool) -> None:
        loop = asyncio.get_running_loop()
        if on and not self._listening:
            loop.add_reader(self._events.fileno(), self.poll)
        elif not on and self._listening:
            loop.remove_reader(self._events.fileno())
        self._listening = on

    async def _load(self) -> None:
        self._listen(False)
        changes = self.links.load(await self._call(self._requests.dump))
        self._listen(True)
        if changes:
            self._changed(changes)
        self.poll()

    def _lost(self, why: str) -> None:
        _log.warning("reading all links anew", why=why)
        self._events.discard()
        self._listen(False)
        self._stale.set()

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, lambda: function(*args, **kwargs))

"""The kernel as the daemon sees it: a current view of the links, and the requests of Steps and adapters.

Requests block the event loop's thread. A worker thread would keep the loop free while another program holds RTNL, but
it more than doubles the time of every attach (measured: 0.43 ms in the loop, 0.98 ms through a thread), and while RTNL
is held no vif can be served anyway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from xennetd.kernel import execute
from xennetd.kernel.links import LinkChange, Links
from xennetd.kernel.netlink import Ack, NetlinkFormatError
from xennetd.kernel.offloads import Offloads
from xennetd.kernel.proxies import Proxies
from xennetd.kernel.rtnl import get_link
from xennetd.kernel.rtnl_ip import dump_addresses, dump_proxies
from xennetd.kernel.sockets import EventSocket, Overrun, RequestSocket
from xennetd.kernel.storms import HOLD, PAUSE, Flood, Storms
from xennetd.model.errors import EventsLost, HostError
from xennetd.plan.steps import AddAddress, LinkStep

_log = structlog.get_logger()

_SETTLE, _SETTLE_LONGEST = 1.0, 60.0
"""Seconds until everything is read again after changes have interrupted all dumps. They double while this goes on."""

_ATTEMPTS = 6
_AGAIN = 0.05
"""How often the events are tried in a row, and the seconds before the first further attempt. The pause doubles."""


class Kernel:
    """rtnetlink of one network namespace.

    `changed` is called with every batch of changes of the view, from events and from dumps. `lost` is called after a
    change that can't be expressed as changed links; the view is current by then. `resyncs` counts how often everything
    was read again because events were lost. `stand_in` is for tests: see `rtnl.parse_link`. The constructor raises
    HostError if the process may not use rtnetlink.
    """

    def __init__(
        self, changed: Callable[[list[LinkChange]], None], lost: Callable[[], None], *, stand_in: bool = False
    ) -> None:
        self.links = Links(stand_in=stand_in)
        self.resyncs = 0
        self._stale = False
        self._failures = 0
        self._lost_for_good: asyncio.Event = asyncio.Event()
        self._flood = Flood()
        self._storms = Storms()
        self._read = 0
        self._settling = False
        self._settle_after = _SETTLE
        self._timers: set[asyncio.TimerHandle] = set()
        self._changed = changed
        self._lost = lost
        try:
            self._events = EventSocket()
            self._requests = RequestSocket()
        except OSError as error:
            remedy = ": xennetd must run as root" if isinstance(error, PermissionError) else ""
            raise HostError(f"rtnetlink can't be used: {error.strerror}{remedy}", errno=error.errno or 0) from error
        self.offloads = Offloads(self.links)
        self.proxies = Proxies(self.links, self.ask, lambda: self._requests.dump_of(dump_proxies))

    def start(self) -> None:
        """Read everything, then follow the events. The event socket is open already, so no event is missed."""
        self._load()
        self._listen()

    async def watch(self) -> None:
        """Wait. Raises EventsLost once the events can't be read any more, after several attempts."""
        await self._lost_for_good.wait()
        raise EventsLost("the kernel's link events can't be read: see the journal; xennetd starts anew")

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._events.fileno(), self._hear)

    def _hear(self) -> None:
        """Process all waiting events. In a flood, let some come together before the next time.

        After a failure try again later: the event loop would call this at once, for ever.
        """
        try:
            self.poll()
        except OSError as error:
            self._failures += 1
            _log.error("link events can't be read now", why=str(error), failures=self._failures)
            if self._failures == _ATTEMPTS:
                self._lost_for_good.set()
            self._pause(_AGAIN * 2**self._failures)
            return
        self._failures = 0
        if self._flood.pauses(self._read, time.monotonic()):
            self._pause(PAUSE)

    def _pause(self, seconds: float) -> None:
        asyncio.get_running_loop().remove_reader(self._events.fileno())
        self._later(seconds, self._resume)

    def _resume(self) -> None:
        self._listen()
        if self._failures:
            self._hear()  # What failed may have taken the events from the socket.

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        def due() -> None:
            self._timers.discard(timer)
            act()

        timer = asyncio.get_running_loop().call_later(seconds, due)
        self._timers.add(timer)

    def close(self) -> None:
        """Stop listening and close the sockets. The network stays as it is."""
        for timer in self._timers:
            timer.cancel()
        asyncio.get_running_loop().remove_reader(self._events.fileno())
        self._events.close()
        self._requests.close()
        self.offloads.close()

    def poll(self) -> None:
        """Process all waiting events, so that the view includes everything up to the kernel's last acknowledgement.

        Raises OSError if they can't be read. The next call then reads everything.
        """
        stale, self._stale = self._stale, True
        if stale:
            self._resync("events could not be read")
            self._lost()
        else:
            self._poll()
        self._stale = False

    def _poll(self) -> None:
        try:
            datagrams = self._events.drain()
            self._read = len(datagrams)
            changes = self.links.feed(datagrams)
            changes += reread(self.links, self._requests)
            self._settle_later()
        except Overrun:
            self._resync("the kernel had more link events than the buffer holds")
        except NetlinkFormatError as error:
            # The view may include some events of this batch already. The dump shows no difference for them.
            self._resync(f"a link event could not be read: {error}")
            self._lost()
        else:
            self._tell(changes)

    def execute(self, steps: tuple[LinkStep, ...]) -> list[execute.StepRefused]:
        """Carry out Steps, then update the view. Returns and raises as `execute.execute` does."""
        try:
            return execute.execute(self._requests, steps)
        finally:
            for step in steps:
                if isinstance(step, AddAddress) and step.address.version == 6:
                    self.links.mark_addresses_stale(step.index)
            self.poll()

    def ask(self, request: Callable[..., bytes], *args: Any, **kwargs: Any) -> Ack:
        """Send one request, built by `request` from a sequence number and these arguments, then update the view."""
        (ack,), _ = self._requests.ask([request(self._requests.next_seq(), *args, **kwargs)])
        self.poll()
        return ack

    def read_link(self, index: int) -> list[bytes]:
        """Return the datagrams of the kernel's answer about one link, without the link's details in the view."""
        return self._requests.ask_one(get_link, index)

    def dump(self, request: Callable[[int], bytes]) -> list[bytes]:
        """Return the datagrams of the dump that a request, built from a sequence number, asks for. Raises OSError."""
        return self._requests.dump_of(request)

    def look_at(self, index: int) -> None:
        """Read one link again. The kernel changes some properties of a link without an event."""
        self._tell(self.links.feed(self._requests.ask_one(get_link, index)))

    def _resync(self, why: str) -> None:
        self.resyncs += 1
        _log.warning("reading all links again", why=why)
        self._events.discard()
        self._load()

    def _load(self) -> None:
        changes = self.links.load(self._requests.dump())
        missing = self.proxies.load()
        self._settle_later()
        self._tell(changes)
        if missing:
            self._lost()

    def _settle_later(self) -> None:
        """If a dump was not consistent, read everything again later. Until then the view is as good as can be."""
        if self._requests.unsettled and not self._settling:
            self._settling = True
            self._later(self._settle_after, self._settle)
            self._settle_after = min(2 * self._settle_after, _SETTLE_LONGEST)

    def _settle(self) -> None:
        self._settling = self._requests.unsettled = False
        try:
            self._resync("they changed too fast for a consistent view")
        except OSError as error:
            _log.error("links can't be read again now", why=str(error))
            self._stale = True  # The next event tries it again.
        if not self._settling:
            self._settle_after = _SETTLE

    def _tell(self, changes: list[LinkChange]) -> None:
        stale = self.links.stale.proxies
        missing = self.proxies.follow(stale)
        stale.clear()
        if self.links.heard:
            self._storms.count(self.links.heard, time.monotonic())
            self.links.heard.clear()
        held = self._storms.holds
        changes = self._storms.hold(changes)
        if self._storms.holds and not held:
            self._later(HOLD, self._release)
        if changes:
            self._changed(changes)
        if missing:
            self._lost()

    def _release(self) -> None:
        if changes := self._storms.release():
            self._changed(changes)

    def problems(self) -> list[str]:
        """Return a sentence for each link that other programs change all the time."""
        names = {link.index: link.name for link in self.links}
        return list(self._storms.problems(names, time.monotonic()))


def reread(links: Links, requests: RequestSocket) -> list[LinkChange]:
    """Read again everything that events have left stale. A later event about the same change does no harm."""
    changes: list[LinkChange] = []
    for index in tuple(links.stale.addresses):
        changes += links.reload_addresses(index, requests.dump_of(dump_addresses, index))
    if links.stale.routes:
        changes += links.reload_routes(requests.dump_routes())
    return changes

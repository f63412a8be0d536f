"""The audit trail: each event becomes one journal entry, and goes to every monitor.

Recording never waits for journald (see journal.py), nor for a monitor. A monitor that is too slow loses events, and
learns how many.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from xennetd.daemon.observability.drift import DriftLimit
from xennetd.daemon.observability.journal import ERR, INFO, NOTICE, WARNING, Journal, JournalFields
from xennetd.model.event import Event, EventKind
from xennetd.model.value import replace
from xennetd.model.vif import VifId

REMEMBERED = 200
"""Events kept in memory, for `show` and for monitors that ask for recent events."""

BACKLOG = 256
"""Events that may wait for one monitor. Beyond that the monitor loses the oldest."""

_PRIORITIES = {
    EventKind.ERROR: ERR,
    EventKind.WARNING: WARNING,
    EventKind.DRIFT: WARNING,
    EventKind.DENIED: NOTICE,
    EventKind.PIN: NOTICE,
}


class Audit:
    """Records events. `clock` returns the time in microseconds since the epoch."""

    def __init__(self, journal: Journal, *, clock: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._journal = journal
        self._clock = clock
        self._recent: deque[Event] = deque(maxlen=REMEMBERED)
        self._subscriptions: set[Subscription] = set()
        self._drift = DriftLimit()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def lost(self) -> int:
        """The number of entries, of the audit trail and of the log, that were lost since the daemon's start."""
        return self._journal.lost

    def record(self, event: Event) -> None:
        """Send `event` to the journal and to the monitors. An event without a time gets the current one."""
        if not event.realtime_us:
            event = replace(event, realtime_us=self._clock())
        self._journal.send(entry(event))
        self._recent.append(event)
        for subscription in self._subscriptions:
            subscription.put(event)

    def repaired(self, event: Event, what: str) -> None:
        """Record a repair: at once, or with others of this kind at the end of the minute (`DriftLimit`)."""
        recorded = self._drift.repaired(event, what, time.monotonic())
        if recorded is not None:
            self.record(recorded)
        self._wake_for_drift()

    def flush(self, subject: VifId | None = None) -> None:
        """Record at once the repairs of a vif that are only counted so far; of all vifs and networks for None."""
        for event in self._drift.flush(subject):
            self.record(event)

    def _wake_for_drift(self) -> None:
        if self._timer is None and (due_at := self._drift.due_at) is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, due_at - time.monotonic()), self._record_drift)

    def _record_drift(self) -> None:
        self._timer = None
        for event in self._drift.due(time.monotonic()):
            self.record(event)
        self._wake_for_drift()

    def recent(self, vif: VifId | None = None) -> list[Event]:
        """Return the remembered events, of one vif or of all, oldest first."""
        return [event for event in self._recent if vif is None or event.vif == vif]

    def subscribe(self) -> Subscription:
        """Return a subscription to all events from now on. Use it as a context manager, so that it ends."""
        subscription = Subscription(self._subscriptions)
        self._subscriptions.add(subscription)
        return subscription


class Subscription:
    """An async iterator over recorded events: pairs of an event and the number of events lost just before it."""

    def __init__(self, register: set[Subscription]) -> None:
        self._register = register
        self._events: deque[Event] = deque()
        self._lost = 0
        self._wake = asyncio.Event()

    def put(self, event: Event) -> None:
        """Add an event. If BACKLOG events wait already, the oldest of them is lost."""
        if len(self._events) >= BACKLOG:
            self._events.popleft()
            self._lost += 1
        self._events.append(event)
        self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Event, int]:
        while not self._events:
            self._wake.clear()
            await self._wake.wait()
        lost, self._lost = self._lost, 0
        return self._events.popleft(), lost

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._register.discard(self)


def entry(event: Event) -> JournalFields:
    """Return the journal entry of an event. Values that the event does not have are left out."""
    kind = event.kind
    fields: dict[str, str | int] = {
        "MESSAGE": event.message,
        "MESSAGE_ID": kind.message_id,
        "PRIORITY": _PRIORITIES.get(kind, WARNING if event.error else INFO),
        "XENNET_EVENT": kind.label,
    }
    if event.vif is not None:
        fields["XENNET_VIF"] = str(event.vif)
        fields["XENNET_DOMID"] = event.vif.domid
        fields["XENNET_DEVID"] = event.vif.devid
    if event.ips:
        fields["XENNET_IPS"] = " ".join(event.ips)
    for name, value in (
        ("XENNET_VM", event.vm),
        ("XENNET_UUID", event.uuid),
        ("XENNET_MAC", event.mac),
        ("XENNET_NETWORK", event.network),
        ("XENNET_BRIDGE", event.bridge),
        ("XENNET_VLAN", event.vlan),
        ("XENNET_POLICY", event.policy),
        ("XENNET_DURATION_US", event.duration_us),
        ("XENNET_REPAIRS", event.repairs),
        ("XENNET_ERROR", event.error),
    ):
        if value is not None:
            fields[name] = value
    return fields

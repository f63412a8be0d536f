"""What follows when a look at a vif fails: another look later, and a word to the toolstack.

Rule: a failure stays with its vif. Nothing that is raised here or in the look gets any further.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from xennetd.daemon.reconcile.executor import Executor
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.queue import WorkQueue
from xennetd.daemon.record import Record
from xennetd.daemon.shortage import Shortage, shortage
from xennetd.daemon.toolstack.audit_events import AuditEvents
from xennetd.daemon.toolstack.reporter import RETRY, RETRY_REFUSED, ToolstackReporter
from xennetd.kernel.links import Links
from xennetd.model.errors import HostError, ToolstackError, XennetdError
from xennetd.model.status import VifState
from xennetd.model.vif import VifId
from xennetd.plan.decide import Decision, PortDecision
from xennetd.policy.resolve import owned
from xennetd.xenstore.channel import ConnectionLost

_log = structlog.get_logger(__name__)

_SHORTAGES = 3
"""How often a vif is tried again that the host was short for, before the toolstack is told."""

_RETRY_SHORT = 0.2
"""Seconds until the first of these attempts. The pause doubles with each."""

_RETRY_DEFECT = 60.0
"""Seconds until a vif is reconciled again that met a defect in xennetd.

Hints do not shorten the time after a defect, since a failing reconciliation may cause the next hint itself. Only
`retry` and the end of the vif do.
"""


class Failures:
    """Takes what the look at a vif has raised."""

    def __init__(  # noqa: PLR0913, PLR0917 # a failure concerns all these parts
        self,
        in_force: InForce,
        links: Links,
        records: Mapping[VifId, Record],
        queue: WorkQueue,
        executor: Executor,
        reporter: ToolstackReporter,
        audit_events: AuditEvents,
    ) -> None:
        self._in_force = in_force
        self._links = links
        self._records = records
        self._queue = queue
        self._executor = executor
        self._reporter = reporter
        self._audit_events = audit_events

    async def take(self, vif: VifId, error: Exception) -> None:
        """Have the vif reconciled again at the time that fits the failure, and report the failure."""
        match error:
            case ConnectionLost():
                self._queue.hint_later(vif, RETRY)
            case ToolstackError():
                self._refused_by_xenstore(vif, error)
            case HostError() | OSError() | MemoryError():  # the types of `Shortage`
                await self._short(vif, shortage(error))
            case _:
                await self._defect(vif, error)

    def _refused_by_xenstore(self, vif: VifId, error: ToolstackError) -> None:
        """Report that a running xenstored refused a write, and try again later, since no event will follow.

        The ports of a vif that was never connected are taken down first, as after any other failure. The next decision
        does that: an error of the vif itself takes its tap down, too.
        """
        record, link = self._records.get(vif), self._links.of(vif)
        if record is not None:
            if link is not None and link.up and not record.connected and not self._hands_off(record):
                self._executor.fail(record, link, error, tap=False)
                self._queue.hint(vif)
                return
            self._audit_events.settle(record, Decision(VifState.ERROR, port=PortDecision(error=error)), link, [])
        self._queue.hint_later(vif, RETRY_REFUSED)

    async def _short(self, vif: VifId, error: HostError) -> None:
        """Try again soon where the host was short of something, and tell the toolstack if that does not help."""
        record = self._records.get(vif)
        times = record.shortages if record is not None else 0
        pause = min(_RETRY_SHORT * 2**times, _RETRY_DEFECT)
        if record is not None:
            record.shortages += 1
            record.broken_until = time.monotonic() + pause
        self._queue.hint_later(vif, pause)  # after `broken_until` was set, lest it comes a moment too early
        _log.warning("a vif can't be served now", vif=str(vif), why=error.detail)
        if record is None or self._hands_off(record):
            return
        try:
            await self._reporter.tell_shortage(record, error, verdict=times >= _SHORTAGES)
        except (XennetdError, *Shortage) as second:
            _log.warning("the toolstack could not be told", vif=str(vif), why=str(second))

    async def _defect(self, vif: VifId, error: Exception) -> None:
        _log.error("a defect in xennetd, please report it", vif=str(vif), exc_info=error)
        record = self._records.get(vif)
        if record is not None:
            record.broken_until = time.monotonic() + _RETRY_DEFECT
        self._queue.hint_later(vif, _RETRY_DEFECT)
        if record is None:
            return
        try:
            await self._reporter.tell_defect(record, error, hands_off=self._hands_off(record))
        except Exception:
            _log.exception("another defect in xennetd, while the first was being reported", vif=str(vif))

    def _hands_off(self, record: Record) -> bool:
        """Return whether xennetd may change nothing: in observe mode, or about a vif that it does not manage."""
        vif = record.vif
        return self._in_force.observes or vif.pinned or not owned(self._in_force.policy, vif)

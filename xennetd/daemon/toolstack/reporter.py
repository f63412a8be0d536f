"""Reports the outcome of a reconciliation to the toolstack, the hotplug scripts and the audit trail.

Rule 1: when the toolstack does not want the verdict any more, the ports of a vif that was never connected are released.
Rule 2: whatever keeps a vif that was never connected from its verdict takes down its own port and its tap.
Rule 3: the vif gets its verdict even if xenstore refuses its tap's. The node of the tap is the only one that xennetd
must make itself, so it is the first that a quota hits.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from xennetd.daemon.record import Record
from xennetd.daemon.toolstack.audit_events import AuditEvents
from xennetd.daemon.toolstack.hotplug_files import HotplugFiles
from xennetd.kernel.execute import StepRefused
from xennetd.kernel.kernel import Kernel
from xennetd.model.errors import HostError, ToolstackError, XennetdError
from xennetd.model.link import Link
from xennetd.model.status import VifState
from xennetd.model.value import replace
from xennetd.model.vif import VifId
from xennetd.plan.decide import Decision, PortDecision
from xennetd.plan.observation import CONNECTED, fail, incarnation
from xennetd.plan.port import stop
from xennetd.plan.steps import Step
from xennetd.xenstore import backend
from xennetd.xenstore.channel import ConnectionLost
from xennetd.xenstore.client import XenstoreClient
from xennetd.xenstore.directory import Directory

_log = structlog.get_logger(__name__)

RETRY = 0.5
RETRY_REFUSED = 10.0
"""Seconds until a vif is reconciled again whose verdict did not reach xenstored, or was refused by xenstored."""


class ToolstackReporter:
    """Writes verdicts, makes the scripts' files, and audits.

    `tap_of` returns the tap of a vif, if there is one. `again` asks to reconcile a vif in some seconds.
    """

    def __init__(  # noqa: PLR0913, PLR0917 # an outcome concerns all these parts
        self,
        kernel: Kernel,
        directory: Directory,
        client: XenstoreClient,
        audit_events: AuditEvents,
        hotplug_files: HotplugFiles,
        tap_of: Callable[[Record], Link | None],
        again: Callable[[VifId, float], None],
    ) -> None:
        self._kernel = kernel
        self._directory = directory
        self._client = client
        self._audit_events = audit_events
        self._hotplug_files = hotplug_files
        self._tap_of = tap_of
        self._again = again

    async def tell(self, record: Record, decision: Decision, link: Link | None, done: list[Step]) -> None:
        """Report a decision without Steps. `done` are the Steps that this reconciliation executed before.

        Raises ToolstackError when xenstored is out of reach or refuses a write, other than that of the tap's verdict.
        """
        vif = record.vif
        await self._tell_tap(record, decision, decision.tap_verdict)
        if (verdict := decision.verdict) is not None:
            error = verdict.error
            written = await backend.write_verdict(
                self._client, vif, error=error, frontend_mtu=verdict.frontend_mtu, mac=verdict.mac
            )
            if not written:
                decision = replace(decision, reason="the toolstack took the device back")
                if link is not None and record.memory.connected != incarnation(link):
                    self._stop(link)
                    self._stop(self._tap_of(record))
            elif error is None:
                if verdict.mac is not None:
                    self._directory.note(vif.id, "mac", verdict.mac)
                self._directory.note(vif.id, "hotplug-status", CONNECTED)
                decision = replace(decision, state=VifState.CONNECTED, reason=None)
            else:
                self._directory.note(vif.id, "hotplug-error", error)
                self._directory.note(vif.id, "hotplug-status", "error")
        await self._mark(vif.id)
        if decision.remove_backend:
            await backend.remove_backend(self._client, vif)
        self._audit_events.settle(record, decision, link, done)

    async def tell_defect(self, record: Record, defect: Exception, *, hands_off: bool) -> None:
        """Report a defect in xennetd that reconciling a vif met: the toolstack gets a verdict, as for any other error.

        With `hands_off`, in observe mode or for a vif that xennetd does not manage, the defect is only audited.
        """
        vif_id = record.vif.id
        error = XennetdError(
            f"xennetd met a defect of its own on {vif_id}: see `journalctl -t xennetd`", detail=f"{defect!r}"
        )
        self._audit_events.broken(record, Decision(VifState.ERROR, port=PortDecision(error=error)))
        if not hands_off:
            await self._refuse(record, error)

    async def tell_shortage(self, record: Record, error: HostError, *, verdict: bool) -> None:
        """Report that the host is short of something for a vif, and with `verdict` tell the toolstack, too.

        The ports of a vif that was never connected are down until the next attempt.
        """
        link = self._kernel.links.of(record.vif.id)
        if verdict:
            self._audit_events.settle(record, Decision(VifState.ERROR, port=PortDecision(error=error)), link, [])
        await self._refuse(record, error, verdict=verdict)

    async def _refuse(self, record: Record, error: XennetdError, *, verdict: bool = True) -> None:
        """Take the ports of a vif that was never connected down, and with `verdict` tell the toolstack."""
        vif = self._directory.get(record.vif.id) or record.vif  # with the verdict that was written a moment ago
        if vif.hotplug_status == CONNECTED:
            return
        self._stop(self._kernel.links.of(vif.id))
        self._stop(tap := self._tap_of(record))
        if not verdict:
            return
        tap_verdict = f"error: {error.sentence}"
        try:
            if vif.hotplug_status != "error":
                await backend.write_verdict(self._client, vif, error=error.sentence)
                self._directory.note(vif.id, "hotplug-status", "error")
            if tap is not None and vif.tap_status != tap_verdict:
                await backend.write_tap_verdict(self._client, vif, tap_verdict)
                self._directory.note(vif.id, "xennetd-tap", tap_verdict)
        except ToolstackError as refused:
            _log.warning("the toolstack could not be told", vif=str(vif.id), why=str(refused))
        await self._mark(vif.id)

    async def _mark(self, vif_id: VifId) -> None:
        """Make the files that show the hotplug scripts whether xenstore holds verdicts on this vif."""
        vif = self._directory.get(vif_id)
        if vif is not None and not await self._hotplug_files.settle(self._client, vif):
            self._again(vif_id, RETRY)

    def _stop(self, link: Link | None) -> None:
        """Take a link that was never connected down and out of its bridge. A refusal of the kernel is logged."""
        steps = stop(link) if link is not None else ()
        try:
            if steps:
                self._kernel.execute(steps)
        except StepRefused as refused:
            if not refused.link_gone:
                _log.error("a port could not be taken down", why=str(refused))

    async def _tell_tap(self, record: Record, decision: Decision, verdict: str | None) -> None:
        vif, written = record.vif, False
        try:
            if verdict:
                written = await backend.write_tap_verdict(self._client, vif, verdict)
            elif verdict is not None:
                written = await backend.clear_tap_verdict(self._client, vif)
        except ConnectionLost:
            raise
        except ToolstackError as error:
            self._tap_refused(record, decision, verdict or "", error)
            return
        told, record.tap_refused = record.tap_refused, None
        if verdict is not None and written:
            self._directory.note(vif.id, "xennetd-tap", verdict or None)
            record.vif = replace(vif, tap_status=verdict or None)
            self._audit_events.tap_told(record, decision, verdict, told)

    def _tap_refused(self, record: Record, decision: Decision, verdict: str, error: ToolstackError) -> None:
        """Take a tap down whose verdict `connected` xenstore refused, and audit the refusal once. It is tried again."""
        vif, pause = record.vif, RETRY_REFUSED
        tap = self._tap_of(record)
        if verdict == CONNECTED and tap is not None:
            now = time.monotonic()
            failure = fail(error, vif, tap, record.memory.tap.failure, now)
            record.remember(replace(record.memory.tap, failure=failure), tap=True)
            pause = failure.until - now if failure.until is not None else RETRY_REFUSED
            self._stop(tap)
        self._again(vif.id, pause)
        if record.tap_refused is None or record.tap_refused.detail != error.detail:
            self._audit_events.tap_refused(record, verdict, error)
        record.tap_refused = error

"""Reports the outcome of a reconciliation to the toolstack, the hotplug scripts and the audit trail.

Rule: when the toolstack does not want the verdict any more, the port of a vif that was never connected is released.
"""

from __future__ import annotations

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
from xennetd.plan.observation import CONNECTED, incarnation
from xennetd.plan.port import stop
from xennetd.plan.steps import Step
from xennetd.xenstore import backend
from xennetd.xenstore.client import XenstoreClient
from xennetd.xenstore.directory import Directory

_log = structlog.get_logger(__name__)

RETRY = 0.5
"""Seconds until a vif is reconciled again whose verdict did not reach xenstored."""


class ToolstackReporter:
    """Writes verdicts, makes the scripts' files, and audits. `again` asks to reconcile a vif in some seconds."""

    def __init__(
        self,
        kernel: Kernel,
        directory: Directory,
        client: XenstoreClient,
        audit_events: AuditEvents,
        hotplug_files: HotplugFiles,
        again: Callable[[VifId, float], None],
    ) -> None:
        self._kernel = kernel
        self._directory = directory
        self._client = client
        self._audit_events = audit_events
        self._hotplug_files = hotplug_files
        self._again = again

    async def tell(self, record: Record, decision: Decision, link: Link | None, done: list[Step]) -> None:
        """Report a decision without Steps. `done` are the Steps that this reconciliation executed before.

        Raises ToolstackError when xenstored is out of reach or refuses a write.
        """
        vif = record.vif
        if decision.tap_verdict is not None:
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

    async def tell_defect(self, record: Record, defect: Exception, *, observing: bool) -> None:
        """Report a defect in xennetd that reconciling a vif met: the toolstack gets a verdict, as for any other error.

        In observe mode (`observing`) the defect is only audited.
        """
        vif_id = record.vif.id
        error = XennetdError(
            f"xennetd met a defect of its own on {vif_id}: see `journalctl -t xennetd`", detail=f"{defect!r}"
        )
        self._audit_events.broken(record, Decision(VifState.ERROR, port=PortDecision(error=error)))
        if not observing:
            await self._refuse(record, error)

    async def tell_shortage(self, record: Record, error: HostError, *, verdict: bool) -> None:
        """Report that the host is short of something for a vif, and with `verdict` tell the toolstack, too.

        The port of a vif that was never connected is down until the next attempt.
        """
        link = self._kernel.links.of(record.vif.id)
        if verdict:
            self._audit_events.settle(record, Decision(VifState.ERROR, port=PortDecision(error=error)), link, [])
        await self._refuse(record, error, verdict=verdict)

    async def _refuse(self, record: Record, error: XennetdError, *, verdict: bool = True) -> None:
        """Take the port of a vif that was never connected down, and with `verdict` tell the toolstack."""
        vif = record.vif
        if vif.hotplug_status == CONNECTED:
            return
        self._stop(self._kernel.links.of(vif.id))
        if verdict and vif.hotplug_status != "error":
            try:
                await backend.write_verdict(self._client, vif, error=error.sentence)
            except ToolstackError:
                return
            self._directory.note(vif.id, "hotplug-status", "error")
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

    async def _tell_tap(self, record: Record, decision: Decision, verdict: str) -> None:
        vif = record.vif
        if verdict:
            written = await backend.write_tap_verdict(self._client, vif, verdict)
        else:
            written = await backend.clear_tap_verdict(self._client, vif)
        if written:
            self._directory.note(vif.id, "xennetd-tap", verdict or None)
            record.vif = replace(vif, tap_status=verdict or None)
            self._audit_events.tap_told(record, decision, verdict)

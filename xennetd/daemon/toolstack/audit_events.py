"""Turns the outcome of a reconciliation into audit events, and runs the administrator's hooks for it."""

from __future__ import annotations

import time

from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.record import Record
from xennetd.daemon.toolstack.hooks import Hooks
from xennetd.model.attachment import Attachment
from xennetd.model.errors import Denied, XennetdError
from xennetd.model.event import EventKind
from xennetd.model.link import Link
from xennetd.model.status import VifState
from xennetd.model.value import replace
from xennetd.model.vif import Vif
from xennetd.plan.decide import Decision
from xennetd.plan.observation import CONNECTED, incarnation
from xennetd.plan.steps import Step, kind_of


class AuditEvents:
    """Updates records and audits the changes. `adopted` counts the vifs that the daemon found connected rightly."""

    def __init__(self, audit: Audit, hooks: Hooks) -> None:
        self._audit = audit
        self._hooks = hooks
        self.adopted = 0

    def settle(self, record: Record, decision: Decision, link: Link | None, done: list[Step]) -> None:
        """Take a decision without Steps over into the record, and audit the change that it means.

        `done` are the Steps that this reconciliation executed before.
        """
        was, was_attached = record.state, record.attachment
        changed = record.settle(decision, link)
        match decision.state:
            case VifState.CONNECTED if link is not None:
                known = record.memory.connected == incarnation(link)
                found = decision.verdict is None and record.memory.connected is None and not record.memory.fresh
                port = record.memory.port
                if port.failure is not None:
                    port = replace(port, failure=None)
                record.memory = replace(record.memory, connected=incarnation(link), fresh=False, port=port)
                if found and not done:
                    self.adopted += 1
                elif found:
                    self._repaired(record, was_attached, done)
                elif not known:
                    self._attached(record)
                elif was is not VifState.CONNECTED:
                    self._audit.record(record.event(EventKind.CHANGE, f"{record.title} is connected again"))
                elif done:
                    self._repaired(record, was_attached, done)
                record.began_at = None
            case VifState.ERROR if changed and record.error is not None:
                kind = EventKind.DENIED if isinstance(record.error, Denied) else EventKind.ERROR
                kept = link is not None and link.up
                fate = "keeps its network in spite of an error" if kept else "gets no network"
                message = f"{record.title} {fate}: {record.error.detail}"
                self._audit.record(record.event(kind, message, error=record.error.sentence))
            case VifState.DETACHING:
                found_connected = was is None and record.vif.hotplug_status == CONNECTED and not record.memory.fresh
                if record.memory.connected is not None or found_connected:
                    self.detached(record)

    def detached(self, record: Record) -> None:
        """Audit the end of a vif that was connected, and run the `offline` hooks."""
        self._audit.flush(record.vif.id)
        self._audit.record(record.event(EventKind.DETACH, f"{record.title} detached from {record.where}"))
        record.memory = replace(record.memory, connected=None)
        self._hooks.run("offline", record.vif, record.vif.link_name)

    def undone(self, record: Record, done: list[Step]) -> None:
        """Audit the Steps for a connected vif that another program has undone already."""
        if done and record.memory.connected is not None:
            self._repaired(record, record.attachment, done)

    def renamed(self, record: Record, old: Vif) -> None:
        """Audit that the domain's name is not the one in `old` any more.

        A different domain (by its UUID) is no renaming. A vif that xennetd does not manage is not audited.
        """
        if record.state in (None, VifState.IGNORED) or old.vm is None or old.uuid != record.vif.uuid:
            return
        message = f"the domain of {record.vif.id} was renamed from {old.vm} to {record.vif.vm}"
        self._audit.record(record.event(EventKind.CHANGE, message))

    def tap_told(self, record: Record, decision: Decision, verdict: str, told: XennetdError | None) -> None:
        """Run the hooks for a tap, or audit its error, unless that is the error `told` before (`tap_refused`).

        `verdict` is the value of the node `xennetd-tap` now; it is empty when the tap and the node are gone.
        """
        vif, error, attachment = record.vif, decision.tap.error, decision.attachment
        if verdict in (CONNECTED, ""):
            bridge = attachment.bridge if attachment else None
            self._hooks.run("add" if verdict else "remove", vif, vif.tap_name, bridge or "")
        elif error is not None and error is not decision.error and (told is None or told.detail != error.detail):
            message = f"the tap of {record.title} gets no network: {error.detail}"
            self._audit.record(record.event(EventKind.ERROR, message, error=error.sentence))

    def tap_refused(self, record: Record, verdict: str, error: XennetdError) -> None:
        """Audit that xenstore refused `verdict` as the value of the node `xennetd-tap`; it is empty for a removal."""
        fate = "gets no network" if verdict else "is gone, and the toolstack can't be told"
        message = f"the tap of {record.title} {fate}: {error.detail}"
        self._audit.record(record.event(EventKind.ERROR, message, error=error.sentence))

    def warn(self, record: Record, text: str) -> None:
        """Audit a sentence about something wrong that does not prevent the vif from being connected."""
        self._audit.record(record.event(EventKind.WARNING, f"{record.title}: {text}"))

    def broken(self, record: Record, decision: Decision) -> None:
        """Audit a defect in xennetd: `decision` holds it as an error."""
        record.settle(decision, record.link)
        if decision.error is not None:
            message = f"{record.title}: {decision.error.sentence}"
            self._audit.record(record.event(EventKind.ERROR, message, error=decision.error.detail))

    def _attached(self, record: Record) -> None:
        attachment = record.attachment
        if record.began_at is not None:
            record.duration_us = round((time.monotonic() - record.began_at) * 1e6)
        took = f" in {record.duration_us / 1000:.1f} ms" if record.duration_us is not None else ""
        by = f' by policy "{attachment.assignment.policy}"' if attachment and attachment.assignment.policy else ""
        where = attachment.where if attachment else "?"
        self._audit.record(record.event(EventKind.ATTACH, f"{record.title} attached to {where}{by}{took}"))
        for warning in attachment.warnings if attachment else ():
            self.warn(record, warning)
        self._hooks.run("online", record.vif, record.vif.link_name, (attachment.bridge if attachment else None) or "")

    def _repaired(self, record: Record, was: Attachment | None, done: list[Step]) -> None:
        """Audit the Steps for a vif that was connected before, with the attachment `was` if this run knows it.

        Another attachment than before means that policy or xenstore changed, and that nobody meddled with the vif.
        """
        now, steps = record.attachment, "; ".join(step.describe() for step in done)
        if was is None or now is None or was.terms == now.terms:
            self._audit.repaired(record.event(EventKind.DRIFT, f"{record.title} repaired: {steps}"), kind_of(done[0]))
            return
        if was.where != now.where:
            kind, message = EventKind.CHANGE, f"{record.title} moved from {was.where} to {now.where}: {steps}"
        else:
            kind, message = EventKind.CHANGE, f"{record.title} changed: {steps}"
        self._audit.record(record.event(kind, message))

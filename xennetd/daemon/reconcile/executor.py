"""Carries out what was decided about a vif's links, and remembers what the host refused.

An engine that answers later (an adapter, a placement that is not the kernel's) is awaited here; rtnetlink is not, since
it answers at once.
"""

from __future__ import annotations

import time
from dataclasses import replace

from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.record import Record
from xennetd.daemon.toolstack.audit_events import AuditEvents
from xennetd.kernel.execute import StepRefused
from xennetd.kernel.kernel import Kernel
from xennetd.model.errors import HostError
from xennetd.model.link import Link
from xennetd.plan.decide import Decision, PortDecision
from xennetd.plan.observation import fail, incarnation
from xennetd.plan.refusal import not_taken, refusal
from xennetd.plan.steps import LinkStep, SetLink, Step


class Executor:
    """Executes Steps on the host and on links."""

    def __init__(self, kernel: Kernel, host: HostState, audit_events: AuditEvents) -> None:
        self._kernel = kernel
        self._host = host
        self._audit_events = audit_events

    async def execute(self, record: Record, link: Link | None, port: PortDecision, *, tap: bool) -> list[Step]:
        """Carry out what was decided about one link; a refusal is remembered for the next decision.

        Returns the Steps that were done.
        """
        if not port.all_steps or link is None:
            return []
        try:
            if port.host:
                await self._host.ensure(record.vif.id, port.host, record.vif.uuid)
            for refused in self._kernel.execute(port.steps):
                self._audit_events.warn(record, str(refused))
        except HostError as error:
            self.fail(record, link, error, tap=tap)
            return []
        except StepRefused as refused:
            # A refusal is held against a vif until what the refusal is about changes. The kernel's view has taken in
            # by now whatever changed between the look and the Step, and no second event will tell of that change. So a
            # refusal that comes of it must not be remembered: the next round decides anew, by the newer view.
            if not (refused.link_gone or refused.overtaken or self._bridge_gone(refused.step)):
                why = refusal(record.vif, refused.step, refused.errno, refused.reason, refused.text)
                self.fail(record, link, why, tap=tap)
            return []
        if any(isinstance(each, SetLink) and each.property == "mtu" for each in port.steps if each.index == link.index):
            record.remember(replace(record.port_memory(tap=tap), mtu_given=incarnation(link)), tap=tap)
        return list(port.all_steps)

    def verify(self, record: Record, decision: Decision, link: Link | None, tap: Link | None) -> None:
        """What was done does not show: read the links themselves, and if it still does not, remember a failure."""
        for suspect, steps, is_tap in ((link, decision.port.all_steps, False), (tap, decision.tap.all_steps, True)):
            if suspect is None or not steps:
                continue
            self._kernel.look_at(suspect.index)
            if self._kernel.links.by_index(suspect.index) == suspect:
                self.fail(record, suspect, not_taken(record.vif, steps), tap=is_tap)

    def fail(self, record: Record, link: Link, error: HostError, *, tap: bool) -> None:
        """Remember a failure of one link."""
        memory = record.port_memory(tap=tap)
        failure = fail(error, record.vif, link, memory.failure, time.monotonic())
        record.remember(replace(memory, failure=failure), tap=tap)

    def _bridge_gone(self, step: LinkStep) -> bool:
        """Whether a link could not become the port of a bridge because that has gone: then it is decided anew."""
        if not isinstance(step, SetLink) or step.property != "master" or not isinstance(step.value, int):
            return False
        return step.value != 0 and self._kernel.links.by_index(step.value) is None

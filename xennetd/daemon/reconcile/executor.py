"""Executes the Steps of a decision about a vif, and remembers the Steps that the host refused.

Adapters whose engine answers later are awaited here. rtnetlink answers at once and needs no awaiting.
"""

from __future__ import annotations

import time

from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.record import Record
from xennetd.daemon.toolstack.audit_events import AuditEvents
from xennetd.kernel.execute import StepRefused
from xennetd.kernel.kernel import Kernel
from xennetd.model.errors import HostError, XennetdError
from xennetd.model.link import Link
from xennetd.model.value import replace
from xennetd.plan.decide import Decision, PortDecision
from xennetd.plan.observation import fail, incarnation
from xennetd.plan.refusal import not_taken, refusal
from xennetd.plan.steps import LinkStep, SetLink, Step


class Executor:
    """Executes Steps on the host and on the links of vifs."""

    def __init__(self, in_force: InForce, kernel: Kernel, host: HostState, audit_events: AuditEvents) -> None:
        self._in_force = in_force
        self._kernel = kernel
        self._host = host
        self._audit_events = audit_events

    async def execute(self, record: Record, link: Link | None, port: PortDecision, *, tap: bool) -> list[Step]:
        """Execute the Steps of the decision about one link: the vif's tap if `tap`, else its own link.

        A refusal is remembered in `record` for the next decision. Returns the executed Steps, none after a refusal. If
        another policy comes into force while the host's Steps are executed, the link's are not: it may forbid them.
        """
        if not port.all_steps or link is None:
            return []
        policy = self._in_force.policy
        try:
            if port.host:
                await self._host.ensure(record.vif.id, port.host, record.vif.uuid)
            if self._in_force.policy is not policy:
                return list(port.host)
            for refused in self._kernel.execute(port.steps):
                self._audit_events.warn(record, str(refused))
        except HostError as error:
            self.fail(record, link, error, tap=tap)
            return []
        except StepRefused as refused:
            # A refusal is remembered until its cause changes. A change between the observation and the Step is in the
            # kernel's view by now, and no second event will report it. So a refusal that such a change caused must not
            # be remembered: the next round decides anew from the newer view.
            if not (refused.link_gone or refused.overtaken or self._bridge_gone(refused.step)):
                why = refusal(record.vif, refused.step, refused.errno, refused.reason, refused.text)
                self.fail(record, link, why, tap=tap)
            return []
        if any(isinstance(step, SetLink) and step.property == "mtu" for step in port.steps if step.index == link.index):
            given = replace(record.port_memory(tap=tap), mtu_given=incarnation(link), mtu_due=False)
            record.remember(given, tap=tap)
        return list(port.all_steps)

    def verify(self, record: Record, decision: Decision, link: Link | None, tap: Link | None) -> None:
        """Check Steps that were executed and are still needed, by reading the links from the kernel again.

        If the kernel confirms that a link is unchanged, the Steps had no effect: that is remembered as a failure.
        """
        for suspect, steps, is_tap in ((link, decision.port.all_steps, False), (tap, decision.tap.all_steps, True)):
            if suspect is None or not steps:
                continue
            self._kernel.look_at(suspect.index)
            if self._kernel.links.by_index(suspect.index) == suspect:
                self.fail(record, suspect, not_taken(record.vif, steps), tap=is_tap)

    def fail(self, record: Record, link: Link, error: XennetdError, *, tap: bool) -> None:
        """Remember a failure of one link: of the vif's tap if `tap`, else of its own link."""
        memory = record.port_memory(tap=tap)
        failure = fail(error, record.vif, link, memory.failure, time.monotonic())
        record.remember(replace(memory, failure=failure), tap=tap)

    def _bridge_gone(self, step: LinkStep) -> bool:
        """Return whether the Step was to make a link the port of a bridge that is gone. A new decision is due then."""
        if not isinstance(step, SetLink) or step.property != "master" or not isinstance(step.value, int):
            return False
        return step.value != 0 and self._kernel.links.by_index(step.value) is None

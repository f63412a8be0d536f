"""Makes the observation of one vif: the policy's outcome, the kernel's links, and the missing host objects."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeGuard

from xennetd.daemon.reconcile.dry_run import DryRunHost
from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.registry import GuestRegistry
from xennetd.daemon.record import Record, Resolved
from xennetd.kernel.links import Links
from xennetd.kernel.procsys import read_sysctl
from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Policy
from xennetd.model.errors import HostError, XennetdError
from xennetd.model.link import HostView, Link, Route
from xennetd.model.marks import GUEST_GROUP, is_port_alias, is_port_group
from xennetd.model.objects import RULESET, HostObject
from xennetd.model.placement import TAP_METRIC, VIF_METRIC, Placement
from xennetd.model.value import replace
from xennetd.model.vif import Vif
from xennetd.plan.difference import HostStep
from xennetd.plan.observation import CONNECTED, Observation, ObservedPort
from xennetd.policy.facts import Facts, RecordedAnswers
from xennetd.policy.resolve import Resolution, owned, resolve

_PROTECTING = frozenset({RULESET.kind, "element"})
"""The kinds of the objects in xennetd's nftables table."""

Leaves = Callable[[Link], bool]
"""Returns whether all vifs of a guest's link are gone or being removed."""


class Observer:
    """Observes one vif at a time. The decision that follows needs nothing but the observation."""

    def __init__(self, in_force: InForce, links: Links, host: HostState, registry: GuestRegistry) -> None:
        self._in_force = in_force
        self._links = links
        self._host = host
        self._registry = registry

    def observe(
        self,
        record: Record,
        link: Link | None,
        tap: Link | None,
        policy: Policy,
        leaves: Leaves,
        host: HostView | None = None,
    ) -> tuple[Observation, Resolved | None]:
        """Return the observation of a vif under this policy, and what policy said of the vif if it was asked.

        `link` and `tap` are the vif's links, None where they do not exist. `leaves` is called for another link that
        holds the name that one of them must get. `host` is another host than the present one, for a plan.
        """
        vif = record.vif
        is_owned = owned(policy, vif)
        assignment: Assignment | None = None
        outcome: Attachment | XennetdError | None = None
        steps: tuple[HostStep, ...] = ()
        conflict: XennetdError | None = None
        established = False
        resolved: Resolved | None = None
        before = record.attachment
        disowned = not is_owned and _is_served(vif, link)
        if is_owned and not vif.removing and not (vif.pinned and vif.hotplug_status != CONNECTED):
            resolved = self._resolve(record, policy) if host is None else self._ask(record.vif, policy, host)
            resolution = resolved.resolution
            assignment, outcome = resolution.assignment, resolution.outcome
            if host is None and self._must_wait(outcome, vif, link):
                sentence = f'bridge "{outcome.bridge}" waits for its confirmation'
                outcome = HostError(sentence, waits_on=frozenset({str(outcome.bridge)}))
            if isinstance(outcome, Attachment) and not vif.pinned:
                if outcome == before:
                    outcome = before  # The record, too, refers to this object: a thousand copies take a megabyte.
                if host is None:  # Under a new policy the other owners' objects change, too.
                    conflict, steps = self._host_steps(record, outcome)
            in_question = vif.pinned or conflict is not None or isinstance(outcome, XennetdError)
            if in_question and link is not None and link.up:
                # hotplug-status and the port's bridge show that the vif was connected rightly. Earlier attempts of this
                # daemon show nothing.
                connected = vif.hotplug_status == CONNECTED and not record.memory.fresh
                stays = (
                    resolution.keeps(link, self._master(link))
                    or _is_still_in(before, assignment, link)
                    or (_is_served(vif, link) and self._awaits_apply(outcome, policy))
                )
                established = connected and stays
                if established or (connected and vif.pinned):
                    steps = self._protection(record, link, resolution)
        placement = outcome.placement if isinstance(outcome, Attachment) and conflict is None else None
        seen = Observation(
            vif=vif,
            port=self._port(link, vif.link_name, placement, VIF_METRIC, leaves),
            tap=self._port(tap, vif.tap_name, placement, TAP_METRIC, leaves),
            owned=is_owned,
            assignment=assignment,
            outcome=outcome,
            memory=record.memory,
            now=time.monotonic(),
            host=steps,
            conflict=conflict,
            established=established,
            disowned=disowned,
            before=before,
            removes_backend=policy.daemon.devd,
        )
        return seen, resolved

    def answers(self, record: Record, policy: Policy) -> RecordedAnswers:
        """Return the answers that policy gets about the host and the other guests for a decision about this vif."""
        return (record.resolved or self._resolve(record, policy)).facts.answers

    def _resolve(self, record: Record, policy: Policy) -> Resolved:
        """Return what policy says of a vif. Policy is not asked again while nothing has changed since the last time."""
        vif, last = record.vif, record.resolved
        if last is not None and last.holds(policy, vif):
            return last
        view: HostView = DryRunHost(self._links, policy) if policy.daemon.mode == "observe" else self._links
        return self._ask(vif, policy, view)

    def _ask(self, vif: Vif, policy: Policy, host: HostView) -> Resolved:
        facts = Facts(host, self._registry)
        return Resolved(policy, vif, facts, resolve(policy, vif, facts, facts))

    def _host_steps(self, record: Record, attachment: Attachment) -> tuple[XennetdError | None, tuple[HostStep, ...]]:
        """Return the attachment's conflict with another owner, or the Steps to its missing host objects."""
        if not attachment.needs:
            return None, ()
        vif = record.vif
        conflict = self._host.conflict(vif.id, attachment.needs, vif.uuid)
        if conflict is not None:
            return conflict, ()
        return None, self._host.difference(vif.id, attachment.needs)

    def _protection(self, record: Record, link: Link, resolution: Resolution) -> tuple[HostStep, ...]:
        """Return the Steps to the missing nftables objects of a guest that keeps its network in spite of an error.

        Where the guest's attachment is not known, after a restart, these are the rules, if the guest is routed.
        """
        wanted: list[HostObject] = []
        if record.attachment is not None:
            wanted = [need for need in record.attachment.needs if need.key.kind in _PROTECTING]
        elif link.group == GUEST_GROUP:
            wanted = [request.ruleset for request in resolution.requests[:1]]
        return self._host.difference(record.vif.id, wanted)

    def _port(
        self, link: Link | None, name: str, placement: Placement | None, metric: int, leaves: Leaves
    ) -> ObservedPort | None:
        if link is None:
            return None
        elsewhere: frozenset[Route] = frozenset()
        if placement is not None and placement.sysctls:
            link = replace(link, sysctls=_sysctls(link, placement))
            elsewhere = frozenset(
                route
                for route in placement.routes(metric) - link.routes
                if (other := self._links.routed(route.destination, route.metric)) is not None
                and other.index != link.index
            )
        holder = self._links.link(name)
        if holder is not None and holder.index == link.index:
            holder = None
        return ObservedPort(
            link,
            self._master(link),
            holder,
            holder_leaves=holder is not None and leaves(holder),
            elsewhere=elsewhere,
        )

    def _must_wait(self, outcome: Attachment | XennetdError, vif: Vif, link: Link | None) -> TypeGuard[Attachment]:
        """Return whether a connected guest would move to a bridge that may still be rolled back."""
        return (
            isinstance(outcome, Attachment)
            and outcome.bridge in self._in_force.unconfirmed
            and link is not None
            and _is_served(vif, link)
            and not outcome.placement.holds(link)
        )

    def _awaits_apply(self, outcome: Attachment | XennetdError | None, policy: Policy) -> bool:
        """Return whether a vif waits for a link that the configuration names for the host, and that is not to stay yet.

        That is one that no apply has made, or that is not confirmed. Until then the guest keeps what it has.
        """
        awaited = outcome.waits_on if isinstance(outcome, XennetdError) else frozenset()
        missing = (link.name for link in policy.topology if self._links.link(link.name) is None)
        return not awaited.isdisjoint((*missing, *self._in_force.unconfirmed))

    def _master(self, link: Link) -> str | None:
        master = self._links.by_index(link.master) if link.master else None
        return master.name if master is not None else None


def _is_still_in(before: Attachment | None, assignment: Assignment | None, link: Link) -> bool:
    """Return whether a link is in the bridge that the same words of policy gave it before, whatever its name is now."""
    return (
        before is not None
        and before.bridge is not None
        and before.assignment == assignment
        and before.placement.holds(link)
    )


def _is_served(vif: Vif, link: Link | None) -> bool:
    """Return whether a vif is connected through a link that xennetd has given its place, by the marks on the link."""
    marked = link is not None and (link.group == GUEST_GROUP or is_port_alias(link.alias) or is_port_group(link.group))
    return vif.hotplug_status == CONNECTED and link is not None and link.up and marked


def _sysctls(link: Link, placement: Placement) -> frozenset[tuple[int, str, int]]:
    """Return the link's current values of the sysctls that its placement sets, without those that it does not have."""
    values = ((version, setting, read_sysctl(version, link.name, setting)) for version, setting, _ in placement.sysctls)
    return frozenset((version, setting, value) for version, setting, value in values if value is not None)

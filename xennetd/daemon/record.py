"""What the daemon keeps of one vif between two looks, and how that reads in a status row and in an audit event."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface

from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.errors import XennetdError
from xennetd.model.event import Event, EventKind
from xennetd.model.ip import plain
from xennetd.model.link import Link
from xennetd.model.status import VifState, VifStatus
from xennetd.model.vif import Vif
from xennetd.plan.decide import Decision
from xennetd.plan.observation import CONNECTED, Incarnation, Memory, Observation, PortMemory


@dataclass(slots=True)
class Record:
    """One vif. `since` is the wall clock, in seconds, when `state` began; `hinted_at` and `duration_us` time the attach
    on the monotonic clock, from the hint that found state 2 and the link to the verdict. `seen` is the link that was
    looked at last. `broken_until`: a defect of ours has hit it, and it is let alone until then (monotonic).
    `assignment` says which words of policy applied last, in error and denial too; `attachment` what the vif was last
    attached to. `observed` and `decided` are the last observation and what it led to, for people who ask why."""

    vif: Vif
    memory: Memory = field(default_factory=Memory)
    state: VifState | None = None
    reason: str | None = None
    error: XennetdError | None = None
    assignment: Assignment | None = None
    attachment: Attachment | None = None
    link: Link | None = None
    seen: Incarnation | None = None
    since: float = 0.0
    hinted_at: float | None = None
    duration_us: int | None = None
    broken_until: float = 0.0
    waits_on: frozenset[str] = frozenset()
    observed: Observation | None = None
    decided: Decision | None = None

    @property
    def connected(self) -> bool:
        """Whether the toolstack has been told that it is, even if xenstore has forgotten it in a reconnect."""
        return self.vif.hotplug_status == CONNECTED or self.memory.connected is not None

    def port_memory(self, *, tap: bool) -> PortMemory:
        """Return what is remembered of the vif's own link, or of its tap."""
        return self.memory.tap if tap else self.memory.port

    def remember(self, port: PortMemory, *, tap: bool) -> None:
        """Remember this of the vif's own link, or of its tap."""
        self.memory = replace(self.memory, tap=port) if tap else replace(self.memory, port=port)

    def settle(self, decision: Decision, link: Link | None) -> bool:
        """Take over what a look came to. Returns whether the state or the error changed."""
        error = decision.error
        changed = decision.state is not self.state or (error and error.detail) != (self.error and self.error.detail)
        if changed:
            self.since = time.time()
        self.state = decision.state
        self.reason = decision.reason
        self.error = error
        self.link = link
        if decision.state is VifState.ERROR:
            self.hinted_at = None
        if decision.attachment is not None:
            self.attachment = decision.attachment
        return changed

    def row(self) -> VifStatus:
        """Return what `xennetctl list` and `show` say of this vif."""
        vif, attachment, assignment = self.vif, self.attachment, self.assignment
        placement = attachment.placement if attachment else None
        return VifStatus(
            vif=str(vif.id),
            domid=vif.id.domid,
            devid=vif.id.devid,
            vm=vif.vm,
            uuid=vif.uuid,
            mac=attachment.mac if attachment else vif.mac,
            ips=self._ips(),
            network=assignment.network if assignment else None,
            mode=assignment.mode if assignment else None,
            bridge=self._bridge(),
            vlan=None,
            state=(self.state or VifState.PENDING).value,
            error=self.error.detail if self.error else None,
            since=self.since,
            reason=self.reason,
            policy=assignment.policy if assignment else None,
            link=self.link.name if self.link else None,
            ifindex=self.link.index if self.link else None,
            mtu=self.link.mtu if self.link else None,
            uplink=placement.uplink if placement else None,
            gateways=[plain(gateway) for gateway in placement.gateways] if placement and placement.uplink else None,
            tap=vif.tap_status,
            pinned=vif.pinned,
            script=vif.script or None,
            duration_us=self.duration_us,
            warnings=list(attachment.warnings) if attachment else None,
        )

    def _bridge(self) -> str | None:
        """The bridge that the vif is a port of or, in error, the one that was asked for."""
        if self.error is None and self.attachment is not None:
            return self.attachment.bridge
        return self.assignment.bridge if self.assignment is not None else self.vif.bridge

    def _ips(self) -> list[str]:
        """The guest's addresses as administrators write them: what it was given, else what its vif= line says."""
        if self.attachment is not None and self.attachment.ips:
            return [plain(ip_interface(network)) for network in self.attachment.ips]
        return [plain(ip) for ip in self.vif.ips]

    def event(self, kind: EventKind, message: str, *, error: str | None = None) -> Event:
        """Return an audit event about this vif."""
        vif, attachment, assignment = self.vif, self.attachment, self.assignment
        return Event(
            kind=kind,
            message=message,
            vif=vif.id,
            vm=vif.vm,
            uuid=vif.uuid,
            mac=attachment.mac if attachment else vif.mac,
            ips=tuple(self._ips()),
            network=assignment.network if assignment else None,
            bridge=self._bridge(),
            vlan=None,
            policy=assignment.policy if assignment else None,
            duration_us=self.duration_us if kind is EventKind.ATTACH else None,
            error=error,
        )

    @property
    def title(self) -> str:
        """The vif and its domain, as sentences name them."""
        return f"{self.vif.id} of {self.vif.vm}" if self.vif.vm else str(self.vif.id)

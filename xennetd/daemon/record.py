"""What the daemon keeps of one vif between two looks, and how that reads in a status row and in an audit event."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from ipaddress import ip_interface

from xennetd.model.attachment import Attachment
from xennetd.model.errors import XennetdError
from xennetd.model.event import Event, EventKind
from xennetd.model.link import Link
from xennetd.model.status import VifState, VifStatus
from xennetd.model.vif import Vif, plain
from xennetd.plan.decide import CONNECTED, Decision, Incarnation, Memory
from xennetd.policy.config import Policy


@dataclass(slots=True)
class Record:
    """One vif. `since` is the wall clock, in seconds, when `state` began; `hinted_at` and `duration_us` time the attach
    on the monotonic clock, from the hint that found state 2 and the link to the verdict. `seen` is the link that was
    looked at last. `broken_until`: a defect of ours has hit it, and it is let alone until then (monotonic).
    `connected_by` is the policy in force when it was seen to be connected last."""

    vif: Vif
    memory: Memory = field(default_factory=Memory)
    state: VifState | None = None
    reason: str | None = None
    error: XennetdError | None = None
    attachment: Attachment | None = None
    link: Link | None = None
    seen: Incarnation | None = None
    since: float = 0.0
    hinted_at: float | None = None
    duration_us: int | None = None
    broken_until: float = 0.0
    waits_on: frozenset[str] = frozenset()
    connected_by: Policy | None = None

    @property
    def connected(self) -> bool:
        """Whether the toolstack has been told that it is, even if xenstore has forgotten it in a reconnect."""
        return self.vif.hotplug_status == CONNECTED or self.memory.connected is not None

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
        vif, attachment = self.vif, self.attachment
        routing = attachment.routing if attachment else None
        return VifStatus(
            vif=str(vif.id),
            domid=vif.id.domid,
            devid=vif.id.devid,
            vm=vif.vm,
            uuid=vif.uuid,
            mac=attachment.mac if attachment else vif.mac,
            ips=self._ips(),
            network=attachment.network if attachment else None,
            mode=attachment.mode.value if attachment else None,
            bridge=attachment.bridge if attachment else vif.bridge,
            vlan=None,
            state=(self.state or VifState.PENDING).value,
            error=self.error.detail if self.error else None,
            since=self.since,
            reason=self.reason,
            policy=attachment.policy if attachment else None,
            link=self.link.name if self.link else None,
            ifindex=self.link.index if self.link else None,
            mtu=self.link.mtu if self.link else None,
            uplink=routing.uplink if routing else None,
            gateways=[plain(gateway) for gateway in routing.gateways] if routing else None,
            tap=vif.tap_status,
            pinned=vif.pinned,
            script=vif.script or None,
            duration_us=self.duration_us,
            warnings=list(attachment.warnings) if attachment else None,
        )

    def _ips(self) -> list[str]:
        """The guest's addresses as administrators write them: what it was given, else what its vif= line says."""
        if self.attachment is not None and self.attachment.ips:
            return [plain(ip_interface(network)) for network in self.attachment.ips]
        return [plain(ip) for ip in self.vif.ips]

    def event(self, kind: EventKind, message: str, *, error: str | None = None) -> Event:
        """Return an audit event about this vif."""
        vif, attachment = self.vif, self.attachment
        return Event(
            kind=kind,
            message=message,
            vif=vif.id,
            vm=vif.vm,
            uuid=vif.uuid,
            mac=attachment.mac if attachment else vif.mac,
            ips=tuple(self._ips()),
            network=attachment.network if attachment else None,
            bridge=attachment.bridge if attachment else vif.bridge,
            vlan=None,
            policy=attachment.policy if attachment else None,
            duration_us=self.duration_us if kind is EventKind.ATTACH else None,
            error=error,
        )

    @property
    def title(self) -> str:
        """The vif and its domain, as sentences name them."""
        return f"{self.vif.id} of {self.vif.vm}" if self.vif.vm else str(self.vif.id)

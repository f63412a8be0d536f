"""The daemon's record of one vif, and how it becomes a status row and audit events."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from ipaddress import ip_interface

from msgspec import Struct

from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Policy
from xennetd.model.errors import Denied, XennetdError
from xennetd.model.event import Event, EventKind
from xennetd.model.ip import plain
from xennetd.model.link import Link
from xennetd.model.status import VifState, VifStatus
from xennetd.model.value import replace
from xennetd.model.vif import Vif, XenbusState
from xennetd.plan.decide import Decision
from xennetd.plan.observation import CONNECTED, Incarnation, Memory, Observation, PortMemory
from xennetd.policy.facts import Facts
from xennetd.policy.resolve import Resolution

_STARTING = frozenset({XenbusState.INITIALISING, XenbusState.INIT_WAIT})
_NOTHING_TO_ATTACH = frozenset({VifState.IGNORED, VifState.DETACHING})


class Resolved(Struct, frozen=True):
    """What policy said of a vif, and the answers that it got about the host and the other guests.

    Policy is pure: as long as `policy` and `vif` are the same objects and `facts` hold, it says the same again.
    """

    policy: Policy
    vif: Vif
    facts: Facts
    resolution: Resolution

    def holds(self, policy: Policy, vif: Vif) -> bool:
        """Return whether policy would say the same of this vif now."""
        return self.vif is vif and self.policy is policy and self.facts.hold()


@dataclass(slots=True)
class Record:
    """What the daemon remembers of one vif between two observations.

    `since` is when `state` began: wall clock, in seconds. `began_at` is when the attach began that is not finished yet:
    monotonic clock, in seconds. That is when xennetd took the event from xenstored's connection that told of the vif's
    directory, or of a backend that begins anew (state 1 or 2 after a later one). For a vif that was ignored, denied,
    pinned or only observed, it is the event that ended this. `duration_us` is the time from there to the verdict. It
    contains whatever the attach waited for: netback and its link, the daemon itself, and a bridge that was missing. An
    error in between does not begin it anew. `seen` is the incarnation of the link that was observed last.
    `frontend` says that the guest's driver has been connected (backend state 4 or a later one).
    `broken_until` is when a vif that met a defect or a shortage may be reconciled again: monotonic clock, in seconds.
    `shortages` counts the reconciliations in a row that failed because the host was short of something. `tap_refused`
    is xenstore's refusal of the tap's latest verdict, None once the node is right.

    `assignment` is the latest assignment by policy, also of a vif that is denied or in error. `attachment` is the last
    attachment that was reached, None after a refusal that took the port down; `where` is its place in words. `waits_on`
    names the links and other things whose change calls for a new decision. `observed` and `decided` are the latest
    observation and its decision; `xennetctl show --debug` prints them. `resolved` is what policy said on the way. It is
    None once the toolstack is told `connected`: policy would say it again, and the answers that it got would take a
    megabyte for a thousand vifs.
    """

    vif: Vif
    memory: Memory = field(default_factory=Memory)
    state: VifState | None = None
    reason: str | None = None
    error: XennetdError | None = None
    assignment: Assignment | None = None
    attachment: Attachment | None = None
    where: str = "?"
    link: Link | None = None
    seen: Incarnation | None = None
    frontend: bool = False
    since: float = 0.0
    began_at: float | None = None
    duration_us: int | None = None
    broken_until: float = 0.0
    shortages: int = 0
    tap_refused: XennetdError | None = None
    waits_on: frozenset[str] = frozenset()
    observed: Observation | None = None
    decided: Decision | None = None
    resolved: Resolved | None = None

    @property
    def connected(self) -> bool:
        """Whether the toolstack was told `connected`, even if a new xenstored no longer holds that verdict."""
        return self.vif.hotplug_status == CONNECTED or self.memory.connected is not None

    def follow(self, vif: Vif, hinted_at: float, *, observing: bool) -> Vif:
        """Take over what xenstore says of the vif now. Returns what it said before.

        `hinted_at` is the time of the hint that led to this look (monotonic clock, seconds).
        """
        old, self.vif = self.vif, vif
        anew = (old.state or 0) > XenbusState.INIT_WAIT and vif.state in _STARTING
        if anew or (self.began_at is None and not self.connected):
            self.began_at = hinted_at
        if observing:
            self.began_at = None
        if vif.state is XenbusState.CONNECTED and self.frontend and old.state is not XenbusState.CONNECTED:
            self.remember(replace(self.memory.port, mtu_due=True), tap=False)
        self.frontend |= vif.state >= XenbusState.CONNECTED
        return old

    def port_memory(self, *, tap: bool) -> PortMemory:
        """Return the memory of the vif's tap if `tap`, else of its own link."""
        return self.memory.tap if tap else self.memory.port

    def remember(self, port: PortMemory, *, tap: bool) -> None:
        """Replace the memory of the vif's tap if `tap`, else of its own link."""
        self.memory = replace(self.memory, tap=port) if tap else replace(self.memory, port=port)

    def settle(self, decision: Decision, link: Link | None) -> bool:
        """Take over the state, error and attachment of a decision. Returns whether state or error changed."""
        error = decision.error
        changed = decision.state is not self.state or (error and error.detail) != (self.error and self.error.detail)
        if changed:
            self.since = time.time()
        self.state = decision.state
        self.reason = decision.reason
        self.error = error
        self.link = link
        if decision.state is VifState.CONNECTED and self.memory.port.mtu_due:
            self.remember(replace(self.memory.port, mtu_due=False), tap=False)  # The link had its MTU.
        if decision.state in _NOTHING_TO_ATTACH or isinstance(error, Denied) or self.vif.pinned:
            self.began_at = None
        in_error = decision.state is VifState.ERROR
        if decision.attachment is not None and (not in_error or self.attachment is None):
            self.attachment = decision.attachment
            self.where = decision.attachment.where
        elif in_error and decision.attachment is None and not (link is not None and link.up):
            self.attachment = None
        return changed

    def row(self) -> VifStatus:
        """Return the vif's status row, which `xennetctl list` and `show` print."""
        vif, attachment, assignment = self.vif, self.attachment, self.assignment
        current = attachment is not None and attachment.assignment == assignment
        placement = attachment.placement if attachment and current else None
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
            tap=vif.tap_status if self.tap_refused is None else f"error: {self.tap_refused.detail}",
            pinned=vif.pinned,
            script=vif.script or None,
            duration_us=self.duration_us,
            warnings=list(attachment.warnings) if attachment else None,
        )

    def _bridge(self) -> str | None:
        """Return the bridge that the vif is a port of or, in error, the bridge that the vif was to join."""
        if self.error is None and self.attachment is not None:
            return self.attachment.bridge
        return self.assignment.bridge if self.assignment is not None else self.vif.bridge

    def _ips(self) -> list[str]:
        """Return the guest's addresses as administrators write them: those granted, else those of its vif= line."""
        if self.attachment is not None and self.attachment.ips:
            return [plain(ip_interface(network)) for network in self.attachment.ips]
        return [plain(ip) for ip in self.vif.ips]

    def event(self, kind: EventKind, message: str, *, error: str | None = None) -> Event:
        """Return an audit event about this vif. `message` is its sentence; `error` is its XENNET_ERROR field."""
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
        """The vif with its domain's name where that is known, as in `vif7.0 of web-1`."""
        return f"{self.vif.id} of {self.vif.vm}" if self.vif.vm else str(self.vif.id)

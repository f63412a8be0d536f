"""One decision about one vif: from what xenstore and the kernel say now to what is to be done next. Pure.

The reconciler observes, does what the decision says, and observes again until there is nothing left to do: the second
decision is the verification of the first. A verdict is only ever given when nothing is left to change.

Rule 1: whatever goes wrong, the port is taken down before anyone is told.
Rule 2: once a vif is connected the toolstack has its verdict; what goes wrong later is for the administrator.
Rule 3: nothing is done to a vif that is not ours, is pinned, or whose directory is gone.
Rule 4: a vif's own link and its tap are ports alike; what is true of one is true of the other.
Rule 5: a guest that was right is not cut off because the host has become worse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from xennetd.model.attachment import Attachment
from xennetd.model.errors import Denied, HostError, XennetdError
from xennetd.model.link import Link
from xennetd.model.placement import TAP_METRIC, VIF_METRIC
from xennetd.model.status import VifState
from xennetd.model.vif import Vif, XenbusState
from xennetd.plan.difference import HostStep
from xennetd.plan.observation import CONNECTED, Observation, ObservedPort, PortMemory, incarnation
from xennetd.plan.port import attach, release
from xennetd.plan.steps import LinkStep, Step

NAME_WAIT = 10.0
"""Seconds a vif waits for its `vifname` while an older vif that is being removed still holds it."""

_LISTENING = (XenbusState.INIT_WAIT, XenbusState.CONNECTED)
"""The backend states in which netback acts on a verdict."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the toolstack is to be told in `hotplug-status`: connected, or the sentence of an error.

    `frontend_mtu` and `mac` are what the guest is to be told with it, None for what it knows already.
    """

    error: str | None = None
    frontend_mtu: int | None = None
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class PortDecision:
    """What is to be done about one link: Steps, or an error to tell, or a name to wait for. Empty: it is in place.

    `host` comes before `steps`: what the host must have first. `waits_on` holds the names of links whose change is
    worth another look; `look_at` is when time alone is.
    """

    steps: tuple[LinkStep, ...] = ()
    error: XennetdError | None = None
    reason: str | None = None
    name_awaited_since: float | None = None
    waits_on: frozenset[str] = frozenset()
    look_at: float | None = None
    host: tuple[HostStep, ...] = ()

    @property
    def all_steps(self) -> tuple[Step, ...]:
        """The host's Steps, then the link's."""
        return (*self.host, *self.steps)


@dataclass(frozen=True, slots=True)
class Decision:
    """What one observation led to. Steps come first; verdicts are only there when no Steps are.

    `tap_verdict` is the text for the node `xennetd-tap`; empty means that the node is to go.
    """

    state: VifState
    reason: str | None = None
    port: PortDecision = PortDecision()
    tap: PortDecision = PortDecision()
    verdict: Verdict | None = None
    tap_verdict: str | None = None
    attachment: Attachment | None = None
    remove_backend: bool = False

    @property
    def has_steps(self) -> bool:
        """Whether something is to be done before anything can be said."""
        return bool(self.port.steps or self.tap.steps or self.port.host or self.tap.host)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All Steps, the vif's own first."""
        return self.port.all_steps + self.tap.all_steps

    @property
    def error(self) -> XennetdError | None:
        """Why the vif is not connected."""
        return self.port.error

    @property
    def waits_on(self) -> frozenset[str]:
        """The names of links, and other things, whose change is worth another look."""
        waits_on = self.port.waits_on | self.tap.waits_on
        return waits_on | self.attachment.waits_on if self.attachment is not None else waits_on

    @property
    def look_at(self) -> float | None:
        """When to look again although nothing has changed."""
        times = [time for time in (self.port.look_at, self.tap.look_at) if time is not None]
        return min(times) if times else None


def decide(seen: Observation) -> Decision:
    """Return what is to be done about one vif now."""
    vif = seen.vif
    remove_backend = seen.removes_backend and vif.removing and vif.state is XenbusState.CLOSED
    if vif.pinned:
        reason = "pinned: hands off until unpin"
        return Decision(_state(vif), reason, attachment=_kept(seen), remove_backend=remove_backend)
    if not seen.owned:
        script = vif.script.rpartition("/")[2] or "(none)"
        return Decision(VifState.IGNORED, reason=f"its script {script} is not ours", remove_backend=remove_backend)
    if vif.removing:
        return Decision(
            VifState.DETACHING,
            reason="the toolstack is removing it",
            port=PortDecision(release(seen.port.link) if seen.port else ()),
            tap=PortDecision(release(seen.tap.link) if seen.tap else ()),
            remove_backend=remove_backend,
        )
    outcome = seen.outcome
    assert outcome is not None, "policy is asked about every vif that is to be served"
    if isinstance(outcome, XennetdError):
        error = outcome
        if seen.established and not isinstance(error, Denied):
            return _told(seen, PortDecision(error=error, waits_on=error.waits_on), seen.before)
        return _with_tap(seen, _refused(seen, error), error)
    return _with_tap(seen, _attach(seen, outcome), outcome)


def _kept(seen: Observation) -> Attachment | None:
    """Return what a vif that is not to be touched has as far as others are concerned: its addresses, its needs."""
    return seen.outcome if isinstance(seen.outcome, Attachment) else None


def _state(vif: Vif) -> VifState:
    if vif.removing:
        return VifState.DETACHING
    return VifState.CONNECTED if vif.hotplug_status == CONNECTED else VifState.PENDING


def _refused(seen: Observation, error: XennetdError) -> Decision:
    """The vif must not be connected: port down and out of its bridge first, then say so."""
    link = seen.link
    return _told(seen, PortDecision(release(link) if link else (), error, waits_on=error.waits_on), None)


def _told(seen: Observation, port: PortDecision, attachment: Attachment | None) -> Decision:
    """The port is in error: say so once nothing is left to do, unless the toolstack has had its verdict."""
    vif, error = seen.vif, port.error
    told = vif.hotplug_status == CONNECTED or (
        vif.hotplug_status == "error" and error is not None and vif.hotplug_error == error.sentence
    )
    tell = vif.state in _LISTENING and not port.all_steps and not told and error is not None
    verdict = Verdict(error=error.sentence) if tell and error else None
    return Decision(VifState.ERROR, port=port, verdict=verdict, attachment=attachment)


def _attach(seen: Observation, attachment: Attachment) -> Decision:
    vif, memory = seen.vif, seen.memory
    if vif.state in (XenbusState.UNKNOWN, XenbusState.INITIALISING):
        reason = f"waiting for netback (backend state {int(vif.state)})"
        return Decision(VifState.PENDING, reason=reason, attachment=attachment)
    if seen.port is None:
        return Decision(VifState.PENDING, reason=f"waiting for the link {vif.id.netdev}", attachment=attachment)
    link = seen.port.link
    known = memory.connected == incarnation(link)
    fresh = memory.fresh or not (known or (memory.connected is None and vif.hotplug_status == CONNECTED))
    port = _port(seen, seen.port, vif.link_name, attachment, memory.port, VIF_METRIC, fresh=fresh)
    if port.error is not None:
        return _told(seen, port, attachment)
    if port.reason is not None or port.all_steps:
        reason = port.reason or "being attached"
        return Decision(VifState.PENDING, reason=reason, port=port, attachment=attachment)
    if vif.hotplug_status == CONNECTED:
        return Decision(VifState.CONNECTED, attachment=attachment)
    if vif.state not in _LISTENING:
        reason = f"waiting for the frontend to reconnect (backend state {int(vif.state)})"
        return Decision(VifState.PENDING, reason=reason, attachment=attachment)
    verdict = Verdict(
        frontend_mtu=link.mtu if fresh and link.mtu != vif.frontend_mtu else None,
        mac=attachment.mac if attachment.mac != vif.mac else None,
    )
    return Decision(VifState.PENDING, reason="being attached", verdict=verdict, attachment=attachment)


def _with_tap(seen: Observation, decision: Decision, outcome: Attachment | XennetdError) -> Decision:
    """Return `decision` with what is to be done about the emulated NIC's tap, which has a verdict of its own.

    What policy says of the vif holds for its tap; what the kernel refuses one of the two does not concern the other.
    """
    vif, tap = seen.vif, seen.tap
    if tap is None:
        return decision if vif.tap_status is None else replace(decision, tap_verdict="")
    if isinstance(outcome, XennetdError):
        port = PortDecision(release(tap.link), outcome, waits_on=outcome.waits_on)
    else:
        fresh = vif.tap_status != CONNECTED
        port = _port(seen, tap, vif.tap_name, outcome, seen.memory.tap, TAP_METRIC, fresh=fresh)
    decision = replace(decision, tap=port)
    if port.all_steps or port.reason is not None:
        return decision
    said = CONNECTED if port.error is None else f"error: {port.error.sentence}"
    return replace(decision, tap_verdict=said if vif.tap_status != said else None)


def _port(
    seen: Observation,
    port: ObservedPort,
    name: str,
    attachment: Attachment,
    memory: PortMemory,
    metric: int,
    *,
    fresh: bool,
) -> PortDecision:
    """Return what is to be done so that a link is placed as `attachment` has it, under that name."""
    link, placement, failure = port.link, attachment.placement, memory.failure
    if failure is not None and failure.holds(seen.vif, link, seen.now):
        # A connected guest is not cut off because a repair fails, as long as it is where it belongs.
        kept = not fresh and placement.holds(link)
        steps = () if kept else release(link)
        return PortDecision(steps, failure.error, waits_on=failure.error.waits_on, look_at=failure.until)
    if port.holder is not None:
        return _name_taken(seen, port, name, port.holder, memory.name_awaited_since)
    mtu = attachment.mtu if fresh and memory.mtu_given != incarnation(link) else None
    goal = placement.goal(name, mtu, metric, port.elsewhere)
    return PortDecision(attach(goal, link, serves=placement.serves(link), fresh=fresh), host=seen.host)


def _name_taken(seen: Observation, port: ObservedPort, name: str, holder: Link, since: float | None) -> PortDecision:
    """The link can't have its name yet, while its holder is going, or not at all."""
    since = seen.now if since is None else since
    waits_on = frozenset({name})
    if port.holder_leaves and seen.now < since + NAME_WAIT:
        return PortDecision(
            release(port.link),
            reason=f"waiting for {holder.parent or 'an interface'} to go, which still has the name {name}",
            name_awaited_since=since,
            waits_on=waits_on,
            look_at=since + NAME_WAIT,
        )
    owner = f", which belongs to {holder.parent}" if holder.parent is not None else ""
    error = HostError(
        f'the interface name "{name}" is already in use on this host',
        detail=f'{seen.vif.id} can\'t be named "{name}": link {holder.index} has that name{owner}; '
        "change `vifname=` in the domain's vif line, or rename the other interface",
        waits_on=waits_on,
    )
    since_if_leaving = since if port.holder_leaves else None
    return PortDecision(release(port.link), error, name_awaited_since=since_if_leaving, waits_on=waits_on)

"""Decides what to do next about one vif, from what xenstore and the kernel say now. Pure.

The reconciler observes the vif, carries out the decision, and observes again until no Steps are left. So the second
decision verifies the first. A decision holds a verdict only when no Steps are left.

Rule 1: when an attach fails, the port is taken down before the toolstack is told.
Rule 2: a connected vif has had its verdict. A later error goes to the administrator, not to the toolstack.
Rule 3: xennetd does nothing to a vif that is pinned, whose script is not xennetd's, or whose directory is gone.
Rule 4: a vif's own link and its tap are both ports, and the same rules hold for both. While a vif that was never
connected is in error, its tap gets no network either. An error of the tap is not the vif's.
Rule 5: an established guest keeps its network when the host's state gets worse.
"""

from __future__ import annotations

from msgspec import Struct

from xennetd.model.attachment import Attachment
from xennetd.model.empty import NONE
from xennetd.model.errors import Denied, HostError, XennetdError
from xennetd.model.link import Link
from xennetd.model.placement import TAP_METRIC, VIF_METRIC
from xennetd.model.status import VifState
from xennetd.model.value import replace
from xennetd.model.vif import Vif, XenbusState
from xennetd.plan.difference import HostStep
from xennetd.plan.observation import CONNECTED, Observation, ObservedPort, incarnation
from xennetd.plan.port import attach, release, stop
from xennetd.plan.steps import LinkStep, Step

NAME_WAIT = 10.0
"""Seconds that a vif waits for its `vifname` while an older vif, which is being removed, still has that name."""

_LISTENING = (XenbusState.INIT_WAIT, XenbusState.CONNECTED)
"""The backend states in which netback acts on a verdict."""


class Verdict(Struct, frozen=True):
    """The answer to the toolstack in `hotplug-status`: connected, or an error with its sentence.

    `frontend_mtu` and `mac` are written for the guest together with the answer; None means that the guest's node is
    right already.
    """

    error: str | None = None
    frontend_mtu: int | None = None
    mac: str | None = None


class PortDecision(Struct, frozen=True):
    """What to do about one link: Steps, an error to report, or a wait for a name. Empty if the link is in place.

    `host` holds the Steps that the host itself needs first, before `steps`. `waits_on` names the links whose change
    calls for another observation. `look_at` is the time, on the clock of `Observation.now`, at which the vif is to be
    observed again even without a change.
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
        """All Steps in order: the host's, then the link's."""
        return (*self.host, *self.steps)


class Decision(Struct, frozen=True):
    """What to do after one observation. The `verdict` counts once no Steps are left.

    `tap_verdict` is the text for the node `xennetd-tap`: an empty text removes the node, None leaves it as it is.
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
        """Whether Steps are left, so that the vif must be observed again before it gets a verdict."""
        return bool(self.port.steps or self.tap.steps or self.port.host or self.tap.host)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All Steps in order: those of the vif's own link, then those of its tap."""
        return self.port.all_steps + self.tap.all_steps

    @property
    def error(self) -> XennetdError | None:
        """Why the vif is not connected, None if there is no error."""
        return self.port.error

    @property
    def waits_on(self) -> frozenset[str]:
        """The names of links and of other objects whose change calls for another observation."""
        waits_on = self.port.waits_on | self.tap.waits_on
        return (waits_on | self.attachment.waits_on if self.attachment is not None else waits_on) or NONE

    @property
    def look_at(self) -> float | None:
        """When to observe the vif again even if nothing has changed, on the clock of `Observation.now`."""
        times = [time for time in (self.port.look_at, self.tap.look_at) if time is not None]
        return min(times) if times else None


def decide(observation: Observation) -> Decision:
    """Return what to do about the observed vif now.

    A vif whose script is xennetd's, and that is neither pinned nor being removed, must come with an `outcome`.
    """
    vif = observation.vif
    remove_backend = observation.removes_backend and vif.removing and vif.state is XenbusState.CLOSED
    if vif.pinned:
        reason = "pinned: xennetd does not touch it until unpin"
        return Decision(
            _state(vif),
            reason,
            port=_kept(observation),
            attachment=_attachment_of(observation),
            remove_backend=remove_backend,
        )
    if not observation.owned:
        script = vif.script.rpartition("/")[2] or "(none)"
        reason = f"its script {script} is not xennetd's"
        # What serves such a guest stays until it is gone, since nobody else has it.
        kept = observation.before if observation.disowned else None
        return Decision(VifState.IGNORED, reason=reason, attachment=kept, remove_backend=remove_backend)
    if vif.removing:
        return Decision(
            VifState.DETACHING,
            reason="the toolstack is removing it",
            port=PortDecision(stop(observation.port.link) if observation.port else ()),
            tap=PortDecision(stop(observation.tap.link) if observation.tap else ()),
            remove_backend=remove_backend,
        )
    outcome = observation.possible
    assert outcome is not None, "policy is evaluated for every vif that xennetd serves"
    if isinstance(outcome, XennetdError):
        error = outcome
        if observation.established and not isinstance(error, Denied):
            return _report(observation, _kept(observation, error), observation.before)
        return _with_tap(observation, _refuse(observation, error), error)
    return _with_tap(observation, _attach(observation, outcome), outcome)


def _kept(observation: Observation, error: XennetdError | None = None) -> PortDecision:
    """Return the decision for the port of a guest that keeps its network: only what protects others is put back."""
    waits_on = error.waits_on if error is not None else NONE
    failure, link = observation.memory.port.failure, observation.link
    if failure is not None and link is not None and failure.holds(observation.vif, link, observation.now):
        return PortDecision(error=error, waits_on=waits_on, look_at=failure.until)
    return PortDecision(error=error, waits_on=waits_on, host=observation.host)


def _attachment_of(observation: Observation) -> Attachment | None:
    """Return the attachment of a pinned vif: other guests may not take its addresses or remove its host objects.

    A connected vif keeps what it had when it was pinned, whatever policy says now. Where that is not known, after a
    restart, it is what policy says if the link is where policy puts it.
    """
    if not observation.stays_in_service:
        return None
    if observation.before is not None:
        return observation.before
    return observation.outcome if observation.established and isinstance(observation.outcome, Attachment) else None


def _state(vif: Vif) -> VifState:
    if vif.removing:
        return VifState.DETACHING
    return VifState.CONNECTED if vif.hotplug_status == CONNECTED else VifState.PENDING


def _refuse(observation: Observation, error: XennetdError) -> Decision:
    """Return the decision for a refused vif: its port goes down and out of its bridge, then the error is reported."""
    link = observation.link
    return _report(observation, PortDecision(release(link) if link else (), error, waits_on=error.waits_on), None)


def without_effect(observation: Observation, decision: Decision) -> Decision:
    """Return the decision of a vif in error again, without its Steps: they had no effect, and the error is reported."""
    port, tap = (replace(part, steps=(), host=()) for part in (decision.port, decision.tap))
    tap_verdict = _tap_verdict(observation, tap) if tap.error is not None else decision.tap_verdict
    return replace(decision, port=port, tap=tap, verdict=_verdict(observation, port), tap_verdict=tap_verdict)


def _report(observation: Observation, port: PortDecision, attachment: Attachment | None) -> Decision:
    """Return the decision for a port in error. Its verdict comes after the last Step, and only once."""
    return Decision(VifState.ERROR, port=port, verdict=_verdict(observation, port), attachment=attachment)


def _verdict(observation: Observation, port: PortDecision) -> Verdict | None:
    """Return the verdict on a port in error, None if it is not due."""
    vif, error = observation.vif, port.error
    if error is None or port.all_steps or vif.state not in _LISTENING or vif.hotplug_status == CONNECTED:
        return None
    told = vif.hotplug_status == "error" and vif.hotplug_error == error.sentence
    return None if told else Verdict(error=error.sentence)


def _attach(observation: Observation, attachment: Attachment) -> Decision:
    vif, memory = observation.vif, observation.memory
    if vif.state in (XenbusState.UNKNOWN, XenbusState.INITIALISING):
        reason = f"waiting for netback (backend state {int(vif.state)})"
        return Decision(VifState.PENDING, reason=reason, attachment=attachment)
    if observation.port is None:
        return Decision(VifState.PENDING, reason=f"waiting for the link {vif.id.netdev}", attachment=attachment)
    link = observation.port.link
    known = memory.connected == incarnation(link)
    fresh = memory.fresh or not (known or (memory.connected is None and vif.hotplug_status == CONNECTED))
    port = _port(observation, observation.port, attachment, is_tap=False, fresh=fresh)
    if port.error is not None:
        return _report(observation, port, attachment)
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


def _with_tap(observation: Observation, decision: Decision, outcome: Attachment | XennetdError) -> Decision:
    """Return `decision` with the Steps and the verdict for the emulated NIC's tap.

    Policy's outcome for the vif holds for its tap too, and so does an error of a vif that was never connected. A Step
    that the kernel refuses for the tap does not affect the vif, nor does one for a connected vif affect its tap.
    """
    vif, tap = observation.vif, observation.tap
    if tap is None:
        return decision if vif.tap_status is None else replace(decision, tap_verdict="")
    if isinstance(outcome, XennetdError):
        port = PortDecision(release(tap.link), outcome, waits_on=outcome.waits_on)
    elif decision.error is not None and not _was_connected(observation):
        port = PortDecision(stop(tap.link), decision.error)
    else:
        fresh = vif.tap_status != CONNECTED
        port = _port(observation, tap, outcome, is_tap=True, fresh=fresh)
    return replace(decision, tap=port, tap_verdict=_tap_verdict(observation, port))


def _tap_verdict(observation: Observation, port: PortDecision) -> str | None:
    """Return the verdict on a tap, None if it is not due."""
    if port.all_steps or port.reason is not None:
        return None
    text = CONNECTED if port.error is None else f"error: {port.error.sentence}"
    return text if observation.vif.tap_status != text else None


def _port(
    observation: Observation, port: ObservedPort, attachment: Attachment, *, is_tap: bool, fresh: bool
) -> PortDecision:
    """Return what to do so that a link of the vif has its name and the placement of `attachment`."""
    vif, memory = observation.vif, observation.memory.port
    name, metric = vif.link_name, VIF_METRIC
    if is_tap:
        memory, name, metric = observation.memory.tap, vif.tap_name, TAP_METRIC
    link, placement, failure = port.link, attachment.placement, memory.failure
    if failure is not None and failure.holds(vif, link, observation.now):
        # A failed repair must not cut off a connected guest whose link is where its placement puts it.
        kept = not fresh and _was_connected(observation) and placement.holds(link)
        steps = () if kept else stop(link)
        return PortDecision(steps, failure.error, waits_on=failure.error.waits_on, look_at=failure.until)
    if port.holder is not None:
        kept = not fresh and placement.holds(link)
        return _name_taken(observation, port, name, port.holder, memory.name_awaited_since, kept=kept)
    is_due = memory.mtu_due or (fresh and memory.mtu_given != incarnation(link))
    mtu = attachment.mtu if is_due else None
    goal = placement.goal(name, mtu, metric, port.elsewhere)
    if former := _former_flags(observation, attachment):
        goal = replace(goal, flags=(*goal.flags, *former))
    return PortDecision(attach(goal, link, serves=placement.serves(link), fresh=fresh), host=observation.host)


def _was_connected(observation: Observation) -> bool:
    """Return whether the toolstack was told `connected` of this vif. A verdict on its tap alone is not that."""
    memory = observation.memory
    return not memory.fresh and (observation.vif.hotplug_status == CONNECTED or memory.connected is not None)


def _former_flags(observation: Observation, attachment: Attachment) -> tuple[tuple[str, bool], ...]:
    """Return the flags of the port to switch off: policy had them on for this vif, and decides them no more."""
    before = observation.before
    if before is None or before is attachment:
        return ()
    decided = dict(attachment.placement.flags)
    return tuple((flag, False) for flag, on in before.placement.flags if on and flag not in decided)


def _name_taken(
    observation: Observation, port: ObservedPort, name: str, holder: Link, since: float | None, *, kept: bool
) -> PortDecision:
    """Return what to do while `holder` has the link's name: wait if the holder is being removed, else an error.

    A connected guest whose link is where its placement puts it (`kept`) has its network meanwhile.
    """
    since = observation.now if since is None else since
    waits_on = frozenset({name})
    if port.holder_leaves and not kept and observation.now < since + NAME_WAIT:
        return PortDecision(
            stop(port.link),
            reason=f"waiting for the removal of {holder.parent or 'an interface'}, which still has the name {name}",
            name_awaited_since=since,
            waits_on=waits_on,
            look_at=since + NAME_WAIT,
        )
    owner = f", which belongs to {holder.parent}" if holder.parent is not None else ""
    error = HostError(
        f'the interface name "{name}" is already in use on this host',
        detail=f'{observation.vif.id} can\'t be named "{name}": link {holder.index} has that name{owner}; '
        "change `vifname=` in the domain's vif line, or rename the other interface",
        waits_on=waits_on,
    )
    since_if_leaving = since if port.holder_leaves else None
    return PortDecision(() if kept else stop(port.link), error, name_awaited_since=since_if_leaving, waits_on=waits_on)

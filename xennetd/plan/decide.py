"""One look at one vif: from what xenstore and the kernel say now to what is to be done next. Pure.

The reconciler asks, does what the answer says, and asks again until there is nothing left to do: the second answer is
the verification of the first. A verdict is only ever given by a look that finds nothing to change.

Rule 1: whatever goes wrong, the port is taken down before anyone is told.
Rule 2: once a vif is connected the toolstack has its verdict; what goes wrong later is for the administrator.
Rule 3: nothing is done to a vif that is not ours, is pinned, or whose directory is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from xennetd.model.attachment import Attachment
from xennetd.model.errors import HostError, XennetdError
from xennetd.model.link import HostView, Link
from xennetd.model.status import VifState
from xennetd.model.vif import Vif, XenbusState
from xennetd.plan.port import PortGoal, attach, release
from xennetd.plan.steps import Step

NAME_WAIT = 10.0
"""Seconds a vif waits for its `vifname` while an older vif that is being removed still holds it."""

CONNECTED = "connected"

Incarnation = tuple[int, int]
"""A link's index and generation: to whom state belongs."""


def incarnation(link: Link) -> Incarnation:
    """Return whom this link is, now and not under the same name earlier or later."""
    return link.index, link.generation


@dataclass(frozen=True, slots=True)
class Failure:
    """A Step that the kernel refused, remembered until what it was about has changed."""

    error: XennetdError
    vif: Vif
    incarnation: Incarnation

    def holds(self, vif: Vif, link: Link) -> bool:
        """Return whether nothing that could make a difference has changed since."""
        return self.incarnation == incarnation(link) and self.vif == cause(vif)


def cause(vif: Vif) -> Vif:
    """Return the part of a vif that can cause or cure a failure: without states and verdicts."""
    return replace(vif, state=XenbusState.UNKNOWN, hotplug_status=None, tap_status=None)


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of one vif between two looks. Losing it, in a restart, loses nothing but a time-out's start.

    `connected` is the link that was connected, `tap` the emulated NIC's tap by whatever name. `fresh`: this link was
    never connected, whatever xenstore says. `told` is the error's sentence that the toolstack was told last.
    `name_awaited_since` is when waiting for a taken name began (seconds).
    """

    connected: Incarnation | None = None
    fresh: bool = False
    tap: Incarnation | None = None
    told: str | None = None
    failure: Failure | None = None
    tap_failure: Failure | None = None
    name_awaited_since: float | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """All that a decision is made from. `resolve` is policy's word on this vif; `leaving` says whether the vif that a
    link belongs to is being removed; `now` is a monotonic clock in seconds."""

    vif: Vif
    link: Link | None
    tap: Link | None
    host: HostView
    owned: bool
    resolve: Callable[[Vif], Attachment]
    leaving: Callable[[Link], bool]
    memory: Memory
    now: float
    removes_backend: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the toolstack is to be told in `hotplug-status`: connected, or the sentence of an error."""

    error: str | None = None
    frontend_mtu: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What one look came to. Steps come first; verdicts are only there when no Steps are.

    `tap_verdict` is the text for the node `xennetd-tap`; empty means that the node is to go. `waits_on` holds the names
    of links whose change is worth another look.
    """

    state: VifState
    reason: str | None = None
    steps: tuple[Step, ...] = ()
    tap_steps: tuple[Step, ...] = ()
    verdict: Verdict | None = None
    tap_verdict: str | None = None
    error: XennetdError | None = None
    tap_error: XennetdError | None = None
    attachment: Attachment | None = None
    name_awaited_since: float | None = None
    waits_on: frozenset[str] = frozenset()
    remove_backend: bool = False

    @property
    def has_steps(self) -> bool:
        """Whether something is to be done before anything can be said."""
        return bool(self.steps or self.tap_steps)


class _NameAwaited(Exception):
    """The name a link must have is held by a vif that is being removed."""

    def __init__(self, holder: str, name: str) -> None:
        super().__init__(f"waiting for {holder} to go, which still has the name {name}")


def decide(look: Look) -> Decision:
    """Return what is to be done about one vif now."""
    vif, memory = look.vif, look.memory
    if not look.owned:
        return Decision(VifState.IGNORED, reason=f"its script {_basename(vif.script)} is not ours")
    if memory.pinned:
        return Decision(_standing(look), reason="pinned: hands off until unpin")
    if vif.removing:
        return Decision(
            VifState.DETACHING,
            reason="the toolstack is removing it",
            steps=release(look.link) if look.link else (),
            tap_steps=release(look.tap) if look.tap else (),
            remove_backend=look.removes_backend and vif.state is XenbusState.CLOSED,
        )
    try:
        attachment = look.resolve(vif)
    except XennetdError as error:
        return _with_tap(look, _refused(look, error), None, error)
    return _with_tap(look, _vif(look, attachment), attachment, None)


def _basename(script: str) -> str:
    return script.rpartition("/")[2] or "(none)"


def _standing(look: Look) -> VifState:
    if look.vif.removing:
        return VifState.DETACHING
    return VifState.CONNECTED if look.vif.hotplug_status == CONNECTED else VifState.PENDING


def _refused(look: Look, error: XennetdError) -> Decision:
    """The vif must not be connected: port down and out of its bridge first, then say so."""
    steps = release(look.link) if look.link else ()
    status = look.vif.hotplug_status
    told = status == CONNECTED or (status == "error" and look.memory.told == error.sentence)
    listening = look.vif.state in (XenbusState.INIT_WAIT, XenbusState.CONNECTED)
    verdict = Verdict(error=error.sentence) if listening and not steps and not told else None
    return Decision(VifState.ERROR, steps=steps, verdict=verdict, error=error, waits_on=error.waits_on)


def _vif(look: Look, attachment: Attachment) -> Decision:
    vif, link, memory = look.vif, look.link, look.memory
    if vif.state in (XenbusState.UNKNOWN, XenbusState.INITIALISING):
        reason = f"waiting for netback (backend state {int(vif.state)})"
        return Decision(VifState.PENDING, reason=reason, attachment=attachment)
    if link is None:
        return Decision(VifState.PENDING, reason=f"waiting for the link {vif.id.netdev}", attachment=attachment)
    if memory.failure is not None and memory.failure.holds(vif, link):
        return _refused(look, memory.failure.error)
    known = memory.connected == incarnation(link)
    fresh = memory.fresh or not (known or (memory.connected is None and vif.hotplug_status == CONNECTED))
    try:
        _check_name(look, link, vif.link_name)
    except _NameAwaited as wait:
        return Decision(
            VifState.PENDING,
            reason=str(wait),
            steps=release(link),
            attachment=attachment,
            name_awaited_since=look.now if memory.name_awaited_since is None else memory.name_awaited_since,
            waits_on=frozenset({vif.link_name}),
        )
    except XennetdError as error:
        return _refused(look, error)
    steps = attach(_goal(look, attachment, vif.link_name), link, fresh=fresh)
    if steps:
        return Decision(VifState.PENDING, reason="being attached", steps=steps, attachment=attachment)
    if vif.hotplug_status == CONNECTED:
        return Decision(VifState.CONNECTED, attachment=attachment)
    if vif.state not in (XenbusState.INIT_WAIT, XenbusState.CONNECTED):
        reason = f"waiting for the frontend to reconnect (backend state {int(vif.state)})"
        return Decision(VifState.PENDING, reason=reason, attachment=attachment)
    verdict = Verdict(frontend_mtu=attachment.mtu if fresh else None)
    return Decision(VifState.PENDING, reason="being attached", verdict=verdict, attachment=attachment)


def _goal(look: Look, attachment: Attachment, name: str) -> PortGoal:
    bridge = look.host.link(attachment.bridge)
    bridge_mtu = bridge.mtu if bridge is not None else attachment.mtu
    return PortGoal(name, attachment.bridge_index, attachment.bridge, bridge_mtu, attachment.mtu)


def _check_name(look: Look, link: Link, name: str) -> None:
    """Raise when `link` can't have its name yet, or not at all."""
    holder = look.host.link(name)
    if holder is None or holder.index == link.index:
        return
    since = look.memory.name_awaited_since
    if look.leaving(holder) and (since is None or look.now < since + NAME_WAIT):
        raise _NameAwaited(str(holder.parent or "an interface"), name)
    owner = f", which belongs to {holder.parent}" if holder.parent is not None else ""
    raise HostError(
        f'the interface name "{name}" is already in use on this host',
        detail=f'{look.vif.id} can\'t be named "{name}": link {holder.index} has that name{owner}; '
        "change `vifname=` in the domain's vif line, or rename the other interface",
        waits_on=frozenset({name}),
    )


def _with_tap(look: Look, decision: Decision, attachment: Attachment | None, error: XennetdError | None) -> Decision:
    """Return `decision` with what is to be done about the emulated NIC's tap, which has a verdict of its own."""
    vif, tap, memory = look.vif, look.tap, look.memory
    if tap is None:
        return decision if vif.tap_status is None else replace(decision, tap_verdict="")
    if error is None and memory.tap_failure is not None and memory.tap_failure.holds(vif, tap):
        error = memory.tap_failure.error
    steps: tuple[Step, ...] = ()
    if error is None and attachment is not None:
        try:
            _check_name(look, tap, vif.tap_name)
        except _NameAwaited:
            return decision
        except XennetdError as taken:
            error = taken
        else:
            steps = attach(_goal(look, attachment, vif.tap_name), tap, fresh=vif.tap_status != CONNECTED)
    if error is not None:
        steps = release(tap)
    if steps:
        return replace(decision, tap_steps=steps, tap_error=error)
    said = CONNECTED if error is None else f"error: {error.sentence}"
    tap_verdict = said if vif.tap_status != said else None
    return replace(decision, tap_verdict=tap_verdict, tap_error=error)

"""One look at one vif: from what xenstore and the kernel say now to what is to be done next. Pure.

The reconciler asks, does what the answer says, and asks again until there is nothing left to do: the second answer is
the verification of the first. A verdict is only ever given by a look that finds nothing to change.

Rule 1: whatever goes wrong, the port is taken down before anyone is told.
Rule 2: once a vif is connected the toolstack has its verdict; what goes wrong later is for the administrator.
Rule 3: nothing is done to a vif that is not ours, is pinned, or whose directory is gone.
Rule 4: a vif's own link and its tap are ports alike; what is true of one is true of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from xennetd.model.attachment import Attachment, Routing
from xennetd.model.errors import Denied, HostError, XennetdError
from xennetd.model.ground import GroundObject, Setting
from xennetd.model.link import HostView, Link, Route
from xennetd.model.status import VifState
from xennetd.model.vif import Vif, XenbusState
from xennetd.plan.port import PortGoal, attach, in_service, release
from xennetd.plan.steps import Ensure, Step

NAME_WAIT = 10.0
"""Seconds a vif waits for its `vifname` while an older vif that is being removed still holds it."""

RETRY_LONGEST = 60.0
"""Seconds between attempts at something that the kernel refuses and that no event will tell the end of, at most."""

CONNECTED = "connected"

TAP_METRIC = 1
VIF_METRIC = 2
"""Of a routed guest's routes: while its emulated NIC is there, that is the one it uses (as the stock script has it)."""

Incarnation = tuple[int, int]
"""A link's index and generation: to whom state belongs."""


def incarnation(link: Link) -> Incarnation:
    """Return whom this link is, now and not under the same name earlier or later."""
    return link.index, link.generation


@dataclass(frozen=True, slots=True)
class Failure:
    """A Step that the kernel refused, remembered until what it was about has changed.

    Where nothing tells when that is (`waits_on` is empty), it is tried again after a while: `until`, on the clock of
    `Look.now`. `times` counts the failures in a row.
    """

    error: XennetdError
    vif: Vif
    incarnation: Incarnation
    until: float | None = None
    times: int = 1

    def holds(self, vif: Vif, link: Link, now: float) -> bool:
        """Return whether there is no reason yet to try again."""
        if self.until is not None and now >= self.until:
            return False
        return self.incarnation == incarnation(link) and self.vif == cause(vif)


def cause(vif: Vif) -> Vif:
    """Return the part of a vif that can cause or cure a failure: without states and verdicts."""
    return replace(
        vif, state=XenbusState.UNKNOWN, frontend_mtu=None, hotplug_status=None, hotplug_error=None, tap_status=None
    )


def fail(error: XennetdError, vif: Vif, link: Link, before: Failure | None, now: float) -> Failure:
    """Return the memory of a failure after the one `before`: ever more patient, unless a change of a link ends it."""
    again = before is not None and before.incarnation == incarnation(link) and before.vif == cause(vif)
    times = before.times + 1 if again and before is not None else 1
    until = None if error.waits_on else now + min(2.0 ** (times - 1), RETRY_LONGEST)
    return Failure(error, cause(vif), incarnation(link), until, times)


@dataclass(frozen=True, slots=True)
class PortMemory:
    """What is remembered of one link of a vif, its own or the emulated NIC's tap.

    `mtu_given` is the link that has been given its MTU; `name_awaited_since` when waiting for a taken name began.
    """

    failure: Failure | None = None
    mtu_given: Incarnation | None = None
    name_awaited_since: float | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of one vif between two looks. Losing it, in a restart, loses nothing but a time-out's start.

    `connected` is the link that was connected, `tap_link` the emulated NIC's tap by whatever name. `fresh`: this link
    was never connected, whatever xenstore says.
    """

    connected: Incarnation | None = None
    fresh: bool = False
    tap_link: Incarnation | None = None
    port: PortMemory = PortMemory()
    tap: PortMemory = PortMemory()


@dataclass(frozen=True, slots=True)
class Look:
    """All that a decision is made from. `resolve` is policy's word on this vif; `missing` says what of an attachment's
    needs the host does not have; `leaving` whether the vif that a link belongs to is being removed; `standing` is what
    this policy has connected the vif to before; `now` is a monotonic clock in seconds."""

    vif: Vif
    link: Link | None
    tap: Link | None
    host: HostView
    owned: bool
    resolve: Callable[[Vif], Attachment]
    missing: Callable[[frozenset[GroundObject]], tuple[GroundObject, ...]]
    leaving: Callable[[Link], bool]
    memory: Memory
    now: float
    removes_backend: bool = False
    standing: Attachment | None = None


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

    `waits_on` holds the names of links whose change is worth another look; `look_at` is when time alone is.
    """

    steps: tuple[Step, ...] = ()
    error: XennetdError | None = None
    reason: str | None = None
    name_awaited_since: float | None = None
    waits_on: frozenset[str] = frozenset()
    look_at: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What one look came to. Steps come first; verdicts are only there when no Steps are.

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
        return bool(self.port.steps or self.tap.steps)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All Steps, the vif's own first."""
        return self.port.steps + self.tap.steps

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


def decide(look: Look) -> Decision:
    """Return what is to be done about one vif now."""
    vif = look.vif
    remove_backend = look.removes_backend and vif.removing and vif.state is XenbusState.CLOSED
    if vif.pinned:
        reason = "pinned: hands off until unpin"
        return Decision(_standing(vif), reason, attachment=_outlook(look), remove_backend=remove_backend)
    if not look.owned:
        script = vif.script.rpartition("/")[2] or "(none)"
        return Decision(VifState.IGNORED, reason=f"its script {script} is not ours", remove_backend=remove_backend)
    if vif.removing:
        return Decision(
            VifState.DETACHING,
            reason="the toolstack is removing it",
            port=PortDecision(release(look.link) if look.link else ()),
            tap=PortDecision(release(look.tap) if look.tap else ()),
            remove_backend=remove_backend,
        )
    try:
        attachment = look.resolve(vif)
    except XennetdError as error:
        refused = _refused(look, error)
        return refused if refused.attachment is not None else _with_tap(look, refused, error)
    return _with_tap(look, _attach(look, attachment), attachment)


def _outlook(look: Look) -> Attachment | None:
    """Return what a vif that is not to be touched has as far as others are concerned: its addresses, its needs."""
    try:
        return look.resolve(look.vif) if look.vif.hotplug_status == CONNECTED and not look.vif.removing else None
    except XennetdError:
        return None


def _standing(vif: Vif) -> VifState:
    if vif.removing:
        return VifState.DETACHING
    return VifState.CONNECTED if vif.hotplug_status == CONNECTED else VifState.PENDING


def _refused(look: Look, error: XennetdError) -> Decision:
    """The vif must not be connected: port down and out of its bridge first, then say so.

    A guest that is connected by this very policy is not cut off because the host has got into a state in which it would
    not be connected anew: an uplink without its address for a moment, a subnet that another link has now too.
    """
    standing, link = look.standing, look.link
    if standing is not None and link is not None and not isinstance(error, Denied):
        placed = link.up and link.master == standing.bridge_index
        if placed and look.memory.connected == incarnation(link):
            port = PortDecision(error=error, waits_on=error.waits_on)
            return replace(_told(look, port), attachment=standing)
    return _told(look, PortDecision(release(look.link) if look.link else (), error, waits_on=error.waits_on))


def _told(look: Look, port: PortDecision) -> Decision:
    """The port is in error: say so once nothing is left to do, unless the toolstack has had its verdict."""
    vif, error = look.vif, port.error
    listening = vif.state in (XenbusState.INIT_WAIT, XenbusState.CONNECTED)
    told = vif.hotplug_status == CONNECTED or (
        vif.hotplug_status == "error" and error is not None and vif.hotplug_error == error.sentence
    )
    tell = listening and not port.steps and not told and error is not None
    return Decision(VifState.ERROR, port=port, verdict=Verdict(error=error.sentence) if tell and error else None)


def _attach(look: Look, attachment: Attachment) -> Decision:
    vif, link, memory = look.vif, look.link, look.memory
    if vif.state in (XenbusState.UNKNOWN, XenbusState.INITIALISING):
        reason = f"waiting for netback (backend state {int(vif.state)})"
        return Decision(VifState.PENDING, reason=reason, attachment=attachment)
    if link is None:
        return Decision(VifState.PENDING, reason=f"waiting for the link {vif.id.netdev}", attachment=attachment)
    known = memory.connected == incarnation(link)
    fresh = memory.fresh or not (known or (memory.connected is None and vif.hotplug_status == CONNECTED))
    port = _port(look, link, vif.link_name, attachment, memory.port, fresh=fresh)
    if port.error is not None:
        return replace(_told(look, port), attachment=attachment)
    if port.reason is not None or port.steps:
        reason = port.reason or "being attached"
        return Decision(VifState.PENDING, reason=reason, port=port, attachment=attachment)
    if vif.hotplug_status == CONNECTED:
        return Decision(VifState.CONNECTED, attachment=attachment)
    if vif.state not in (XenbusState.INIT_WAIT, XenbusState.CONNECTED):
        reason = f"waiting for the frontend to reconnect (backend state {int(vif.state)})"
        return Decision(VifState.PENDING, reason=reason, attachment=attachment)
    verdict = Verdict(
        frontend_mtu=link.mtu if fresh and link.mtu != vif.frontend_mtu else None,
        mac=attachment.mac if attachment.mac != vif.mac else None,
    )
    return Decision(VifState.PENDING, reason="being attached", verdict=verdict, attachment=attachment)


def _with_tap(look: Look, decision: Decision, outcome: Attachment | XennetdError) -> Decision:
    """Return `decision` with what is to be done about the emulated NIC's tap, which has a verdict of its own.

    What policy says of the vif holds for its tap; what the kernel refuses one of the two does not concern the other.
    """
    vif, tap = look.vif, look.tap
    if tap is None:
        return decision if vif.tap_status is None else replace(decision, tap_verdict="")
    if isinstance(outcome, XennetdError):
        port = PortDecision(release(tap), outcome, waits_on=outcome.waits_on)
    else:
        port = _port(look, tap, vif.tap_name, outcome, look.memory.tap, fresh=vif.tap_status != CONNECTED)
    decision = replace(decision, tap=port)
    if port.steps or port.reason is not None:
        return decision
    said = CONNECTED if port.error is None else f"error: {port.error.sentence}"
    return replace(decision, tap_verdict=said if vif.tap_status != said else None)


def _port(
    look: Look, link: Link, name: str, attachment: Attachment, memory: PortMemory, *, fresh: bool
) -> PortDecision:
    """Return what is to be done so that `link` becomes the port that `attachment` asks for, under that name."""
    failure = memory.failure
    if failure is not None and failure.holds(look.vif, link, look.now):
        # A connected guest is not cut off because a repair fails, as long as it is where it belongs.
        placed = link.master == attachment.bridge_index and in_service(link, routed=attachment.routing is not None)
        steps = () if not fresh and placed else release(link)
        return PortDecision(steps, failure.error, waits_on=failure.error.waits_on, look_at=failure.until)
    holder = look.host.link(name)
    if holder is not None and holder.index != link.index:
        return _name_taken(look, link, name, holder, memory.name_awaited_since)
    mtu = attachment.mtu if fresh and memory.mtu_given != incarnation(link) else None
    if attachment.routing is not None:
        metric = VIF_METRIC if link == look.link else TAP_METRIC
        goal = _routed(look.host, link, name, attachment.routing, metric, mtu)
    else:
        goal = _bridged(look.host, name, attachment, mtu)
    ensures = tuple(Ensure(each) for each in look.missing(attachment.needs))
    return PortDecision((*ensures, *attach(goal, link, fresh=fresh)))


def _bridged(host: HostView, name: str, attachment: Attachment, mtu: int | None) -> PortGoal:
    bridge = host.link(attachment.bridge) if attachment.bridge is not None else None
    bridge_mtu = bridge.mtu if bridge is not None else attachment.mtu
    return PortGoal(name, attachment.bridge_index, attachment.bridge or "", bridge_mtu or 0, mtu)


def _routed(host: HostView, link: Link, name: str, routing: Routing, metric: int, mtu: int | None) -> PortGoal:
    routes = frozenset(
        Route(each, metric, routing.source if each.version == 4 else None) for each in routing.destinations
    )
    through = {route: host.routed(route.destination, route.metric) for route in routes - link.routes}
    return PortGoal(
        name,
        mtu=mtu,
        addresses=routing.gateways,
        routes=routes,
        taken=frozenset(route for route, other in through.items() if other is not None and other.index != link.index),
        neighbours=routing.neighbours,
        settings=tuple(
            Setting(version, name, key, value)
            for version, key, value in routing.settings
            if host.setting(version, link.name, key) not in (None, value)
        ),
    )


def _name_taken(look: Look, link: Link, name: str, holder: Link, since: float | None) -> PortDecision:
    """`link` can't have its name yet, while its holder is going, or not at all."""
    leaving = look.leaving(holder)
    since = look.now if since is None else since
    waits_on = frozenset({name})
    if leaving and look.now < since + NAME_WAIT:
        return PortDecision(
            release(link),
            reason=f"waiting for {holder.parent or 'an interface'} to go, which still has the name {name}",
            name_awaited_since=since,
            waits_on=waits_on,
            look_at=since + NAME_WAIT,
        )
    owner = f", which belongs to {holder.parent}" if holder.parent is not None else ""
    error = HostError(
        f'the interface name "{name}" is already in use on this host',
        detail=f'{look.vif.id} can\'t be named "{name}": link {holder.index} has that name{owner}; '
        "change `vifname=` in the domain's vif line, or rename the other interface",
        waits_on=waits_on,
    )
    return PortDecision(release(link), error, name_awaited_since=since if leaving else None, waits_on=waits_on)

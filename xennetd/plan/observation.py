"""The input of a decision about one vif: frozen values that can be logged, and that a test can replay."""

from __future__ import annotations

from msgspec import Struct

from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.errors import XennetdError
from xennetd.model.link import Link, Route
from xennetd.model.placement import Routed
from xennetd.model.value import replace
from xennetd.model.vif import Vif, XenbusState
from xennetd.plan.difference import HostStep

CONNECTED = "connected"
"""The value of `hotplug-status` for a connected vif."""

RETRY_LONGEST = 60.0
"""The longest pause, in seconds, between attempts at a refused Step whose error waits on nothing."""

Incarnation = tuple[int, int]
"""A link's index and generation. They identify one link over its whole life, even if a later link has its name."""


def incarnation(link: Link) -> Incarnation:
    """Return the incarnation of a link."""
    return link.index, link.generation


def as_found(seen: Observation) -> Attachment | None:
    """Return what a guest's link says of its attachment, where policy can't tell it: the routes that lead to the guest.

    Returns None for a link without any.
    """
    link, vif = seen.link, seen.vif
    if link is None or not link.routes:
        return None
    destinations = tuple(sorted({route.destination for route in link.routes}, key=str))
    return Attachment(
        vif=vif.id,
        assignment=seen.assignment or Assignment("route"),
        placement=Routed("", (), None, destinations, link.neighbours, ()),
        mac=vif.mac,
        ips=destinations,
        granted=frozenset(destinations),
    )


class Failure(Struct, frozen=True):
    """The memory of a refused Step. It holds until the vif or the link has changed.

    If the error waits on nothing (`error.waits_on` is empty), the Step is tried again at `until`, on the clock of
    `Observation.now`. `times` counts the failures in a row. `vif` is the `cause`.
    """

    error: XennetdError
    vif: Vif
    incarnation: Incarnation
    until: float | None = None
    times: int = 1

    def holds(self, vif: Vif, link: Link, now: float) -> bool:
        """Return whether it is still too early to try again."""
        if self.until is not None and now >= self.until:
            return False
        return self.incarnation == incarnation(link) and self.vif == cause(vif)


def cause(vif: Vif) -> Vif:
    """Return a vif without its states and verdicts: what is left can cause or cure a failure."""
    return replace(
        vif, state=XenbusState.UNKNOWN, frontend_mtu=None, hotplug_status=None, hotplug_error=None, tap_status=None
    )


def fail(error: XennetdError, vif: Vif, link: Link, before: Failure | None, now: float) -> Failure:
    """Return the memory of a failure that follows the failure `before`.

    For an error that waits on nothing, the pause doubles with each failure in a row, from 1 s up to RETRY_LONGEST.
    """
    again = before is not None and before.incarnation == incarnation(link) and before.vif == cause(vif)
    times = before.times + 1 if again and before is not None else 1
    until = None if error.waits_on else now + min(2.0 ** (times - 1), RETRY_LONGEST)
    return Failure(error, cause(vif), incarnation(link), until, times)


class PortMemory(Struct, frozen=True):
    """What the daemon remembers about one link of a vif: its own link, or the emulated NIC's tap.

    `mtu_given` is the incarnation that has been given its MTU. `mtu_due` says that a frontend has connected again
    since: for the one before, without scatter-gather, netback may have lowered the MTU (xenvif_carrier_on() of
    drivers/net/xen-netback/interface.c). `name_awaited_since` is when the wait for a taken name began, on the clock of
    `Observation.now`.
    """

    failure: Failure | None = None
    mtu_given: Incarnation | None = None
    mtu_due: bool = False
    name_awaited_since: float | None = None


class Memory(Struct, frozen=True):
    """What the daemon remembers about one vif between two observations.

    A restart loses the memory. The only consequence is that waits and pauses begin again.
    `connected` is the incarnation of the link that was connected. `tap_link` is the incarnation of the emulated NIC's
    tap, which keeps it through a rename. `fresh` says that this link was never connected, even if xenstore says so.
    """

    connected: Incarnation | None = None
    fresh: bool = False
    tap_link: Incarnation | None = None
    port: PortMemory = PortMemory()
    tap: PortMemory = PortMemory()


class ObservedPort(Struct, frozen=True):
    """A link of a vif and its surroundings. The link's `sysctls` have been read.

    `master` is the name of the link's master (its bridge). `holder` is another link that has the name that this link
    must get; `holder_leaves` says whether the holder belongs to a guest that is being removed. `elsewhere` are those of
    the link's desired routes that lead through another link with xennetd's mark now.
    """

    link: Link
    master: str | None = None
    holder: Link | None = None
    holder_leaves: bool = False
    elsewhere: frozenset[Route] = frozenset()


class Observation(Struct, frozen=True):
    """The complete input of a decision about one vif.

    `owned` says whether the vif's script is xennetd's. `assignment` is the policy rule and the network that apply, None
    if policy can't tell them. `outcome` is the attachment or the error that follows from them, None if it is not
    needed. `conflict` says why the host can't have the objects that this attachment needs: another owner has them with
    other values. `disowned` says that the vif was connected by xennetd, and that its script is xennetd's no more.
    `established` says that, by xenstore and the kernel, the vif is connected and its link is where this
    assignment puts it. `before` is the attachment of the last decision. `host` holds the Steps for host objects that
    the attachment needs and the host lacks; of a guest that keeps its network in spite of an error, or is pinned, for
    those that protect others from it. `removes_backend` says that xennetd removes backend directories, in place
    of `xl devd`. `now` is a monotonic clock in seconds.
    """

    vif: Vif
    port: ObservedPort | None
    tap: ObservedPort | None
    owned: bool
    assignment: Assignment | None
    outcome: Attachment | XennetdError | None
    memory: Memory
    now: float
    host: tuple[HostStep, ...] = ()
    conflict: XennetdError | None = None
    established: bool = False
    disowned: bool = False
    before: Attachment | None = None
    removes_backend: bool = False

    @property
    def stays_in_service(self) -> bool:
        """Whether the vif's port stays in service whatever policy wants and the host can have."""
        vif = self.vif
        pinned = self.owned and vif.pinned and vif.hotplug_status == CONNECTED and not vif.removing
        return self.established or pinned or self.disowned

    @property
    def possible(self) -> Attachment | XennetdError | None:
        """The attachment that policy wants and the host can have, else the error."""
        return self.conflict if self.conflict is not None else self.outcome

    @property
    def link(self) -> Link | None:
        """The vif's own link, None while the kernel has none."""
        return self.port.link if self.port is not None else None

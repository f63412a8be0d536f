"""What one decision about a vif is made from: frozen values that can be logged, and that a test can replay."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.errors import XennetdError
from xennetd.model.link import Link, Route
from xennetd.model.vif import Vif, XenbusState
from xennetd.plan.difference import HostStep
from xennetd.policy.facts import Answers

CONNECTED = "connected"
"""What `hotplug-status` says of a vif that is connected."""

RETRY_LONGEST = 60.0
"""Seconds between attempts at something that the kernel refuses and that no event will tell the end of, at most."""

Incarnation = tuple[int, int]
"""A link's index and generation: to whom state belongs."""


def incarnation(link: Link) -> Incarnation:
    """Return whom this link is, now and not under the same name earlier or later."""
    return link.index, link.generation


@dataclass(frozen=True, slots=True)
class Failure:
    """A Step that the kernel refused, remembered until what it was about has changed.

    Where nothing tells when that is (`waits_on` is empty), it is tried again after a while: `until`, on the clock of
    `Observation.now`. `times` counts the failures in a row.
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
class ObservedPort:
    """A link of a vif and what surrounds it. The link's `sysctls` have been read.

    `master` is the name of what it is a port of. `holder` is another link that has the name that this one must have,
    `holder_leaves` whether that is of a guest that is being removed. `elsewhere` are those of the routes that it must
    have that lead through another link of ours now.
    """

    link: Link
    master: str | None = None
    holder: Link | None = None
    holder_leaves: bool = False
    elsewhere: frozenset[Route] = frozenset()


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a decision about one vif is made from.

    `assignment` says which words of policy apply, None where even that can't be told; `outcome` is what follows from
    them, None where nobody asks for it. `established`: the vif is connected, and its link is where this assignment has
    it, by what xenstore and the kernel say. `before` is what it was attached to when that was decided last. `host` are
    the Steps to what the attachment needs of the host and the host does not have. `removes_backend`: we stand for
    `xl devd`. `now` is a monotonic clock in seconds. `answers` are what policy has asked, and was told, on the way to
    `outcome`.
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
    established: bool = False
    before: Attachment | None = None
    removes_backend: bool = False
    answers: Answers = field(default_factory=dict)

    @property
    def link(self) -> Link | None:
        """The vif's own link."""
        return self.port.link if self.port is not None else None

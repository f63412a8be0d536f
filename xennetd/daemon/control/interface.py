"""The Varlink interface `org.xennetd.Control`: its methods, its errors, and who may call which method.

Everybody who can open the socket may read; only root may change anything. Nothing here does I/O; server.py serves the
interface. Annotations here are evaluated (no `from __future__ import annotations`): asyncvarlink makes the interface's
description, which `varlinkctl introspect` shows, from the annotations and from the docstrings.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from typing import Protocol, TypedDict

from asyncvarlink import TypedVarlinkErrorReply, VarlinkInterface, varlinkmethod
from asyncvarlink.interface import AnnotatedResult

from xennetd.daemon.control.replies import Composed, Rows, Text
from xennetd.daemon.observability.audit import Audit
from xennetd.model.event import Event
from xennetd.model.status import DaemonStatus, LinkStatus, Planned, VifStatus
from xennetd.model.vif import VifId

INTERFACE = "org.xennetd.Control"

SHORTEST, LONGEST = 10, 3600
"""Seconds that a confirmation may be waited for."""


class Daemon(Protocol):
    """What the control service needs of the daemon.

    `retry`, `pin` and `unpin` return None when they have done it, else a sentence that says why not.
    """

    def status(self) -> DaemonStatus:
        """Return the daemon's state, without its problems and its notes."""
        ...

    def status_problems(self) -> Iterator[str]:
        """Yield the problems of the status (`DaemonStatus`). Vifs may come and go meanwhile."""
        ...

    def status_notes(self) -> Iterator[str]:
        """Yield the notes of the status (`DaemonStatus`). Vifs may come and go meanwhile."""
        ...

    def vifs(self) -> Iterator[VifStatus]:
        """Yield all vifs, ordered by domid and devid. Vifs may come and go meanwhile."""
        ...

    def names(self) -> Iterator[tuple[VifId, str | None, str | None]]:
        """Yield each vif with the names of its link and of its domain, ordered by domid and devid."""
        ...

    def vif(self, vif: VifId) -> VifStatus | None:
        """Return one vif, None if the daemon does not know it."""
        ...

    def debug(self, vif: VifId) -> Iterator[str]:
        """Return the last observation of a known vif, the decision made from it and the policy, as JSON text.

        To make one part of the text takes about 1 ms.
        """
        ...

    async def reload(self) -> list[str]:
        """Read the configuration again and return its problems. With any problem the old policy stays in force."""
        ...

    def links(self) -> Iterator[LinkStatus]:
        """Yield the host's links, and then those of guests. They may come and go meanwhile."""
        ...

    async def as_configured(self) -> str:
        """Return the configuration that says what the host's own links are already. Raises XennetdError."""
        ...

    async def plan(self) -> Planned:
        """Return what an apply of the configuration files would do. Raises XennetdError."""
        ...

    async def apply(self, confirm: int | None) -> Planned:
        """Put the configuration files into force: the host's topology, then the guests. Raises XennetdError.

        With `confirm` the topology is rolled back after so many seconds, unless `confirm` is called; the guests follow
        then.
        """
        ...

    async def confirm(self) -> Planned:
        """Keep the topology that was applied last, and let the guests follow. Raises XennetdError."""
        ...

    async def check(self) -> tuple[list[str], list[str]]:
        """Return the problems of the configuration files as they are now, and notes on what may be unintended.

        Raises XennetdError when they can't be checked.
        """
        ...

    def retry(self, vif: VifId) -> str | None:
        """Try at once to attach a vif again."""
        ...

    async def pin(self, vif: VifId) -> str | None:
        """Stop managing a vif until `unpin`. Raises XennetdError when xenstore does not take the change."""
        ...

    async def unpin(self, vif: VifId) -> str | None:
        """Manage a pinned vif again. Raises XennetdError when xenstore does not take the change."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """A user who calls, and the user's share of the daemon's time.

    `turn` returns a context for a short piece of work on the loop. `check` is `Daemon.check`, perhaps later.
    """

    uid: int
    turn: Callable[[], AbstractAsyncContextManager[None]]
    check: Callable[[], Awaitable[tuple[list[str], list[str]]]]


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event of the audit trail. `time` is in seconds since the epoch; `event` and `message_id` name its kind."""

    event: str
    message_id: str
    message: str
    time: float
    vif: str | None
    domid: int | None
    devid: int | None
    vm: str | None
    uuid: str | None
    mac: str | None
    ips: list[str]
    network: str | None
    bridge: str | None
    vlan: str | None
    policy: str | None
    duration_us: int | None
    repairs: int | None
    error: str | None

    @classmethod
    def of(cls, event: Event) -> "EventRecord":
        """Return `event` as it goes over the wire."""
        return cls(
            event=event.kind.label,
            message_id=event.kind.message_id,
            message=event.message,
            time=event.realtime_us / 1e6,
            vif=None if event.vif is None else str(event.vif),
            domid=None if event.vif is None else event.vif.domid,
            devid=None if event.vif is None else event.vif.devid,
            vm=event.vm,
            uuid=event.uuid,
            mac=event.mac,
            ips=list(event.ips),
            network=event.network,
            bridge=event.bridge,
            vlan=event.vlan,
            policy=event.policy,
            duration_us=event.duration_us,
            repairs=event.repairs,
            error=event.error,
        )


class NotFound(TypedVarlinkErrorReply, interface=INTERFACE):
    """There is no such guest interface: no vif, link or domain has this name."""

    class Parameters:
        """`vif` is the name as the caller gave it."""

        vif: str


class Ambiguous(TypedVarlinkErrorReply, interface=INTERFACE):
    """The name stands for several interfaces; say which one is meant."""

    class Parameters:
        """`vif` is the name as the caller gave it, `candidates` are the vifs that it may stand for."""

        vif: str
        candidates: list[str]


class NotPermitted(TypedVarlinkErrorReply, interface=INTERFACE):
    """Only root may do this."""

    class Parameters:
        """`method` is the method that was called, without the interface's name."""

        method: str


class Rejected(TypedVarlinkErrorReply, interface=INTERFACE):
    """The configuration has problems; the old policy stays as it was."""

    class Parameters:
        """`problems` holds a sentence for each problem, with file, line and key where the problem has these."""

        problems: list[str]


class Refused(TypedVarlinkErrorReply, interface=INTERFACE):
    """The daemon can't do this now."""

    class Parameters:
        """`reason` is a sentence."""

        reason: str


class _Shown(TypedDict):
    vif: VifStatus
    events: list[EventRecord]


class _Checked(TypedDict):
    problems: list[str]
    notes: list[str]


class _Monitored(TypedDict):
    event: EventRecord | None
    lost: int


class Control(VarlinkInterface, name=INTERFACE):
    """The network daemon of a Xen host.

    An interface is named by its vif (vif7.0 or 7.0), by its link, by its domain if that has just one, or by domain and
    device number (web-1/0).
    """

    errors = (NotFound, Ambiguous, NotPermitted, Rejected, Refused)

    def __init__(self, daemon: Daemon, audit: Audit, caller: Caller) -> None:
        self._daemon = daemon
        self._audit = audit
        self._caller = caller

    @varlinkmethod(return_parameter="status", return_type=DaemonStatus)
    def Status(self) -> AnnotatedResult:
        """Return the daemon's state, its problems and its notes.

        Many problems and notes are made while they are sent.
        """
        status = self._daemon.status()
        state = {each.name: getattr(status, each.name) for each in fields(status)}
        lists = {"problems": Rows(self._daemon.status_problems()), "notes": Rows(self._daemon.status_notes())}
        return AnnotatedResult({"status": Composed({**state, **lists})})

    @varlinkmethod(return_parameter="vifs", return_type=list[VifStatus])
    def List(self) -> AnnotatedResult:
        """Return all guest interfaces, ordered by domain and device number.

        A long list is made while it is sent. A caller who reads slowly gets each row as it is at that time.
        """
        return AnnotatedResult({"vifs": Rows(self._daemon.vifs())})

    @varlinkmethod
    def Show(self, *, vif: str) -> _Shown:
        """Return one interface and its latest events, the oldest first."""
        vif_id = self._id(vif)
        row = self._daemon.vif(vif_id)
        if row is None:
            raise NotFound(vif=vif)
        return {"vif": row, "events": [EventRecord.of(event) for event in self._audit.recent(vif_id)]}

    @varlinkmethod(return_parameter="dump", return_type=str)
    def Debug(self, *, vif: str) -> AnnotatedResult:
        """Return the last observation of an interface, the decision made from it and the policy, as JSON text.

        The text is for developers. Its form may change with any version.
        """
        return AnnotatedResult({"dump": Text(self._daemon.debug(self._id(vif)))})

    @varlinkmethod(delay_generator=False)
    async def Monitor(self, *, recent: int | None = None) -> AsyncIterator[_Monitored]:
        """Stream events as they happen, after up to `recent` of the latest ones. Needs `more`.

        A reply without an event follows the recent events; from then on no event is missed. `lost` is the number of
        events that were dropped just before this one because the caller was too slow.
        """
        with self._audit.subscribe() as events:
            for event in self._audit.recent()[-recent:] if recent and recent > 0 else []:
                yield {"event": EventRecord.of(event), "lost": 0}
            yield {"event": None, "lost": 0}
            async for event, lost in events:
                yield {"event": EventRecord.of(event), "lost": lost}

    @varlinkmethod
    async def Reload(self) -> None:
        """Read the configuration again and put it into force. With any problem nothing changes."""
        self._require_root("Reload")
        if problems := await self._daemon.reload():
            raise Rejected(problems=list(problems))

    @varlinkmethod(return_parameter="links", return_type=list[LinkStatus])
    def Topology(self) -> AnnotatedResult:
        """Return the host's links, and those of its guests: what is built on what.

        A long list is made while it is sent.
        """
        return AnnotatedResult({"links": Rows(self._daemon.links())})

    @varlinkmethod(return_parameter="toml")
    async def Import(self) -> str:
        """Return the configuration that says what the host's own links are already: an apply of it changes nothing."""
        self._require_root("Import")
        return await self._daemon.as_configured()

    @varlinkmethod(return_parameter="plan")
    async def Plan(self) -> Planned:
        """Return what Apply would do with the configuration files as they are now, and why it would refuse."""
        self._require_root("Plan")
        return await self._daemon.plan()

    @varlinkmethod(return_parameter="plan")
    async def Apply(self, *, confirm: int | None = None) -> Planned:
        """Put the configuration files into force: the host's topology, now and over reboots, and then the guests.

        With a reason to refuse nothing changes. With `confirm` the topology is rolled back after so many seconds, 10 to
        3600, unless Confirm is called; the guests follow then.
        """
        self._require_root("Apply")
        if confirm is not None and not SHORTEST <= confirm <= LONGEST:
            raise Refused(reason=f"the time for the confirmation must be {SHORTEST} to {LONGEST} seconds")
        return await self._daemon.apply(confirm)

    @varlinkmethod(return_parameter="problems")
    async def Confirm(self) -> list[str]:
        """Keep the topology that Apply has put into force. Returns why the guests do not follow the configuration."""
        self._require_root("Confirm")
        done = await self._daemon.confirm()
        _refuse(done.problems[0] if done.refused else None)
        return done.problems

    @varlinkmethod
    async def Check(self) -> _Checked:
        """Return the problems of the configuration files as they are now, and notes on what may be unintended."""
        problems, notes = await self._caller.check()
        return {"problems": problems, "notes": notes}

    @varlinkmethod(return_parameter="vif")
    def Retry(self, *, vif: str) -> str:
        """Try to attach an interface again now. Returns the vif's name."""
        self._require_root("Retry")
        vif_id = self._id(vif)
        _refuse(self._daemon.retry(vif_id))
        return str(vif_id)

    @varlinkmethod(return_parameter="vif")
    async def Pin(self, *, vif: str) -> str:
        """Make the daemon leave an interface alone until Unpin. Returns the vif's name."""
        self._require_root("Pin")
        vif_id = self._id(vif)
        _refuse(await self._daemon.pin(vif_id))
        return str(vif_id)

    @varlinkmethod(return_parameter="vif")
    async def Unpin(self, *, vif: str) -> str:
        """Make the daemon manage a pinned interface again. Returns the vif's name."""
        self._require_root("Unpin")
        vif_id = self._id(vif)
        _refuse(await self._daemon.unpin(vif_id))
        return str(vif_id)

    def _require_root(self, method: str) -> None:
        if self._caller.uid != 0:
            raise NotPermitted(method=method)

    def _id(self, name: str) -> VifId:
        """Return the interface that `name` stands for.

        A vif's own name comes first, then a link's name, a domain's name, and a domain's name with a device number.
        """
        vif_id = VifId.parse(name) or VifId.parse(f"vif{name}")
        if vif_id is not None and self._daemon.vif(vif_id) is not None:
            return vif_id
        domain, _, devid = name.rpartition("/")
        names = list(self._daemon.names())
        matches = (
            [vif for vif, link, _ in names if link == name]
            or [vif for vif, _, vm in names if vm == name]
            or [vif for vif, _, vm in names if vm == domain and str(vif.devid) == devid]
        )
        if not matches:
            raise NotFound(vif=name)
        if len(matches) > 1:
            raise Ambiguous(vif=name, candidates=[str(vif) for vif in matches])
        return matches[0]


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise Refused(reason=reason)

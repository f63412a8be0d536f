"""The checkpoint of an apply: what the host had before, for the roll-back. It exists while an apply is not confirmed.

The process that rolls back needs nothing but this file: neither the daemon nor the configuration. Whoever rolls back or
confirms holds the lock on the file (flock(2)); it is deleted at the end. After a reboot the kernel has nothing of the
apply any more, so a checkpoint of another boot is only deleted.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path

import msgspec

from xennetd.daemon.topology_file import LinkEntry, entry_of, link_of, sealed, unsealed, write_whole
from xennetd.model.errors import HostError
from xennetd.model.ip_entry import EntryKind, IpEntry
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.objects import HostAddress, HostObject, Key
from xennetd.model.offload import Offload
from xennetd.model.places import STATE
from xennetd.model.topology import LinkKind, Topology

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Damaged(HostError):
    """The checkpoint can't be used. The host stays as it is."""


class _HostLink(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    kind: LinkKind
    name: str
    parent: str = ""
    settings: dict[str, int | str | tuple[str, ...]] = {}
    mac: str | None = None
    mtu: int | None = None
    silent: bool | None = None
    up: bool = True
    accept_ra: int | None = None
    group: int | None = None


class _Entry(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    kind: EntryKind
    identity: str
    links: tuple[str, ...]
    fixed: bytes
    attributes: list[tuple[int, bytes]] = []
    words: str = ""
    of_link: bool = True
    interface: str | None = None
    label: str = ""
    leased: bool = False
    lifetime: tuple[int, int] = (0xFFFFFFFF, 0xFFFFFFFF)
    via: bool = False
    after: list[tuple[str, str]] = []


class _Objects(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    links: list[_HostLink] = []
    ports: list[tuple[str, str]] = []
    addresses: list[tuple[str, str]] = []
    entries: list[_Entry] = []
    offloads: list[tuple[str, bool]] = []


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    boot: str
    until: float
    confirmable: bool
    before: list[LinkEntry] | None
    after: list[LinkEntry]
    captured: _Objects
    indexes: dict[str, int]
    made: _Objects


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`until` is when the roll-back is due, in seconds since boot (CLOCK_BOOTTIME).

    `confirmable` says that an administrator is to confirm the apply; else the daemon does it, at the end of the apply.
    `before` is the topology that was confirmed (None for none yet), `after` the one that is applied. `captured` is what
    the host had, `indexes` are those of its links, and `made` is what the apply wants.
    """

    until: float
    confirmable: bool
    before: Topology | None
    after: Topology
    captured: tuple[HostObject, ...] = ()
    indexes: Mapping[str, int] = field(default_factory=dict)
    made: Mapping[Key, HostObject] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds until the roll-back is due, 0 or less when it is."""
        return self.until - now()


def now() -> float:
    """Return the seconds since boot, those of a suspended machine among them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class CheckpointFile:
    """The checkpoint on disk."""

    def __init__(self, path: Path = Path(STATE, "checkpoint.json")) -> None:
        self._path = path

    def exists(self) -> bool:
        """Return whether an apply waits for its confirmation, or for its roll-back."""
        return self._path.exists()

    def read(self) -> Checkpoint | None:
        """Return the checkpoint, None if there is none of this boot. Raises HostError for a damaged one."""
        try:
            content = unsealed(self._path)
            found = msgspec.json.decode(content, type=_Content) if content is not None else None
            if found is None or found.boot != _boot():
                return None
            return Checkpoint(
                found.until,
                found.confirmable,
                None if found.before is None else Topology(tuple(map(link_of, found.before))),
                Topology(tuple(map(link_of, found.after))),
                tuple(_objects(found.captured)),
                found.indexes,
                {item.key: item for item in _objects(found.made)},
            )
        except OSError as error:
            raise HostError(f"{self._path} can't be read: {error.strerror}", errno=error.errno or 0) from error
        except ValueError as error:
            raise Damaged(f"{self._path} is damaged: nothing can be rolled back by it ({error})") from error

    def write(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint on the disk, whole or not at all. Raises HostError."""
        before = checkpoint.before
        content = _Content(
            1,
            _boot(),
            checkpoint.until,
            checkpoint.confirmable,
            None if before is None else list(map(entry_of, before)),
            list(map(entry_of, checkpoint.after)),
            _written(checkpoint.captured),
            dict(checkpoint.indexes),
            _written(checkpoint.made.values()),
        )
        write_whole(self._path, sealed(msgspec.json.encode(content)))

    def delete(self) -> None:
        """Delete the checkpoint. A missing one is no error. Raises HostError."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise HostError(f"{self._path} can't be deleted: {error.strerror}", errno=error.errno or 0) from error

    def set_aside(self) -> None:
        """Put a damaged checkpoint out of the way, where nothing waits for it any more."""
        with suppress(OSError):
            self._path.rename(self._path.with_suffix(".damaged"))

    @contextmanager
    def held(self, *, wait: bool) -> Iterator[bool]:
        """Hold the lock; the context is False if there is no checkpoint, or if another process holds the lock.

        With `wait` another process is waited for.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield False
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                    yield True
                    return
            yield False
        finally:
            os.close(descriptor)


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _written(objects: Iterable[HostObject]) -> _Objects:
    written = _Objects([], [], [], [], [])
    for item in objects:
        match item:
            case HostLink():
                written.links.append(
                    _HostLink(
                        item.kind,
                        item.name,
                        item.parent,
                        dict(item.settings),
                        item.mac,
                        item.mtu,
                        item.silent,
                        item.up,
                        item.accept_ra,
                        item.group,
                    )
                )
            case HostPort():
                written.ports.append((item.link, item.master))
            case HostAddress():
                written.addresses.append((item.link, str(item.address)))
            case Offload():
                written.offloads.append((item.link, item.tx_checksum))
            case IpEntry():
                written.entries.append(
                    _Entry(
                        item.kind,
                        item.identity,
                        item.links,
                        item.fixed,
                        list(item.attributes),
                        item.words,
                        item.of_link,
                        None if item.interface is None else str(item.interface),
                        item.label,
                        item.leased,
                        item.lifetime,
                        item.via,
                        sorted((key.kind, key.name) for key in item.after),
                    )
                )
    return written


def _objects(written: _Objects) -> Iterator[HostObject]:
    for link in written.links:
        settings = tuple(sorted(link.settings.items()))
        yield HostLink(
            link.kind,
            link.name,
            link.parent,
            settings,
            link.mac,
            link.mtu,
            link.silent,
            link.up,
            link.accept_ra,
            link.group,
        )
    for port, master in written.ports:
        yield HostPort(port, master)
    for name, address in written.addresses:
        yield HostAddress(name, ip_interface(address))
    for name, tx_checksum in written.offloads:
        yield Offload(name, tx_checksum)
    for entry in written.entries:
        yield IpEntry(
            entry.kind,
            entry.identity,
            entry.links,
            entry.fixed,
            tuple(entry.attributes),
            words=entry.words,
            of_link=entry.of_link,
            interface=None if entry.interface is None else ip_interface(entry.interface),
            label=entry.label,
            leased=entry.leased,
            lifetime=entry.lifetime,
            via=entry.via,
            after=frozenset(Key(*key) for key in entry.after),
        )

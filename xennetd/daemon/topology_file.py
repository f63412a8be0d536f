"""The file that holds the topology which `xennetctl apply` put into force last. A start of the daemon applies it.

It is one of two states of the host that neither the kernel nor xenstore remembers over a reboot. A checksum tells a
file that was cut off, or that somebody has edited.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from ipaddress import ip_interface
from pathlib import Path

import msgspec

from xennetd.model.errors import HostError
from xennetd.model.places import STATE
from xennetd.model.topology import LinkKind, Topology, TopologyLink

_VERSION = 1


class _Link(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """`model.topology.TopologyLink`, as JSON has it."""

    kind: LinkKind
    name: str
    ports: tuple[str, ...] = ()
    parent: str = ""
    settings: dict[str, int | str | tuple[str, ...]] = {}
    mac: str | None = None
    path: str | None = None
    mtu: int | None = None
    addresses: tuple[str, ...] | None = None
    adopts: bool = False


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    links: list[_Link]


class TopologyFile:
    """The topology that was confirmed last, on disk."""

    def __init__(self, path: Path = Path(STATE, "topology.json")) -> None:
        self._path = path

    def read(self) -> Topology | None:
        """Return the topology, None if none was ever confirmed. Raises HostError for a file that can't be used."""
        try:
            checksum, _, content = self._path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HostError(f"{self._path} can't be read: {error.strerror}: {_REMEDY}") from error
        if checksum.decode("ascii", "replace") != _checksum(content):
            raise HostError(f"{self._path} is damaged: its checksum is wrong: {_REMEDY}")
        try:
            found = msgspec.json.decode(content, type=_Content)
            if found.version != _VERSION:
                raise HostError(f"{self._path} is of another version of xennetd: {_REMEDY}")
            return Topology(tuple(map(_link, found.links)))
        except ValueError as error:  # msgspec's, or of an address
            raise HostError(
                f"{self._path} is damaged: {_REMEDY}", detail=f"{self._path}: {error}: {_REMEDY}"
            ) from error

    def write(self, topology: Topology) -> None:
        """Put a topology on the disk, whole or not at all. Raises HostError."""
        content = msgspec.json.encode(_Content(_VERSION, [_entry(link) for link in topology]))
        draft = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o755, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(f"{_checksum(content)}\n".encode() + content)
                file.flush()
                os.fsync(descriptor)
            draft.rename(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise HostError(
                f"{self._path} can't be written: {error.strerror}: nothing was applied, since a reboot would undo it",
                errno=error.errno or 0,
            ) from error


_REMEDY = "the host's topology stays as it is; check it with xennetctl plan, and run xennetctl apply"


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _entry(link: TopologyLink) -> _Link:
    return _Link(
        link.kind,
        link.name,
        ports=link.ports,
        parent=link.parent,
        settings=dict(link.settings),
        mac=link.mac,
        path=link.path,
        mtu=link.mtu,
        addresses=None if link.addresses is None else tuple(map(str, link.addresses)),
        adopts=link.adopts,
    )


def _link(entry: _Link) -> TopologyLink:
    return TopologyLink(
        entry.kind,
        entry.name,
        ports=entry.ports,
        parent=entry.parent,
        settings=tuple(sorted(entry.settings.items())),
        mac=entry.mac,
        path=entry.path,
        mtu=entry.mtu,
        addresses=None if entry.addresses is None else tuple(map(ip_interface, entry.addresses)),
        adopts=entry.adopts,
    )

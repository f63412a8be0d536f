"""The file that holds the topology which `xennetctl apply` put into force last. A start of the daemon applies it.

It is one of two states of the host that neither the kernel nor xenstore remembers over a reboot; the other one is the
checkpoint (`daemon.checkpoint`). A checksum tells a file that was cut off, or that somebody has edited.
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

_REMEDY = "the host's topology stays as it is; check it with xennetctl plan, and run xennetctl apply"


class LinkEntry(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """`model.topology.TopologyLink`, as JSON has it."""

    kind: LinkKind
    name: str
    ports: tuple[str, ...] = ()
    parent: str = ""
    settings: dict[str, int | str | tuple[str, ...]] = {}
    mac: str | None = None
    path: str | None = None
    mtu: int | None = None
    vlan_mtu: int | None = None
    tx_checksum: bool | None = None
    addresses: tuple[str, ...] | None = None
    adopts: bool = False


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    links: list[LinkEntry]


class TopologyFile:
    """The topology that was confirmed last, on disk."""

    def __init__(self, path: Path = Path(STATE, "topology.json")) -> None:
        self._path = path

    def read(self) -> Topology | None:
        """Return the topology, None if none was ever confirmed. Raises HostError for a file that can't be used."""
        try:
            content = unsealed(self._path)
            if content is None:
                return None
            found = msgspec.json.decode(content, type=_Content)
            if found.version != _VERSION:
                raise HostError(f"{self._path} is of another version of xennetd: {_REMEDY}")
            return Topology(tuple(map(link_of, found.links)))
        except OSError as error:
            raise HostError(f"{self._path} can't be read: {error.strerror}: {_REMEDY}") from error
        except ValueError as error:
            detail = f"{self._path} is damaged ({error}): {_REMEDY}"
            raise HostError(f"{self._path} is damaged: {_REMEDY}", detail=detail) from error

    def write(self, topology: Topology | None) -> None:
        """Put a topology on the disk, whole or not at all; None deletes the file. Raises HostError."""
        if topology is not None:
            content = _Content(_VERSION, list(map(entry_of, topology)))
            write_whole(self._path, sealed(msgspec.json.encode(content)))
            return
        with suppress(FileNotFoundError):
            self._path.unlink()


def sealed(content: bytes) -> bytes:
    """Return a content with its checksum before it."""
    return f"{hashlib.sha256(content).hexdigest()}\n".encode() + content


def unsealed(path: Path) -> bytes | None:
    """Return the content of a sealed file, None without one. Raises ValueError for a wrong checksum, and OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    content = data.partition(b"\n")[2]
    if data != sealed(content):
        raise ValueError("its checksum is wrong")
    return content


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that only root can read, so that a crash leaves all of it or the one before. Raises HostError."""
    draft = path.with_suffix(".new")
    try:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        draft.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise HostError(
            f"{path} can't be written: {error.strerror}: the host's topology stays as it is",
            errno=error.errno or 0,
        ) from error


def entry_of(link: TopologyLink) -> LinkEntry:
    """Return a link as JSON has it."""
    return LinkEntry(
        link.kind,
        link.name,
        ports=link.ports,
        parent=link.parent,
        settings=dict(link.settings),
        mac=link.mac,
        path=link.path,
        mtu=link.mtu,
        vlan_mtu=link.vlan_mtu,
        tx_checksum=link.tx_checksum,
        addresses=None if link.addresses is None else tuple(map(str, link.addresses)),
        adopts=link.adopts,
    )


def link_of(entry: LinkEntry) -> TopologyLink:
    """Return the link of an entry. Raises ValueError for an address that is none."""
    return TopologyLink(
        entry.kind,
        entry.name,
        ports=entry.ports,
        parent=entry.parent,
        settings=tuple(sorted(entry.settings.items())),
        mac=entry.mac,
        path=entry.path,
        mtu=entry.mtu,
        vlan_mtu=entry.vlan_mtu,
        tx_checksum=entry.tx_checksum,
        addresses=None if entry.addresses is None else tuple(map(ip_interface, entry.addresses)),
        adopts=entry.adopts,
    )

"""Finds the links by which the root file system comes over the network. The host's topology must not touch them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple

from xennetd.daemon.network_disks import NetworkDisks, Ways, addresses_in
from xennetd.kernel import netlink, rtnl_ip
from xennetd.kernel.host_links import find_nics
from xennetd.kernel.links import Links
from xennetd.kernel.rtnl import get_link
from xennetd.kernel.sockets import RequestSocket
from xennetd.model.ip import IPAddress
from xennetd.model.topology import Topology

_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3"})
"""Types of file systems that come over the network, and name their server among the options of the mount."""

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class RootLinks:
    """`names` are the links by which the root file system comes over the network, and all that these are built on.

    `unknown` are the disks and mounts of it that come over the network by a link that can't be found.
    """

    names: frozenset[str] = frozenset()
    unknown: tuple[str, ...] = ()


def root_links(links: Links, topology: Topology, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> RootLinks:
    """Return the links of the root file system, by the kernel's names and by those that the topology has for them.

    The way to a server is the one that the kernel takes now. `proc` and `sys` are the directories where procfs and
    sysfs are mounted. Raises OSError if a netlink socket can't be opened.
    """
    with closing(RequestSocket()) as requests:

        def way(server: IPAddress) -> str | None:
            if isinstance(server, IPv6Address) and server.scope_id is not None:
                scope = server.scope_id  # A link-local address with its link, by name or index.
                link = links.by_index(int(scope)) if scope.isdecimal() else links.link(scope)
            else:
                link = links.by_index(_route(requests, server))
            return link.name if link is not None else None

        def owner(address: IPAddress) -> str | None:
            return next((link.name for link in links for each in link.addresses if each.ip == address), None)

        found = Search(way, owner, proc, sys).result()
        if not found.names:
            return found
        nics = find_nics(topology, links, partial(requests.ask_one, get_link))
        return RootLinks(found.names | {name for name, real in nics.items() if real in found.names}, found.unknown)


def _route(requests: RequestSocket, server: IPAddress) -> int:
    """Return the index of the link by which the kernel reaches an address, 0 without a way."""
    seq = requests.next_seq()
    acks, datagrams = requests.ask([rtnl_ip.get_route(seq, server)])
    if acks[0].errno:
        return 0
    messages = ((data, message) for data in datagrams for message in netlink.headers(data))
    return next((rtnl_ip.parse_way(*each) for each in messages if each[1].type == rtnl_ip.RTM_NEWROUTE), 0)


def device_of(path: str) -> str | None:
    """Return the MAJOR:MINOR of a block device's file, None if the path is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISBLK(found.st_mode):
        return None
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


class _Mount(NamedTuple):
    """A line of /proc/self/mountinfo (proc(5)). `device` is MAJOR:MINOR; `options` are those of the file system."""

    device: str
    where: str
    kind: str
    source: str
    options: str

    def option(self, name: str) -> str:
        """Return the value of an option, empty without it."""
        found = (each.partition("=") for each in self.options.split(","))
        return next((value for key, _, value in found if key == name), "")


class Search:
    """Follows the root file system to disks and servers, once.

    `way` returns the link to a server, `owner` the link that has an address; None without one. `proc` and `sys` are the
    directories where procfs and sysfs are mounted.
    """

    def __init__(
        self,
        way: Callable[[IPAddress], str | None],
        owner: Callable[[IPAddress], str | None],
        proc: Path,
        sys: Path,
        number: Callable[[str], str | None] = device_of,
    ) -> None:
        self._way = way
        self._owner = owner
        self._sys = sys
        self._number = number
        self._disks = NetworkDisks(proc, sys)
        self._mounts = _mounts(proc / "self/mountinfo")
        self._seen: set[_Mount | Path] = set()
        self._names: set[str] = set()
        self._unknown: dict[str, None] = {}

    def result(self) -> RootLinks:
        """Return the links of what is mounted at /."""
        self._follow_path("/")
        for name in tuple(self._names):
            self._add_lower(name)
        return RootLinks(frozenset(self._names), tuple(self._unknown))

    def _follow_path(self, path: str) -> None:
        """Follow the file system that a path is in. Of several ones at one place the last hides the others."""
        over = [each for each in self._mounts if f"{path}/".startswith(f"{each.where.rstrip('/')}/")]
        mount = max(reversed(over), key=lambda each: len(each.where), default=None)
        if mount is None or mount in self._seen:
            return
        self._seen.add(mount)
        if mount.kind in _REMOTE:
            self._take(Ways(addresses_in(mount.option("addr"))), f"{mount.kind} {mount.source}")
        elif mount.kind == "overlay":
            layers = [mount.option("upperdir"), *mount.option("lowerdir").split(":")]
            for layer in layers:
                if layer.startswith("/"):
                    self._follow_path(layer)
        else:
            for device in self._devices(mount):
                self._follow_device(device)

    def _devices(self, mount: _Mount) -> list[Path]:
        """Return the directories of a file system's block devices; a btrfs may have several (fs/btrfs/sysfs.c).

        A btrfs has a device number of its own, with the major number 0, and names one of its devices as the source.
        """
        number: str | None = mount.device
        if mount.device.startswith("0:"):
            number = self._number(mount.source) if mount.source.startswith("/") else None
        if number is None:
            return []
        device = (self._sys / "dev/block" / number).resolve()
        pools = (self._sys / "fs/btrfs").glob(f"*/devices/{device.name}")
        return [each.resolve() for pool in pools for each in pool.parent.iterdir()] or [device]

    def _follow_device(self, device: Path) -> None:
        """Follow a block device to what it is made of, and a disk over the network.

        A partition is below its disk. Device mapper (LVM, multipath, encryption), RAID and bcache have a symbolic link
        to each device that they are made of, in `slaves`. A loop device has a file.
        """
        if device in self._seen:
            return
        self._seen.add(device)
        if (device / "partition").exists():
            self._follow_device(device.parent)
            return
        if (file := device / "loop/backing_file").exists():
            self._follow_path(file.read_text(errors="replace").strip())
            return
        slaves = [each.resolve() for each in sorted((device / "slaves").glob("*"))]
        for each in slaves:
            self._follow_device(each)
        if not slaves and (ways := self._disks.ways_of(device)) is not None:
            self._take(ways, device.name)

    def _take(self, ways: Ways, what: str) -> None:
        """Add the links of these ways, or note what has none."""
        found = {self._way(server) for server in ways.servers} | {self._owner(address) for address in ways.own}
        names = {name for name in (*found, *ways.links) if name is not None}
        self._names |= names
        if not names:
            self._unknown[what] = None

    def _add_lower(self, name: str) -> None:
        """Add the links that a link is built on: the parent of a VLAN, the ports of a bond or a bridge.

        The kernel has a symbolic link `lower_NAME` to each of them (netdev_adjacent_sysfs_add() of net/core/dev.c).
        """
        for each in (self._sys / "class/net" / name).glob("lower_*"):
            lower = each.name.removeprefix("lower_")
            if lower not in self._names:
                self._names.add(lower)
                self._add_lower(lower)


_MOUNT_FIELDS, _SYSTEM_FIELDS = 5, 3
"""The least numbers of words before and after the hyphen in a line of mountinfo (proc_pid_mountinfo(5))."""


def _mounts(file: Path) -> list[_Mount]:
    """Return what is mounted, in the order in which it was."""
    try:
        # A mount point is named by whoever makes it: only a newline ends a line, and the kernel escapes those in names.
        lines = file.read_bytes().decode(errors="replace").split("\n")
    except OSError:
        return []
    found = []
    for line in lines:
        mount, _, system = line.partition(" - ")
        fields, about = mount.split(" "), [_plain(word) for word in system.split(" ")]
        if len(fields) >= _MOUNT_FIELDS and len(about) >= _SYSTEM_FIELDS:
            kind, source, options, *_ = about
            found.append(_Mount(fields[2], _plain(fields[4]), kind, source, options))
    return found


def _plain(text: str) -> str:
    r"""Return a word of mountinfo without escapes: a blank is \040 there."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)

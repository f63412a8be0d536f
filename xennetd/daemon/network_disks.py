"""Disks that come over the network: the servers and links by which they do, as sysfs(5) tells.

The names of files and directories are those of the kernel's drivers, whose sources the functions name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from xennetd.daemon.host_sockets import sockets
from xennetd.kernel.sock_diag import TCP_ESTABLISHED
from xennetd.model.ip import IPAddress

_SOCKET = re.compile(r"socket:\[([0-9]+)\]")
_SESSION = re.compile(r"session([0-9]+)")
_SCSI_HOST = re.compile(r"host[0-9]+")
_RBD = re.compile(r"rbd([0-9]+)")
_FCOE = re.compile(r"/net/([^/]+)/(?:ctlr_|host)[0-9]+/")
_NBD_ROOT = re.compile(r"\b(?:nbdroot=|(?:net)?root=nbd:)(\S+)")

Peers = Callable[[Collection[int]], frozenset[IPAddress]]
"""Returns the addresses to which the TCP sockets with these inodes are connected."""


@dataclass(frozen=True, slots=True)
class Ways:
    """How something comes over the network: by `servers`, from one of this host's `own` addresses, through `links`.

    All are empty where nothing tells them.
    """

    servers: frozenset[IPAddress] = frozenset()
    own: frozenset[IPAddress] = frozenset()
    links: frozenset[str] = frozenset()


def connected_to(inodes: Collection[int]) -> frozenset[IPAddress]:
    """Return the addresses to which the established TCP sockets with these inodes are connected. Raises OSError."""
    return frozenset(each.remote for each in sockets("tcp", (TCP_ESTABLISHED,)) if each.inode in inodes)


def addresses_in(*texts: str) -> frozenset[IPAddress]:
    """Return the addresses among these texts."""
    found = set()
    for text in texts:
        try:
            found.add(ip_address(text))
        except ValueError:
            continue
    return frozenset(found)


class NetworkDisks:
    """Finds the ways of disks. `proc` and `sys` are the directories where procfs and sysfs are mounted."""

    def __init__(self, proc: Path, sys: Path, peers: Peers = connected_to) -> None:
        self._proc = proc
        self._sys = sys
        self._peers = peers

    def ways_of(self, disk: Path) -> Ways | None:
        """Return how the disk with this directory below /sys/devices comes over the network, None if it does not."""
        name = disk.name
        if session := next((match for part in disk.parts if (match := _SESSION.fullmatch(part))), None):
            return self._iscsi(session[1], next((part for part in disk.parts if _SCSI_HOST.fullmatch(part)), ""))
        if fcoe := _FCOE.search(str(disk)):
            # fcoe_interface_create() of drivers/scsi/fcoe/fcoe.c: the SCSI host is below its link.
            return Ways(links=frozenset({fcoe[1]}))
        if name.startswith("nvme"):
            return self._nvme(disk)
        if name.startswith("nbd"):
            return self._nbd(disk)
        if name.startswith("etherd!"):
            # aoedisk_show_netif() of drivers/block/aoe/aoeblk.c: the links by which the target was seen, or "none".
            return Ways(links=frozenset(_text(disk / "netif").split(",")) - {"", "none"})
        if rbd := _RBD.fullmatch(name):
            # rbd_client_addr_show() of drivers/block/rbd.c: ADDRESS:PORT/NONCE of this host, as the cluster sees it.
            address, _, _ = _text(self._sys / "bus/rbd/devices" / rbd[1] / "client_addr").rpartition(":")
            return Ways(own=addresses_in(address.strip("[]")))
        return None

    def _iscsi(self, session: str, host: str) -> Ways:
        """Return the targets' addresses of an iSCSI session: drivers/scsi/scsi_transport_iscsi.c.

        While a connection is down the kernel does not tell its `address`, and has only the configured one. `netdev` is
        the link to which the administrator has bound the session.
        """
        netdev = _text(self._sys / "class/iscsi_host" / host / "netdev") if host else ""
        if netdev and (self._sys / "class/net" / netdev).exists():
            return Ways(links=frozenset({netdev}))
        connections = (self._sys / "class/iscsi_connection").glob(f"connection{session}:*")
        return Ways(
            addresses_in(*(_text(each / "address") or _text(each / "persistent_address") for each in connections))
        )

    def _nvme(self, disk: Path) -> Ways | None:
        """Return the ways of a namespace's controllers: nvmf_get_address() of drivers/nvme/host/fabrics.c.

        A namespace with several paths is below its subsystem, which has a symbolic link to each controller
        (nvme_init_subsystem() of drivers/nvme/host/core.c). Other namespaces are below their controller.
        """
        servers: set[IPAddress] = set()
        own: set[IPAddress] = set()
        links: set[str] = set()
        remote = False
        for controller in (disk.parent, *disk.parent.glob("nvme*")):
            if _text(controller / "transport") not in {"tcp", "rdma"}:
                continue
            remote = True
            parts = _text(controller / "address").split(",")
            told = {key: value for key, _, value in (part.partition("=") for part in parts)}
            if "host_iface" in told:
                links.add(told["host_iface"])
            elif found := addresses_in(told.get("traddr", "")):
                servers |= found
            else:
                own |= addresses_in(told.get("src_addr", ""))
        return Ways(frozenset(servers), frozenset(own), frozenset(links)) if remote else None

    def _nbd(self, disk: Path) -> Ways:
        """Return the servers of a network block device: drivers/block/nbd.c.

        `pid` is the process that has set the device up. nbd-client stays where it has done so by ioctl(2), and holds
        the sockets. It has ended where it has done so by netlink; then another process may have its number. What is
        left is the kernel's command line (initramfs-tools of Debian's nbd-client, dracut.cmdline(7)).
        """
        process = self._proc / (_text(disk / "pid") or "none")
        words = _text(process / "cmdline").split("\0")
        if "bd-client" in words[0] or "nbd" in words[0]:  # One that is started in an initramfs calls itself @bd-client.
            if found := self._peers(self._inodes(process)):
                return Ways(found)
            if found := addresses_in(*words[1:]):
                return Ways(found)
        servers = (each for word in _NBD_ROOT.findall(_text(self._proc / "cmdline")) for each in _starts(word))
        return Ways(addresses_in(*servers))

    @staticmethod
    def _inodes(process: Path) -> frozenset[int]:
        """Return the inodes of a process's sockets, none if this process may not see them (ptrace(2))."""
        try:
            return frozenset(_socket_inodes(process / "fd"))
        except OSError:
            return frozenset()


def _starts(word: str) -> tuple[str, ...]:
    """Return what may be the server in SERVER,EXPORT or SERVER:PORT or [SERVER]:PORT."""
    return word.partition(",")[0], word.partition(":")[0], word.partition("]")[0].removeprefix("[")


def _socket_inodes(descriptors: Path) -> Iterator[int]:
    for each in descriptors.iterdir():
        if match := _SOCKET.fullmatch(str(each.readlink())):
            yield int(match[1])


def _text(file: Path) -> str:
    """Return a file's text without the blanks around it, empty if it can't be read."""
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""

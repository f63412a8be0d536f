"""`Rtnl`: makes and changes links in one network namespace, fast enough that a test's own part costs little.

Plain rtnetlink(7) with struct: one veth takes a tenth of a millisecond here, several through `ip`. To look at the
result a test uses `ip`, which knows nothing of this code.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import os
import socket
import struct
from collections.abc import Sequence

NLMSG_ERROR = 2
RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_NEWLINKPROP = 108

F_REQUEST = 0x1
F_ACK = 0x4
F_EXCL = 0x200
F_CREATE = 0x400

IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_NET_NS_FD = 28
IFLA_PROP_LIST = 52
IFLA_ALT_IFNAME = 53
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
VETH_INFO_PEER = 1
NESTED = 0x8000

IFA_ADDRESS = 1
IFA_LOCAL = 2

IFF_UP = 0x1
BATCH = 32
"""Messages a sendmsg: 300 acknowledgements at once would overrun the default receive buffer."""

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + bytes(-size % 4)


def _name(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _mac(text: str) -> bytes:
    return _attribute(IFLA_ADDRESS, bytes.fromhex(text.replace(":", "")))


_indexes = itertools.count(100_000)
"""Indexes for links whose index must be known beforehand, out of the way of those that the kernel chooses."""


class Rtnl:
    """A socket to the kernel's RTNL in the namespace the calling thread is in when it is made.

    Every method returns once the kernel has done it; OSError with the kernel's errno otherwise.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def index(self, name: str) -> int:
        """The link's ifindex; OSError ENODEV where there is none."""
        (answer,) = self._do([(RTM_GETLINK, 0, _LINK.pack(0, 0, 0, 0, 0) + _name(IFLA_IFNAME, name))])
        return int(_LINK.unpack_from(answer)[2])

    def exists(self, name: str) -> bool:
        try:
            self.index(name)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return True

    def add_bridge(self, name: str) -> None:
        """A bridge, still down."""
        info = _attribute(IFLA_LINKINFO | NESTED, _name(IFLA_INFO_KIND, "bridge"))
        self._do([(RTM_NEWLINK, F_CREATE | F_EXCL, _LINK.pack(0, 0, 0, 0, 0) + _name(IFLA_IFNAME, name) + info)])

    def add_veth(
        self, name: str, peer: str, namespace: int, *, address: str | None = None, altname: str | None = None
    ) -> None:
        """A veth pair, both ends down: `name` here, `peer` in the namespace that the file descriptor is open on."""
        self.add_veths([(name, peer, address, altname)], namespace)

    def add_veths(self, pairs: Sequence[tuple[str, str, str | None, str | None]], namespace: int) -> None:
        """Several veth pairs: (name, peer, MAC address, alternative name) each.

        With an alternative name, a link gets its name last: that makes the event that tells of both, as the kernel
        sends none for an alternative name on a link that is down.
        """
        requests = []
        for name, peer, address, altname in pairs:
            index = next(_indexes)
            far = _LINK.pack(0, 0, 0, 0, 0) + _name(IFLA_IFNAME, peer)
            far += _attribute(IFLA_NET_NS_FD, struct.pack("=I", namespace))
            data = _attribute(IFLA_INFO_DATA | NESTED, _attribute(VETH_INFO_PEER | NESTED, far))
            first = f"new{index}" if altname else name
            near = _LINK.pack(0, 0, index, 0, 0) + _name(IFLA_IFNAME, first) + (_mac(address) if address else b"")
            near += _attribute(IFLA_LINKINFO | NESTED, _name(IFLA_INFO_KIND, "veth") + data)
            requests.append((RTM_NEWLINK, F_CREATE | F_EXCL, near))
            if altname:
                requests.append(_alternative(index, altname))
                requests.append((RTM_NEWLINK, 0, _LINK.pack(0, 0, index, 0, 0) + _name(IFLA_IFNAME, name)))
        self._do(requests)

    def delete(self, name: str) -> None:
        """Delete a link by its name or an alternative one."""
        self._do([(RTM_DELLINK, 0, _LINK.pack(0, 0, self.index(name), 0, 0))])

    def set(
        self,
        name: str,
        *,
        up: bool | None = None,
        master: str | None = None,
        mtu: int | None = None,
        address: str | None = None,
    ) -> None:
        """Change what is given of the link; `master=""` takes it out of its bridge."""
        flags = 0 if up is None else IFF_UP
        body = _LINK.pack(0, 0, 0, IFF_UP if up else 0, flags) + _name(IFLA_IFNAME, name)
        if master is not None:
            body += _attribute(IFLA_MASTER, struct.pack("=I", self.index(master) if master else 0))
        if mtu is not None:
            body += _attribute(IFLA_MTU, struct.pack("=I", mtu))
        if address is not None:
            body += _mac(address)
        self._do([(RTM_NEWLINK, 0, body)])

    def rename(self, name: str, to: str) -> None:
        """Rename a link. Before Linux 6.2 it must be down: OSError EBUSY."""
        self._do([(RTM_NEWLINK, 0, _LINK.pack(0, 0, self.index(name), 0, 0) + _name(IFLA_IFNAME, to))])

    def add_address(self, name: str, address: str) -> None:
        """Add an address with its prefix length, such as `10.0.0.1/24` or `fd00::1/64`."""
        interface = ipaddress.ip_interface(address)
        family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
        packed = interface.ip.packed
        body = _ADDRESS.pack(family, interface.network.prefixlen, 0, 0, self.index(name))
        body += _attribute(IFA_LOCAL, packed) + _attribute(IFA_ADDRESS, packed)
        self._do([(RTM_NEWADDR, F_CREATE | F_EXCL, body)])

    def _do(self, requests: list[tuple[int, int, bytes]]) -> list[bytes]:
        """Send requests and return what came back with them; the first error is raised once all are answered."""
        answers: list[bytes] = []
        failure = 0
        for start in range(0, len(requests), BATCH):
            part = requests[start : start + BATCH]
            message = b""
            for kind, flags, body in part:
                self._sequence += 1
                message += _HEADER.pack(_HEADER.size + len(body), kind, F_REQUEST | F_ACK | flags, self._sequence, 0)
                message += body
            self._socket.send(message)
            acknowledged = 0
            while acknowledged < len(part):
                data = self._socket.recv(65536)
                while data:
                    length, kind, _, _, _ = _HEADER.unpack_from(data)
                    body = data[_HEADER.size : length]
                    if kind == NLMSG_ERROR:
                        acknowledged += 1
                        failure = failure or -struct.unpack_from("=i", body)[0]
                    else:
                        answers.append(body)
                    data = data[(length + 3) & ~3 :]
        if failure:
            raise OSError(failure, os.strerror(failure))
        return answers


def _alternative(index: int, altname: str) -> tuple[int, int, bytes]:
    names = _attribute(IFLA_PROP_LIST | NESTED, _name(IFLA_ALT_IFNAME, altname))
    # NLM_F_APPEND, 0x800: the kernel wants it beside CREATE and EXCL, as `ip link property add` sends it.
    return RTM_NEWLINKPROP, F_CREATE | F_EXCL | 0x800, _LINK.pack(0, 0, index, 0, 0) + names

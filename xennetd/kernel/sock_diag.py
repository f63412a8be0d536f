"""The TCP and UDP sockets of this network namespace, as the kernel tells them by sock_diag(7).

Constants and structures are those of linux/inet_diag.h, linux/sock_diag.h and net/tcp_states.h. The kernel answers from
the modules inet_diag, tcp_diag and udp_diag, which it loads when they are asked for the first time.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterable
from ipaddress import IPv6Address, ip_address
from typing import Literal

from msgspec import Struct

from xennetd.kernel import netlink
from xennetd.kernel.netlink import NLM_F_DUMP, NetlinkFormatError, attribute, request
from xennetd.kernel.sockets import DUMPS, dump_once
from xennetd.model.ip import IPAddress

Transport = Literal["tcp", "udp"]

TCP_ESTABLISHED = 1
TCP_CLOSE = 7
"""The state of a UDP socket without a peer; one with a peer is in TCP_ESTABLISHED."""
TCP_LISTEN = 10

FAMILIES = (socket.AF_INET, socket.AF_INET6)

SOCK_DIAG_BY_FAMILY = 20
_NETLINK_SOCK_DIAG = 4
_INET_DIAG_REQ_BYTECODE = 1
_INET_DIAG_BC_S_COND = 7
_NUMBERS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}

# struct inet_diag_req_v2: family, protocol, extensions, mask of states, and a struct inet_diag_sockid, which is empty
# in the request for a dump.
_REQUEST = struct.Struct("=BBBxI48x")
# struct inet_diag_msg: family, state, timer, retransmissions; the sockid: ports and addresses in network byte order,
# link and cookie; expiry, queues, user, inode.
_MESSAGE = struct.Struct(">BBxxHH16s16s12x16x4s")
_INODE = struct.Struct("=I")
# struct inet_diag_bc_op: code, and the offsets to go on at if the condition holds, and if not. After it struct
# inet_diag_hostcond: family, length of the prefix in bits, port or -1.
_CONDITION = struct.Struct("=BBHBBxxi")
_OPERATION_SIZE = 4


class InetSocket(Struct, frozen=True):
    """A socket of TCP or UDP. `state` is one of TCP_ESTABLISHED, TCP_CLOSE, TCP_LISTEN and the others of TCP.

    `raw_local` and `raw_remote` are the addresses, 4 or 16 bytes. `port` and `remote_port` are from 0 to 65535; a
    socket without a peer has the `remote_port` 0. `inode` identifies a socket among the open files of processes
    (`socket:[INODE]`, proc(5)); it is 0 for a socket that no file refers to.
    """

    state: int
    raw_local: bytes
    port: int
    raw_remote: bytes
    remote_port: int
    inode: int

    @property
    def local(self) -> IPAddress:
        """The socket's own address; an IPv4-mapped address as the IPv4 address."""
        return unmapped(self.raw_local)

    @property
    def remote(self) -> IPAddress:
        """The peer's address; an IPv4-mapped address as the IPv4 address."""
        return unmapped(self.raw_remote)


def unmapped(raw: bytes) -> IPAddress:
    """Return the address in 4 or 16 bytes, an IPv4-mapped IPv6 address as the IPv4 address."""
    address = ip_address(raw)
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def dump_sockets(
    seq: int, family: int, protocol: int, states: Collection[int], local: IPAddress | None = None
) -> bytes:
    """Return the request for the sockets of an address family and an IP protocol that are in one of the states.

    With `local`, only sockets with this address of their own are asked for. An IPv4 address fits IPv4-mapped addresses
    of AF_INET6 too.
    """
    body = _REQUEST.pack(family, protocol, 0, sum(1 << state for state in states))
    if local is not None:
        of = socket.AF_INET if local.version == 4 else socket.AF_INET6
        size = _CONDITION.size + len(local.packed)
        # An offset beyond the program's end rejects the socket, its very end accepts it.
        program = _CONDITION.pack(_INET_DIAG_BC_S_COND, size, size + _OPERATION_SIZE, of, local.max_prefixlen, -1)
        body += attribute(_INET_DIAG_REQ_BYTECODE, program + local.packed)
    return request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, seq, body)


def parse_sockets(datagrams: Iterable[bytes]) -> list[InetSocket]:
    """Return the sockets that a dump names. Raises NetlinkFormatError for bytes that are no such dump."""
    found = []
    unpack, inode_of, four = _MESSAGE.unpack_from, _INODE.unpack, socket.AF_INET
    try:
        for data in datagrams:
            for message in netlink.headers(data):
                if message.type != SOCK_DIAG_BY_FAMILY:
                    continue
                if message.end - message.start < _MESSAGE.size:
                    raise NetlinkFormatError("socket message without inet_diag_msg")
                family, state, port, remote_port, local, remote, inode = unpack(data, message.start)
                if family == four:
                    local, remote = local[:4], remote[:4]
                found.append(InetSocket(state, local, port, remote, remote_port, inode_of(inode)[0]))
    except struct.error as error:
        raise NetlinkFormatError(str(error)) from None
    return found


class DiagSocket:
    """Asks for sockets. It blocks: 20,000 sockets take the kernel and the parser a tenth of a second."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        self._seq = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def sockets(
        self, transport: Transport, states: Collection[int], local: IPAddress | None = None
    ) -> list[InetSocket]:
        """Return the sockets of both IP versions in one of these states; with `local`, those with this own address.

        Raises OSError if the kernel refuses: ENOENT if it has no module for it.
        """
        found = []
        for family in FAMILIES:
            if local is not None and local.version == 6 and family == socket.AF_INET:
                continue
            found += self._dump(family, transport, states, local)
        return found

    def _dump(
        self, family: int, transport: Transport, states: Collection[int], local: IPAddress | None
    ) -> list[InetSocket]:
        """Return a dump. Where changes interrupt every attempt, the last one is the best that there is."""
        datagrams: list[bytes] = []
        for _ in range(DUMPS):
            self._seq += 1
            asked = dump_sockets(self._seq, family, _NUMBERS[transport], states, local)
            datagrams, interrupted = dump_once(self._socket, asked, self._seq)
            if not interrupted:
                break
        return parse_sockets(datagrams)

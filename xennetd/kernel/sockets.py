"""The two rtnetlink sockets: one for events, one for requests.

A socket that is subscribed to events carries no requests, because acknowledgements and events would mix (netlink(7)).
The kernel sends an event for every MAC that a bridge learns and for every route of a routing daemon, by the thousand. A
socket filter drops the events that xennetd does not need, so that they neither wake the daemon nor fill the buffer.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Callable, Sequence

from xennetd.kernel import netlink, rtnl, rtnl_ip
from xennetd.kernel.link_names import index_by
from xennetd.kernel.netlink import Ack
from xennetd.model.marks import ROUTE_PROTOCOL

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_EVENT_BUFFER = 16 << 20
_DATAGRAM = 1 << 16
_BATCH = 64
"""Requests in one send(2). Their acknowledgements must fit into the receive buffer."""

DUMPS = 8
"""How often a dump is tried while changes interrupt it. A dump of a thousand links takes some 10 ms."""

_GROUPS = (
    rtnl.RTMGRP_LINK
    | rtnl_ip.RTMGRP_NEIGH
    | rtnl_ip.RTMGRP_IPV4_IFADDR
    | rtnl_ip.RTMGRP_IPV4_ROUTE
    | rtnl_ip.RTMGRP_IPV6_IFADDR
    | rtnl_ip.RTMGRP_IPV6_ROUTE
    | rtnl_ip.RTMGRP_IPV4_NETCONF
    | rtnl_ip.RTMGRP_IPV6_NETCONF
)

# Classic BPF (Documentation/networking/filter.rst) over an event: nlmsghdr (type at byte 4), then ndmsg (family at 16)
# or rtmsg (destination's prefix length at 17, table at 20, protocol at 21). An instruction is (code, jump if true, jump
# if false, operand); a jump is the number of instructions to skip. Dropped are routes outside the main table, routes
# that are neither ours nor default routes, and the forwarding entries of bridges.
_LOAD_HALF, _LOAD_BYTE, _IF_EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06
_FILTER = (
    (_LOAD_HALF, 0, 0, 4),
    (_IF_EQUAL, 3, 0, socket.htons(rtnl_ip.RTM_NEWROUTE)),
    (_IF_EQUAL, 2, 0, socket.htons(rtnl_ip.RTM_DELROUTE)),
    (_IF_EQUAL, 7, 0, socket.htons(rtnl_ip.RTM_NEWNEIGH)),
    (_IF_EQUAL, 6, 8, socket.htons(rtnl_ip.RTM_DELNEIGH)),
    (_LOAD_BYTE, 0, 0, 20),
    (_IF_EQUAL, 0, 7, rtnl_ip.RT_TABLE_MAIN),
    (_LOAD_BYTE, 0, 0, 21),
    (_IF_EQUAL, 4, 0, ROUTE_PROTOCOL),
    (_LOAD_BYTE, 0, 0, 17),
    (_IF_EQUAL, 2, 3, 0),
    (_LOAD_BYTE, 0, 0, 16),
    (_IF_EQUAL, 1, 0, socket.AF_BRIDGE),
    (_RETURN, 0, 0, 0xFFFFFFFF),
    (_RETURN, 0, 0, 0),
)


def dump_once(requests: socket.socket, request: bytes, seq: int) -> tuple[list[bytes], bool]:
    """Send a dump's request with this sequence number on a blocking netlink socket, and receive the answer.

    Returns the datagrams, and whether changes interrupted the dump (NLM_F_DUMP_INTR). Raises OSError if the kernel
    refuses the dump, NetlinkFormatError for bytes that are no netlink messages.
    """
    requests.send(request)
    datagrams: list[bytes] = []
    interrupted = False
    while True:
        data = requests.recv(_DATAGRAM)
        datagrams.append(data)
        for message in netlink.headers(data):
            if message.seq != seq:
                continue
            interrupted |= bool(message.flags & netlink.NLM_F_DUMP_INTR)
            if message.type in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
                ack = netlink.parse_ack(data, message)
                if ack.errno:
                    raise OSError(ack.errno, ack.text or "dump refused")
                return datagrams, interrupted


class Overrun(Exception):
    """The kernel had more events than the buffer holds (ENOBUFS). Unknown events are lost: everything must be read."""


class EventSocket:
    """Receives the events of this network namespace's links, sysctls, addresses, routes and neighbours.

    The socket is non-blocking. It can be used further after an overrun. `buffer` is the receive buffer in bytes.
    """

    def __init__(self, buffer: int = _EVENT_BUFFER) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
        program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _FILTER)
        place = ctypes.create_string_buffer(program, len(program))
        fprog = struct.pack("@HP", len(_FILTER), ctypes.addressof(place))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        """Return the descriptor, for the event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def drain(self) -> list[bytes]:
        """Return all waiting datagrams, none if there are none. Raises Overrun if some were lost."""
        datagrams: list[bytes] = []
        try:
            while True:
                datagrams.append(self._socket.recv(_DATAGRAM))
        except BlockingIOError:
            return datagrams
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise Overrun from None
            raise

    def discard(self) -> None:
        """Drop all waiting datagrams. After an overrun they are incomplete, and a dump replaces them."""
        while True:
            try:
                self.drain()
            except Overrun:
                continue
            return


class RequestSocket:
    """Sends requests and waits for the answers. The socket blocks: other programs may hold RTNL for 100 ms and more.

    `protocol` is a number of netlink(7), that of rtnetlink unless it is given. `unsettled` says that a dump was not
    consistent. The reader clears it, and has to read again later.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self.unsettled = False
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        self._socket.bind((0, 0))
        self._seq = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def next_seq(self) -> int:
        """Return a sequence number for the next request, from 1 to 2**32 - 1."""
        self._seq = self._seq % 0xFFFFFFFF + 1
        return self._seq

    def index_of(self, name: str) -> int | None:
        """Return the index of the link with this name now, None if there is none. Raises OSError."""
        return index_by(self._socket, name)

    def dump(self) -> list[bytes]:
        """Return all links and their addresses, routes and neighbours, as datagrams."""
        links = self.dump_of(rtnl.dump_links) + self.dump_of(rtnl_ip.dump_addresses)
        return links + self.dump_routes() + self.dump_of(rtnl_ip.dump_neighbours)

    def dump_routes(self) -> list[bytes]:
        """Return the main table's routes, as datagrams."""
        return [data for version in (4, 6) for data in self.dump_of(rtnl_ip.dump_routes, version)]

    def dump_of(self, request: Callable[..., bytes], *args: int) -> list[bytes]:
        """Return a dump, as datagrams. A dump that changes interrupted (NLM_F_DUMP_INTR) is made again.

        An interrupted dump may lack things that were there all the time. Where changes interrupt all attempts, return
        those together, the last one at the end, and set `unsettled`. Then things that are gone may be among them, and
        their events follow.

        `request` builds the request from a sequence number and `args`. The dump of a missing table or link is empty.
        Raises OSError if the kernel refuses the dump.
        """
        attempts: list[bytes] = []
        for _ in range(DUMPS):
            seq = self.next_seq()
            try:
                datagrams, interrupted = dump_once(self._socket, request(seq, *args), seq)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENODEV):
                    return []
                raise
            if not interrupted:
                return datagrams
            attempts += datagrams
        self.unsettled = True
        return attempts

    def ask(self, requests: Sequence[bytes]) -> tuple[list[Ack], list[bytes]]:
        """Send requests, and return their acknowledgements in order and all received datagrams.

        Every request must ask for an acknowledgement. The kernel carries out all requests, even after a failed one.
        """
        acks: dict[int, Ack] = {}
        datagrams: list[bytes] = []
        order: list[int] = []
        for first in range(0, len(requests), _BATCH):
            batch = requests[first : first + _BATCH]
            seqs = [netlink.seq_of(request) for request in batch]
            order += seqs
            waiting = set(seqs)
            self._socket.send(b"".join(batch))
            while waiting:
                data = self._socket.recv(_DATAGRAM)
                datagrams.append(data)
                for message in netlink.headers(data):
                    if message.type == netlink.NLMSG_ERROR and message.seq in waiting:
                        acks[message.seq] = netlink.parse_ack(data, message)
                        waiting.discard(message.seq)
        return [acks[seq] for seq in order], datagrams

    def ask_one(self, request: Callable[[int, int], bytes], index: int) -> list[bytes]:
        """Send one request about the link with this index, and return the datagrams of the answer."""
        return self.ask([request(self.next_seq(), index)])[1]

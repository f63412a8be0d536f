"""The two rtnetlink sockets: one that only listens, one that only asks.

A socket that is subscribed to events never carries requests, or acknowledgements and events would mix (netlink(7)).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence

from xennetd.kernel import rtnl
from xennetd.kernel.rtnl import Ack

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_RCVBUFFORCE = 33
_EVENT_BUFFER = 16 << 20
_DATAGRAM = 1 << 16
_BATCH = 64
"""Requests in one send: their acknowledgements must fit into the receive buffer."""

_Dump = Callable[[int], bytes]
_GROUPS = rtnl.RTMGRP_LINK | rtnl.RTMGRP_IPV4_IFADDR | rtnl.RTMGRP_IPV6_IFADDR


class Overrun(Exception):
    """The kernel had more events than the buffer holds (ENOBUFS): what was missed is unknown, so read everything."""


class EventSocket:
    """Link and address events of this network namespace. Non-blocking; survives overruns."""

    def __init__(self, buffer: int = _EVENT_BUFFER) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drain(self) -> list[bytes]:
        """Return all datagrams that are waiting. Raises Overrun when some were lost."""
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
        """Throw away all that is waiting: after an overrun it is only part of the story."""
        while True:
            try:
                self.drain()
            except Overrun:
                continue
            return


class RequestSocket:
    """Asks the kernel and waits for its answers. Blocking: RTNL may be held by others for 100 ms and more."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._socket.bind((0, 0))
        self._seq = 0

    def close(self) -> None:
        self._socket.close()

    def next_seq(self) -> int:
        """Return a sequence number for the next request."""
        self._seq = self._seq % 0xFFFFFFFF + 1
        return self._seq

    def dump(self) -> list[bytes]:
        """Return a consistent dump of all links and addresses, as datagrams."""
        return self._dump(rtnl.dump_links) + self._dump(rtnl.dump_addresses)

    def _dump(self, request: _Dump) -> list[bytes]:
        while True:
            seq = self.next_seq()
            self._socket.send(request(seq))
            datagrams: list[bytes] = []
            interrupted = False
            done = False
            while not done:
                data = self._socket.recv(_DATAGRAM)
                datagrams.append(data)
                for message in rtnl.headers(data):
                    if message.seq != seq:
                        continue
                    interrupted |= bool(message.flags & rtnl.NLM_F_DUMP_INTR)
                    if message.type == rtnl.NLMSG_ERROR:
                        ack = rtnl.parse_ack(data, message)
                        raise OSError(ack.errno, ack.text or "dump refused")
                    done |= message.type == rtnl.NLMSG_DONE
            if not interrupted:
                return datagrams

    def ask(self, requests: Sequence[bytes]) -> tuple[list[Ack], list[bytes]]:
        """Send requests that each want an acknowledgement, and return these in order, and all datagrams beside them.

        A failed request does not stop the ones after it: the kernel works through all of them.
        """
        acks: dict[int, Ack] = {}
        datagrams: list[bytes] = []
        order: list[int] = []
        for first in range(0, len(requests), _BATCH):
            batch = requests[first : first + _BATCH]
            seqs = [rtnl.seq_of(request) for request in batch]
            order += seqs
            waiting = set(seqs)
            self._socket.send(b"".join(batch))
            while waiting:
                data = self._socket.recv(_DATAGRAM)
                datagrams.append(data)
                for message in rtnl.headers(data):
                    if message.type == rtnl.NLMSG_ERROR and message.seq in waiting:
                        acks[message.seq] = rtnl.parse_ack(data, message)
                        waiting.discard(message.seq)
        return [acks[seq] for seq in order], datagrams

    def ask_one(self, request: Callable[[int, int], bytes], index: int) -> list[bytes]:
        """Send one request about the link with this index, and return the answer's datagrams."""
        return self.ask([request(self.next_seq(), index)])[1]

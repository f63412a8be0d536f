"""`TableEvents`: counts the nftables transactions about our table. They are the hint to list the table again."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

import structlog

from xennetd.kernel import netlink
from xennetd.nft.netfilter import NEWGEN, OUR_NAME, listen

_log = structlog.get_logger()

_DATAGRAM = 1 << 16

NO_NFTABLES = frozenset({errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL})
"""What nfnetlink answers in a kernel without nf_tables, which has no tables either."""


class TableEvents:
    """The events about our table. `waiting` is called when events wait to be counted.

    `deaf` says why there is no event socket. It is empty if there is one, or if the kernel has no nftables.
    """

    def __init__(self, waiting: Callable[[], None]) -> None:
        self.deaf = ""
        self._waiting = waiting
        self._socket: socket.socket | None = None
        self._touches = False
        """Whether the transaction whose end is still to come is about our table."""

    @property
    def is_open(self) -> bool:
        """Whether there is an event socket."""
        return self._socket is not None

    def open(self) -> bool:
        """Open the event socket. Returns False if that can't be done now."""
        try:
            self._socket = listen()
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._waiting)
        except OSError as error:
            self.close()
            deaf = "" if error.errno in NO_NFTABLES else os.strerror(error.errno or errno.EIO)
            if deaf and not self.deaf:
                _log.error("the events of nftables can't be received", why=deaf)
            self.deaf = deaf
            return False
        self.deaf = ""
        self._touches = False
        return True

    def close(self) -> None:
        """Close the event socket, if there is one."""
        events, self._socket = self._socket, None
        if events is not None:
            asyncio.get_running_loop().remove_reader(events.fileno())
            events.close()

    def transactions(self) -> int:
        """Return the number of transactions about our table in the waiting events, xennetd's own included.

        Lost and unreadable events may be any number. They count as two, so that one of them is another program's.
        """
        count = 0
        while self._socket is not None:
            try:
                data = self._socket.recv(_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:
                count += 2
                if error.errno != errno.ENOBUFS:
                    self.deaf = os.strerror(error.errno or errno.EIO)
                    self.close()
                continue
            try:
                for message in netlink.headers(data):
                    if message.type == NEWGEN:
                        count += self._touches
                        self._touches = False
                    elif not self._touches:
                        self._touches = OUR_NAME in data[message.start : message.end]
            except netlink.NetlinkFormatError:
                count += 2
        return count

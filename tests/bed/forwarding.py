"""`ForwardingNews`: what the kernel tells of IPv4 forwarding, link by link: for what must not be for a moment."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

from tests.bed.netns import NetNs

_RTMGRP_IPV4_NETCONF = 1 << 23  # RTNLGRP_IPV4_NETCONF, 24
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HHi")
_FAMILY = 4
_IFINDEX, _FORWARDING = 1, 2  # NETCONFA_ of linux/netconf.h


class ForwardingNews:
    """Hears of every change in `namespace` from here on, until closed."""

    def __init__(self, namespace: NetNs) -> None:
        with namespace:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            self._socket.bind((0, _RTMGRP_IPV4_NETCONF))
        self._socket.setblocking(False)

    def __enter__(self) -> ForwardingNews:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def of(self, index: int) -> list[int]:
        """The values that `forwarding` of the link with this index has been given since the last call."""
        found: list[int] = []
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return found
            while data:
                length, *_ = _HEADER.unpack_from(data)
                attributes = data[_HEADER.size + _FAMILY : length]
                values = {kind: value for _, kind, value in _ATTRIBUTE.iter_unpack(attributes)}
                if values[_IFINDEX] == index and _FORWARDING in values:
                    found.append(values[_FORWARDING])
                data = data[(length + 3) & ~3 :]

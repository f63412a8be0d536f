"""`LinkNews`: what the kernel tells of a namespace's links, in order: for what must (not) have happened in between."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.bed.netns import NetNs
from tests.bed.rtnl import IFF_UP, IFLA_ADDRESS, IFLA_IFNAME, IFLA_MASTER, IFLA_MTU, RTM_DELLINK

_RTMGRP_LINK = 1
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_IFLA_EVENT = 44
_IFLA_EVENT_FEATURES = 2


@dataclass(frozen=True, slots=True)
class Seen:
    """A link as one message has it; `gone` is its end, `features` says that the message is about its features."""

    name: str
    index: int
    up: bool
    master: int
    mtu: int
    address: str
    gone: bool = False
    features: bool = False


class LinkNews:
    """Hears of every change in `namespace` from here on, until closed."""

    def __init__(self, namespace: NetNs) -> None:
        with namespace:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            self._socket.bind((0, _RTMGRP_LINK))
        self._socket.setblocking(False)

    def __enter__(self) -> LinkNews:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def of(self, name: str) -> list[Seen]:
        """Every message since the last call that is about the link that `name` was the name of at that time."""
        return [seen for seen in self.drain() if seen.name == name]

    def drain(self) -> list[Seen]:
        """Every message since the last call."""
        found: list[Seen] = []
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return found
            found += _parse(data)

    def until(self, wanted: Callable[[Seen], bool], timeout: float = 10.0) -> list[Seen]:
        """Wait for a message that is `wanted`; returns all up to the batch that it came in, TimeoutError if none is."""
        deadline = time.monotonic() + timeout
        found: list[Seen] = []
        while not any(map(wanted, found)):
            if not select.select([self._socket], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError(f"no such change of a link in {timeout} s; the last were {found[-5:]}")
            found += self.drain()
        return found


def _parse(data: bytes) -> list[Seen]:
    found = []
    while data:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        family, _, index, flags, _ = _LINK.unpack_from(data, _HEADER.size)
        attributes: dict[int, bytes] = {}
        rest = data[_HEADER.size + _LINK.size : length]
        while rest:
            size, attribute = _ATTRIBUTE.unpack_from(rest)
            attributes[attribute] = rest[4:size]
            rest = rest[(size + 3) & ~3 :]
        # AF_BRIDGE messages speak of the port only.
        if family == 0:
            name = attributes[IFLA_IFNAME].rstrip(b"\0").decode()
            address = attributes.get(IFLA_ADDRESS, b"").hex(":")
            master, mtu = (int.from_bytes(attributes.get(key, b""), "little") for key in (IFLA_MASTER, IFLA_MTU))
            features = int.from_bytes(attributes.get(_IFLA_EVENT, b""), "little") == _IFLA_EVENT_FEATURES
            found.append(Seen(name, index, bool(flags & IFF_UP), master, mtu, address, kind == RTM_DELLINK, features))
        data = data[(length + 3) & ~3 :]
    return found

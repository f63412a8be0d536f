"""`Echoes`: ICMP echo requests from many namespaces at once, and which of them were not answered.

The program ping does not count a request that the kernel refuses to send (ENOBUFS), as it does where a link has no
carrier. Here it counts as lost.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping

from tests.bed.netns import NetNs

INTERVAL = 0.04
"""Seconds between two requests of one sender."""

PATIENCE = 1.0
"""Seconds after which an answer does not come any more."""

_HEADER = struct.Struct("!BBHHH")
_REQUEST, _REPLY = 8, 0


class Echoes:
    """Sends requests for each name in `ways`, a namespace and an IPv4 address, while the block runs."""

    def __init__(self, ways: Mapping[str, tuple[NetNs, str]]) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._addresses = {name: address for name, (_, address) in ways.items()}
        self._waiting: dict[str, dict[int, float]] = defaultdict(dict)
        self._selector = selectors.DefaultSelector()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        for name, (namespace, _) in ways.items():
            with namespace:
                made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            made.setblocking(False)
            self._sockets[name] = made
            self._selector.register(made, selectors.EVENT_READ, name)
        self._answered: set[str] = set()

    def __enter__(self) -> Echoes:
        self._thread.start()
        deadline = time.monotonic() + 5.0
        while self._answered != self._sockets.keys():
            if time.monotonic() > deadline:
                self.__exit__()
                raise TimeoutError(f"no answer at all: {sorted(self._sockets.keys() - self._answered)}")
            time.sleep(0.01)
        for waiting in self._waiting.values():
            waiting.clear()  # A neighbour had to be found first.
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()
        for made in self._sockets.values():
            made.close()
        self._selector.close()

    def lost(self) -> dict[str, int]:
        """Stop sending, and return how many requests were not answered, by name; only names that lost any."""
        self._end.set()
        self._thread.join()
        self._receive(PATIENCE)
        return {name: len(waiting) for name, waiting in self._waiting.items() if waiting}

    def _run(self) -> None:
        for number in _numbers():
            if self._end.is_set():
                return
            for name in self._sockets:
                self._send(name, number)
            self._receive(INTERVAL, until_all=False)

    def _send(self, name: str, number: int) -> None:
        self._waiting[name][number] = time.monotonic()
        with contextlib.suppress(OSError):  # It stays among those that wait.
            self._sockets[name].sendto(_request(number), (self._addresses[name], 0))

    def _receive(self, seconds: float, *, until_all: bool = True) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if until_all and not any(self._waiting.values()):
                return
            for key, _ in self._selector.select(left):
                with contextlib.suppress(OSError):
                    packet = key.fileobj.recv(2000)  # type: ignore[union-attr] # they are sockets
                    kind, _, _, identifier, number = _HEADER.unpack_from(packet, (packet[0] & 15) * 4)
                    if kind == _REPLY and identifier == _identifier():
                        self._waiting[key.data].pop(number, None)
                        self._answered.add(key.data)


def _numbers() -> Iterator[int]:
    yield from range(1, 0x10000)


def _identifier() -> int:
    return os.getpid() & 0xFFFF


def _request(number: int) -> bytes:
    data = b"xennetd!"
    words = struct.unpack("!8H", _HEADER.pack(_REQUEST, 0, 0, _identifier(), number) + data)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return _HEADER.pack(_REQUEST, 0, ~total & 0xFFFF, _identifier(), number) + data

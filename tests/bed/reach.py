"""Who reaches whom: services that say who they are, and whose request they have seen; and tables of the outcome."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bed.netns import NetNs

WHO = 7
"""The port on which every `Place` answers, by UDP and by TCP, unless another is given."""

WINDOW = 0.7
"""Seconds in which an answer counts; who is reached answers in two milliseconds, neighbour discovery included."""

PATIENCE = 2.0
"""The same for one who is asked alone, most often by TCP, which tries again after a second."""


@dataclass(frozen=True, slots=True)
class Place:
    """Somebody who is to be reached, by these addresses. Empty: it has none of that IP version."""

    name: str
    namespace: NetNs
    ipv4: str = ""
    ipv6: str = ""

    def address(self, version: int) -> str:
        return self.ipv4 if version == 4 else self.ipv6


@dataclass(frozen=True, slots=True)
class Answer:
    """Who has answered, and the address that the request came from as the one who was asked saw it."""

    name: str
    source: str


class Services:
    """Sockets in any namespaces, answered by one thread until `close`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._end, far = socket.socketpair()
        self._selector.register(far, selectors.EVENT_READ)
        self._far = far
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._end.close()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def offer(self, place: Place, port: int = WHO) -> None:
        """Have a place say who it is on all its addresses."""
        for address in filter(None, (place.ipv4, place.ipv6)):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                with place.namespace:
                    service = socket.socket(family, kind)
                service.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
                service.bind((address, port))
                if kind is socket.SOCK_STREAM:
                    service.listen()
                service.setblocking(False)
                self._selector.register(service, selectors.EVENT_READ, place.name)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                service = key.fileobj
                assert isinstance(service, socket.socket)
                if service is self._far:
                    return
                with contextlib.suppress(OSError):
                    _answer(service, key.data)


def _answer(service: socket.socket, name: str) -> None:
    if service.type == socket.SOCK_STREAM:
        connection, (source, *_) = service.accept()
        with connection:
            connection.sendall(f"{name} {source}".encode())
    else:
        _, sender = service.recvfrom(100)
        service.sendto(f"{name} {sender[0]}".encode(), sender)


def ask(who: NetNs, address: str, port: int = WHO, *, tcp: bool = True, window: float = PATIENCE) -> Answer | None:
    """Ask from within a namespace; None when there is no answer, or a refusal."""
    with _request(who, address, port, tcp=tcp) as request:
        request.settimeout(window)
        try:
            request.connect((address, port))
            if not tcp:
                request.send(b"who?")
            return Answer(*request.recv(200).decode().split(" "))
        except OSError:
            return None


def _request(who: NetNs, address: str, port: int, *, tcp: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with who:
        return socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)


# Tables


def matrix(places: Sequence[Place], version: int, window: float = WINDOW) -> list[str]:
    """Ask everybody from everywhere at the same time; see `table`. An answer by somebody else shows as its name."""
    names = [place.name for place in places]
    pairs = {(one, other) for one in places for other in places if one != other and other.address(version)}
    answers: dict[tuple[str, str], str] = {}
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for one, other in sorted(pairs, key=lambda pair: (pair[0].name, pair[1].name)):
            request = stack.enter_context(_request(one.namespace, other.address(version), WHO, tcp=False))
            request.setblocking(False)
            with contextlib.suppress(OSError):  # no route: nothing will come
                request.connect((other.address(version), WHO))
                request.send(b"who?")
                selector.register(request, selectors.EVENT_READ, (one.name, other.name))
        end = time.monotonic() + window
        while selector.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                assert isinstance(key.fileobj, socket.socket)
                with contextlib.suppress(OSError):  # refused: unreachable, prohibited
                    name = key.fileobj.recv(200).decode().split(" ")[0]
                    answers[key.data] = "yes" if name == key.data[1] else name
                selector.unregister(key.fileobj)
    rows = [["from\\to", *names]]
    for one in places:
        cells = ["." if one is other else answers.get((one.name, other.name), "no") for other in places]
        rows.append([one.name, *cells])
    return _aligned(rows)


def table(text: str) -> list[str]:
    """A table as `matrix` returns it, line by line: a row for who asks, a column for who is asked."""
    return _aligned([line.split() for line in text.strip().splitlines()])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]))]
    lines = ("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in lines]

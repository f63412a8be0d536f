"""`Xs`: a synchronous xenstore client for tests (docs/misc/xenstore.txt, xen/include/public/io/xs_wire.h).

An error answer becomes the OSError of its errno: FileNotFoundError, PermissionError, FileExistsError and so on.
Text is UTF-8 with `surrogateescape`, so that any bytes can be written and read back.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

HEADER = struct.Struct("=IIII")
PAYLOAD_MAX = 4096
WINDOW = 64
"""Requests sent before their answers are read: few enough that neither side's buffer ever fills."""


class Op(IntEnum):
    """`enum xsd_sockmsg_type`."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22


class Request(NamedTuple):
    """One request, to be sent with others by `Xs.exchange` or `Xs.batch`."""

    op: Op
    payload: bytes

    @classmethod
    def of(cls, op: Op, *parts: str | bytes) -> Request:
        """A request whose payload is these parts, each ended by a NUL."""
        return cls(op, b"".join(_bytes(part) + b"\0" for part in parts))

    @classmethod
    def write(cls, path: str, value: str | bytes) -> Request:
        return cls(Op.WRITE, _bytes(path) + b"\0" + _bytes(value))

    @classmethod
    def mkdir(cls, path: str) -> Request:
        return cls.of(Op.MKDIR, path)

    @classmethod
    def rm(cls, path: str) -> Request:
        return cls.of(Op.RM, path)

    @classmethod
    def set_perms(cls, path: str, *perms: str) -> Request:
        return cls.of(Op.SET_PERMS, path, *perms)


class Node(NamedTuple):
    """One node of a dump."""

    path: str
    value: bytes
    perms: tuple[str, ...]


class Event(NamedTuple):
    """A watch event."""

    path: str
    token: str


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def strings(payload: bytes) -> list[str]:
    """The NUL-separated strings of an answer."""
    return [_text(part) for part in payload.split(b"\0") if part]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


class Xs:
    """One connection to xenstored, or to a domain's socket (`ring.DomainSocket`). Not for use by two threads."""

    def __init__(self, path: str | Path, timeout: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        # Blocking: xenstored's backlog is one connection, and a full one is EAGAIN to a socket with a time-out.
        self._socket.connect(str(path))
        self._socket.settimeout(timeout)
        self._timeout = timeout
        self._buffer = bytearray()
        self._next_id = 0
        self._events: deque[Event] = deque()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Xs:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For select and poll; an event may also be waiting already, see `event(timeout=0)`."""
        return self._socket.fileno()

    # Messages

    def request(self, request: Request, tx: int = 0) -> bytes:
        """Send one request and return its answer's payload."""
        return self.batch([request], tx)[0]

    def batch(self, requests: Iterable[Request], tx: int = 0) -> list[bytes]:
        """Send requests and return their answers; the first error is raised once all are answered."""
        answers = []
        failed: OSError | None = None
        for answer in self.exchange(requests, tx):
            if isinstance(answer, OSError):
                failed = failed or answer
            else:
                answers.append(answer)
        if failed is not None:
            raise failed
        return answers

    def exchange(self, requests: Iterable[Request], tx: int = 0) -> list[bytes | OSError]:
        """Send requests ahead of their answers, which is ten times faster, and return an answer or error for each."""
        waiting: deque[tuple[int, Request]] = deque()
        answers: list[bytes | OSError] = []
        for request in requests:
            self._next_id = (self._next_id + 1) & 0xFFFFFFFF
            self._socket.sendall(HEADER.pack(request.op, self._next_id, tx, len(request.payload)) + request.payload)
            waiting.append((self._next_id, request))
            if len(waiting) >= WINDOW:
                answers.append(self._answer(*waiting.popleft()))
        answers += [self._answer(*sent) for sent in waiting]
        return answers

    def _answer(self, expected: int, request: Request) -> bytes | OSError:
        while True:
            kind, identity, _, payload = self._message(self._timeout)
            if kind == Op.WATCH_EVENT:
                self._events.append(_event(payload))
                continue
            assert identity == expected, f"answer {identity} to request {expected}"
            if kind != Op.ERROR:
                return payload
            name = _text(payload.rstrip(b"\0"))
            return OSError(
                errno.EDQUOT if name == "EQUOTA" else getattr(errno, name),
                f"{name} to {request.op.name} {_text(request.payload[:80])!r}",
            )

    def _message(self, timeout: float) -> tuple[int, int, int, bytes]:
        deadline = time.monotonic() + timeout
        self._fill(HEADER.size, deadline)
        kind, identity, tx, length = HEADER.unpack_from(self._buffer)
        self._fill(HEADER.size + length, deadline)
        payload = bytes(self._buffer[HEADER.size : HEADER.size + length])
        del self._buffer[: HEADER.size + length]
        return kind, identity, tx, payload

    def _fill(self, size: int, deadline: float) -> None:
        while len(self._buffer) < size:
            # A time-out of zero would make the socket non-blocking and raise BlockingIOError instead of TimeoutError.
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-6))
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "xenstored closed the connection")
            self._buffer += data

    # Nodes

    def read_bytes(self, path: str, tx: int = 0) -> bytes:
        return self.request(Request.of(Op.READ, path), tx)

    def read(self, path: str, tx: int = 0) -> str:
        return _text(self.read_bytes(path, tx))

    def get(self, path: str, tx: int = 0) -> str | None:
        """The node's value, None where there is no node."""
        try:
            return self.read(path, tx)
        except FileNotFoundError:
            return None

    def exists(self, path: str, tx: int = 0) -> bool:
        return self.get(path, tx) is not None

    def ls(self, path: str, tx: int = 0) -> list[str]:
        """The names of a node's children, however many there are; none where there is no node."""
        try:
            listing = self.request(Request.of(Op.DIRECTORY, path), tx)
        except FileNotFoundError:
            return []
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            listing = self._ls_parts(path, tx)
        return strings(listing)

    def _ls_parts(self, path: str, tx: int) -> bytes:
        """The whole list in parts; begun again when the generation says that the list has changed meanwhile."""
        listing, generation = b"", b""
        while True:
            part = self.request(Request.of(Op.DIRECTORY_PART, path, str(len(listing))), tx)
            current, _, names = part.partition(b"\0")
            if listing and current != generation:
                listing = b""
                continue
            generation = current
            # The last part ends in an empty name.
            if names.endswith(b"\0\0") or names in (b"", b"\0"):
                return listing + names.rstrip(b"\0")
            listing += names

    def write(self, path: str, value: str | bytes, tx: int = 0) -> None:
        self.request(Request.write(path, value), tx)

    def write_all(self, base: str, nodes: Mapping[str, str | bytes], tx: int = 0) -> None:
        """Write `nodes` below `base`, in their order, without waiting for each answer."""
        self.batch((Request.write(f"{base}/{name}", value) for name, value in nodes.items()), tx)

    def mkdir(self, path: str, tx: int = 0) -> None:
        self.request(Request.mkdir(path), tx)

    def rm(self, path: str, tx: int = 0) -> None:
        """Remove a node and all below it. A missing node is fine; a missing parent is FileNotFoundError."""
        self.request(Request.rm(path), tx)

    def get_perms(self, path: str, tx: int = 0) -> list[str]:
        """Such as `["n0", "r7"]`: owned by dom0, closed to others but for domain 7, which may read."""
        return strings(self.request(Request.of(Op.GET_PERMS, path), tx))

    def set_perms(self, path: str, *perms: str, tx: int = 0) -> None:
        self.request(Request.set_perms(path, *perms), tx)

    def tree(self, path: str) -> dict[str, str]:
        """Every node at and below `path`, parents first: the path relative to it ("" is itself) → the value."""
        return {node.path[len(path) :].lstrip("/"): _text(node.value) for node in self.dump(path)}

    def dump(self, path: str = "/") -> list[Node]:
        """Every node at and below `path` with its permissions, parents first; none where there is no node.

        Not in a transaction: what changes meanwhile is in it or not.
        """
        nodes: list[Node] = []
        level = [path]
        while level:
            values = self.exchange(Request.of(Op.READ, node) for node in level)
            perms = self.exchange(Request.of(Op.GET_PERMS, node) for node in level)
            listings = self.exchange(Request.of(Op.DIRECTORY, node) for node in level)
            below: list[str] = []
            for node, value, perm, listing in zip(level, values, perms, listings, strict=True):
                if isinstance(value, OSError) or isinstance(perm, OSError):
                    continue
                nodes.append(Node(node, value, tuple(strings(perm))))
                names = self.ls(node) if isinstance(listing, OSError) else strings(listing)
                below += [f"{node.rstrip('/')}/{name}" for name in names]
            level = below
        return nodes

    def restore(self, nodes: Iterable[Node]) -> None:
        """Write what `dump` returned."""
        self.batch(
            request
            for node in nodes
            for request in (Request.write(node.path, node.value), Request.set_perms(node.path, *node.perms))
        )

    # Transactions

    def start(self) -> int:
        return int(self.request(Request.of(Op.TRANSACTION_START, "")).rstrip(b"\0"))

    def end(self, tx: int, commit: bool = True) -> None:
        """BlockingIOError (EAGAIN) when something read or written in it has changed meanwhile."""
        self.request(Request.of(Op.TRANSACTION_END, "T" if commit else "F"), tx)

    @contextmanager
    def transaction(self) -> Iterator[int]:
        """One attempt: committed at the end, given up on an exception."""
        tx = self.start()
        try:
            yield tx
        except BaseException:
            self.end(tx, commit=False)
            raise
        self.end(tx)

    def transact(self, change: Callable[[int], T]) -> T:
        """Run `change(tx)` in a transaction, again for as long as EAGAIN says that it must be."""
        while True:
            try:
                with self.transaction() as tx:
                    return change(tx)
            except BlockingIOError:
                continue

    # Watches

    def watch(self, path: str, token: str = "") -> None:
        """The first event comes at once."""
        self.request(Request.of(Op.WATCH, path, token))

    def unwatch(self, path: str, token: str = "") -> None:
        self.request(Request.of(Op.UNWATCH, path, token))

    def event(self, timeout: float = 10.0) -> Event:
        """The next watch event; TimeoutError if none comes within `timeout` seconds."""
        if self._events:
            return self._events.popleft()
        kind, _, _, payload = self._message(timeout)
        assert kind == Op.WATCH_EVENT, f"unasked message of type {kind}"
        return _event(payload)

    def until(self, path: str, wanted: str | Callable[[str | None], bool] | None, timeout: float = 10.0) -> str | None:
        """Wait until the node is `wanted` (a value, None for no node, or a predicate) and return it.

        TimeoutError names the value it had instead.
        """
        deadline = time.monotonic() + timeout
        token = f"until {path}"
        self.watch(path, token)
        try:
            while True:
                value = self.get(path)
                if wanted(value) if callable(wanted) else value == wanted:
                    return value
                self._await(token, deadline, f"{path} is {value!r}, not {wanted!r}, after {timeout} s")
        finally:
            self.unwatch(path, token)
            self._events = deque(event for event in self._events if event.token != token)

    def _await(self, token: str, deadline: float, complaint: str) -> None:
        others: list[Event] = []
        try:
            while True:
                event = self.event(max(deadline - time.monotonic(), 1e-6))
                if event.token == token:
                    return
                others.append(event)
        except TimeoutError:
            raise TimeoutError(complaint) from None
        finally:
            self._events.extendleft(reversed(others))

    # Domains

    def introduce(self, domid: int, page: int = 1, port: int = 1) -> None:
        self.request(Request.of(Op.INTRODUCE, str(domid), str(page), str(port)))

    def release(self, domid: int) -> None:
        self.request(Request.of(Op.RELEASE, str(domid)))

    def is_introduced(self, domid: int) -> bool:
        return self.request(Request.of(Op.IS_DOMAIN_INTRODUCED, str(domid))).startswith(b"T")


def _event(payload: bytes) -> Event:
    path, token = payload.split(b"\0")[:2]
    return Event(_text(path), _text(token))

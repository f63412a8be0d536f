"""xenstore's wire format, without I/O (xen/include/public/io/xs_wire.h, docs/misc/xenstore.txt).

A message is a header of four 32-bit words in the machine's byte order (operation, request id, transaction id, payload
length) and at most 4096 bytes of payload. oxenstored breaks this limit: it sends the names of a directory in one
message, however many there are (send_reply in tools/ocaml/xenstored/connection.ml).
Rule: for any bytes, a parser either succeeds or raises `ProtocolError`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from struct import Struct
from typing import Final, NamedTuple

from pyxs import InvalidPath

from xennetd.model.errors import ToolstackError
from xennetd.model.text import visible

DIRECTORY: Final = 1
READ: Final = 2
WATCH: Final = 4
UNWATCH: Final = 5
TRANSACTION_START: Final = 6
TRANSACTION_END: Final = 7
WRITE: Final = 11
RM: Final = 13
WATCH_EVENT: Final = 15
ERROR: Final = 16
DIRECTORY_PART: Final = 22
"""The operations that xennetd sends or receives, of `enum xsd_sockmsg_type` in xs_wire.h."""

PAYLOAD_MAX: Final = 4096
LISTING_MAX: Final = 1 << 20
"""The longest list of names that is accepted, in bytes, in one message or in parts. All 32,752 domids are 190 KiB."""

ABSOLUTE_PATH_MAX: Final = 3072
RELATIVE_PATH_MAX: Final = 2048
REQUEST_ID_LIMIT: Final = 1 << 32

_HEADER = Struct("=IIII")
_OPERATIONS: Final = frozenset(range(DIRECTORY_PART + 1)) - {20}
"""All of `enum xsd_sockmsg_type`; 20 was XS_RESTRICT, which has been removed."""

_ERRNOS: Final = {name.encode(): number for number, name in errno.errorcode.items()} | {b"EQUOTA": errno.EDQUOT}
"""xenstored sends an error as its name (`xsd_errors` in xs_wire.h), since errno numbers differ between systems.

EQUOTA is oxenstored's name for a quota that is used up; xenstored uses E2BIG for watches and ENOSPC for all others.
"""

_REASONS: Final = {errno.EDQUOT: "this domain's quota is used up (see quota-* in oxenstored.conf)"}
_PATH = re.compile(r"/|/?[A-Za-z0-9_@-]+(?:/[A-Za-z0-9_@-]+)*")


class ProtocolError(ToolstackError):
    """A message breaks xenstore's protocol. After a received one, the connection can't be used any longer."""


class XenstoreError(ToolstackError):
    """xenstored refused a request. `errno` tells refusals apart. `reason` is said instead of the errno's own text."""

    def __init__(self, errno: int, path: str = "", reason: str | None = None) -> None:
        where = f" for {visible(path, 200)}" if path else ""
        super().__init__(f"xenstore refused a request{where}: {reason or _REASONS.get(errno) or os.strerror(errno)}")
        self.errno = errno


class Packet(NamedTuple):
    """One message. A reply has the ids of its request."""

    op: int
    request_id: int
    transaction_id: int
    payload: bytes


class WatchEvent(NamedTuple):
    """A hint that a node at or below `path` may have changed. `path` is relative if the path of the watch was."""

    path: str
    token: str


def encode(op: int, request_id: int, transaction_id: int, payload: bytes) -> bytes:
    """Return the bytes of one message. Raises ProtocolError for a payload that would make xenstored disconnect."""
    if len(payload) > PAYLOAD_MAX:
        raise ProtocolError(f"a xenstore message of {len(payload)} bytes: at most {PAYLOAD_MAX} are allowed")
    return _HEADER.pack(op, request_id, transaction_id, len(payload)) + payload


class Decoder:
    """Turns a stream of bytes, in pieces of any size, into messages. After a ProtocolError it can't be used again.

    It keeps one unfinished message at most: LISTING_MAX bytes and a header.
    """

    __slots__ = ("_tail", "_wanted")

    def __init__(self) -> None:
        self._tail = bytearray()
        self._wanted = 0

    def feed(self, data: bytes) -> list[Packet]:
        """Return the messages that `data` completes."""
        if self._tail:
            self._tail += data
            if len(self._tail) < self._wanted:
                return []
            data = bytes(self._tail)
            self._tail.clear()
        packets: list[Packet] = []
        start, end = 0, len(data)
        while end - start >= _HEADER.size:
            op, request_id, transaction_id, length = _HEADER.unpack_from(data, start)
            if op not in _OPERATIONS or (length > PAYLOAD_MAX and (op != DIRECTORY or length > LISTING_MAX)):
                raise ProtocolError(f"xenstored sent operation {op} with {length} bytes, which is no xenstore message")
            body = start + _HEADER.size
            if body + length > end:
                break
            start = body + length
            packets.append(Packet(op, request_id, transaction_id, data[body:start]))
        if start < end:
            self._tail += data[start:]
            self._wanted = _HEADER.size if end - start < _HEADER.size else _HEADER.size + length
        return packets


def parse_event(payload: bytes) -> WatchEvent:
    """Parse a WATCH_EVENT: a path and a token, both with a terminating NUL."""
    parts = payload.split(b"\0")
    if len(parts) < 3:
        raise ProtocolError(f'xenstored sent a watch event "{visible(payload)}" without path or token')
    return WatchEvent(parts[0].decode("latin-1"), parts[1].decode("latin-1"))


def parse_errno(payload: bytes) -> int:
    """Return the errno that an ERROR's payload names (`ENOENT` and a NUL); EIO for a name unknown on this machine."""
    return _ERRNOS.get(payload.rstrip(b"\0"), errno.EIO)


def parse_names(payload: bytes) -> list[str]:
    """Parse a DIRECTORY's list of children: names with a terminating NUL.

    Neither an empty list nor a list that is cut short may be mistaken for another list: a missing name is a vif that is
    gone. xenstored and oxenstored answer an empty payload for a node without children.
    """
    if payload and not payload.endswith(b"\0"):
        raise ProtocolError(f'xenstored sent a list of names "{visible(payload[-100:])}" that does not end with a NUL')
    return payload.decode("latin-1").split("\0")[:-1]


def parse_directory_part(payload: bytes) -> tuple[bytes, bytes]:
    """Split a DIRECTORY_PART's reply into the directory's generation and this part of the list of children."""
    generation, nul, part = payload.partition(b"\0")
    if not nul or not part:
        raise ProtocolError(f'xenstored sent part of a directory "{visible(payload)}" without a generation or names')
    return generation, part


class DirectoryParts:
    """The names of a node's children, which come in parts. `complete` says whether all are there."""

    __slots__ = ("_generation", "_names", "complete")

    def __init__(self) -> None:
        self.complete = False
        self._names = bytearray()
        self._generation: bytes | None = None

    @property
    def offset(self) -> int:
        """Where the next part begins, in bytes."""
        return len(self._names)

    def add(self, payload: bytes) -> bool:
        """Add a DIRECTORY_PART's reply. Returns False if the children have changed since the first part."""
        generation, part = parse_directory_part(payload)
        if self._generation not in (None, generation):
            return False
        self._generation = generation
        self._names += part
        # The list ends with an empty name; no part ends within a name.
        self.complete = len(self._names) <= 1 or self._names.endswith(b"\0\0")
        if len(self._names) > LISTING_MAX:
            raise ProtocolError(f"xenstored lists more than {LISTING_MAX} bytes of names in a directory")
        return True

    def names(self) -> list[str]:
        """Return the names of a complete list."""
        return parse_names(bytes(self._names[:-1]))


def parse_transaction_id(payload: bytes) -> int:
    """Parse a TRANSACTION_START's reply, a decimal number. 0 is refused: it means "no transaction"."""
    digits = payload.rstrip(b"\0")
    if not digits.isdigit() or len(digits) > 10 or not 0 < int(digits) < 1 << 32:
        raise ProtocolError(f'xenstored opened a transaction named "{visible(payload)}", which is no number')
    return int(digits)


def check_path(path: str) -> str:
    """Return `path` if it is valid for a node. Raises InvalidPath otherwise, which is a bug of the caller."""
    limit = ABSOLUTE_PATH_MAX if path.startswith("/") else RELATIVE_PATH_MAX
    if len(path) > limit or _PATH.fullmatch(path) is None:
        raise InvalidPath(path)
    return path


def path_payload(path: str) -> bytes:
    """Return the payload of a request that consists of a path. Raises InvalidPath."""
    return check_path(path).encode("ascii") + b"\0"


def join_strings(strings: Iterable[str]) -> bytes:
    """Return the payload of a request that consists of strings: every string gets a terminating NUL."""
    return b"".join(text.encode("ascii") + b"\0" for text in strings)

"""netlink(7) messages as bytes: headers, attributes and acknowledgements. No I/O; host byte order.

Rule 1: for any bytes, a parser either succeeds or raises `NetlinkFormatError`.
Constants are those of linux/netlink.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Struct

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLMSGERR_ATTR_MSG = 1

NLA_F_NESTED = 0x8000

U32 = struct.Struct("=I")
_NLMSGHDR = struct.Struct("=IHHII")
_RTATTR = struct.Struct("=HH")
_S32 = struct.Struct("=i")

_TYPE_MASK = 0x3FFF
"""NLA_TYPE_MASK: an attribute's type without the bits NLA_F_NESTED and NLA_F_NET_BYTEORDER."""


class NetlinkFormatError(ValueError):
    """The bytes do not have the format of netlink(7) or rtnetlink(7)."""


class Ack(Struct, frozen=True):
    """The kernel's answer to one request. `errno` 0 means success; `text` is the extended acknowledgement's message."""

    errno: int
    text: str = ""


class Header(NamedTuple):
    """A message's nlmsghdr, and the offsets of its body in the buffer: from `start` up to, without, `end`."""

    type: int
    flags: int
    seq: int
    start: int
    end: int


def headers(data: bytes) -> Iterator[Header]:
    """Yield the header of each message in a datagram."""
    offset, size = 0, len(data)
    while offset + 16 <= size:
        length, kind, flags, seq, _pid = _NLMSGHDR.unpack_from(data, offset)
        if length < 16 or offset + length > size:
            raise NetlinkFormatError(f"message of {length} bytes where {size - offset} are left")
        yield Header(kind, flags, seq, offset + 16, offset + length)
        offset += (length + 3) & ~3


def attributes(data: bytes, offset: int, end: int, wanted: frozenset[int] | None = None) -> list[tuple[int, int, int]]:
    """Return (type, start, end) of the attributes from `offset` to `end`: of the `wanted` types, or of all types."""
    found = []
    unpack, mask, last = _RTATTR.unpack_from, _TYPE_MASK, end - 4
    while offset <= last:
        length, kind = unpack(data, offset)
        stop = offset + length
        if length < 4 or stop > end:
            raise NetlinkFormatError(f"attribute of {length} bytes where {end - offset} are left")
        kind &= mask
        if wanted is None or kind in wanted:
            found.append((kind, offset + 4, stop))
        offset += (length + 3) & ~3
    return found


def text_of(data: bytes, start: int, end: int) -> str:
    """Return a string attribute, with or without a terminating NUL, as text that is safe to print."""
    return data[start:end].rstrip(b"\0").decode("utf-8", "backslashreplace")


def seq_of(request: bytes) -> int:
    """Return the sequence number of a request that `request` returned."""
    return int(U32.unpack_from(request, 8)[0])


def parse_ack(data: bytes, message: Header) -> Ack:
    """Return the result in an NLMSG_ERROR or NLMSG_DONE."""
    try:
        (code,) = _S32.unpack_from(data, message.start)
        text = ""
        if code and message.flags & NLM_F_ACK_TLVS:
            offset = message.start + 4
            if message.type == NLMSG_ERROR:
                (inner,) = U32.unpack_from(data, offset)
                offset += 16 if message.flags & NLM_F_CAPPED else (inner + 3) & ~3
            for kind, at, stop in attributes(data, offset, message.end):
                if kind == NLMSGERR_ATTR_MSG:
                    text = text_of(data, at, stop)
    except struct.error as error:
        raise NetlinkFormatError(str(error)) from None
    return Ack(-code, text)


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute, padded to a multiple of four bytes."""
    return _RTATTR.pack(4 + len(value), kind) + value + b"\0" * (-len(value) & 3)


def request(kind: int, flags: int, seq: int, body: bytes) -> bytes:
    """Return a request. Unless it is a dump (NLM_F_DUMP), it asks for an acknowledgement."""
    flags |= NLM_F_REQUEST if flags & NLM_F_DUMP == NLM_F_DUMP else NLM_F_REQUEST | NLM_F_ACK
    return _NLMSGHDR.pack(16 + len(body), kind, flags, seq, 0) + body

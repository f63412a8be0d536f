"""The messages of ethtool netlink about a link's features, as bytes, and the socket for them.

Documentation/networking/ethtool-netlink.rst and linux/ethtool_netlink.h (Linux 5.6 and later) have them. A feature has
a name that stays and a bit that differs between kernels; the kernel says which bit that is.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from xennetd.kernel.netlink import (
    NLA_F_NESTED,
    NLMSG_ERROR,
    U32,
    Ack,
    Header,
    NetlinkFormatError,
    attribute,
    attributes,
    headers,
    request,
    text_of,
)
from xennetd.kernel.sockets import RequestSocket

_NETLINK_GENERIC = 16  # linux/netlink.h

_GENL_ID_CTRL = 16
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2

_STRSET_GET = 1
_FEATURES_GET = 11
_FEATURES_SET = 12

_HEADER = 1
_HEADER_DEV_INDEX = 1
_HEADER_FLAGS = 3
_COMPACT_BITSETS = 1
_OMIT_REPLY = 2

_STRINGSETS = 2
_STRINGSET = 1
_STRINGSET_ID = 1
_STRINGSET_STRINGS = 3
_STRING = 1
_STRING_INDEX = 1
_STRING_VALUE = 2
_ETH_SS_FEATURES = 4

_FEATURES_HW = 2
_FEATURES_WANTED = 3
_FEATURES_ACTIVE = 4
_BITSET_BITS = 3
_BITSET_VALUE = 4
_BIT = 1
_BIT_NAME = 2
_BIT_SET = 3

_GENLMSGHDR = struct.Struct("=BBH")
_U16 = struct.Struct("=H")
_HEADER_SIZE = _GENLMSGHDR.size


class Features(NamedTuple):
    """A link's features as sets of bits: those that can be switched, those that are wanted, and those that are on.

    A wanted feature is off while the driver can't have it: netback's, while the frontend does not take it.
    """

    switchable: int
    wanted: int
    active: int


def get_family(seq: int) -> bytes:
    """Return the request for the message type of ethtool netlink."""
    return _message(_GENL_ID_CTRL, seq, _CTRL_CMD_GETFAMILY, attribute(_CTRL_ATTR_FAMILY_NAME, b"ethtool\0"))


def parse_family(data: bytes, message: Header) -> int:
    """Return the message type in the answer to `get_family`. Raises NetlinkFormatError."""
    for kind, at, stop in attributes(data, message.start + _HEADER_SIZE, message.end):
        if kind == _CTRL_ATTR_FAMILY_ID and stop - at >= _U16.size:
            return int(_U16.unpack_from(data, at)[0])
    raise NetlinkFormatError("a family without a number")


def get_names(seq: int, family: int) -> bytes:
    """Return the request for the names of all features."""
    wanted = _nest(_STRINGSETS, _nest(_STRINGSET, attribute(_STRINGSET_ID, U32.pack(_ETH_SS_FEATURES))))
    return _message(family, seq, _STRSET_GET, _nest(_HEADER, b"") + wanted)


def parse_names(data: bytes, message: Header) -> dict[str, int]:
    """Return the bit of each feature, by name, from the answer to `get_names`. Raises NetlinkFormatError."""
    names: dict[str, int] = {}
    start = message.start + _HEADER_SIZE
    path = (_STRINGSETS, _STRINGSET, _STRINGSET_STRINGS, _STRING)
    for at, stop in _below(data, start, message.end, path):
        found = {kind: (at, stop) for kind, at, stop in attributes(data, at, stop)}
        index, value = found.get(_STRING_INDEX), found.get(_STRING_VALUE)
        if index is None or value is None or index[1] - index[0] < U32.size:
            raise NetlinkFormatError("a feature without a number or a name")
        names[text_of(data, *value)] = int(U32.unpack_from(data, index[0])[0])
    return names


def get_features(seq: int, family: int, index: int) -> bytes:
    """Return the request for the features of the link with this index."""
    return _message(family, seq, _FEATURES_GET, _header(index, _COMPACT_BITSETS))


def parse_features(data: bytes, message: Header) -> Features:
    """Return the features in the answer to `get_features`. Raises NetlinkFormatError."""
    found: dict[int, int] = {}
    for kind, at, stop in attributes(data, message.start + _HEADER_SIZE, message.end):
        if kind in (_FEATURES_HW, _FEATURES_WANTED, _FEATURES_ACTIVE):
            for inner, first, end in attributes(data, at, stop):
                if inner == _BITSET_VALUE:
                    found[kind] = _bits(data[first:end])
    if len(found) < len(Features._fields):
        raise NetlinkFormatError("an answer without a link's features")
    return Features(found[_FEATURES_HW], found[_FEATURES_WANTED], found[_FEATURES_ACTIVE])


def set_features(seq: int, family: int, index: int, values: Mapping[str, bool]) -> bytes:
    """Return the request that switches features, by name, of the link with this index.

    The kernel leaves out what can't be switched, and says nothing of it.
    """
    bits = b"".join(
        _nest(_BIT, attribute(_BIT_NAME, name.encode() + b"\0") + (attribute(_BIT_SET, b"") if on else b""))
        for name, on in values.items()
    )
    return _message(
        family, seq, _FEATURES_SET, _header(index, _OMIT_REPLY) + _nest(_FEATURES_WANTED, _nest(_BITSET_BITS, bits))
    )


def _header(index: int, flags: int) -> bytes:
    return _nest(_HEADER, attribute(_HEADER_DEV_INDEX, U32.pack(index)) + attribute(_HEADER_FLAGS, U32.pack(flags)))


def _nest(kind: int, content: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, content)


def _message(family: int, seq: int, command: int, content: bytes) -> bytes:
    return request(family, 0, seq, _GENLMSGHDR.pack(command, 1, 0) + content)


def _below(data: bytes, start: int, end: int, path: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the attributes that nests of these types hold."""
    for kind, at, stop in attributes(data, start, end):
        if kind == path[0]:
            if len(path) == 1:
                yield at, stop
            else:
                yield from _below(data, at, stop, path[1:])


def _bits(data: bytes) -> int:
    """Return a bitmap, which the kernel has as 32-bit words in host byte order, the lowest bits first."""
    if len(data) % U32.size:
        raise NetlinkFormatError(f"a bitmap of {len(data)} bytes")
    return sum(word << (32 * number) for number, (word,) in enumerate(U32.iter_unpack(data)))


class EthtoolSocket:
    """Reads and switches links' features. The constructor raises OSError.

    `names` has the bits of all features by name. It is empty where the kernel has no ethtool netlink
    (CONFIG_ETHTOOL_NETLINK).
    """

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self._requests = RequestSocket(_NETLINK_GENERIC)
        try:
            self._family = self._find()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the socket."""
        self._requests.close()

    def _find(self) -> int:
        ack, answer = self._ask(get_family(self._requests.next_seq()))
        if ack.errno == errno.ENOENT:
            return 0
        family = parse_family(*_must(ack, answer))
        self.names = parse_names(*_must(*self._ask(get_names(self._requests.next_seq(), family))))
        return family

    def index_of(self, name: str) -> int | None:
        """Return the index of the link with this name now, None if there is none. Raises OSError."""
        return self._requests.index_of(name)

    def read(self, index: int) -> Features | None:
        """Return the features of a link, None if there is no such link. Raises OSError for any other refusal."""
        ack, answer = self._ask(get_features(self._requests.next_seq(), self._family, index))
        return None if ack.errno == errno.ENODEV else parse_features(*_must(ack, answer))

    def switch(self, index: int, values: Mapping[str, bool]) -> Ack:
        """Switch features of a link, by name, and return the kernel's answer."""
        return self._ask(set_features(self._requests.next_seq(), self._family, index, values))[0]

    def _ask(self, message: bytes) -> tuple[Ack, tuple[bytes, Header] | None]:
        (ack,), datagrams = self._requests.ask([message])
        found = ((data, header) for data in datagrams for header in headers(data) if header.type != NLMSG_ERROR)
        return ack, next(found, None)


def _must(ack: Ack, answer: tuple[bytes, Header] | None) -> tuple[bytes, Header]:
    if ack.errno or answer is None:
        raise OSError(ack.errno or errno.EPROTO, ack.text or "ethtool netlink gives no answer")
    return answer

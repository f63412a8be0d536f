"""A link's features by the ioctl of ethtool(8) (linux/ethtool.h): an oracle that knows nothing of ethtool netlink."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from collections.abc import Collection

_SIOCETHTOOL = 0x8946
_GSTRINGS, _GFEATURES, _SFEATURES = 0x1B, 0x3A, 0x3B
_GSSET_INFO = 0x37
_ETH_SS_FEATURES = 4
_STRING = 32
_TX = "tx-checksum-"


def tx_checksums(link: str) -> set[str]:
    """Return the names of the link's tx checksum features that are on."""
    names = _names(link)
    size = (len(names) + 31) // 32
    data = _ask(link, struct.pack("=II", _GFEATURES, size) + bytes(16 * size))
    active = [struct.unpack_from("=IIII", data, 8 + 16 * block)[2] for block in range(size)]
    return {name for bit, name in enumerate(names) if name.startswith(_TX) and active[bit // 32] >> bit % 32 & 1}


def switch(link: str, names: Collection[str], *, on: bool) -> None:
    """Switch features of the link, as `ethtool -K` does."""
    known = _names(link)
    size = (len(known) + 31) // 32
    valid = [0] * size
    for name in names:
        valid[known.index(name) // 32] |= 1 << known.index(name) % 32
    blocks = b"".join(struct.pack("=II", bits, bits if on else 0) for bits in valid)
    _ask(link, struct.pack("=II", _SFEATURES, size) + blocks)


def _names(link: str) -> list[str]:
    sets = _ask(link, struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _ETH_SS_FEATURES, 0))
    (count,) = struct.unpack_from("=I", sets, 16)
    data = _ask(link, struct.pack("=III", _GSTRINGS, _ETH_SS_FEATURES, count) + bytes(_STRING * count))
    strings = (data[12 + _STRING * number :][:_STRING] for number in range(count))
    return [string.split(b"\0")[0].decode() for string in strings]


def _ask(link: str, request: bytes) -> bytes:
    place = ctypes.create_string_buffer(request, len(request))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("16sP16x", link.encode(), ctypes.addressof(place)))
    return place.raw

"""Names of links as the kernel has them now: the view of the links may be older."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct

_SIOCGIFINDEX = 0x8933  # linux/sockios.h
_IFNAMSIZ = 16  # linux/if.h
_IFINDEX = struct.Struct("=i")


def index_of(name: str) -> int | None:
    """Return the index of the link with this name, None if there is none. Raises OSError when no socket can be made.

    socket.if_nametoindex() does not tell the two cases apart.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        return index_by(any_socket, name)


def index_by(any_socket: socket.socket, name: str) -> int | None:
    """Return what `index_of` returns, by a socket of any kind (netdevice(7)). Raises OSError for any other refusal."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) >= _IFNAMSIZ or b"\0" in encoded:
        return None  # The kernel would look for the first part of it.
    ifreq = struct.pack("16s16x", encoded)
    try:
        index: int = _IFINDEX.unpack_from(fcntl.ioctl(any_socket, _SIOCGIFINDEX, ifreq), 16)[0]
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return index

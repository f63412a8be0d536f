"""The speed of a link, as its driver tells it to ethtool(8)."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946  # linux/sockios.h
_ETHTOOL_GSET = 1  # linux/ethtool.h
_IFNAMSIZ = 16  # linux/if.h
_COMMAND = struct.Struct("=I8xH14xH14x")  # struct ethtool_cmd: cmd, speed (its low half), speed_hi
_NO_SPEEDS = (0, 0xFFFF, 0xFFFFFFFF)
"""What drivers answer when they don't know; 0xFFFFFFFF is SPEED_UNKNOWN, and 0xFFFF its low half alone."""


def speed_of(name: str) -> int | None:
    """Return the speed of the link with this name in Mbit/s, None where the kernel does not know it.

    A bond's speed is that of its ports together, as far as they carry anything. A link without carrier and most
    virtual links have none. The kernel is asked by ioctl (netdevice(7)), in this network namespace: sysfs shows the
    links of the namespace in which it was mounted.
    """
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) >= _IFNAMSIZ or b"\0" in encoded:
        return None  # The kernel would look for the first part of it.
    command = ctypes.create_string_buffer(_COMMAND.pack(_ETHTOOL_GSET, 0, 0), _COMMAND.size)
    ifreq = struct.pack("@16sP16x", encoded, ctypes.addressof(command))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, ifreq)
    except OSError:
        return None
    _, low, high = _COMMAND.unpack(command.raw)
    speed = int(high << 16 | low)
    return speed if speed not in _NO_SPEEDS else None

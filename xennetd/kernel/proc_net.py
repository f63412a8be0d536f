"""The TCP and UDP sockets of this network namespace, as /proc/net shows them (proc(5)).

Every kernel has these files, and they are slow: see `sock_diag`, which may be missing.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from xennetd.kernel.sock_diag import InetSocket, Transport
from xennetd.model.ip import IPAddress

_MAPPED = bytes(10) + b"\xff\xff"
"""The prefix of an IPv4-mapped IPv6 address: RFC 4291, section 2.5.5.2."""


def read_sockets(
    transport: Transport,
    states: Collection[int],
    local: IPAddress | None = None,
    proc: Path = Path("/proc/net"),
) -> list[InetSocket]:
    """Return the sockets of both IP versions in one of these states; with `local`, those with this own address.

    A kernel without IPv6 lacks the files about that. Raises OSError where a file can't be read for another reason.
    """
    found: list[InetSocket] = []
    wanted_states = {f"{state:02X}" for state in states}
    # A socket of both IP versions has an IPv4 address as the mapped IPv6 address.
    wanted = {_digits(local.packed), _digits(_MAPPED + local.packed)} if local is not None else set()
    for name in (transport, f"{transport}6"):
        try:
            lines = (proc / name).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            _number, own, peer, state, *others = line.split()
            digits, _, port = own.partition(":")
            if state in wanted_states and (local is None or digits in wanted):
                peer_digits, _, peer_port = peer.partition(":")
                ports = int(port, 16), int(peer_port, 16)
                inode = int(others[5])  # after queues, timers, retransmissions, user and timeout
                found.append(InetSocket(int(state, 16), _raw(digits), ports[0], _raw(peer_digits), ports[1], inode))
    return found


def _raw(digits: str) -> bytes:
    """Return an address that the kernel prints as 32-bit numbers of the machine's byte order."""
    words = (int(digits[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(digits), 8))
    return b"".join(words)


def _digits(raw: bytes) -> str:
    """Return an address as the kernel prints it."""
    return "".join(f"{int.from_bytes(raw[at : at + 4], sys.byteorder):08X}" for at in range(0, len(raw), 4))

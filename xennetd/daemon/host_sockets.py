"""What sockets the host's own programs have: the ports on which they listen, and connections that others have to them.

The kernel is asked by sock_diag(7). Where it has no module for that, /proc/net has the same, more slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container
from contextlib import closing

from xennetd.kernel.proc_net import read_sockets
from xennetd.kernel.sock_diag import TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN, DiagSocket, InetSocket, Transport
from xennetd.model.ip import IPAddress

ReadSockets = Callable[[Transport, Collection[int], IPAddress | None], list[InetSocket]]
"""Returns the sockets of TCP or UDP that are in one of these states and, if given, have this own address."""


def sockets(transport: Transport, states: Collection[int], local: IPAddress | None = None) -> list[InetSocket]:
    """Return the sockets of TCP or UDP that are in one of these states and, if given, have this own address.

    The whole process waits for this. Raises OSError where neither sock_diag nor /proc/net tells them.
    """
    try:
        with closing(DiagSocket()) as diag:
            return diag.sockets(transport, states, local)
    except OSError:  # ENOENT: there is no module tcp_diag, udp_diag or inet_diag, or none may be loaded any more.
        return read_sockets(transport, states, local)


def listening(elsewhere: Container[IPAddress] = (), read: ReadSockets = sockets) -> frozenset[tuple[Transport, int]]:
    """Return the ports on which programs of this host listen to the outside, as ("tcp", 22).

    Not counted are loopback addresses and those in `elsewhere`. What can't be read is not counted either.
    """
    waits: tuple[tuple[Transport, int], ...] = (("tcp", TCP_LISTEN), ("udp", TCP_CLOSE))
    found: set[tuple[Transport, int]] = set()
    for transport, state in waits:
        try:
            waiting = read(transport, (state,), None)
        except OSError:
            continue
        for each in waiting:
            if not (ip := each.local).is_loopback and ip not in elsewhere:
                found.add((transport, each.port))
    return frozenset(found)


def inbound(addresses: Collection[IPAddress], read: ReadSockets = sockets) -> dict[IPAddress, int]:
    """Return the number of connections that others have to each of these addresses of the host, where there are any.

    These are established TCP connections to a port on which a program listens. The kernel looks through all sockets
    once for each address, and tells those of the address: 20,000 take a fiftieth of a second where none is to that
    address, and a tenth where all are. Raises OSError.
    """
    outside = [ip for ip in addresses if not ip.is_loopback]
    if not outside:
        return {}
    ports = {each.port for each in read("tcp", (TCP_LISTEN,), None)}
    counts = {ip: sum(each.port in ports for each in read("tcp", (TCP_ESTABLISHED,), ip)) for ip in outside}
    return {ip: count for ip, count in counts.items() if count}

"""Which ports of the topology's bonds do not work, so that a bond lives on fewer legs than it was given. Pure."""

from __future__ import annotations

from collections.abc import Callable

from xennetd.model.link import Link
from xennetd.model.topology import Topology

LacpOf = Callable[[Link], tuple[int, int] | None]
"""Returns the LACP states of a bond's port: its own and its partner's. None in other modes than 802.3ad."""

_SYNCHRONIZATION, _DISTRIBUTING = 0x08, 0x20
"""Bits of a LACP port state (IEEE 802.1AX, 6.4.2.3)."""


def failed_ports(
    topology: Topology, link_of: Callable[[str], Link | None], name_of: Callable[[str], str], lacp_of: LacpOf
) -> dict[tuple[str, str], str]:
    """Return a sentence for each port of a bond that carries nothing, by (bond, port).

    `link_of` returns the link with a name, `name_of` the kernel's name for a name in the topology. A port that the host
    does not have, or that is no port yet, is another problem.
    """
    found = {}
    for bond in topology:
        master = link_of(bond.name) if bond.kind == "bond" else None
        ports = [link for link in map(link_of, map(name_of, bond.ports)) if link is not None] if master else []
        ports = [port for port in ports if master is not None and port.master == master.index]
        faults = {port.name: _fault(port, lacp_of) for port in ports}
        left = sum(fault is None for fault in faults.values())
        rest = f"it lives on {left} other{'s' if left > 1 else ''}" if left else "it has no other"
        for name, fault in faults.items():
            if fault is not None:
                found[bond.name, name] = f"{name}, a port of {bond.name}, {fault}: {rest}"
    return found


def _fault(port: Link, lacp_of: LacpOf) -> str | None:
    if not port.has_carrier:
        return "has no carrier"
    lacp = lacp_of(port)
    if lacp is not None and not (lacp[0] & _DISTRIBUTING and lacp[1] & _SYNCHRONIZATION):
        return "has no LACP partner (is its port of the switch in a LACP group?)"
    return None

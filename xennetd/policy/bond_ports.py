"""Which ports of the topology's bonds do not work, so that a bond lives on fewer legs than it was given. Pure."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from xennetd.model.link import Link
from xennetd.model.topology import Topology


class BondPort(Struct, frozen=True):
    """What the kernel says of a bond's port.

    `status` is the state of the link as the bond's monitor sees it (BOND_LINK_UP and so on, linux/if_bonding.h). `lacp`
    is the pair of port states in mode 802.3ad: its own, and its partner's (IEEE 802.1AX, 6.4.2.3). `own_mac` is the MAC
    that the port had before the bond gave it another one.
    """

    status: int
    lacp: tuple[int, int] | None = None
    own_mac: str = ""


PortOf = Callable[[Link], BondPort | None]
"""Returns what the kernel says of a bond's port, None if the link is none by now."""

_BOND_LINK_DOWN = 2
_SYNCHRONIZATION, _DISTRIBUTING = 0x08, 0x20
"""Bits of a LACP port state (IEEE 802.1AX, 6.4.2.3)."""


def failed_ports(
    topology: Topology, link_of: Callable[[str], Link | None], name_of: Callable[[str], str], port_of: PortOf
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
        by_arp = bool(dict(bond.settings).get("arp_interval"))
        faults = {port.name: _fault(port, port_of(port), by_arp=by_arp) for port in ports}
        left = sum(fault is None for fault in faults.values())
        rest = f"it lives on {left} other{'s' if left > 1 else ''}" if left else "it has no other"
        for name, fault in faults.items():
            if fault is not None:
                found[bond.name, name] = f"{name}, a port of {bond.name}, {fault}: {rest}"
    return found


def _fault(link: Link, port: BondPort | None, *, by_arp: bool) -> str | None:
    if not link.has_carrier:
        return "has no carrier"
    if port is None:
        return None
    if by_arp and port.status == _BOND_LINK_DOWN:
        return "hears nothing from the addresses of arp_ip_target"
    if port.lacp is not None and not (port.lacp[0] & _DISTRIBUTING and port.lacp[1] & _SYNCHRONIZATION):
        return "has no LACP partner (is its port of the switch in a LACP group?)"
    return None

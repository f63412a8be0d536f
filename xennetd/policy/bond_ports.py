"""Which ports of the topology's bonds do not work, so that a bond lives on fewer legs than it was given. Pure."""

from __future__ import annotations

from collections.abc import Callable

from xennetd.model.link import Link
from xennetd.model.topology import Topology


def failed_ports(
    topology: Topology, link_of: Callable[[str], Link | None], name_of: Callable[[str], str]
) -> dict[tuple[str, str], str]:
    """Return a sentence for each port of a bond that has no carrier, by (bond, port).

    `link_of` returns the link with a name, `name_of` the kernel's name for a name in the topology. A port that the host
    does not have, or that is no port yet, is another problem.
    """
    found = {}
    for bond in topology:
        master = link_of(bond.name) if bond.kind == "bond" else None
        for name in bond.ports if master is not None else ():
            port = link_of(name_of(name))
            if port is None or master is None or port.master != master.index or port.has_carrier:
                continue
            left = sum(
                each is not None and each.master == master.index and each.has_carrier
                for each in map(link_of, map(name_of, bond.ports))
            )
            rest = "it has no other" if not left else f"it lives on {left} other{'s' if left > 1 else ''}"
            found[bond.name, name] = f"{port.name}, a port of {bond.name}, has no carrier: {rest}"
    return found

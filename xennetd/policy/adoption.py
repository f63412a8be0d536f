"""Which addresses, routes, rules and neighbour entries of the host move to another link with its topology. Pure.

Rule 1: a link that adopts takes over what the links below it have, however far below: so a host whose addresses are on
eth0 gets from eth0 to a bridge on a VLAN on a bond of eth0 in one apply.
Rule 2: what a link has adopted goes back to its first NIC when an apply no longer names the link.
Rule 3: an IPv4 address that a DHCP client keeps is not taken from it, and its link keeps everything. IPv6 addresses
from router advertisements go, and the link that adopts gets its own: it hears the advertisements from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from xennetd.model.ip_entry import IpEntry
from xennetd.model.objects import Key
from xennetd.model.topology import Topology
from xennetd.model.value import replace


@dataclass(frozen=True, slots=True)
class Adoption:
    """The entries on their new links, and those that go from their former links.

    `refusals` say of a port why it must not become one.
    """

    moved: tuple[IpEntry, ...] = ()
    former: tuple[IpEntry, ...] = ()
    refusals: Mapping[Key, str] = field(default_factory=dict)


def adoption(
    before: Topology, after: Topology, entries: Collection[IpEntry], name_of: Callable[[str], str]
) -> Adoption:
    """Return what moves where the topology `before` is followed by `after`.

    `entries` are all entries of the host. `name_of` returns the kernel's name for a name in a topology.
    """
    moves = _moves(before, after, name_of)
    former = [entry for entry in entries if moves.keys() & set(entry.links)]
    leased = {
        entry.links[0]: entry
        for entry in former
        if entry.kind == "ip address" and entry.leased and _version(entry) == 4
    }
    refusals = {Key("port", link): _leased(entry, moves[link]) for link, entry in leased.items()}
    former = [entry for entry in former if leased.keys().isdisjoint(entry.links)]
    moved = [entry.on(moves) for entry in former if not entry.leased]
    return Adoption(_ordered(moved, after, name_of), tuple(former), refusals)


def _leased(entry: IpEntry, target: str) -> str:
    link = entry.links[0]
    return (
        f"{link} has {entry.identity} from a DHCP client, which would go on using {link}: configure the client for "
        f'{target} instead, and leave out addresses = "adopt"; or give {link} a fixed address'
    )


def _version(entry: IpEntry) -> int:
    return entry.interface.version if entry.interface is not None else 0


def _moves(before: Topology, after: Topology, name_of: Callable[[str], str]) -> dict[str, str]:
    """Return the kernel's names of the links that lose their entries, with those of the links that get them."""
    moves: dict[str, str] = {}
    for link in after:
        for name in after.below(link) if link.adopts else ():
            lower = after.link(name)
            if lower is None or (lower.addresses is None and not lower.adopts):
                moves[name_of(name)] = name_of(link.name)
    for link in before:
        base = before.base(link)
        if link.adopts and after.link(link.name) is None and base is not None:
            moves[name_of(link.name)] = moves.get(name_of(base), name_of(base))
    return moves


def _ordered(moved: Collection[IpEntry], after: Topology, name_of: Callable[[str], str]) -> tuple[IpEntry, ...]:
    """Return the entries, each after the ports of its link, and routes after the addresses; those by routers last."""
    ports: dict[str, list[Key]] = {}
    for link in after:
        for port in link.ports:
            ports.setdefault(name_of(link.name), []).append(Key("port", name_of(port)))
    addresses = frozenset(entry.key for entry in moved if entry.kind == "ip address")
    near = frozenset(entry.key for entry in moved if entry.kind == "ip route" and not entry.via)
    ordered = []
    for entry in moved:
        first = frozenset(key for link in entry.links for key in _ports_below(link, after, ports))
        if entry.kind == "ip route":
            first |= addresses | (near if entry.via else frozenset())
        ordered.append(replace(entry, after=first - {entry.key}))
    return tuple(ordered)


def _ports_below(link: str, after: Topology, ports: Mapping[str, Collection[Key]]) -> list[Key]:
    found = after.link(link)
    names = (link, *(after.below(found) if found is not None else ()))
    return [key for name in names for key in ports.get(name, ())]

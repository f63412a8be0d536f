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
from xennetd.model.objects import Key, link_key
from xennetd.model.topology import Topology, TopologyLink
from xennetd.model.value import replace


@dataclass(frozen=True, slots=True)
class Adoption:
    """The entries on their new links, and those that go from their former links.

    `successors` has the key of the entry on its new link by the key of the former one: that one goes only when the new
    one is there. `refusals` say of a port why it must not become one. `moves` has the name of the link that gets the
    entries of a link by that link's name; both are the kernel's. `remarks` are sentences about what comes anew.
    """

    moved: tuple[IpEntry, ...] = ()
    former: tuple[IpEntry, ...] = ()
    successors: Mapping[Key, Key] = field(default_factory=dict)
    refusals: Mapping[Key, str] = field(default_factory=dict)
    moves: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def adoption(
    before: Topology, after: Topology, entries: Collection[IpEntry], name_of: Callable[[str], str]
) -> Adoption:
    """Return what moves where the topology `before` is followed by `after`.

    `entries` are all entries of the host. `name_of` returns the kernel's name for a name in a topology.
    """
    moves = _moves(before, after, name_of)
    former = [entry for entry in entries if moves.keys() & set(entry.links)]
    refusals = {
        link: _leased(entry, link, moves[link]) for entry in former if _is_kept(entry) for link in entry.links[:1]
    }
    for entry in former:
        for link in entry.links if entry.obstacle else ():
            refusals.setdefault(link, f"{link} can't be adopted from: `{entry.describe()}`: {entry.obstacle}")
    former = [entry for entry in former if refusals.keys().isdisjoint(entry.links)]
    ways = {link: _way(link, target, after, name_of) for link, target in moves.items()}
    moved = _ordered([(entry, entry.on(moves)) for entry in former if not entry.leased], ways)
    return Adoption(
        tuple(entry for _, entry in moved),
        tuple(former),
        {old.key: new.key for old, new in moved if old.key != new.key},
        {Key("port", link): sentence for link, sentence in refusals.items()},
        moves,
        tuple(_comes_anew(entry, moves) for entry in former if _is_advertised(entry)),
    )


def _is_kept(entry: IpEntry) -> bool:
    """Return whether a DHCP client keeps the address."""
    return entry.kind == "ip address" and entry.leased and entry.version == 4


def _is_advertised(entry: IpEntry) -> bool:
    """Return whether the host has made the address from a router's advertisement, or leased it by DHCPv6."""
    return entry.kind == "ip address" and entry.leased and entry.version == 6


def _comes_anew(entry: IpEntry, moves: Mapping[str, str]) -> str:
    link = entry.links[0]
    return (
        f"{entry.identity} on {link} was given by a router and can't be moved: {moves[link]} hears the router, and "
        "gets an address of its own"
    )


def _leased(entry: IpEntry, link: str, target: str) -> str:
    return (
        f"{link} has {entry.identity} from a DHCP client, which would go on using {link}: configure the client for "
        f'{target} instead, and leave out addresses = "adopt"; or give {link} a fixed address'
    )


def _moves(before: Topology, after: Topology, name_of: Callable[[str], str]) -> dict[str, str]:
    """Return the kernel's names of the links that lose their entries, with those of the links that get them."""
    moves: dict[str, str] = {}
    for link in after:
        for name in after.below(link) if link.adopts else ():
            lower = after.link(name)
            if lower is None or (lower.addresses is None and not lower.adopts):
                moves[name_of(name)] = name_of(link.name)
    for link in before:
        base, now = before.base(link), after.link(link.name)
        below = set(map(name_of, after.below(now))) if now is not None else set()
        if link.adopts and base is not None and name_of(base) not in below:
            moves[name_of(link.name)] = moves.get(name_of(base), name_of(base))
    return moves


def _way(link: str, target: str, after: Topology, name_of: Callable[[str], str]) -> frozenset[Key]:
    """Return the keys of the links and ports by which frames get from a link up to the one that adopts from it."""

    def up(upper: TopologyLink, seen: frozenset[str]) -> frozenset[Key] | None:
        for name in upper.below:
            lower, real = after.link(name), name_of(name)
            step = {link_key(name_of(upper.name))} | ({Key("port", real)} if upper.ports else set())
            if real == link:
                return frozenset(step)
            rest = up(lower, seen | {name}) if lower is not None and name not in seen else None
            if rest is not None:
                return rest | step
        return None

    top = next((each for each in after if name_of(each.name) == target), None)
    return (up(top, frozenset()) if top is not None else None) or frozenset()


def _ordered(
    moved: Collection[tuple[IpEntry, IpEntry]], ways: Mapping[str, frozenset[Key]]
) -> list[tuple[IpEntry, IpEntry]]:
    """Return the entries on their former and their new links, the new ones with what must be there first.

    That is the way of frames to the new link; for a route also the addresses of its links, and the routes that lead to
    its routers.
    """
    ordered = []
    for old, new in moved:
        first = frozenset(key for link in old.links for key in ways.get(link, ()))
        for _, other in moved if new.kind == "ip route" else ():
            same = other.version == new.version and set(other.links) & set(new.links)
            near = other.kind == "ip address" or (other.kind == "ip route" and new.via and not other.via)
            if same and near:
                first |= {other.key}
        ordered.append((old, replace(new, after=first - {new.key})))
    return ordered

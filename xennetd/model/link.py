"""A kernel link, as rtnetlink(7) describes it, and the read-only view of the host that deciding code is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from xennetd.model.ground import IPAddress, IPNetwork
from xennetd.model.vif import IPInterface, VifId

IFF_UP = 0x1

IFNAMSIZ = 16
"""A link's name with its terminating NUL (linux/if.h)."""

IN6_ADDR_GEN_MODE_EUI64 = 0
IN6_ADDR_GEN_MODE_NONE = 1
"""No link-local address is made (linux/if_link.h)."""

GUEST_PORT_ADDRESS = "fe:ff:ff:ff:ff:ff"
"""The highest unicast MAC: a bridge never takes its own address from a guest's port."""


@dataclass(frozen=True, slots=True)
class BridgePort:
    """IFLA_BRPORT_* of a bridge's port. `state` is BR_STATE_* (0 disabled, 3 forwarding)."""

    state: int = 0
    learning: bool = True
    unicast_flood: bool = True
    isolated: bool = False
    locked: bool = False
    hairpin: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A route of ours (ROUTE_PROTOCOL) through a link, in the main table, without a next hop. `source` is preferred."""

    destination: IPNetwork
    metric: int
    source: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent neighbour entry of a link: whose MAC this address is, whatever a guest claims."""

    address: IPAddress
    mac: str


@dataclass(frozen=True, slots=True)
class Link:
    """One link. `master` is the index of the bridge (or bond) it is a port of, 0 for none.

    `parent` is the vif that the kernel's parent device (`xen-backend`/`vif-D-N`) names, None for all other links.
    `addresses` are in the kernel's order, the main one first. `routes` and `neighbours` are those that we made, or that
    look as if we had. `generation` tells apart two links that had the same index one after the other.
    """

    index: int
    name: str
    kind: str = ""
    master: int = 0
    flags: int = 0
    mtu: int = 1500
    address: str = ""
    group: int = 0
    addr_gen_mode: int = IN6_ADDR_GEN_MODE_EUI64
    parent: VifId | None = None
    port: BridgePort | None = None
    addresses: tuple[IPInterface, ...] = ()
    routes: frozenset[Route] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    generation: int = 0

    @property
    def up(self) -> bool:
        """Whether the link is administratively up."""
        return bool(self.flags & IFF_UP)


class HostView(Protocol):
    """What deciding code may ask of the host. The daemon passes its live view, a test a table."""

    def link(self, name: str) -> Link | None:
        """Return the link with this name."""
        ...

    def bridges(self) -> tuple[Link, ...]:
        """Return all bridges, by name."""
        ...

    def uplinks(self, bridge: int) -> tuple[Link, ...]:
        """Return the ports of the bridge with this index that are not guests' interfaces."""
        ...

    def default_uplink(self, version: int) -> Link | None:
        """Return the link that the default route of this IP version leads through (the one with the least metric)."""
        ...

    def setting(self, version: int, link: str, key: str) -> int | None:
        """Return a value of net.ipv4.conf or net.ipv6.conf, None where the kernel has no such thing."""
        ...

    def owner(self, destination: IPNetwork) -> Link | None:
        """Return a link with an address of the host's in this destination."""
        ...

    def router(self, destination: IPNetwork) -> IPAddress | None:
        """Return a router in this destination that a default route leads to, if it is no routed guest itself."""
        ...

    def neighbouring(self, subnet: IPNetwork) -> Link | None:
        """Return a link that is not ours, with an address of the host's in a subnet that overlaps this one."""
        ...

    def routed(self, destination: IPNetwork, metric: int) -> Link | None:
        """Return the link that a route of ours with this destination and metric leads through."""
        ...


def is_link_name(text: str) -> bool:
    """Return whether the kernel would take `text` as a link's name and we would too.

    dev_valid_name() of net/core/dev.c (1 to 15 bytes, not `.` or `..`, no `/`, `:` or white space), and printable
    ASCII without quotes, backslash, `%`, `*` and `,`, so that a name is always safe to show and never a template, a
    pattern or a list.
    """
    return (
        0 < len(text) < IFNAMSIZ
        and text not in (".", "..")
        and all("!" <= c <= "~" and c not in "/:%*,\"'\\" for c in text)
    )

"""A kernel link, as rtnetlink(7) describes it, and the read-only view of the host that deciding code is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from xennetd.model.ip import IPAddress, IPInterface, IPNetwork
from xennetd.model.vif import VifId

IFF_UP = 0x1

IFNAMSIZ = 16
"""A link's name with its terminating NUL (linux/if.h)."""

IN6_ADDR_GEN_MODE_EUI64 = 0
IN6_ADDR_GEN_MODE_NONE = 1
"""No link-local address is made (linux/if_link.h)."""

GUEST_PORT_ADDRESS = "fe:ff:ff:ff:ff:ff"
"""The highest unicast MAC: a bridge never takes its own address from a guest's port."""


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
    look as if we had. `flags_on` names the bridge port's flags (`plan.properties`) that are on. `sysctls` are values of
    net.ipv4.conf and net.ipv6.conf of the link: (IP version, setting, value); the kernel has no events for most of
    them, so they are only there where somebody has read them for a decision. `generation` tells apart two links that
    had the same index one after the other.
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
    flags_on: frozenset[str] = frozenset()
    addresses: tuple[IPInterface, ...] = ()
    routes: frozenset[Route] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    sysctls: frozenset[tuple[int, str, int]] = frozenset()
    generation: int = 0

    @property
    def up(self) -> bool:
        """Whether the link is administratively up."""
        return bool(self.flags & IFF_UP)


@dataclass(frozen=True, slots=True)
class LinkGoal:
    """What a guest's link must be, property by property. What is None is left as it is.

    `master` is the index of the bridge that it is a port of, with that bridge's name and MTU, 0 for none. `mtu` is what
    the link is to be given, None for one that has been given its MTU before: netback lowers it for a frontend without
    scatter-gather, and no later change of another port's MTU may spread to this one. `addresses` are the host's on the
    link, `routes` lead through it, of which those `taken` lead through another link of ours now; `neighbours` are
    behind it. `sysctls` are (IP version, setting, value), `flags` the bridge port's flags that must be on or off.
    """

    name: str
    master: int | None = 0
    master_name: str = ""
    master_mtu: int = 0
    group: int = 0
    mtu: int | None = None
    address: str = GUEST_PORT_ADDRESS
    addr_gen_mode: int = IN6_ADDR_GEN_MODE_NONE
    flags: tuple[tuple[str, bool], ...] = ()
    addresses: tuple[IPInterface, ...] = ()
    routes: frozenset[Route] = frozenset()
    taken: frozenset[Route] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    sysctls: tuple[tuple[int, str, int], ...] = ()


class HostView(Protocol):
    """What deciding code may ask of the host. The daemon passes its live view, a test a table."""

    @property
    def has_ipv6(self) -> bool:
        """Whether the kernel has IPv6 at all."""
        ...

    @property
    def forces_ipv6(self) -> bool:
        """Whether IPv6 can be forwarded link by link (`force_forwarding`, from Linux 6.17 on)."""
        ...

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
    pattern or a list. A name of digits alone could be taken for an index.
    """
    return (
        0 < len(text) < IFNAMSIZ
        and text not in (".", "..")
        and not text.isdigit()
        and all("!" <= c <= "~" and c not in "/:%*,\"'\\" for c in text)
    )

"""A kernel link, as rtnetlink(7) describes it, and the read-only view of the host for deciding code.

A route or a neighbour is xennetd's own if it has the protocol ROUTE_PROTOCOL (`model.marks`).
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from xennetd.model.ip import IPAddress, IPInterface, IPNetwork
from xennetd.model.marks import BRIDGE_GROUP, GUEST_GROUP, TOPOLOGY_GROUP
from xennetd.model.vif import VifId

IFF_UP = 0x1
IFF_NOARP = 0x80
IFF_LOWER_UP = 0x10000

IFNAMSIZ = 16
"""The size of a link's name in bytes, with its terminating NUL (linux/if.h)."""

IN6_ADDR_GEN_MODE_EUI64 = 0
IN6_ADDR_GEN_MODE_NONE = 1
"""In this mode the kernel makes no link-local address (linux/if_link.h)."""

GUEST_PORT_ADDRESS = "fe:ff:ff:ff:ff:ff"
"""The highest unicast MAC: a bridge never takes its own address from a guest's port."""


class Route(Struct, frozen=True):
    """A route of xennetd's through a link, in the main table, without a next hop. `source` is its preferred source."""

    destination: IPNetwork
    metric: int
    source: IPAddress | None = None


class Neighbour(Struct, frozen=True):
    """A permanent neighbour entry of a link: it binds an address to a MAC, whatever a guest claims."""

    address: IPAddress
    mac: str


class Link(Struct, frozen=True):
    """One link. `master` is the index of the bridge or bond that the link is a port of, 0 for none.

    `parent` is the vif that the kernel's parent device (`xen-backend`/`vif-D-N`) names, None for all other links.
    `addresses` are in the kernel's order, the main address first. `routes` and `neighbours` are the entries with
    xennetd's protocol number, whoever made them. `flags_on` names the bridge port's flags (`plan.properties`) that are
    on. `sysctls` are values of net.ipv4.conf and net.ipv6.conf of the link: (IP version, setting, value). The kernel
    has no events for most sysctls, so the field holds only values that were read for a decision. `generation` tells
    apart two links that had the same index one after the other. `alias` is a text for people and programs
    (`ip link set alias`); see `model.marks.port_alias`. `unmarked` says that the link is a bridge of xennetd's whose
    group somebody has changed since.
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
    alias: str = ""
    unmarked: bool = False

    @property
    def is_own(self) -> bool:
        """Whether the link is xennetd's: a bridge that it made, or a routed guest's link."""
        return self.group in (BRIDGE_GROUP, GUEST_GROUP) or self.unmarked

    @property
    def is_own_bridge(self) -> bool:
        """Whether the link is a bridge that xennetd made."""
        return self.kind == "bridge" and (self.group == BRIDGE_GROUP or self.unmarked)

    @property
    def is_of_topology(self) -> bool:
        """Whether xennetd made the link for the host's own topology."""
        return self.group == TOPOLOGY_GROUP

    @property
    def up(self) -> bool:
        """Whether the link is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def has_carrier(self) -> bool:
        """Whether the driver has a signal on the wire."""
        return bool(self.flags & IFF_LOWER_UP)

    @property
    def has_no_arp(self) -> bool:
        """Whether the host neither asks nor answers there by ARP (`ip link set arp off`)."""
        return bool(self.flags & IFF_NOARP)


class LinkGoal(Struct, frozen=True):
    """The desired properties of a guest's link. xennetd leaves a property alone whose goal is None.

    `master` is the index of the bridge that the link is a port of, 0 for none; `master_name` and `master_mtu` are that
    bridge's. `mtu` is the MTU that the link is to get. It is None for a link that has got its MTU before: netback
    lowers the MTU for a frontend without scatter-gather, and a later change of another port's MTU must not spread to
    this link. `addresses` are the host's addresses on the link. `routes` lead through the link; `taken` are those of
    the routes that lead through another guest's link now. `neighbours` are the link's neighbour entries. `sysctls` are
    (IP version, setting, value). `flags` are the bridge port's flags that must be on or off. `alias` takes the place
    of an alias of xennetd's or of none; another program's stays, and a group of `model.marks.port_group` stands for it.
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
    alias: str = ""


class HostView(Protocol):
    """The questions about the host that deciding code may ask. The daemon passes its live view, a test passes a table.

    Methods that return a link return None where the host has no such link.
    """

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
        """Return all bridges, sorted by name."""
        ...

    def uplinks(self, bridge: int) -> tuple[Link, ...]:
        """Return the ports of the bridge with this index that are not guests' interfaces."""
        ...

    def bridge_of(self, vif: VifId) -> Link | None:
        """Return the bridge that xennetd made this vif's link a port of, else the one that it is a port of now."""
        ...

    def default_uplink(self, version: int) -> Link | None:
        """Return the link of this IP version's default route; of several routes, the one with the least metric."""
        ...

    def owner(self, destination: IPNetwork) -> Link | None:
        """Return a link on which the host has an address within this destination."""
        ...

    def router(self, destination: IPNetwork) -> IPAddress | None:
        """Return the next hop of a default route that lies within this destination, None if there is none.

        A next hop that is a routed guest does not count.
        """
        ...

    def neighbouring(self, subnet: IPNetwork) -> Link | None:
        """Return a link on which the host has an address whose subnet overlaps `subnet`.

        xennetd's own bridges and routed guests' links do not count.
        """
        ...

    def routed(self, destination: IPNetwork, metric: int) -> Link | None:
        """Return the link that xennetd's own route with this destination and metric leads through."""
        ...


_SETTINGS_OF_ALL = ("all", "default")
"""Below /proc/sys/net/ipv4/conf these directories are no link's. A link of this name has none of its own."""

_NOT_IN_NAMES = frozenset(" /:%*,\"'\\")


def is_link_name(text: str) -> bool:
    """Return whether both the kernel and xennetd accept `text` as a link's name.

    The kernel's rule is dev_valid_name() of net/core/dev.c: 1 to 15 bytes, not `.` or `..`, no `/`, `:` or white space.
    xennetd accepts only printable ASCII without quotes, backslash, `%`, `*` and `,`: such a name is always safe to
    show, and is never a template, a pattern or a list. A name of digits alone could be mistaken for an index, and
    `all` and `default` for the settings of all links.
    """
    return (
        0 < len(text) < IFNAMSIZ
        and text not in (".", "..", *_SETTINGS_OF_ALL)
        and not text.isdigit()
        and text.isascii()
        and text.isprintable()
        and _NOT_IN_NAMES.isdisjoint(text)
    )

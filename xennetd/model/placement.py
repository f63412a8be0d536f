"""The placement of a guest's link: a port of a bridge, or routed. `Placement` is a sum type of these.

A placement says whether a link is where the placement puts it (`holds`), whether a link that is up serves its guest in
this manner at all (`serves`), what properties the link must have (`goal`), and which master the link keeps when it is
down and out of service (`idle_master`). Besides a mode's `keeps`, no other code examines a link's master or group to
learn this.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import NamedTuple

from msgspec import Struct

from xennetd.model.ip import IPInterface, IPNetwork
from xennetd.model.link import Link, LinkGoal, Neighbour, Route
from xennetd.model.marks import GUEST_GROUP, port_alias

TAP_METRIC = 1
VIF_METRIC = 2
"""The metrics of a routed guest's routes. The tap's is lower, as in the stock script: while the guest has its emulated
NIC, the host reaches it there."""


SETTINGS_OF_ROUTED = (
    (4, "forwarding"),
    (4, "rp_filter"),
    (4, "proxy_arp"),
    (6, "accept_ra"),
    (6, "disable_ipv6"),
    (6, "forwarding"),
    (6, "force_forwarding"),
)
"""The sysctls of its link that a routed guest may need: (IP version, setting). They go back to the kernel's defaults
when the guest does not need them any more."""


class LinkSysctl(NamedTuple):
    """A value of net.ipvVERSION.conf.LINK.SETTING of a guest's link. The kernel drops the setting with the link."""

    version: int
    setting: str
    value: int


class BridgePort(Struct, frozen=True):
    """A port of the Linux bridge with the name `bridge` and the index `index`.

    `mtu` is the bridge's MTU, which must stay the same when the port joins. `flags` are the port's flags
    (`plan.properties`) that policy decides. A port has no `uplink` and no `gateways` of its own.
    """

    bridge: str
    index: int
    mtu: int = 0
    flags: tuple[tuple[str, bool], ...] = ()
    uplink: None = None
    gateways: tuple[()] = ()

    @property
    def where(self) -> str:
        """The place that the guest is attached to, in the words of the audit trail."""
        return self.bridge

    @property
    def terms(self) -> tuple[object, ...]:
        """What policy decides of the placement."""
        return self.bridge, self.flags

    @property
    def sysctls(self) -> tuple[LinkSysctl, ...]:
        """The sysctls that the link needs: none, since the host's IP does not see a bridge's ports."""
        return ()

    def routes(self, metric: int) -> frozenset[Route]:
        """Return the routes through the link: none."""
        return frozenset()

    def holds(self, link: Link) -> bool:
        """Return whether the link is a port of this bridge, with all flags on that must be on."""
        return link.master == self.index and all(flag in link.flags_on for flag, on in self.flags if on)

    @staticmethod
    def serves(link: Link) -> bool:
        """Return whether the link is a port of any bridge."""
        return bool(link.master)

    @staticmethod
    def idle_master(link: Link) -> int:
        """Return 0: out of service the link is no bridge's port."""
        return 0

    def goal(self, name: str, mtu: int | None, metric: int, elsewhere: frozenset[Route]) -> LinkGoal:
        """Return the link's desired properties. `mtu` None leaves the MTU alone. A port has no routes."""
        return LinkGoal(
            name,
            master=self.index,
            master_name=self.bridge,
            master_mtu=self.mtu,
            mtu=mtu,
            flags=self.flags,
            alias=port_alias(self.bridge, self.index),
        )


class Routed(Struct, frozen=True):
    """A routed guest's link: the host routes to the guest, and the link is no bridge's port.

    `uplink` names the link by which the guest's packets leave the host. `gateways` are the host's addresses on the
    guest's link. `source` is the preferred source of the IPv4 routes. `destinations` are the addresses and prefixes
    that are routed to the guest. `neighbours` bind the guest's addresses to its MAC. `translated` says that the guest's
    packets leave the host under the uplink's address. `bridge` is None, and there are no `flags` of a bridge's port.
    """

    uplink: str
    gateways: tuple[IPInterface, ...]
    source: IPv4Address | None
    destinations: tuple[IPNetwork, ...]
    neighbours: frozenset[Neighbour]
    sysctls: tuple[LinkSysctl, ...]
    translated: bool = False
    bridge: None = None
    flags: tuple[()] = ()

    @property
    def where(self) -> str:
        """The place that the guest is attached to, in the words of the audit trail."""
        return f"{'a NAT route' if self.translated else 'a route'} via {self.uplink}"

    @property
    def terms(self) -> Routed:
        """What policy decides of the placement: all of it."""
        return self

    def routes(self, metric: int) -> frozenset[Route]:
        """Return the routes that lead to the guest through the link, with this metric."""
        source = self.source
        return frozenset(
            Route(destination, metric, source if destination.version == 4 else None)
            for destination in self.destinations
        )

    def holds(self, link: Link) -> bool:
        """Return whether the link is a routed guest's; the uplink is no property of the link."""
        return self.serves(link)

    @staticmethod
    def serves(link: Link) -> bool:
        """Return whether the link is a routed guest's: in GUEST_GROUP, and no bridge's port."""
        return not link.master and link.group == GUEST_GROUP

    @staticmethod
    def idle_master(link: Link) -> int:
        """Return the master that the link has now. The kernel deletes routes and neighbours of a link that is down."""
        return link.master

    def goal(self, name: str, mtu: int | None, metric: int, elsewhere: frozenset[Route]) -> LinkGoal:
        """Return the link's desired properties. `mtu` None leaves the MTU alone.

        `elsewhere` are those of the guest's routes that lead through another link now.
        """
        return LinkGoal(
            name,
            group=GUEST_GROUP,
            mtu=mtu,
            addresses=self.gateways,
            routes=self.routes(metric),
            taken=elsewhere,
            neighbours=self.neighbours,
            sysctls=self.sysctls,
        )


Placement = BridgePort | Routed

_PLACEMENTS = (BridgePort, Routed)


def idle_master(link: Link) -> int:
    """Return the index of the master that a guest's link has when it is out of service, 0 for none.

    The placement that the link has now decides this.
    """
    for placement in _PLACEMENTS:
        if placement.serves(link):
            return placement.idle_master(link)
    return link.master

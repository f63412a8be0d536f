"""Where a guest's link is: a port of a bridge, or routed. A sum type; each of its types says all that depends on it.

A placement says whether a link is in it (`holds`), whether a link that is up serves its guest in this way at all
(`serves`), and what the link must be (`goal`). Nobody else asks for a link's master or group.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

from xennetd.model.ip import IPInterface, IPNetwork
from xennetd.model.link import Link, LinkGoal, Neighbour, Route
from xennetd.model.marks import GUEST_GROUP

TAP_METRIC = 1
VIF_METRIC = 2
"""Of a routed guest's routes: while its emulated NIC is there, that is the one it uses (as the stock script has it)."""


class LinkSysctl(NamedTuple):
    """A value of net.ipvVERSION.conf.LINK.SETTING of a guest's own link, with which it goes."""

    version: int
    setting: str
    value: int


@dataclass(frozen=True, slots=True)
class BridgePort:
    """A port of the Linux bridge with this index. `mtu` is the bridge's, which the port's may not drag down.

    `flags` are the port's flags (`plan.properties`) that policy decides. A bridge's port has no `uplink` of its own and
    no `gateways`.
    """

    bridge: str
    index: int
    mtu: int = 0
    flags: tuple[tuple[str, bool], ...] = ()
    uplink: None = None
    gateways: tuple[()] = ()

    @property
    def where(self) -> str:
        """What the guest is attached to, as the audit trail says it."""
        return self.bridge

    @property
    def sysctls(self) -> tuple[LinkSysctl, ...]:
        """What must be set for the link below /proc/sys: nothing, since IP does not see a bridge's ports."""
        return ()

    def routes(self, metric: int) -> frozenset[Route]:
        """Return the routes through the link: none."""
        return frozenset()

    def holds(self, link: Link) -> bool:
        """Return whether the link is where this placement puts it."""
        return link.master == self.index

    @staticmethod
    def serves(link: Link) -> bool:
        """Return whether the link, if it is up, is some bridge's port."""
        return bool(link.master)

    def goal(self, name: str, mtu: int | None, metric: int, elsewhere: frozenset[Route]) -> LinkGoal:
        """Return what the link must be. `mtu` is what it is to be given, None: left as it is."""
        return LinkGoal(
            name, master=self.index, master_name=self.bridge, master_mtu=self.mtu, mtu=mtu, flags=self.flags
        )


@dataclass(frozen=True, slots=True)
class Routed:
    """No bridge's port: the host routes to the guest.

    `gateways` are the host's addresses on the link; `source` is the preferred source of its IPv4 routes. `destinations`
    are what is routed to it, `neighbours` whose MAC its addresses are. `uplink` names the link that leads on from the
    host; `translated` says that the guest leaves the host under the uplink's address. There is no `bridge`.
    """

    uplink: str
    gateways: tuple[IPInterface, ...]
    source: IPv4Address | None
    destinations: tuple[IPNetwork, ...]
    neighbours: frozenset[Neighbour]
    sysctls: tuple[LinkSysctl, ...]
    translated: bool = False
    bridge: None = None

    @property
    def where(self) -> str:
        """What the guest is attached to, as the audit trail says it."""
        return f"{'a NAT route' if self.translated else 'a route'} via {self.uplink}"

    def routes(self, metric: int) -> frozenset[Route]:
        """Return the routes through the link."""
        source = self.source
        return frozenset(Route(each, metric, source if each.version == 4 else None) for each in self.destinations)

    def holds(self, link: Link) -> bool:
        """Return whether the link is where this placement puts it."""
        return self.serves(link)

    @staticmethod
    def serves(link: Link) -> bool:
        """Return whether the link, if it is up, is a routed guest's: in our group, and in no bridge."""
        return not link.master and link.group == GUEST_GROUP

    def goal(self, name: str, mtu: int | None, metric: int, elsewhere: frozenset[Route]) -> LinkGoal:
        """Return what the link must be. `elsewhere` are those of its routes that lead through another link now."""
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

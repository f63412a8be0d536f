"""Steps: what is to be done to one link, each with the one line that plan, log, audit and tests show.

A Step names its link by index, so that it can only ever hit the link that was looked at; the name is for people.
Every Step is idempotent. One is not about a link: `Ensure`, of an object of the host's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from xennetd.model.ground import GUEST_GROUP, ROUTE_PROTOCOL, GroundObject, Setting
from xennetd.model.link import Neighbour, Route
from xennetd.model.vif import IPInterface


@dataclass(frozen=True, slots=True)
class SetDown:
    """Take the link down: no frame passes it."""

    index: int
    name: str

    def describe(self) -> str:
        return f"ip link set dev {self.name} down"


@dataclass(frozen=True, slots=True)
class SetUp:
    """Bring the link up. Runs only when all Steps before it have succeeded."""

    index: int
    name: str

    def describe(self) -> str:
        return f"ip link set dev {self.name} up"


@dataclass(frozen=True, slots=True)
class Rename:
    """Give the link, which must be down, another name."""

    index: int
    name: str
    to: str

    def describe(self) -> str:
        return f"ip link set dev {self.name} name {self.to}"


@dataclass(frozen=True, slots=True)
class SetAddress:
    """Set the link's MAC address."""

    index: int
    name: str
    address: str

    def describe(self) -> str:
        return f"ip link set dev {self.name} address {self.address}"


@dataclass(frozen=True, slots=True)
class SetAddrGenMode:
    """Keep the kernel from making an IPv6 link-local address when the link comes up (IN6_ADDR_GEN_MODE_NONE)."""

    index: int
    name: str

    def describe(self) -> str:
        return f"ip link set dev {self.name} addrgenmode none"


@dataclass(frozen=True, slots=True)
class DeleteAddress:
    """Take an IP address off the link."""

    index: int
    name: str
    address: IPInterface

    def describe(self) -> str:
        return f"ip addr del {self.address} dev {self.name}"


@dataclass(frozen=True, slots=True)
class SetMtu:
    """Set the link's MTU, in bytes.

    Where it is not `needed`, the kernel may refuse it: netback takes no more than 1500 for a frontend without
    scatter-gather (xenvif_change_mtu() of drivers/net/xen-netback/interface.c).
    """

    index: int
    name: str
    mtu: int
    needed: bool = True

    def describe(self) -> str:
        return f"ip link set dev {self.name} mtu {self.mtu}"


@dataclass(frozen=True, slots=True)
class SetMaster:
    """Make the link a port of the bridge with index `master`; 0 takes it out of the one it is in."""

    index: int
    name: str
    master: int
    master_name: str = ""

    def describe(self) -> str:
        if not self.master:
            return f"ip link set dev {self.name} nomaster"
        return f"ip link set dev {self.name} master {self.master_name}"


@dataclass(frozen=True, slots=True)
class SetGroup:
    """Put the link into our GUEST_GROUP, or out of it: of a routed link's frames the source must be its guest's."""

    index: int
    name: str
    routed: bool

    def describe(self) -> str:
        return f"ip link set dev {self.name} group {GUEST_GROUP if self.routed else 0}"


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Give the link an IP address of the host's, without duplicate address detection."""

    index: int
    name: str
    address: IPInterface

    def describe(self) -> str:
        nodad = " nodad" if self.address.version == 6 else ""
        return f"ip addr add {self.address} dev {self.name}{nodad}"


@dataclass(frozen=True, slots=True)
class AddRoute:
    """Route a destination through the link, which must be up. With `replace`, a route of ours through another link to
    the same destination with the same metric gives way at that moment; without it, one that is there is a refusal."""

    index: int
    name: str
    route: Route
    replace: bool = False

    def describe(self) -> str:
        verb = "replace" if self.replace else "add"
        return f"ip route {verb} {_route(self.route, self.name)}"


@dataclass(frozen=True, slots=True)
class DeleteRoute:
    """Take a route of ours off the link."""

    index: int
    name: str
    route: Route

    def describe(self) -> str:
        return f"ip route del {_route(self.route, self.name)}"


@dataclass(frozen=True, slots=True)
class SetNeighbour:
    """Fix whose MAC an address on the link is."""

    index: int
    name: str
    neighbour: Neighbour

    def describe(self) -> str:
        return f"ip neigh replace {self.neighbour.address} lladdr {self.neighbour.mac} dev {self.name} nud permanent"


@dataclass(frozen=True, slots=True)
class DeleteNeighbour:
    """Take a permanent neighbour entry off the link."""

    index: int
    name: str
    neighbour: Neighbour

    def describe(self) -> str:
        return f"ip neigh del {self.neighbour.address} dev {self.name}"


@dataclass(frozen=True, slots=True)
class SetSetting:
    """Set a value of net.ipv4.conf or net.ipv6.conf of the link, which goes when the link goes."""

    index: int
    name: str
    setting: Setting

    def describe(self) -> str:
        return self.setting.describe()


@dataclass(frozen=True, slots=True)
class Ensure:
    """Make an object of the host's own that something needs, if it is not there."""

    needed: GroundObject

    def describe(self) -> str:
        return self.needed.describe()


def _route(route: Route, name: str) -> str:
    source = f" src {route.source}" if route.source is not None else ""
    return f"{route.destination} dev {name}{source} metric {route.metric} proto {ROUTE_PROTOCOL}"


LinkStep = (
    SetDown
    | SetUp
    | Rename
    | SetAddress
    | SetAddrGenMode
    | DeleteAddress
    | SetMtu
    | SetMaster
    | SetGroup
    | AddAddress
    | AddRoute
    | DeleteRoute
    | SetNeighbour
    | DeleteNeighbour
    | SetSetting
)
Step = LinkStep | Ensure

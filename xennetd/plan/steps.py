"""Steps: the changes to one guest's link.

A Step identifies its link by index, so that it can change only the link that was observed; the name is for people.
Every Step is idempotent. `describe` returns the line that plan, log, audit and tests show. `effect` returns the link as
it is after the Step: it models the kernel as far as a decision depends on it. Steps for host objects are in
`plan.difference`.
"""

from __future__ import annotations

from msgspec import Struct

from xennetd.model.ip import IPInterface
from xennetd.model.link import IFF_UP, Link, Neighbour, Route
from xennetd.model.marks import ROUTE_PROTOCOL
from xennetd.model.objects import Sysctl
from xennetd.model.value import replace
from xennetd.plan.difference import HostStep

_WORDS = {"name": "name", "address": "address", "mtu": "mtu", "group": "group", "alias": "alias"}
"""ip(8)'s words for the properties whose value it takes unchanged."""


class SetLink(Struct, frozen=True):
    """Give one property of a link (a row of `plan.properties`) a value. `words` says the same in the words of ip(8).

    The kernel may refuse a Step that is not `needed`: netback takes no MTU above 1500 for a frontend without
    scatter-gather (xenvif_change_mtu() of drivers/net/xen-netback/interface.c). `bridge_flag` is the IFLA_BRPORT_*
    attribute of a flag of a bridge's port, 0 for a property of the link itself. `alias` is set in the same request,
    None leaves it alone.
    """

    index: int
    name: str
    property: str
    value: int | str | bool
    words: str
    needed: bool = True
    bridge_flag: int = 0
    alias: str | None = None

    def describe(self) -> str:
        """Return this Step as a command of ip(8), bridge(8) or sysctl(8)."""
        program = "bridge" if self.bridge_flag else "ip"
        return f"{program} link set dev {self.name} {self.words}"

    def effect(self, link: Link) -> Link:
        """Return `link` as it is after this Step."""
        if self.bridge_flag:
            on = link.flags_on | {self.property} if self.value else link.flags_on - {self.property}
            return replace(link, flags_on=on)
        if self.property != "up":
            # A link that enters or leaves a bridge loses its port flags.
            flags_on = frozenset[str]() if self.property == "master" else link.flags_on
            changed: dict[str, int | str | bool] = {self.property: self.value}
            if self.alias is not None:
                changed["alias"] = self.alias
            return replace(link, flags_on=flags_on, **changed)  # type: ignore[arg-type] # the table has the types
        if self.value:
            return replace(link, flags=link.flags | IFF_UP)
        # The kernel deletes the routes, neighbours and IPv6 addresses of a link that goes down.
        kept = tuple(address for address in link.addresses if address.version == 4)
        return replace(link, flags=link.flags & ~IFF_UP, addresses=kept, routes=frozenset(), neighbours=frozenset())


def set_down(link: Link) -> SetLink:
    """Return the Step that takes a link down, so that no frame passes it."""
    return SetLink(link.index, link.name, "up", False, "down")


def set_up(link: Link, name: str) -> SetLink:
    """Return the Step that brings a link up. `name` is the link's name after the Steps before this one.

    The Step is carried out only after all needed Steps before it have succeeded.
    """
    return SetLink(link.index, name, "up", True, "up")


def set_master(index: int, name: str, master: int, master_name: str = "", alias: str | None = None) -> SetLink:
    """Return the Step that makes a link a port of the bridge with index `master`; 0 takes it out of its bridge.

    The link also gets `alias`, unless it is None. This needs no request of its own.
    """
    return SetLink(index, name, "master", master, f"master {master_name}" if master else "nomaster", alias=alias)


def set_value(index: int, name: str, property: str, value: int | str, *, needed: bool = True) -> SetLink:
    """Return the Step that gives a link a name, a MAC address, an MTU in bytes, or a group."""
    shown = value if value != "" else '""'
    return SetLink(index, name, property, value, f"{_WORDS[property]} {shown}", needed)


class AddAddress(Struct, frozen=True):
    """Give the link one of the host's IP addresses, without duplicate address detection."""

    index: int
    name: str
    address: IPInterface

    def describe(self) -> str:
        """Return this Step as a command of ip(8), bridge(8) or sysctl(8)."""
        nodad = " nodad" if self.address.version == 6 else ""
        return f"ip addr add {self.address} dev {self.name}{nodad}"

    def effect(self, link: Link) -> Link:
        """Return `link` as it is after this Step."""
        return replace(link, addresses=(*link.addresses, self.address))


class DeleteAddress(Struct, frozen=True):
    """Take an IP address off the link."""

    index: int
    name: str
    address: IPInterface

    def describe(self) -> str:
        """Return this Step as a command of ip(8), bridge(8) or sysctl(8)."""
        return f"ip addr del {self.address} dev {self.name}"

    def effect(self, link: Link) -> Link:
        """Return `link` as it is after this Step."""
        return replace(link, addresses=tuple(address for address in link.addresses if address != self.address))


class AddRoute(Struct, frozen=True):
    """Route a destination through the link, which must be up.

    With `replace`, the new route takes the place of a route with the same destination and metric and with xennetd's
    mark, through this link or another, in one step. Without `replace`, the kernel refuses the Step if there is such a
    route.
    """

    index: int
    name: str
    route: Route
    replace: bool = False

    def describe(self) -> str:
        """Return this Step as a command of ip(8), bridge(8) or sysctl(8)."""
        verb = "replace" if self.replace else "add"
        return f"ip route {verb} {_route(self.route, self.name)}"

    def effect(self, link: Link) -> Link:
        """Return `link` as it is after this Step."""
        key = (self.route.destination, self.route.metric)
        others = frozenset(route for route in link.routes if (route.destination, route.metric) != key)
        return replace(link, routes=others | {self.route})


class DeleteRoute(Struct, frozen=True):
    """Take a route with xennetd's mark (ROUTE_PROTOCOL) off the link."""

    index: int
    name: str
    route: Route

    def describe(self) -> str:
        """Return this Step as a command of ip(8), bridge(8) or sysctl(8)."""
        return f"ip route del {_route(self.route, self.name)}"

    def effect(self, link: Link) -> Link:
        """Return `link` as it is after this Step."""
        return replace(link, routes=link.routes - {self.route})


class SetNeighbour(Struct, frozen=True):
    """Give an IP address on the link a permanent neighbour entry with its guest's MAC."""

    index: int
    name: str
    neighbour: Neighbour

    def describe(self) -> str:
        """Return this Step as a command of ip(8), bridge(8) or sysctl(8)."""
        return f"ip neigh replace {self.neighbour.address} lladdr {self.neighbour.mac} dev {self.name} nud permanent"

    def effect(self, link: Link) -> Link:
        """Return `link` as it is after this Step."""
        others = {neighbour for neighbour in link.neighbours if neighbour.address != self.neighbour.address}
        return replace(link, neighbours=frozenset(others | {self.neighbour}))


class DeleteNeighbour(Struct, frozen=True):
    """Take a permanent neighbour entry off the link."""

    index: int
    name: str
    neighbour: Neighbour

    def describe(self) -> str:
        """Return this Step as a command of ip(8), bridge(8) or sysctl(8)."""
        return f"ip neigh del {self.neighbour.address} dev {self.name}"

    def effect(self, link: Link) -> Link:
        """Return `link` as it is after this Step."""
        return replace(link, neighbours=link.neighbours - {self.neighbour})


class SetSysctl(Struct, frozen=True):
    """Set a sysctl of the link itself (net.ipv4.conf or net.ipv6.conf), which disappears with the link."""

    index: int
    name: str
    sysctl: Sysctl

    def describe(self) -> str:
        """Return this Step as a command of ip(8), bridge(8) or sysctl(8)."""
        return self.sysctl.describe()

    def effect(self, link: Link) -> Link:
        """Return `link` as it is after this Step."""
        new = (self.sysctl.version, self.sysctl.setting, self.sysctl.value)
        others = frozenset(sysctl for sysctl in link.sysctls if sysctl[:2] != new[:2])
        return replace(link, sysctls=others | {new})


class ResetSysctls(Struct, frozen=True):
    """Give sysctls of the link itself the values of a new link, those of `conf/default`. No Step needs them."""

    index: int
    name: str
    settings: tuple[tuple[int, str], ...]

    def describe(self) -> str:
        """Return the settings by IP version, as paths of sysctl(8) that get the value of `default`."""
        versions = sorted({version for version, _ in self.settings})
        names = (",".join(name for of, name in self.settings if of == version) for version in versions)
        paths = (f"net/ipv{version}/conf/{self.name}/{{{text}}}" for version, text in zip(versions, names, strict=True))
        return f"sysctl {' '.join(paths)} as of a new link"

    def effect(self, link: Link) -> Link:
        """Return `link` as it is after this Step: nothing is known of the values."""
        return replace(link, sysctls=frozenset(item for item in link.sysctls if item[:2] not in self.settings))


def _route(route: Route, name: str) -> str:
    source = f" src {route.source}" if route.source is not None else ""
    return f"{route.destination} dev {name}{source} metric {route.metric} proto {ROUTE_PROTOCOL}"


LinkStep = (
    SetLink
    | AddAddress
    | DeleteAddress
    | AddRoute
    | DeleteRoute
    | SetNeighbour
    | DeleteNeighbour
    | SetSysctl
    | ResetSysctls
)
Step = LinkStep | HostStep


def kind_of(step: Step) -> str:
    """Return what a Step is about: a property of a link, a kind of host object, or its own type."""
    if isinstance(step, SetLink):
        return step.property
    return step.object.key.kind if isinstance(step, HostStep) else type(step).__name__

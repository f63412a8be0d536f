"""Steps: what is to be done to one guest's link, with the one line that plan, log, audit and tests show.

A Step names its link by index, so that it can only ever hit the link that was looked at; the name is for people.
Every Step is idempotent, and `effect` says what the link is once it has been done: the kernel's part, as far as a
decision depends on it. Steps about what the host itself must have are in `plan.host`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from xennetd.model.ip import IPInterface
from xennetd.model.link import IFF_UP, Link, Neighbour, Route
from xennetd.model.marks import ROUTE_PROTOCOL
from xennetd.model.objects import Sysctl
from xennetd.plan.difference import HostStep

_WORDS = {"name": "name", "address": "address", "mtu": "mtu", "group": "group"}
"""How ip(8) calls the properties that take a value as it is."""


@dataclass(frozen=True, slots=True)
class SetLink:
    """Give one property of a link a value (`plan.properties` has them all). `words` is that, as ip(8) has it.

    Where it is not `needed`, the kernel may refuse it: netback takes no MTU above 1500 for a frontend without
    scatter-gather (xenvif_change_mtu() of drivers/net/xen-netback/interface.c). `bridge_flag` is the IFLA_BRPORT_*
    attribute of a flag of a bridge's port, 0 for a property of the link itself.
    """

    index: int
    name: str
    property: str
    value: int | str | bool
    words: str
    needed: bool = True
    bridge_flag: int = 0

    def describe(self) -> str:
        program = "bridge" if self.bridge_flag else "ip"
        return f"{program} link set dev {self.name} {self.words}"

    def effect(self, link: Link) -> Link:
        if self.bridge_flag:
            on = link.flags_on | {self.property} if self.value else link.flags_on - {self.property}
            return replace(link, flags_on=on)
        if self.property != "up":
            # A new port has the flags that the kernel gives it; what leaves a bridge has none.
            flags_on = frozenset[str]() if self.property == "master" else link.flags_on
            changed: dict[str, int | str | bool] = {self.property: self.value}
            return replace(link, flags_on=flags_on, **changed)  # type: ignore[arg-type] # the table has the types
        if self.value:
            return replace(link, flags=link.flags | IFF_UP)
        # The kernel takes routes, neighbours and IPv6 addresses away with a link that goes down.
        kept = tuple(address for address in link.addresses if address.version == 4)
        return replace(link, flags=link.flags & ~IFF_UP, addresses=kept, routes=frozenset(), neighbours=frozenset())


def set_down(link: Link) -> SetLink:
    """Take a link down: no frame passes it."""
    return SetLink(link.index, link.name, "up", False, "down")


def set_up(link: Link, name: str) -> SetLink:
    """Bring a link up that is called `name` by then. It runs only when all Steps before it have succeeded."""
    return SetLink(link.index, name, "up", True, "up")


def set_master(index: int, name: str, master: int, master_name: str = "") -> SetLink:
    """Make a link the port of a bridge; `master` 0 takes it out of the one it is in."""
    return SetLink(index, name, "master", master, f"master {master_name}" if master else "nomaster")


def set_value(index: int, name: str, property: str, value: int | str, *, needed: bool = True) -> SetLink:
    """Give a link a name, an address, an MTU or a group."""
    return SetLink(index, name, property, value, f"{_WORDS[property]} {value}", needed)


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Give the link an IP address of the host's, without duplicate address detection."""

    index: int
    name: str
    address: IPInterface

    def describe(self) -> str:
        nodad = " nodad" if self.address.version == 6 else ""
        return f"ip addr add {self.address} dev {self.name}{nodad}"

    def effect(self, link: Link) -> Link:
        return replace(link, addresses=(*link.addresses, self.address))


@dataclass(frozen=True, slots=True)
class DeleteAddress:
    """Take an IP address off the link."""

    index: int
    name: str
    address: IPInterface

    def describe(self) -> str:
        return f"ip addr del {self.address} dev {self.name}"

    def effect(self, link: Link) -> Link:
        return replace(link, addresses=tuple(each for each in link.addresses if each != self.address))


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

    def effect(self, link: Link) -> Link:
        return replace(link, routes=link.routes | {self.route})


@dataclass(frozen=True, slots=True)
class DeleteRoute:
    """Take a route of ours off the link."""

    index: int
    name: str
    route: Route

    def describe(self) -> str:
        return f"ip route del {_route(self.route, self.name)}"

    def effect(self, link: Link) -> Link:
        return replace(link, routes=link.routes - {self.route})


@dataclass(frozen=True, slots=True)
class SetNeighbour:
    """Fix whose MAC an address on the link is."""

    index: int
    name: str
    neighbour: Neighbour

    def describe(self) -> str:
        return f"ip neigh replace {self.neighbour.address} lladdr {self.neighbour.mac} dev {self.name} nud permanent"

    def effect(self, link: Link) -> Link:
        others = {each for each in link.neighbours if each.address != self.neighbour.address}
        return replace(link, neighbours=frozenset(others | {self.neighbour}))


@dataclass(frozen=True, slots=True)
class DeleteNeighbour:
    """Take a permanent neighbour entry off the link."""

    index: int
    name: str
    neighbour: Neighbour

    def describe(self) -> str:
        return f"ip neigh del {self.neighbour.address} dev {self.name}"

    def effect(self, link: Link) -> Link:
        return replace(link, neighbours=link.neighbours - {self.neighbour})


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """Set a value of net.ipv4.conf or net.ipv6.conf of the link, which goes when the link goes."""

    index: int
    name: str
    sysctl: Sysctl

    def describe(self) -> str:
        return self.sysctl.describe()

    def effect(self, link: Link) -> Link:
        new = (self.sysctl.version, self.sysctl.setting, self.sysctl.value)
        return replace(link, sysctls=frozenset(each for each in link.sysctls if each[:2] != new[:2]) | {new})


def _route(route: Route, name: str) -> str:
    source = f" src {route.source}" if route.source is not None else ""
    return f"{route.destination} dev {name}{source} metric {route.metric} proto {ROUTE_PROTOCOL}"


LinkStep = SetLink | AddAddress | DeleteAddress | AddRoute | DeleteRoute | SetNeighbour | DeleteNeighbour | SetSysctl
Step = LinkStep | HostStep

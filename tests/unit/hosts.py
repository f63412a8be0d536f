"""A host as a table, and the other guests on it: what deciding code asks, answered without a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xennetd.daemon.reconcile.registry import GuestRegistry
from xennetd.model.ip import IPAddress, IPNetwork
from xennetd.model.link import Link
from xennetd.model.marks import BRIDGE_GROUP, GUEST_GROUP, port_of
from xennetd.model.vif import VifId


@dataclass(frozen=True)
class TableHost:
    """Implements `HostView`. `settings` are the sysctls that its kernel has, by (IP version, link, setting).

    `ways_out` names the default routes' links by IP version, `routers` are where these routes lead to.
    """

    links: Sequence[Link] = ()
    settings: Mapping[tuple[int, str, str], int] = field(default_factory=dict)
    ways_out: Mapping[int, str] = field(default_factory=dict)
    routers: tuple[IPAddress, ...] = ()

    @property
    def has_ipv6(self) -> bool:
        return (6, "all", "forwarding") in self.settings

    @property
    def forces_ipv6(self) -> bool:
        return (6, "default", "force_forwarding") in self.settings

    def link(self, name: str) -> Link | None:
        return next((link for link in self.links if link.name == name), None)

    def bridges(self) -> tuple[Link, ...]:
        return tuple(sorted((link for link in self.links if link.kind == "bridge"), key=lambda link: link.name))

    def uplinks(self, bridge: int) -> tuple[Link, ...]:
        return tuple(link for link in self.links if link.master == bridge and not link.name.startswith("vif"))

    def bridge_of(self, vif: VifId) -> Link | None:
        link = next((link for link in self.links if link.parent == vif), None)
        name = port_of(link.alias) if link is not None else None
        indexes = [name[1]] if name is not None else []
        indexes += [link.master] if link is not None else []
        return next((bridge for index in indexes for bridge in self.bridges() if bridge.index == index), None)

    def default_uplink(self, version: int) -> Link | None:
        return self.link(self.ways_out.get(version, ""))

    def owner(self, destination: IPNetwork) -> Link | None:
        for link in self.links:
            for address in link.addresses:
                if address.version == destination.version and address.ip in destination:
                    return link
        return None

    def router(self, destination: IPNetwork) -> IPAddress | None:
        return next((each for each in self.routers if each in destination), None)

    def neighbouring(self, subnet: IPNetwork) -> Link | None:
        for link in self.links:
            if link.group in (BRIDGE_GROUP, GUEST_GROUP):
                continue
            for address in link.addresses:
                if address.version == subnet.version and address.network.overlaps(subnet):
                    return link
        return None

    def routed(self, destination: IPNetwork, metric: int) -> Link | None:
        for link in self.links:
            if any((route.destination, route.metric) == (destination, metric) for route in link.routes):
                return link
        return None


def nobody() -> GuestRegistry:
    """No other guests, no leases, and all networks are ready."""
    return GuestRegistry(lambda instance, mac: (), lambda instance, address: False, lambda network: None)

"""A host as a table, and the other guests on it: what deciding code asks, answered without a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from xennetd.daemon.claims import Claims
from xennetd.model.ground import BRIDGE_GROUP, GUEST_GROUP, IPAddress, IPNetwork
from xennetd.model.link import Link


@dataclass(frozen=True)
class TableHost:
    """Implements `HostView`. `settings` are by (IP version, link, key); `ways_out` names default routes' links."""

    links: tuple[Link, ...] = ()
    settings: Mapping[tuple[int, str, str], int] = field(default_factory=dict)
    ways_out: Mapping[int, str] = field(default_factory=dict)
    routers: tuple[IPAddress, ...] = ()

    def link(self, name: str) -> Link | None:
        return next((link for link in self.links if link.name == name), None)

    def bridges(self) -> tuple[Link, ...]:
        return tuple(sorted((link for link in self.links if link.kind == "bridge"), key=lambda link: link.name))

    def uplinks(self, bridge: int) -> tuple[Link, ...]:
        return tuple(link for link in self.links if link.master == bridge and not link.name.startswith("vif"))

    def default_uplink(self, version: int) -> Link | None:
        return self.link(self.ways_out.get(version, ""))

    def setting(self, version: int, link: str, key: str) -> int | None:
        return self.settings.get((version, link, key))

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
            for address in link.addresses:
                ours = link.group in (BRIDGE_GROUP, GUEST_GROUP)
                if not ours and address.version == subnet.version and address.network.overlaps(subnet):
                    return link
        return None

    def routed(self, destination: IPNetwork, metric: int) -> Link | None:
        for link in self.links:
            for route in link.routes:
                if (route.destination, route.metric) == (destination, metric):
                    return link
        return None


def nobody() -> Claims:
    """No other guests, no leases, and all networks are ready."""
    return Claims(lambda network, mac: (), lambda network: (), lambda network: None)

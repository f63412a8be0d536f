"""The host as it would be if networks had their bridges: what a daemon goes by that only observes."""

from __future__ import annotations

from xennetd.model.configuration import Policy
from xennetd.model.ip import IPAddress, IPNetwork
from xennetd.model.link import IFF_UP, HostView, Link
from xennetd.model.marks import BRIDGE_GROUP

_NOT_MADE = -1
"""The index of a bridge that is not there."""


class DryRunHost:
    """Implements `HostView`: `host`, and the bridges that the policy's networks are to have."""

    def __init__(self, host: HostView, policy: Policy) -> None:
        self._host = host
        names = {network.bridge for network in policy.networks.values() if network.own}
        self._bridges = {
            name: Link(_NOT_MADE, name, kind="bridge", flags=IFF_UP, group=BRIDGE_GROUP)
            for name in sorted(names)
            if host.link(name) is None
        }

    @property
    def has_ipv6(self) -> bool:
        return self._host.has_ipv6

    @property
    def forces_ipv6(self) -> bool:
        return self._host.forces_ipv6

    def link(self, name: str) -> Link | None:
        return self._bridges.get(name) or self._host.link(name)

    def bridges(self) -> tuple[Link, ...]:
        return self._host.bridges()

    def uplinks(self, bridge: int) -> tuple[Link, ...]:
        return self._host.uplinks(bridge)

    def default_uplink(self, version: int) -> Link | None:
        return self._host.default_uplink(version)

    def owner(self, destination: IPNetwork) -> Link | None:
        return self._host.owner(destination)

    def router(self, destination: IPNetwork) -> IPAddress | None:
        return self._host.router(destination)

    def neighbouring(self, subnet: IPNetwork) -> Link | None:
        return self._host.neighbouring(subnet)

    def routed(self, destination: IPNetwork, metric: int) -> Link | None:
        return self._host.routed(destination, metric)

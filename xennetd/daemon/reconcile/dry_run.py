"""The host as it would be with the bridges of xennetd and a planned topology, and decisions that only say what to do.

Observe mode and the plan of an apply decide about guests on such a host.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from xennetd.model.attachment import Attachment
from xennetd.model.configuration import Policy
from xennetd.model.ip import IPAddress, IPNetwork
from xennetd.model.link import IFF_LOWER_UP, IFF_UP, HostView, Link
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.marks import BRIDGE_GROUP, TOPOLOGY_GROUP
from xennetd.model.objects import HostObject
from xennetd.model.value import replace
from xennetd.model.vif import VifId
from xennetd.plan.decide import Decision
from xennetd.plan.observation import CONNECTED

_NOT_MADE = -1
"""The index of a bridge that does not exist."""


def would_do(decision: Decision, before: Attachment | None) -> Decision:
    """Return the decision with a reason that names what enforce mode would do.

    A vif that it would change keeps its attachment `before`, since nothing is done.
    """
    if decision.has_steps and before is not None:
        decision = replace(decision, attachment=before)
    would = [step.describe() for step in decision.steps]
    if decision.verdict is not None:
        would.append("tell the toolstack: " + (decision.verdict.error or CONNECTED))
    if not would:
        return decision
    return replace(decision, reason="in enforce mode xennetd would do this: " + "; ".join(would))


@dataclass(frozen=True, slots=True)
class PlannedLinks:
    """The host's own links after an apply, as far as they differ from now.

    `made` are links that are made or changed, by their names; `gone` are the names of those that go. `ports` has the
    name of its new master by a link's name, an empty one if the link is no port any more. `uplinks` has the name of the
    link that an uplink's addresses and routes move to.
    """

    made: Mapping[str, Link] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    ports: Mapping[str, str] = field(default_factory=dict)
    uplinks: Mapping[str, str] = field(default_factory=dict)


def planned_links(
    host: HostView, desired: Collection[HostObject], surplus: Collection[HostObject], uplinks: Mapping[str, str]
) -> PlannedLinks:
    """Return the links that `host` has after an apply that makes the `desired` objects and removes the `surplus`."""
    made = {}
    for item in desired:
        if isinstance(item, HostLink):
            now = host.link(item.name)
            if now is not None:
                made[item.name] = replace(now, mtu=item.mtu or now.mtu, flags=now.flags | IFF_UP)
            elif item.kind != "nic":
                made[item.name] = Link(
                    _NOT_MADE - 1 - len(made),
                    item.name,
                    kind=item.kind,
                    flags=IFF_UP | IFF_LOWER_UP,
                    mtu=item.mtu or 1500,
                    address=item.mac or item.initial_mac or "",
                    group=TOPOLOGY_GROUP,
                )
    gone = frozenset(item.name for item in surplus if isinstance(item, HostLink))
    ports = {item.link: "" for item in surplus if isinstance(item, HostPort)}
    ports |= {item.link: item.master for item in desired if isinstance(item, HostPort)}
    return PlannedLinks(made, gone, ports, uplinks)


class DryRunHost:
    """Implements `HostView`: adds to `host` the missing bridges of the networks in `policy`, and planned links.

    Every answer about the IP layer is that of `host`, but for the uplinks.
    """

    def __init__(self, host: HostView, policy: Policy, planned: PlannedLinks | None = None) -> None:
        self._host = host
        self._planned = planned = planned if planned is not None else PlannedLinks()
        names = {network.bridge for network in policy.networks.values() if network.own}
        bridges = {
            name: Link(_NOT_MADE, name, kind="bridge", flags=IFF_UP, group=BRIDGE_GROUP)
            for name in sorted(names)
            if host.link(name) is None
        }
        self._made = {**bridges, **planned.made}

    @property
    def has_ipv6(self) -> bool:
        """Whether the kernel has IPv6."""
        return self._host.has_ipv6

    @property
    def forces_ipv6(self) -> bool:
        """Whether IPv6 can be forwarded link by link."""
        return self._host.forces_ipv6

    def link(self, name: str) -> Link | None:
        """Return the link of this name, or the one of this name that xennetd would make."""
        if name in self._planned.gone:
            return None
        return self._made.get(name) or self._host.link(name)

    def bridges(self) -> tuple[Link, ...]:
        """Return the bridges that exist after the plan. Those of xennetd's networks that do not exist are left out."""
        found = {bridge.name: bridge for bridge in self._host.bridges() if bridge.name not in self._planned.gone}
        found |= {name: link for name, link in self._planned.made.items() if link.kind == "bridge"}
        return tuple(found[name] for name in sorted(found))

    def uplinks(self, bridge: int) -> tuple[Link, ...]:
        """Return the uplinks of the bridge with this index; a bridge of a network that does not exist has none."""
        ports = self._planned.ports
        kept = [link for link in self._host.uplinks(bridge) if link.name not in ports]
        name = next((each.name for each in self.bridges() if each.index == bridge), "")
        joined = [self.link(port) for port, master in ports.items() if name and master == name]
        return tuple(kept + [link for link in joined if link is not None])

    def bridge_of(self, vif: VifId) -> Link | None:
        """Return the bridge of a vif's link."""
        bridge = self._host.bridge_of(vif)
        return self.link(bridge.name) if bridge is not None else None

    def default_uplink(self, version: int) -> Link | None:
        """Return the link of the default route of this IP version."""
        link = self._host.default_uplink(version)
        if link is None:
            return None
        return self.link(self._planned.uplinks.get(link.name, link.name))

    def owner(self, destination: IPNetwork) -> Link | None:
        """Return a link with an address of the host in this destination."""
        return self._host.owner(destination)

    def router(self, destination: IPNetwork) -> IPAddress | None:
        """Return a router in this destination that a default route leads to."""
        return self._host.router(destination)

    def neighbouring(self, subnet: IPNetwork) -> Link | None:
        """Return a foreign link with an address in a subnet that overlaps this one."""
        return self._host.neighbouring(subnet)

    def routed(self, destination: IPNetwork, metric: int) -> Link | None:
        """Return the link of xennetd's route with this destination and metric."""
        return self._host.routed(destination, metric)

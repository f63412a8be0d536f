"""Observe mode: the host as it would be with the bridges of xennetd, and decisions that only say what they would do."""

from __future__ import annotations

from xennetd.model.attachment import Attachment
from xennetd.model.configuration import Policy
from xennetd.model.ip import IPAddress, IPNetwork
from xennetd.model.link import IFF_UP, HostView, Link
from xennetd.model.marks import BRIDGE_GROUP
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


class DryRunHost:
    """Implements `HostView`: adds to `host` the missing bridges of the networks in `policy`.

    Every answer but `link` is that of `host`.
    """

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
        """Whether the kernel has IPv6."""
        return self._host.has_ipv6

    @property
    def forces_ipv6(self) -> bool:
        """Whether IPv6 can be forwarded link by link."""
        return self._host.forces_ipv6

    def link(self, name: str) -> Link | None:
        """Return the link of this name, or the bridge of this name that xennetd would make."""
        return self._host.link(name) or self._bridges.get(name)

    def bridges(self) -> tuple[Link, ...]:
        """Return the bridges that exist."""
        return self._host.bridges()

    def uplinks(self, bridge: int) -> tuple[Link, ...]:
        """Return the uplinks of the bridge with this index; a bridge that does not exist has none."""
        return self._host.uplinks(bridge)

    def bridge_of(self, vif: VifId) -> Link | None:
        """Return the bridge of a vif's link."""
        return self._host.bridge_of(vif)

    def default_uplink(self, version: int) -> Link | None:
        """Return the link of the default route of this IP version."""
        return self._host.default_uplink(version)

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

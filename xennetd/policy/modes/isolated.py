"""Mode isolated: guests and the host on a bridge of their own; no frame and no packet leaves it."""

from __future__ import annotations

from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Mode, Network
from xennetd.model.link import HostView, Link
from xennetd.model.objects import HostObject
from xennetd.policy import bridged
from xennetd.policy.forwarding import closed
from xennetd.policy.mode import ModeModule, Request, keys
from xennetd.policy.network_objects import bridge_objects
from xennetd.render.nft_ruleset import NetworkRules

ISOLATED = Mode("isolated", own_bridge=True, way_out=False)


class IsolatedMode(ModeModule):
    """Guests on a bridge of ours that leads nowhere."""

    mode = ISOLATED
    keys = keys("bridge", "subnets", "dhcp", "ra", "domain")

    def attach(self, request: Request, assignment: Assignment) -> Attachment:
        return bridged.attach(request, assignment)

    def keeps(self, request: Request, link: Link, master: str | None) -> bool:
        return bridged.keeps(request, link, master)

    def unused_nodes(self, network: Network | None) -> frozenset[str]:
        return frozenset({"gatewaydev", "vlan"})

    def host_objects(self, network: Network, host: HostView) -> list[HostObject]:
        return [*bridge_objects(network, host), *closed(network.bridge, host)]

    def firewall(self, network: Network) -> NetworkRules:
        """A guest knows the host by its gateway's address alone."""
        bridge = f'"{network.bridge}"'
        arriving = f"iifname {bridge} fib daddr type local"
        gateway4 = f" ip daddr != {network.gateway4.ip}" if network.gateway4 is not None else ""
        gateway6 = f", {network.gateway6.ip}" if network.gateway6 is not None else ""
        return NetworkRules(
            arriving=(
                f"{arriving} meta nfproto ipv4{gateway4} drop",
                f"{arriving} ip6 daddr != {{ fe80::/10{gateway6} }} drop",
            ),
            served=tuple(gateway.ip for gateway in network.gateways),
            within=(f"iifname {bridge} oifname {bridge} accept",),
            closed=(f"iifname {bridge} drop", f"oifname {bridge} drop"),
        )

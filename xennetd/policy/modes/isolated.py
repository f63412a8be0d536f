"""Mode isolated: guests and the host are on the network's own bridge. No frame and no packet leaves this bridge."""

from __future__ import annotations

from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Mode, Network
from xennetd.model.link import HostView, Link
from xennetd.model.objects import HostObject
from xennetd.policy import bridged
from xennetd.policy.forwarding import closed
from xennetd.policy.mode import AttachmentRequest, ModeModule, keys
from xennetd.policy.network_objects import bridge_objects
from xennetd.render.nft_ruleset import NetworkRules

ISOLATED = Mode("isolated", own_bridge=True, way_out=False)


class IsolatedMode(ModeModule):
    """Guests are ports of the network's own bridge, which has no uplink."""

    mode = ISOLATED
    keys = keys("bridge", "subnets", "dhcp", "ra", "domain")

    def attach(self, request: AttachmentRequest, assignment: Assignment) -> Attachment:
        """Return a port of the network's own bridge."""
        return bridged.attach(request, assignment)

    def keeps(self, request: AttachmentRequest, link: Link, master: str | None) -> bool:
        """Return whether `master` is the network's own bridge."""
        return bridged.keeps(request, link, master)

    def unused_nodes(self, network: Network | None) -> frozenset[str]:
        """Return `gatewaydev`, since nothing leaves the bridge."""
        return frozenset({"gatewaydev"})

    def host_objects(self, network: Network, host: HostView) -> list[HostObject]:
        """Return the bridge, its addresses and its dnsmasq, and the sysctls that forbid forwarding from it."""
        return [*bridge_objects(network, host), *closed(network.bridge, host)]

    def firewall(self, network: Network) -> NetworkRules:
        """Return the rules. Guests reach the host at the gateways' addresses only, and nothing is forwarded."""
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
            bridge=network.bridge,
        )

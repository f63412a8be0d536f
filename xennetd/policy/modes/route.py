"""Mode route: no bridge; a host route for each address of a guest. Without a network it is the stock vif-route."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Mode, Network
from xennetd.model.link import HostView, Link
from xennetd.model.marks import GUEST_GROUP
from xennetd.model.objects import HostAddress, HostObject, ManagedBridge, Sysctl
from xennetd.model.placement import Routed
from xennetd.policy import routed
from xennetd.policy.mode import ModeModule, Request, keys
from xennetd.policy.network_objects import bridge_mac, dhcp_objects
from xennetd.render import dnsmasq_files
from xennetd.render.nft_ruleset import FAMILY, NetworkRules

ROUTE = Mode("route", routed=True)


class RouteMode(ModeModule):
    """Guests that the host routes to."""

    mode = ROUTE
    keys = keys("subnets", "uplink", "dhcp", "ra", "domain", "gateway", "proxy")
    script = "route"

    def attach(self, request: Request, assignment: Assignment) -> Attachment:
        return routed.attach(request, assignment)

    def keeps(self, request: Request, link: Link, master: str | None) -> bool:
        """What is routed to the link must be the network's, lest a guest stays where another network has been."""
        network = request.network
        if not Routed.serves(link):
            return False
        if network is None or not network.subnets:
            return True
        return all(_within(route.destination, network) for route in link.routes)

    def unused_nodes(self, network: Network | None) -> frozenset[str]:
        return frozenset({"bridge", "vlan"})

    def host_objects(self, network: Network, host: HostView) -> list[HostObject]:
        """Return the link without ports whose addresses dnsmasq serves routed guests by."""
        if not network.dhcp:
            return []
        name = network.served_link
        addresses = dnsmasq_files.unported_addresses(network)
        found: list[HostObject] = [ManagedBridge(name, bridge_mac(name))]
        if any(each.version == 6 for each in addresses):
            found.append(Sysctl(6, name, "disable_ipv6", 0))
        return [*found, *(HostAddress(name, each) for each in addresses), *dhcp_objects(network)]

    def firewall(self, network: Network) -> NetworkRules:
        """A dnsmasq of routed guests listens on an address, which can be reached from anywhere."""
        if not network.dhcp:
            return NetworkRules()
        served = (f"{FAMILY[gateway.version]} daddr {gateway.ip}" for gateway in network.gateways)
        return NetworkRules(
            arriving=tuple(
                f'iifgroup != {GUEST_GROUP} iifname != "lo" {each} meta l4proto {{ tcp, udp }} th dport 53 drop'
                for each in served
            )
        )


def _within(destination: IPv4Network | IPv6Network, network: Network) -> bool:
    return any(
        subnet.version == destination.version and destination.subnet_of(subnet)  # type: ignore[arg-type] # one version
        for subnet in network.subnets
    )

"""Mode route: guests have no bridge; the host has a route to every address of a guest.

Without a network it does what the stock vif-route script does.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Mode, Network
from xennetd.model.link import HostView, Link
from xennetd.model.marks import GUEST_GROUP
from xennetd.model.objects import HostAddress, HostObject, Sysctl
from xennetd.model.placement import Routed
from xennetd.policy import routed
from xennetd.policy.mode import AttachmentRequest, ModeModule, keys
from xennetd.policy.network_objects import dhcp_objects, made_bridge
from xennetd.render import dnsmasq_files
from xennetd.render.nft_ruleset import FAMILY, NetworkRules

ROUTE = Mode("route", routed=True)


class RouteMode(ModeModule):
    """The host routes to its guests."""

    mode = ROUTE
    keys = keys("subnets", "uplink", "dhcp", "ra", "domain", "gateway", "proxy")
    script = "route"

    def attach(self, request: AttachmentRequest, assignment: Assignment) -> Attachment:
        """Return the routing to the guest's addresses."""
        return routed.attach(request, assignment)

    def keeps(self, request: AttachmentRequest, link: Link, master: str | None) -> bool:
        """Return whether the link is routed and all its routes are within the network's subnets.

        Routes outside of them belong to the network that the guest was in before.
        """
        network = request.network
        if not Routed.serves(link):
            return False
        if network is None or not network.subnets:
            return True
        return all(_within(route.destination, network) for route in link.routes)

    def unused_nodes(self, network: Network | None) -> frozenset[str]:
        """Return `bridge`."""
        return frozenset({"bridge"})

    def host_objects(self, network: Network, host: HostView) -> list[HostObject]:
        """Return the served link (`Network.served_link`) with its addresses and dnsmasq; nothing without `dhcp`."""
        if not network.dhcp:
            return []
        name = network.served_link
        addresses = dnsmasq_files.unported_addresses(network)
        objects = made_bridge(name)
        if any(address.version == 6 for address in addresses):
            objects.append(Sysctl(6, name, "disable_ipv6", 0))
        return [*objects, *(HostAddress(name, address) for address in addresses), *dhcp_objects(network)]

    def firewall(self, network: Network) -> NetworkRules:
        """Return the rules that keep others than guests from dnsmasq's DNS, which listens on a routable address."""
        if not network.dhcp:
            return NetworkRules()
        destinations = (f"{FAMILY[gateway.version]} daddr {gateway.ip}" for gateway in network.gateways)
        return NetworkRules(
            arriving=tuple(
                f'iifgroup != {GUEST_GROUP} iifname != "lo" {destination} meta l4proto {{ tcp, udp }} th dport 53 drop'
                for destination in destinations
            )
        )


def _within(destination: IPv4Network | IPv6Network, network: Network) -> bool:
    return any(
        subnet.version == destination.version and destination.subnet_of(subnet)  # type: ignore[arg-type] # one version
        for subnet in network.subnets
    )

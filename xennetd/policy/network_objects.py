"""What the host must have for a network with a link of ours, in any mode: the link, its addresses, its dnsmasq."""

from __future__ import annotations

import hashlib

from xennetd.model.configuration import Network
from xennetd.model.link import HostView
from xennetd.model.objects import DhcpService, HostAddress, HostObject, ManagedBridge, Sysctl
from xennetd.render import dnsmasq_files


def bridge_objects(network: Network, host: HostView) -> list[HostObject]:
    """Return the network's own bridge, with the gateways' addresses and its dnsmasq."""
    name = network.bridge
    found: list[HostObject] = [ManagedBridge(name, bridge_mac(name))]
    found += [HostAddress(name, gateway) for gateway in network.gateways]
    if host.has_ipv6:
        found += [Sysctl(6, name, "accept_ra", 0), Sysctl(6, name, "disable_ipv6", int(network.subnet6 is None))]
        # Nobody else can have the link-local address that follows from our MAC, and no guest is to deny it to us.
        found.append(Sysctl(6, name, "accept_dad", 0))
    return [*found, *dhcp_objects(network)]


def dhcp_objects(network: Network) -> tuple[DhcpService, ...]:
    """Return the network's dnsmasqs, if it has any."""
    return dnsmasq_files.services(network) if network.dhcp else ()


def bridge_mac(bridge: str) -> str:
    """Return a locally administered MAC that stays the same, so that guests know their gateway again.

    It follows from the bridge's name, since a network may get another name under its guests.
    """
    return "02:" + hashlib.sha256(bridge.removeprefix("xn-").encode()).digest()[:5].hex(":")

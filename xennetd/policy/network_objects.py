"""The host objects that several modes share: a network's own bridge, its addresses, and its dnsmasq."""

from __future__ import annotations

import hashlib

from xennetd.model.configuration import Network
from xennetd.model.link import HostView
from xennetd.model.objects import DhcpService, HostAddress, HostObject, ManagedBridge, Sysctl
from xennetd.render import dnsmasq_files


def bridge_objects(network: Network, host: HostView) -> list[HostObject]:
    """Return the network's own bridge, with the gateways' addresses and the network's dnsmasq."""
    name = network.bridge
    objects = made_bridge(name)
    objects += [HostAddress(name, gateway) for gateway in network.gateways]
    if host.has_ipv6:
        objects += [Sysctl(6, name, "accept_ra", 0), Sysctl(6, name, "disable_ipv6", int(network.subnet6 is None))]
        # No duplicate address detection: the bridge's link-local address follows from its own MAC, and a guest that
        # claims the address must not be able to take it from the host.
        objects.append(Sysctl(6, name, "accept_dad", 0))
    return [*objects, *dhcp_objects(network)]


def made_bridge(name: str) -> list[HostObject]:
    """Return a bridge that xennetd makes.

    With `promote_secondaries`, an address that an administrator has added to the bridge stays when xennetd removes its
    own of the same subnet, and the other way round. Else the kernel removes all addresses of a subnet together with
    the first one (__inet_del_ifa() in net/ipv4/devinet.c).
    """
    return [ManagedBridge(name, bridge_mac(name)), Sysctl(4, name, "promote_secondaries", 1)]


def dhcp_objects(network: Network) -> tuple[DhcpService, ...]:
    """Return the network's dnsmasq instances; none without `dhcp`."""
    return dnsmasq_files.services(network) if network.dhcp else ()


def bridge_mac(bridge: str) -> str:
    """Return a locally administered MAC for a bridge. It stays the same, so that guests recognise their gateway.

    It follows from the bridge's name and not from the network's, since a network may be renamed while it has guests.
    """
    return "02:" + hashlib.sha256(bridge.removeprefix("xn-").encode()).digest()[:5].hex(":")

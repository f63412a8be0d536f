"""Type names for addresses, networks and interfaces of either IP version."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
IPInterface = IPv4Interface | IPv6Interface


def plain(ip: IPInterface) -> str:
    """Return an address as an administrator writes it: a single host's address without its prefix length."""
    return str(ip.ip) if ip.network.prefixlen == ip.max_prefixlen else str(ip)

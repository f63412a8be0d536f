"""Readers for the values of a network: subnets, addresses, targets of a forwarded port, DNS domains.

A reader returns the value or raises ValueError. The error's text is a phrase that says what is wrong. It repeats
nothing of the input but numbers, so it is safe to show.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from xennetd.model.ip import IPAddress, IPNetwork
from xennetd.model.vif import VifId

# ipaddress knows more spellings (netmasks, scopes) than an administrator should have to recognise.
_SUBNET = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}")
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+")
_TARGET = re.compile(r"(\[.*\]|[^:]*):([0-9]{1,5})", re.DOTALL)
_VM = re.compile(r"(?![0-9.]+\Z)[A-Za-z0-9._+-]+")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

_LONGEST_DOMAIN = 190
"""In characters. RFC 1035 allows 253 for a whole name, of which the VM's label before the domain takes up to 63."""

# "This host", loopback, link-local, multicast and reserved addresses: no network may assign them (RFC 6890).
_NEVER4 = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")))
# Global and unique local addresses (RFC 4291, RFC 4193).
_UNICAST6 = tuple(map(IPv6Network, ("2000::/3", "fc00::/7")))

_LONGEST_SUBNET = {4: 30, 6: 64}


def subnet(text: str) -> IPNetwork:
    """Return the network that `text` ("10.77.0.0/24", "fd77::/64") means. A gateway and a guest fit into it."""
    if not _SUBNET.fullmatch(text):
        raise ValueError("not valid")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("not valid") from None
    if str(network.network_address) != str(ip_address(text.partition("/")[0])):
        raise ValueError(f"not a network's address, which would be {network}")
    longest = _LONGEST_SUBNET[network.version]
    if network.prefixlen > longest:
        raise ValueError(f"too small: an IPv{network.version} subnet is a /{longest} or shorter")
    if not for_guests(network):
        raise ValueError("not addresses that guests can have")
    return network


def prefix6(text: str) -> IPv6Network:
    """Return the IPv6 network that `text` ("2001:db8:77::/64") means."""
    network = subnet(text)
    if isinstance(network, IPv4Network):
        raise ValueError("not an IPv6 prefix")
    return network


def address(text: str) -> IPAddress:
    """Return the address that `text` ("10.77.0.5", "fd77::5") means. A guest can have it."""
    if not _ADDRESS.fullmatch(text):
        raise ValueError("not valid")
    try:
        ip = ip_address(text)
    except ValueError:
        raise ValueError("not valid") from None
    if not for_guests(ip_network(ip)):
        raise ValueError("not an address that a guest can have")
    return ip


def target(text: str) -> tuple[str | IPv4Address | IPv6Address, int]:
    """Return a VM's name or an address, and a port, as `text` ("web-1:80", "[fd77::5]:80") gives them."""
    match = _TARGET.fullmatch(text)
    if match is None or not is_port(int(match[2])):
        raise ValueError("not valid")
    where, port = match[1], int(match[2])
    if where.startswith("["):
        ip = address(where[1:-1])
        if ip.version == 4:
            raise ValueError("not valid")
        return ip, port
    if _VM.fullmatch(where):
        return where, port
    return address(where), port


def bridge(text: str) -> str:
    """Return the name of a bridge. The names of guests' interfaces are not free for others."""
    if VifId.parse(text.removesuffix("-emu")) is not None:
        raise ValueError("the name of a guest's interface")
    return text


def uplink(text: str) -> str:
    """Return the name of a link that leads out of the host, which neither lo nor a guest's interface does."""
    if text == "lo":
        raise ValueError("leads nowhere: it is the host's loopback")
    return bridge(text)


def is_port(number: int) -> bool:
    """Return whether `number` is a port number of TCP and UDP, 1 to 65535."""
    return 1 <= number <= 0xFFFF


def is_domain(text: str) -> bool:
    """Return whether `text` is a DNS domain (RFC 1035), without a final dot, that leaves room for a guest's label."""
    return len(text) <= _LONGEST_DOMAIN and all(_LABEL.fullmatch(label) for label in text.split("."))


def for_guests(network: IPNetwork) -> bool:
    """Return whether guests can have the addresses of `network`: unicast addresses that are valid beyond one link."""
    if isinstance(network, IPv4Network):
        return not any(network.overlaps(never) for never in _NEVER4)
    return any(network.subnet_of(unicast) for unicast in _UNICAST6)

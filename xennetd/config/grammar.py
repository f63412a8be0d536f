"""How a network's values are written: subnets, addresses, where a port is forwarded to, a DNS domain.

A reader returns the value or raises a ValueError, whose text says in a phrase what is wrong and repeats nothing of what
it was given but numbers.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from xennetd.model.ip import IPAddress, IPNetwork

# ipaddress knows more spellings (netmasks, scopes) than an administrator should have to recognise.
_SUBNET = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}")
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+")
_TARGET = re.compile(r"(\[.*\]|[^:]*):([0-9]{1,5})", re.DOTALL)
_VM = re.compile(r"(?![0-9.]+\Z)[A-Za-z0-9._+-]+")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

_LONGEST_DOMAIN = 190
"""RFC 1035 has 253 for a name; a VM's, one label, comes before the domain."""

# "This host", loopback, link-local, multicast and reserved addresses: nobody's to give away (RFC 6890).
_NEVER4 = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")))
# Global and unique local addresses (RFC 4291, RFC 4193).
_UNICAST6 = tuple(map(IPv6Network, ("2000::/3", "fc00::/7")))

_LONGEST_SUBNET = {4: 30, 6: 64}


def subnet(text: str) -> IPNetwork:
    """Return the network that `text` ("10.77.0.0/24", "fd77::/64") means, one that a gateway and guests fit into."""
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
    """Return the IPv6 network that `text` means."""
    network = subnet(text)
    if isinstance(network, IPv4Network):
        raise ValueError("not an IPv6 prefix")
    return network


def address(text: str) -> IPAddress:
    """Return the address ("10.77.0.5", "fd77::5") that `text` means, one that a guest can have."""
    if not _ADDRESS.fullmatch(text):
        raise ValueError("not valid")
    try:
        found = ip_address(text)
    except ValueError:
        raise ValueError("not valid") from None
    if not for_guests(ip_network(found)):
        raise ValueError("not an address that a guest can have")
    return found


def target(text: str) -> tuple[str | IPv4Address | IPv6Address, int]:
    """Return the VM's name or the address, and the port, that `text` ("web-1:80", "[fd77::5]:80") means."""
    match = _TARGET.fullmatch(text)
    if match is None or not is_port(int(match[2])):
        raise ValueError("not valid")
    where, port = match[1], int(match[2])
    if where.startswith("["):
        found = address(where[1:-1])
        if found.version == 4:
            raise ValueError("not valid")
        return found, port
    if _VM.fullmatch(where):
        return where, port
    return address(where), port


def is_port(number: int) -> bool:
    """Return whether TCP and UDP know a port of this number."""
    return 1 <= number <= 0xFFFF


def is_domain(text: str) -> bool:
    """Return whether `text` is a DNS domain that a guest's name fits before, without a dot at the end (RFC 1035)."""
    return len(text) <= _LONGEST_DOMAIN and all(_LABEL.fullmatch(label) for label in text.split("."))


def for_guests(network: IPNetwork) -> bool:
    """Return whether an address or a subnet is one that guests can have: unicast, and good beyond one link."""
    if isinstance(network, IPv4Network):
        return not any(network.overlaps(never) for never in _NEVER4)
    return any(network.subnet_of(unicast) for unicast in _UNICAST6)

"""What dnsmasq(8) is told: one network's configuration, what it is to tell each guest, and what it says of its leases.

Rule 1: only a MAC address that we named gets anything by DHCP, and only the addresses that we named for it.
Rule 2: it serves the network's own guests, and is bound to no address but the network's own.
Rule 3: what a guest sends never becomes a name or an address.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from xennetd.model.attachment import Mode
from xennetd.model.ground import DhcpHost, IPAddress
from xennetd.model.link import IFNAMSIZ
from xennetd.model.places import STATE
from xennetd.policy.config import Network

LEASE4 = "12h"
"""Long: a guest keeps its address while dnsmasq is down, and an address that moves to another MAC is taken away."""

LEASE6 = "30m"
"""Short: a DHCPv6 lease is a DUID's, and a guest that was installed anew has another one. Three router advertisements
come within it."""

LINK_LOCAL_GATEWAY = "169.254.1.1"

LEASES_MAX = 65536
"""dhcp-lease-max; only guests that we named get one, so this only lifts dnsmasq's own limit of 1,000."""

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def directory(network: str) -> str:
    """Return where a network's dnsmasq has its files."""
    return f"{STATE}/{network}"


def interface(network: Network) -> str:
    """Return the link whose addresses a network's dnsmasq serves: its own bridge.

    In mode route there is none that guests are in. dnsmasq then needs a link of ours without ports that has both
    gateway addresses of the subnets, each as long as an address is: what guests' interfaces lack (dnsmasq(8),
    --bridge-interface).
    """
    if network.bridge:
        return network.bridge
    name = f"xn-{network.name}"
    if len(name) < IFNAMSIZ and all(character not in name for character in "*,"):
        return name
    return f"xn-{hashlib.blake2s(network.name.encode(), digest_size=4).hexdigest()}"


def label(untrusted_name: str) -> str | None:
    """Return the DNS label (RFC 1123) that a VM's name is, None if it is none."""
    return untrusted_name.lower() if _LABEL.fullmatch(untrusted_name) else None


def configuration(network: Network) -> str:
    """Return the configuration file of a network with `dhcp`."""
    link = interface(network)
    lines = [
        f"# dnsmasq(8) for network {network.name}: written by xennetd, which writes over any change.",
        "user=dnsmasq",
        *_served(network, link),
        *_names(network),
        "dhcp-authoritative",
        "dhcp-ignore=tag:!known",
        "dhcp-ignore-names",
        f"dhcp-hostsdir={directory(network.name)}/hosts",
        f"dhcp-leasefile={directory(network.name)}/leases",
        f"dhcp-lease-max={LEASES_MAX}",
        "quiet-dhcp",
        "quiet-dhcp6",
        "quiet-ra",
        *_ipv4(network),
        *_ipv6(network, link),
    ]
    return "".join(f"{line}\n" for line in lines)


def _served(network: Network, link: str) -> list[str]:
    """Return where it listens. It adds `lo` to the interfaces by itself; addresses may come and go (bind-dynamic)."""
    lines = ["bind-dynamic", f"interface={link}", "except-interface=lo"]
    if network.mode is Mode.ROUTE:
        lines += ["interface=vif*", f"bridge-interface={link},vif*"]
    return lines


def _names(network: Network) -> list[str]:
    subnets = [subnet for subnet in (network.subnet4, network.subnet6) if subnet is not None]
    lines = [
        "no-hosts",
        f"hostsdir={directory(network.name)}/names",
        "expand-hosts",
        f"domain={network.domain}",
        f"local=/{network.domain}/",
        *(f"rev-server={subnet}" for subnet in subnets),
        "domain-needed",
        "bogus-priv",
    ]
    if network.mode is Mode.ISOLATED:
        lines += ["no-resolv"]
    return lines


def _ipv4(network: Network) -> list[str]:
    if network.subnet4 is None or network.gateway4 is None:
        return []
    gateway = network.gateway4.ip
    lines = [
        f"dhcp-range={network.subnet4.network_address},static,{network.subnet4.netmask},{LEASE4}",
        f"dhcp-option=option:dns-server,{gateway}",
    ]
    if network.mode is Mode.ISOLATED:
        # An empty option is not sent: a guest in two networks keeps the default route that leads somewhere.
        return [*lines, "dhcp-option=option:router"]
    if network.mode is Mode.ROUTE:
        # Nobody else is on the guest's wire. A client that knows RFC 3442 (option 121) is told so in its terms.
        router = LINK_LOCAL_GATEWAY if network.gateway == "link-local" else gateway
        return [
            *lines,
            "dhcp-option=option:netmask,255.255.255.255",
            f"dhcp-option=option:router,{router}",
            f"dhcp-option=option:classless-static-route,{router}/32,0.0.0.0,0.0.0.0/0,{router}",
        ]
    return [*lines, f"dhcp-option=option:router,{gateway}"]


def _ipv6(network: Network, link: str) -> list[str]:
    if network.subnet6 is None or network.gateway6 is None or network.ra == "off":
        return []
    mode = "ra-stateless" if network.ra == "slaac" else "static"
    if network.mode is Mode.ROUTE:
        mode = "static,off-link"  # Only an address that we gave is routed, and no other guest is on the same wire.
    lines = [
        f"dhcp-range={network.subnet6.network_address},{mode},{network.subnet6.prefixlen},{LEASE6}",
        "enable-ra",
        f"dhcp-option=option6:dns-server,[{network.gateway6.ip}]",
    ]
    if network.mode is Mode.ISOLATED:
        lines += [f"ra-param={link},0,0"]  # The advertised router's lifetime is 0: no default route.
    return lines


def host_file(host: DhcpHost) -> str:
    """Return the guest's file for dhcp-hostsdir: dnsmasq knows one IPv4 address a MAC, the first one here."""
    ipv4 = [str(address) for address in host.addresses if isinstance(address, IPv4Address)][:1]
    ipv6 = [f"[{address}]" for address in host.addresses if isinstance(address, IPv6Address)]
    return ",".join([host.mac, *ipv4, *ipv6]) + "\n"


def names_file(host: DhcpHost) -> str:
    """Return the guest's file for hostsdir: its addresses' names and back. Without a name its lines are comments."""
    if host.name is None:
        return "".join(f"# {address}\n" for address in host.addresses)
    return "".join(f"{address} {host.name}\n" for address in host.addresses)


def host_of(network: str, mac: str, names: str) -> DhcpHost | None:
    """Return the guest whose `names_file` this is, None if it is none's."""
    addresses: list[IPAddress] = []
    name: str | None = None
    for line in names.splitlines():
        words = line.removeprefix("# ").split(" ")
        try:
            addresses.append(ip_address(words[0]))
        except ValueError:
            return None
        name = words[1] if len(words) == 2 else None
    return DhcpHost(network, mac, tuple(addresses), name)


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as dnsmasq wrote it down. `mac` is None for DHCPv6, whose leases belong to a DUID."""

    address: IPAddress
    mac: str | None


def leases(untrusted_text: str) -> Mapping[IPAddress, Lease]:
    """Return what a lease file holds, by address. Lines that are none of a lease (or cut short) are passed over."""
    found = (_lease(line.split(" ")) for line in untrusted_text.splitlines())
    return {lease.address: lease for lease in found if lease is not None}


def _lease(untrusted_words: list[str]) -> Lease | None:
    """`expiry MAC address name client-id`, for DHCPv6 `expiry IAID address name DUID`."""
    if len(untrusted_words) != 5 or not untrusted_words[0].isdecimal():
        return None
    try:
        address = ip_address(untrusted_words[2])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return Lease(address, None)
    mac = untrusted_words[1].lower()
    return Lease(address, mac) if re.fullmatch(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", mac) else None


def without(text: str, addresses: Iterable[IPAddress]) -> str:
    """Return a lease file without the leases of these addresses."""
    gone = frozenset(map(str, addresses))
    return "".join(line for line in text.splitlines(keepends=True) if _address(line) not in gone)


def _address(line: str) -> str:
    words = line.split(" ")
    return words[2] if len(words) == 5 else ""

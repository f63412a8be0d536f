"""What dnsmasq(8) is told: one network's configuration, what it is to tell each guest, and what it says of its leases.

Rule 1: only a MAC address that we named gets anything by DHCP, and only the addresses that we named for it.
Rule 2: it serves the network's own guests, and is bound to no address but the network's own.
Rule 3: what a guest sends never becomes a name or an address, and no name outlives the guest that it is of.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address

from xennetd.model.configuration import Network
from xennetd.model.ip import IPAddress, IPInterface
from xennetd.model.objects import DhcpHost, DhcpService
from xennetd.model.places import STATE

LEASE4 = "12h"
"""Long: a guest keeps its address while dnsmasq is down, and an address that moves to another MAC is taken away."""

LEASE6 = "30m"
"""Short: a DHCPv6 lease is a DUID's, and a guest that was installed anew has another one. Three router advertisements
come within it."""

GUESTS = "vif*"
"""The interfaces of guests in mode route, as dnsmasq matches names; one with a `vifname` is none of them."""

LINK_LOCAL_GATEWAY = "169.254.1.1"

LEASES_MAX = 65536
"""dhcp-lease-max; only guests that we named get one, so this only lifts dnsmasq's own limit of 1,000."""


def directory(instance: str) -> str:
    """Return where a dnsmasq has its files."""
    return f"{STATE}/{instance}"


def both_instances(instance: str) -> tuple[str, str]:
    """Return the names of the dnsmasqs that a network may have: its own, and the one for IPv6 in mode route."""
    return instance, f"{instance}:ipv6"


def unported_addresses(network: Network) -> tuple[IPInterface, ...]:
    """Return the addresses of the link that `interface` names in mode route.

    The gateways' bring no route to the subnet with them, which may be the uplink's own. A router advertisement needs a
    link-local address; DHCPv6 one with a prefix, which leads to the subnet by shared-network.
    """
    found: list[IPInterface] = []
    if network.gateway4 is not None:
        found.append(IPv4Interface(network.gateway4.ip))
    if network.gateway6 is not None:
        found += [IPv6Interface(network.gateway6.ip), IPv6Interface("fe80::1/64"), _unique_local(network)]
    return tuple(found)


def _unique_local(network: Network) -> IPv6Interface:
    """Return an address of a /64 that nobody else has (RFC 4193)."""
    chosen = hashlib.blake2s(network.served_link.removeprefix("xn-").encode(), digest_size=7).digest()
    return IPv6Interface((b"\xfd" + chosen + bytes(7) + b"\1", 64))


def served_link(configuration: str) -> str:
    """Return the link that a configuration of ours is about. Raises ValueError if it is none of ours."""
    found = re.search("^(?:bridge-interface|interface)=([^,\n]+)", configuration, re.MULTILINE)
    if found is None:
        raise ValueError("no configuration of xennetd's")
    return found[1]


def services(network: Network) -> tuple[DhcpService, ...]:
    """Return the dnsmasqs of a network with `dhcp`.

    In mode route a dnsmasq that sends router advertisements to guests' interfaces would bind port 53 of every address
    on them, which may be the uplink's own, and another DNS server's. So one serves IPv6 alone, with no DNS. The other
    hears DHCP requests as if they came by a link that no guest is in, and binds the gateway addresses.
    """
    link = network.served_link
    own, ipv6 = both_instances(network.served_link)
    if not network.mode.routed:
        listen = ["bind-dynamic", f"interface={link}", "except-interface=lo"]
        return (_service(own, network, [*listen, *_names(network), *_ipv4(network), *_ipv6(network, link)]),)
    gateways = [each.ip for each in network.gateways]
    aliases = f"bridge-interface={link},{GUESTS}"
    listen = ["bind-dynamic", *(f"listen-address={each}" for each in gateways), aliases]
    found = [_service(own, network, [*listen, *_names(network), *_ipv4(network)])]
    if network.subnet6 is not None and network.ra != "off":
        listen = ["bind-dynamic", f"interface={link}", f"interface={GUESTS}", "except-interface=lo", aliases, "port=0"]
        found.append(_service(ipv6, network, [*listen, *_ipv6(network, link)]))
    return tuple(found)


def _service(instance: str, network: Network, lines: list[str]) -> DhcpService:
    lines = [
        f"# dnsmasq(8) for guests on {network.served_link}: written by xennetd, which writes over any change.",
        "user=dnsmasq",
        *lines,
        "dhcp-authoritative",
        "dhcp-ignore=tag:!known",
        "dhcp-ignore-names",
        f"dhcp-hostsdir={directory(network.served_link)}/hosts",
        f"dhcp-leasefile={directory(instance)}/leases",
        f"dhcp-lease-max={LEASES_MAX}",
        "quiet-dhcp",
        "quiet-dhcp6",
        "quiet-ra",
    ]
    text = "".join(f"{line}\n" for line in lines)
    return DhcpService(instance, text, link=network.served_link, network=network.name)


def _names(network: Network) -> list[str]:
    """Return what it answers to. Without dnsmasq's own `domain` no name gets into a lease: one in a lease is answered
    for until that expires, hours after the guest has gone."""
    lines = [
        "no-hosts",
        f"hostsdir={directory(network.served_link)}/names",
        f"local=/{network.domain}/",
        *(f"rev-server={subnet}" for subnet in network.subnets),
        "domain-needed",
        "bogus-priv",
    ]
    if not network.mode.way_out:
        lines += ["no-resolv"]
    return lines


def _ipv4(network: Network) -> list[str]:
    if network.subnet4 is None or network.gateway4 is None:
        return []
    gateway = network.gateway4.ip
    lines = [
        f"dhcp-range={network.subnet4.network_address},static,{network.subnet4.netmask},{LEASE4}",
        f"dhcp-option=option:dns-server,{gateway}",
        f"dhcp-option=option:domain-name,{network.domain}",
    ]
    if not network.mode.way_out:
        # An empty option is not sent: a guest in two networks keeps the default route that leads somewhere.
        return [*lines, "dhcp-option=option:router"]
    if network.mode.routed:
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
    start, gateway = network.subnet6.network_address, network.gateway6.ip
    mode = "ra-stateless" if network.ra == "slaac" and not network.mode.routed else "static"
    lines = [
        f"dhcp-range={start},{mode},{network.subnet6.prefixlen},{LEASE6}",
        "enable-ra",
        f"dhcp-option=option6:dns-server,[{gateway}]",
        f"dhcp-option=option6:domain-search,{network.domain}",
    ]
    if network.mode.routed:
        # Only an address that we gave is routed, and nobody else is on the guest's wire: the prefix that is advertised
        # is the gateway's alone, and for nothing.
        lines += [
            f"dhcp-range={gateway},static,off-link,128,{LEASE6}",
            f"shared-network={_unique_local(network).ip},{start}",
        ]
    if not network.mode.way_out:
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
    return "".join(f"{address} {host.name} {host.name.partition('.')[0]}\n" for address in host.addresses)


def host_of(instance: str, mac: str, names: str) -> DhcpHost | None:
    """Return the guest whose `names_file` this is, None if it is none's."""
    addresses: list[IPAddress] = []
    name: str | None = None
    for line in names.splitlines():
        words = line.removeprefix("# ").split(" ")
        try:
            addresses.append(ip_address(words[0]))
        except ValueError:
            return None
        name = words[1] if len(words) == 3 else None
    return DhcpHost(instance, mac, tuple(addresses), name)


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

"""The files of dnsmasq(8): a network's configuration, the entries of its guests, and the leases that dnsmasq writes.

Rule 1: dnsmasq answers DHCP requests only from MACs that xennetd has listed, and only with the addresses listed there.
Rule 2: dnsmasq serves the network's own guests only, and binds no address but the network's own.
Rule 3: data that a guest sends never becomes a name or an address. No name outlives the guest that has it.
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
"""The lease time of IPv4. It is long, so that guests keep their addresses while dnsmasq is down. xennetd itself removes
the lease of an address that moves to another MAC."""

LEASE6 = "30m"
"""The lease time of IPv6. It is short, because a DHCPv6 lease belongs to a DUID, and a guest that is installed anew has
another DUID. dnsmasq sends three router advertisements within this time."""

GUESTS = "vif*"
"""The interfaces of guests in mode route, as a dnsmasq pattern. It misses an interface that has a `vifname`."""

LINK_LOCAL_GATEWAY = "169.254.1.1"
"""The guests' router in mode route with `gateway = "link-local"`."""

LEASES_MAX = 65536
"""dhcp-lease-max. Only guests that xennetd has listed get a lease, so this merely lifts dnsmasq's limit of 1,000."""


def directory(instance: str) -> str:
    """Return the path of the directory with the files of a dnsmasq instance."""
    return f"{STATE}/{instance}"


def both_instances(instance: str) -> tuple[str, str]:
    """Return the two instances that a network can have: the main one, and the one for IPv6 in mode route."""
    return instance, f"{instance}:ipv6"


def unported_addresses(network: Network) -> tuple[IPInterface, ...]:
    """Return the addresses of the served link in mode route, which has no ports (`Network.served_link`).

    The gateways' addresses have the prefix length of a single host: they must not bring a route to the subnet, which
    may be the uplink's subnet. A router advertisement needs a link-local address. DHCPv6 needs an address with a
    prefix, from which `shared-network` leads to the subnet.
    """
    addresses: list[IPInterface] = []
    if network.gateway4 is not None:
        addresses.append(IPv4Interface(network.gateway4.ip))
    if network.gateway6 is not None:
        addresses += [IPv6Interface(network.gateway6.ip), IPv6Interface("fe80::1/64"), _unique_local(network)]
    return tuple(addresses)


def _unique_local(network: Network) -> IPv6Interface:
    """Return an address in a unique local /64 (RFC 4193), which a hash of the served link's name determines."""
    digest = hashlib.blake2s(network.served_link.removeprefix("xn-").encode(), digest_size=7).digest()
    return IPv6Interface((b"\xfd" + digest + bytes(7) + b"\1", 64))


def served_link(configuration: str) -> str:
    """Return the name of the link that a configuration serves. Raises ValueError if xennetd has not written it."""
    match = re.search("^(?:bridge-interface|interface)=([^,\n]+)", configuration, re.MULTILINE)
    if match is None:
        raise ValueError("no configuration of xennetd's")
    return match[1]


def services(network: Network) -> tuple[DhcpService, ...]:
    """Return the dnsmasq instances of a network with `dhcp`: one, or two in mode route with IPv6.

    A dnsmasq that sends router advertisements on guests' interfaces binds port 53 of every address there. In mode route
    such an address may be the uplink's, and another DNS server may use it. So the second instance serves IPv6 only,
    without DNS. The first receives DHCP requests as if they came in by a link without guests
    (--bridge-interface), and binds the gateways' addresses.
    """
    link = network.served_link
    own, ipv6 = both_instances(network.served_link)
    if not network.mode.routed:
        listen = ["bind-dynamic", f"interface={link}", "except-interface=lo"]
        return (_service(own, network, [*listen, *_names(network), *_ipv4(network), *_ipv6(network, link)]),)
    aliases = f"bridge-interface={link},{GUESTS}"
    listen = ["bind-dynamic", *(f"listen-address={gateway.ip}" for gateway in network.gateways), aliases]
    instances = [_service(own, network, [*listen, *_names(network), *_ipv4(network)])]
    if network.subnet6 is not None and network.ra != "off":
        listen = ["bind-dynamic", f"interface={link}", f"interface={GUESTS}", "except-interface=lo", aliases, "port=0"]
        instances.append(_service(ipv6, network, [*listen, *_ipv6(network, link)]))
    return tuple(instances)


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
    """Return the lines about DNS.

    There is no `domain` line, so dnsmasq puts no name into a lease. It would answer for such a name until the lease
    expires, hours after the guest has gone.
    """
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
        # dnsmasq does not send an empty option. So a guest in two networks keeps the other network's default route.
        return [*lines, "dhcp-option=option:router"]
    if network.mode.routed:
        # No other host is on the guest's link, so its netmask is a /32. For a client that implements RFC 3442 only
        # the routes of option 121 count.
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
        # The host routes only addresses that xennetd has assigned, and no other host is on the guest's link. So dnsmasq
        # must not advertise the subnet: it advertises the gateway's own /128, off-link, of which no guest makes use.
        lines += [
            f"dhcp-range={gateway},static,off-link,128,{LEASE6}",
            f"shared-network={_unique_local(network).ip},{start}",
        ]
    if not network.mode.way_out:
        lines += [f"ra-param={link},0,0"]  # A router lifetime of 0: guests make no default route.
    return lines


def host_file(host: DhcpHost) -> str:
    """Return the guest's file for dhcp-hostsdir. It has the first IPv4 address only: dnsmasq knows one per MAC."""
    ipv4 = [str(address) for address in host.addresses if isinstance(address, IPv4Address)][:1]
    ipv6 = [f"[{address}]" for address in host.addresses if isinstance(address, IPv6Address)]
    return ",".join([host.mac, *ipv4, *ipv6]) + "\n"


def names_file(host: DhcpHost) -> str:
    """Return the guest's file for hostsdir, with a line for an address. A guest without a name has comments instead."""
    if host.name is None:
        return "".join(f"# {address}\n" for address in host.addresses)
    return "".join(f"{address} {host.name} {host.name.partition('.')[0]}\n" for address in host.addresses)


def host_of(instance: str, mac: str, names: str) -> DhcpHost | None:
    """Return the guest that `names_file` wrote the text `names` for, None if the text is not such a file."""
    addresses: list[IPAddress] = []
    name: str | None = None
    for line in names.splitlines():
        words = line.removeprefix("# ").split(" ")
        try:
            addresses.append(_address(words[0]))
        except ValueError:
            return None
        name = words[1] if len(words) == 3 else None
    return DhcpHost(instance, mac, tuple(addresses), name)


def _address(untrusted_word: str) -> IPAddress:
    """Return the address that a word means. Raises ValueError, also for one with a scope ("fe80::1%eth0").

    dnsmasq writes no scopes, and a scope may hold any character.
    """
    if "%" in untrusted_word:
        raise ValueError("an address with a scope")
    return ip_address(untrusted_word)


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease in dnsmasq's lease file. `mac` is None for DHCPv6, whose leases belong to a DUID."""

    address: IPAddress
    mac: str | None


def leases(untrusted_text: str) -> Mapping[IPAddress, Lease]:
    """Return the leases of a lease file, by address. Lines that are no complete lease are skipped."""
    parsed = (_lease(line.split(" ")) for line in untrusted_text.splitlines())
    return {lease.address: lease for lease in parsed if lease is not None}


def _lease(untrusted_words: list[str]) -> Lease | None:
    """Parse `expiry MAC address name client-id` or, for DHCPv6, `expiry IAID address name DUID`."""
    if len(untrusted_words) != 5 or not untrusted_words[0].isdecimal():
        return None
    try:
        address = _address(untrusted_words[2])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return Lease(address, None)
    mac = untrusted_words[1].lower()
    return Lease(address, mac) if re.fullmatch(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", mac) else None


def without(text: str, addresses: Iterable[IPAddress]) -> str:
    """Return the lease file `text` without the leases of `addresses`."""
    dropped = frozenset(addresses)
    lines = text.splitlines(keepends=True)
    parsed = (_lease(line.splitlines()[0].split(" ")) for line in lines)
    return "".join(
        line for line, lease in zip(lines, parsed, strict=True) if lease is None or lease.address not in dropped
    )

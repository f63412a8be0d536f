"""The rules of our nftables table, from the networks of a policy alone. What depends on guests is in sets and maps.

A packet that our chains accept may still be dropped by another table's; one that they drop is gone.

Where the kernel has br_netfilter, as Docker and the stock scripts' iptables rules want it, frames between two ports of
one bridge pass these chains too, the bridge being where they come in and go out by: these are none of our business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from xennetd.model.attachment import Mode
from xennetd.model.ground import BRIDGE_GROUP, GUEST_GROUP, Chain, Element, IPAddress, IPNetwork, Rules
from xennetd.policy.config import Forward, Network, Policy

MASQUERADE4 = "masquerade4"
FORWARD = {4: "forward4", 6: "forward6"}
"""The sets and maps of our table that hold what depends on guests."""

OPENED = {4: "opened4", 6: "opened6"}
"""The sets of links that forward because of us: what comes in by them may go on to guests, and nowhere else."""

_OURS = f"{{ {BRIDGE_GROUP}, {GUEST_GROUP} }}"
_FAMILY = {4: "ip", 6: "ip6"}


def rules(policy: Policy) -> Rules:
    """Return all rules that hold while the policy does, whichever guests there are."""
    return _rules(tuple(policy.networks[name] for name in sorted(policy.networks)))


@lru_cache(maxsize=2)
def _rules(networks: tuple[Network, ...]) -> Rules:
    inside = [network for network in networks if network.own]
    translated = [network for network in inside if network.mode is Mode.NAT]
    return Rules(
        (
            Chain("sources", "type filter hook prerouting priority raw", tuple(_sources(GUEST_GROUP))),
            Chain("arriving", "type filter hook input priority filter", tuple(_arriving(networks))),
            Chain("incoming", "type nat hook prerouting priority dstnat", tuple(_forwards(inside))),
            Chain("local", "type nat hook output priority -100", tuple(_forwards(inside))),
            Chain("passing", "type filter hook forward priority filter", tuple(_passing(inside))),
            Chain("outgoing", "type nat hook postrouting priority srcnat", tuple(_outgoing(translated))),
        )
    )


def forward_element(forward: Forward, address: IPAddress) -> Element:
    """Return the map's element that sends a port of the host to a guest."""
    return Element(FORWARD[address.version], (forward.proto, str(forward.port)), (str(address), str(forward.to_port)))


def _sources(group: int) -> Iterator[str]:
    """A guest sends from what is routed to it, but for the search for its own address."""
    ours = f"iifgroup {group}"
    yield f"{ours} ip saddr 0.0.0.0 udp dport 67 accept"
    yield f"{ours} ip6 saddr :: icmpv6 type {{ nd-neighbor-solicit, nd-router-solicit, mld2-listener-report }} accept"
    yield f"{ours} ip6 saddr fe80::/10 ip6 daddr {{ fe80::/10, ff02::/16 }} accept"
    yield f"{ours} fib saddr . iif oif missing drop"


def _arriving(networks: Iterable[Network]) -> Iterator[str]:
    """Who may speak to the host itself.

    Where guests on a bridge send from is asked only now, when it is known that the host is meant and not another port
    of the bridge. An isolated guest knows the host by its gateway's address alone. A dnsmasq of routed guests listens
    on an address, which can be reached from anywhere.
    """
    for network in networks:
        bridge = f'iifname "{network.bridge}" fib daddr type local'
        gateway4 = f" ip daddr != {network.gateway4.ip}" if network.gateway4 is not None else ""
        gateway6 = f", {network.gateway6.ip}" if network.gateway6 is not None else ""
        if network.mode is Mode.ISOLATED:
            yield f"{bridge} meta nfproto ipv4{gateway4} drop"
            yield f"{bridge} ip6 daddr != {{ fe80::/10{gateway6} }} drop"
        if network.mode is Mode.ROUTE and network.dhcp:
            for gateway in (each.ip for each in (network.gateway4, network.gateway6) if each is not None):
                served = f"{_FAMILY[gateway.version]} daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53"
                yield f'iifgroup != {GUEST_GROUP} iifname != "lo" {served} drop'
    yield from _sources(BRIDGE_GROUP)


def _forwards(networks: Iterable[Network]) -> Iterator[str]:
    """What comes to the host itself; but not to what serves a network's own guests at its gateway."""
    gateways = [each.ip for network in networks for each in (network.gateway4, network.gateway6) if each is not None]
    for gateway in gateways:
        services = "meta l4proto { tcp, udp } th dport { 53, 67, 547 }"
        yield f"{_FAMILY[gateway.version]} daddr {gateway} {services} accept"
    yield f"fib daddr type local ip daddr != 127.0.0.0/8 dnat ip to meta l4proto . th dport map @{FORWARD[4]}"
    yield f"fib daddr type local ip6 daddr != ::1 dnat ip6 to meta l4proto . th dport map @{FORWARD[6]}"


def _passing(networks: Sequence[Network]) -> Iterator[str]:
    """What keeps something out comes before what lets something out, whichever networks that are."""
    yield f"iifgroup {_OURS} ct status dnat fib saddr . iif oif missing drop"
    for version, opened in OPENED.items():
        yield f"meta nfproto ipv{version} iifname @{opened} oifgroup != {_OURS} drop"
    translated = [network for network in networks if network.mode is Mode.NAT]
    for bridge in (f'"{network.bridge}"' for network in networks):
        yield f"iifname {bridge} oifname {bridge} accept"
    for bridge in (f'"{network.bridge}"' for network in networks if network.mode is Mode.ISOLATED):
        yield f"iifname {bridge} drop"
        yield f"oifname {bridge} drop"
    for prefix in (network.nptv6 for network in translated if network.nptv6 is not None):
        # Answers have their guest's address again by now. The rest would go back to the router, and so on.
        yield f"iifgroup != {_OURS} ip6 daddr {prefix} drop"
    for bridge in (f'"{network.bridge}"' for network in translated):
        yield f"oifname {bridge} ct state established,related accept"
        yield f"oifname {bridge} ct status dnat accept"
        yield f"oifname {bridge} drop"
    for network in translated:
        bridge = f'"{network.bridge}"'
        out = f'oifname "{network.uplink}" ' if network.uplink else ""
        for subnet in subnets(network):
            yield f"iifname {bridge} {out}{_FAMILY[subnet.version]} saddr {subnet} accept"
        yield f"iifname {bridge} ct state established,related accept"
        yield f"iifname {bridge} reject with icmpx admin-prohibited"


def _outgoing(networks: Iterable[Network]) -> Iterator[str]:
    yield f"ip saddr . oifname @{MASQUERADE4} masquerade"
    for network in networks:
        bridge = f'"{network.bridge}"'
        out = f'oifname "{network.uplink}"' if network.uplink else f"oifname != {bridge}"
        for subnet in subnets(network):
            source = f"{_FAMILY[subnet.version]} saddr {subnet}"
            if subnet.version == 4 or network.nat66:
                yield f"{source} {out} masquerade"
            elif network.nptv6 is not None:
                yield f"{source} {out} snat ip6 prefix to {network.nptv6}"
            # A guest that asks for the host's own address and is sent to its neighbour must get the answer from us.
            yield f"{source} oifname {bridge} ct status dnat masquerade"


def subnets(network: Network) -> list[IPNetwork]:
    """Return a network's subnets, the IPv4 one first."""
    return [subnet for subnet in (network.subnet4, network.subnet6) if subnet is not None]

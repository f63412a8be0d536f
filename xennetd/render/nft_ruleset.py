"""The rules of our nftables table, from the networks of a policy alone. What depends on guests is in sets and maps.

A packet that our chains accept may still be dropped by another table's; one that they drop is gone.

Where the kernel has br_netfilter, as Docker and the stock scripts' iptables rules want it, frames between two ports of
one bridge pass these chains too, the bridge being where they come in and go out by: these are none of our business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xennetd.model.configuration import Forward
from xennetd.model.ip import IPAddress
from xennetd.model.marks import BRIDGE_GROUP, GUEST_GROUP
from xennetd.model.objects import Chain, Ruleset, SetElement

MASQUERADE4 = "masquerade4"
FORWARD = {4: "forward4", 6: "forward6"}
"""The sets and maps of our table that hold what depends on guests."""

GUEST_ONLY_LINKS = {4: "guest_only4", 6: "guest_only6"}
"""The sets of links that forward because of us: what comes in by them may go on to guests, and nowhere else. They hold
indexes, which stay with a link under whatever name."""

FAMILY = {4: "ip", 6: "ip6"}
"""nft's name of each IP version."""

_OURS = f"{{ {BRIDGE_GROUP}, {GUEST_GROUP} }}"


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """The rules of one network, by the stage that they belong to: what keeps something out comes before what lets
    something out, whichever networks these are.

    `arriving` is about who may speak to the host itself. `served` are the gateways at which a network's own guests are
    served. Of what is forwarded, `within` is a network's own traffic, `closed` what nothing passes, `unrouted` what
    would go back to the router; `towards` is about what goes to guests, `leaving` about what comes from them.
    `translated` are the rules for addresses that are translated on the way out.
    """

    arriving: tuple[str, ...] = ()
    served: tuple[IPAddress, ...] = ()
    within: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    unrouted: tuple[str, ...] = ()
    towards: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    translated: tuple[str, ...] = ()


NOT_OURS = f"iifgroup != {_OURS}"
"""What matches a packet that comes in by no guest's link and by no bridge of ours."""


def ruleset(networks: Sequence[NetworkRules]) -> Ruleset:
    """Return all rules that hold while the networks do, whichever guests there are."""
    passing = [*_passing(), *_stage(networks, "within"), *_stage(networks, "closed"), *_stage(networks, "unrouted")]
    passing += [*_stage(networks, "towards"), *_stage(networks, "leaving")]
    outgoing = (f"ip saddr . oif @{MASQUERADE4} masquerade", *_stage(networks, "translated"))
    return Ruleset(
        (
            Chain("sources", "type filter hook prerouting priority raw", tuple(_sources(GUEST_GROUP))),
            Chain(
                "arriving",
                "type filter hook input priority filter",
                (*_stage(networks, "arriving"), *_sources(BRIDGE_GROUP)),
            ),
            Chain("incoming", "type nat hook prerouting priority dstnat", tuple(_forwards(networks))),
            Chain("local", "type nat hook output priority -100", tuple(_forwards(networks))),
            Chain("passing", "type filter hook forward priority filter", tuple(passing)),
            Chain("outgoing", "type nat hook postrouting priority srcnat", outgoing),
        )
    )


def forward_element(forward: Forward, address: IPAddress) -> SetElement:
    """Return the map's element that sends a port of the host to a guest."""
    key, value = (forward.proto, str(forward.port)), (str(address), str(forward.to_port))
    return SetElement(FORWARD[address.version], key, value)


def _stage(networks: Sequence[NetworkRules], stage: str) -> Iterator[str]:
    for network in networks:
        yield from getattr(network, stage)


def _sources(group: int) -> Iterator[str]:
    """A guest sends from what is routed to it, but for the search for its own address.

    Where guests on a bridge send from is asked only on arrival, when it is known that the host is meant and not another
    port of the bridge.
    """
    ours = f"iifgroup {group}"
    yield f"{ours} ip saddr 0.0.0.0 udp dport 67 accept"
    yield f"{ours} ip6 saddr :: icmpv6 type {{ nd-neighbor-solicit, nd-router-solicit, mld2-listener-report }} accept"
    yield f"{ours} ip6 saddr fe80::/10 ip6 daddr {{ fe80::/10, ff02::/16 }} accept"
    yield f"{ours} fib saddr . iif oif missing drop"


def _forwards(networks: Sequence[NetworkRules]) -> Iterator[str]:
    """What comes to the host itself; but not to what serves a network's own guests at its gateway."""
    for network in networks:
        for gateway in network.served:
            services = "meta l4proto { tcp, udp } th dport { 53, 67, 547 }"
            yield f"{FAMILY[gateway.version]} daddr {gateway} {services} accept"
    yield f"fib daddr type local ip daddr != 127.0.0.0/8 dnat ip to meta l4proto . th dport map @{FORWARD[4]}"
    yield f"fib daddr type local ip6 daddr != ::1 dnat ip6 to meta l4proto . th dport map @{FORWARD[6]}"


def _passing() -> Iterator[str]:
    yield f"iifgroup {_OURS} ct status dnat fib saddr . iif oif missing drop"
    for version, guest_only in GUEST_ONLY_LINKS.items():
        yield f"meta nfproto ipv{version} iif @{guest_only} oifgroup != {_OURS} drop"

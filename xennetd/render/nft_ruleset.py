"""The rules of xennetd's nftables table. They depend on a policy's networks only; sets and maps hold the guests' data.

Another table may still drop a packet that these chains accept. A packet that these chains drop is lost.

With br_netfilter loaded, as Docker and the stock scripts' iptables rules need it, frames between two ports of one
bridge pass these chains too, and no rule may drop or translate them. At the hooks prerouting and forward, a frame looks
like a packet that the host routes: the bridge is the output link, and the input link is the bridge, or a VLAN of it
(brnf_get_logical_dev() of net/bridge/br_netfilter_hooks.c). At the hook postrouting, a routed packet has an input link
and a frame has none (br_nf_post_routing()). So what must drop routed packets of other links than xennetd's own is
decided at postrouting where it could be a frame, and at forward elsewhere (see `_routed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from xennetd.model.configuration import Forward
from xennetd.model.ip import IPAddress
from xennetd.model.marks import BRIDGE_GROUP, GUEST_GROUP
from xennetd.model.objects import Chain, Ruleset, SetElement

MASQUERADE4 = "masquerade4"
FORWARD = {4: "forward4", 6: "forward6"}
"""The maps that forward the host's ports to guests, by IP version. MASQUERADE4 is the set of the stock NAT's guests."""

GUEST_ONLY_LINKS = {4: "guest_only4", 6: "guest_only6"}
"""The sets of links that forward only because xennetd has switched `forwarding` on, by IP version. Packets that come in
by such a link may go on to guests, and nowhere else. The sets hold indexes, since a link may be renamed."""

FAMILY = {4: "ip", 6: "ip6"}
"""nft's names of the IP versions."""

_OWN_GROUPS = f"{{ {BRIDGE_GROUP}, {GUEST_GROUP} }}"


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """The rules of one network, by stage. All networks' rules of one stage come before any rule of the next stage.

    So a rule that protects one network is evaluated before a rule that lets packets leave another one.

    `arriving` decides which packets to the host itself are accepted. `served` are the gateway addresses at which
    dnsmasq serves the network's guests. The next four stages are about forwarded packets, in this order: `within` is
    traffic inside of the network, `closed` blocks links that must not forward, `towards` decides on packets to guests,
    `leaving` on packets from guests. `unrouted` are matches of routed packets to drop, those that would return to the
    router. `translated` holds the rules for source addresses that are translated on the way out.

    `bridge` is the network's own bridge, empty if it has none. The last three are matches of what is allowed to this
    bridge's guests while it has another name (see `_Renamed`): `visits` of packets that may go to any address of the
    host, `enters` of connections to the guests, and `leaves` of connections from them.
    """

    arriving: tuple[str, ...] = ()
    served: tuple[IPAddress, ...] = ()
    within: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    towards: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    unrouted: tuple[str, ...] = ()
    translated: tuple[str, ...] = ()
    bridge: str = ""
    visits: tuple[str, ...] = ()
    enters: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()


def closing(bridge: str, rules: NetworkRules) -> NetworkRules:
    """Return rules that forward nothing from or to a bridge. To the host passes what `rules` let pass."""
    return NetworkRules(arriving=rules.arriving, closed=(f'iifname "{bridge}" drop', f'oifname "{bridge}" drop'))


_TRANSLATED_FORGERY = f"iifgroup {_OWN_GROUPS} ct status dnat fib saddr . iif oif missing drop"
"""The rule against guests that open a connection to a forwarded port from an address that is not routed to them."""

FROM_OWN_BRIDGE = f"iifgroup {BRIDGE_GROUP}"
TO_OWN_BRIDGE = f"oifgroup {BRIDGE_GROUP}"
"""The matches for a packet that comes in by a bridge that xennetd made, and for one that goes out by it."""

_AMONG_THEMSELVES = f"{FROM_OWN_BRIDGE} fib saddr . iif oif missing accept"
"""The rule for guests that use an address of the host among themselves. A port at it is not the host's forwarded port.

It knows them by addresses that the host does not route to them.
"""

NOT_OURS = f"iifgroup != {_OWN_GROUPS}"
"""The match for a packet that comes in neither by a routed guest's link nor by a bridge that xennetd made."""


def ruleset(networks: Sequence[NetworkRules]) -> Ruleset:
    """Return all rules for these networks. The rules do not depend on the guests."""
    unrouted = [*_guests_only(), *_stage(networks, "unrouted")]
    passing = [_TRANSLATED_FORGERY, *_stage(networks, "within"), *_stage(networks, "closed")]
    passing += [*_stage(networks, "towards"), *_stage(networks, "leaving")]
    renamed = _renamed(networks)
    leaving = [Chain("leaving", "type filter hook forward priority filter", renamed.leaving)] if renamed.leaving else []
    incoming = [_AMONG_THEMSELVES, *_forwards(networks)]
    stock_nat = f"iifgroup {GUEST_GROUP} ip saddr . oif @{MASQUERADE4} masquerade"
    return Ruleset(
        (
            Chain("sources", "type filter hook prerouting priority raw", tuple(_sources(GUEST_GROUP))),
            Chain(
                "arriving",
                "type filter hook input priority filter",
                (*_stage(networks, "arriving"), *_sources(BRIDGE_GROUP), *renamed.arriving),
            ),
            Chain("incoming", "type nat hook prerouting priority dstnat", tuple(incoming)),
            Chain("local", "type nat hook output priority -100", tuple(_forwards(networks))),
            Chain("forwarded", "type filter hook forward priority filter", tuple(_forwarded(unrouted))),
            Chain("passing", "type filter hook forward priority filter", tuple(passing)),
            *leaving,
            Chain("routed", "type filter hook postrouting priority filter", (*_routed(unrouted), *renamed.routed)),
            Chain(
                "outgoing",
                "type nat hook postrouting priority srcnat",
                (stock_nat, *_stage(networks, "translated")),
            ),
        )
    )


def forward_element(forward: Forward, address: IPAddress) -> SetElement:
    """Return the map element that forwards a port of the host to the guest with this address."""
    key, value = (forward.proto, str(forward.port)), (str(address), str(forward.to_port))
    return SetElement(FORWARD[address.version], key, value)


def _stage(networks: Sequence[NetworkRules], stage: str) -> Iterator[str]:
    for network in networks:
        yield from getattr(network, stage)


def _sources(group: int) -> Iterator[str]:
    """Yield the rules against false source addresses from the links of this group.

    A guest may send only from addresses that are routed to it. The exceptions are the packets by which it obtains and
    checks its own address. For bridges the rules apply to packets to the host only (hook input): in prerouting, frames
    to another port of the bridge can pass too.
    """
    guests = f"iifgroup {group}"
    yield f"{guests} ip saddr 0.0.0.0 udp dport 67 accept"
    yield f"{guests} ip6 saddr :: icmpv6 type {{ nd-neighbor-solicit, nd-router-solicit, mld2-listener-report }} accept"
    yield f"{guests} ip6 saddr fe80::/10 ip6 daddr {{ fe80::/10, ff02::/16 }} accept"
    yield f"{guests} fib saddr . iif oif missing drop"


def _forwards(networks: Sequence[NetworkRules]) -> Iterator[str]:
    """Yield the rules that forward the host's ports, but for the gateways' DNS and DHCP, which serve the guests."""
    for network in networks:
        for gateway in network.served:
            services = "meta l4proto { tcp, udp } th dport { 53, 67, 547 }"
            yield f"{FAMILY[gateway.version]} daddr {gateway} {services} accept"
    yield f"fib daddr type local ip daddr != 127.0.0.0/8 dnat ip to meta l4proto . th dport map @{FORWARD[4]}"
    yield f"fib daddr type local ip6 daddr != ::1 dnat ip6 to meta l4proto . th dport map @{FORWARD[6]}"


def _guests_only() -> Iterator[str]:
    """Yield the matches of packets that links which forward because of xennetd only must not forward."""
    for version, guest_only in GUEST_ONLY_LINKS.items():
        yield f"meta nfproto ipv{version} iif @{guest_only} oifgroup != {_OWN_GROUPS}"


_MAY_BE_FRAME = 'meta iifkind { "bridge", "vlan" } meta oifkind "bridge"'
"""The match for what a bridge may pass from port to port. A physical interface has no kind, and no match holds for it,
`!=` neither."""


def _forwarded(matches: Iterable[str]) -> Iterator[str]:
    """Yield the rules that drop forwarded packets with these matches. What may be a frame is left to `_routed`."""
    yield f"{_MAY_BE_FRAME} accept"
    yield from (f"{match} drop" for match in matches)


def _routed(matches: Iterable[str]) -> Iterator[str]:
    """Yield the rules for postrouting, where a match with an input link holds for no frame.

    It holds for some packets of the host's own (`skb->dev`), which must pass. Those with a bridge are about the
    bridge's neighbours and groups: they are multicast, or have the hop limit 255, which no packet has that was
    forwarded. Those with a tunnel are the tunnel's.
    """
    yield from ("ip daddr 224.0.0.0/4 accept", "ip6 daddr ff00::/8 accept", "ip6 hoplimit 255 accept")
    yield from (f"{_MAY_BE_FRAME} {match} drop" for match in matches)


class _Renamed(NamedTuple):
    """The rules for bridges of xennetd's that have another name than any network's bridge, by chain.

    Somebody has renamed such a bridge, and another link may have its name, so that it does not get the name back. Its
    network's rules do not match it then. As nothing tells which network it is of, it is allowed what any network
    allows, but only for packets from a subnet that the host routes to this very bridge.

    `leaving` is a chain of its own at forward: `passing` decides on what it accepts, too. What goes from one such
    bridge to another one looks like a frame there. `routed` ends with the rules about that, and about all that is
    routed to such a bridge.
    """

    arriving: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    routed: tuple[str, ...] = ()


def _renamed(networks: Sequence[NetworkRules]) -> _Renamed:
    bridges = dict.fromkeys(rules.bridge for rules in networks if rules.bridge)
    if not bridges:
        return _Renamed()
    named = "{{ {} }}".format(", ".join(f'"{bridge}"' for bridge in bridges))
    subnet, known = "fib saddr . iif oif exists", "ct state established,related accept"
    return _Renamed(
        arriving=(
            f"iifgroup != {BRIDGE_GROUP} accept",
            f"iifname {named} accept",
            *(f"{match} {subnet} accept" for match in _stage(networks, "visits")),
            "fib daddr type local fib daddr . iif type != local drop",
        ),
        leaving=(
            f"iifgroup != {BRIDGE_GROUP} accept",
            f"iifname {named} accept",
            known,
            *(f"oifname {named} {match} {subnet} accept" for match in _stage(networks, "visits")),
            *(f"oifgroup != {BRIDGE_GROUP} {match} {subnet} accept" for match in _stage(networks, "leaves")),
            f"oifgroup {BRIDGE_GROUP} oifname != {named} accept",
            "drop",
        ),
        routed=(
            f"oifgroup != {BRIDGE_GROUP} accept",
            f"oifname {named} accept",
            known,
            *(f"{match} accept" for match in _stage(networks, "enters")),
            "iifgroup >= 0 drop",  # Whatever has an input link: any group is such a number.
        ),
    )

"""Mode nat: guests behind the host's address, on a bridge of their own. Without a network it is the stock vif-nat."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network

from xennetd.config.problem import shown
from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Mode, Network
from xennetd.model.link import HostView, Link
from xennetd.model.objects import HostObject, Sysctl
from xennetd.model.placement import Routed
from xennetd.policy import bridged, routed
from xennetd.policy.forwarding import forwarding, guest_sysctls
from xennetd.policy.host_notes import HostNotes
from xennetd.policy.mode import ModeModule, Request, keys
from xennetd.policy.network_objects import bridge_objects
from xennetd.policy.network_reader import NetworkReader
from xennetd.render.nft_ruleset import FAMILY, NOT_OURS, NetworkRules, forward_element

NAT = Mode("nat", own_bridge=True)

_UNIQUE_LOCAL = IPv6Network("fc00::/7")
_NOT_ON_A_BRIDGE = ("proxy_arp", "accept_ra", "disable_ipv6")
"""Of a routed guest's settings, those that a bridge of ours does without or has otherwise."""


class NatMode(ModeModule):
    """Guests on a bridge of ours, or routed ones that the stock script numbers, translated on the way out."""

    mode = NAT
    keys = keys("bridge", "subnets", "uplink", "dhcp", "ra", "domain", "nat66", "nptv6", "forward")
    script = "nat"
    needs_subnets = True

    def attach(self, request: Request, assignment: Assignment) -> Attachment:
        if request.network is None:
            return routed.attach_stock_nat(request, assignment)
        return bridged.attach(request, assignment)

    def keeps(self, request: Request, link: Link, master: str | None) -> bool:
        if request.network is None:
            return Routed.serves(link)
        return bridged.keeps(request, link, master)

    def unused_nodes(self, network: Network | None) -> frozenset[str]:
        return frozenset({"bridge" if network is None else "gatewaydev", "vlan"})

    def host_objects(self, network: Network, host: HostView) -> list[HostObject]:
        bridge = [
            Sysctl(version, network.bridge, setting, value)
            for version, setting, value in guest_sysctls(host, ipv6=network.subnet6 is not None)
            if setting not in _NOT_ON_A_BRIDGE
        ]
        way_out: list[Sysctl] = []
        for subnet in network.subnets:
            link = host.link(network.uplink) if network.uplink is not None else host.default_uplink(subnet.version)
            if link is not None:
                way_out += forwarding(subnet.version, [link.name], host)
        ports = [forward_element(each, each.to) for each in network.forwards if not isinstance(each.to, str)]
        return [*bridge_objects(network, host), *bridge, *way_out, *ports]

    def firewall(self, network: Network) -> NetworkRules:
        bridge = f'"{network.bridge}"'
        out = f'oifname "{network.uplink}" ' if network.uplink else ""
        unrouted: tuple[str, ...] = ()
        if network.nptv6 is not None:
            # Answers have their guest's address again by now. The rest would go back to the router, and so on.
            unrouted = (f"{NOT_OURS} ip6 daddr {network.nptv6} drop",)
        subnets = (f"{FAMILY[subnet.version]} saddr {subnet}" for subnet in network.subnets)
        return NetworkRules(
            served=tuple(gateway.ip for gateway in network.gateways),
            within=(f"iifname {bridge} oifname {bridge} accept",),
            unrouted=unrouted,
            towards=(
                f"oifname {bridge} ct state established,related accept",
                f"oifname {bridge} ct status dnat accept",
                f"oifname {bridge} drop",
            ),
            leaving=(
                *(f"iifname {bridge} {out}{subnet} accept" for subnet in subnets),
                f"iifname {bridge} ct state established,related accept",
                f"iifname {bridge} reject with icmpx admin-prohibited",
            ),
            translated=tuple(_translated(network)),
        )

    def check(self, reader: NetworkReader, network: Network) -> None:
        if network.nat66 and network.nptv6 is not None:
            reader.wrong("nptv6", "there is nat66 = true already; a network has at most one of them")
        if "subnets" in reader.faulty:
            return
        if network.nat66 and network.subnet6 is None:
            reader.wrong("nat66", "needs an IPv6 subnet", found="true")
        if network.nptv6 is not None and network.subnet6 is None:
            reader.wrong("nptv6", "needs an IPv6 subnet", found=shown(str(network.nptv6)))
        elif network.nptv6 is not None and network.subnet6 is not None:
            length = network.subnet6.prefixlen
            if network.nptv6.prefixlen != length:
                reader.wrong("nptv6", f"must be a /{length} as the subnet is", found=shown(str(network.nptv6)))

    def remarks(self, network: Network, host: HostNotes) -> Iterator[str]:
        local = network.subnet6 is not None and network.subnet6.subnet_of(_UNIQUE_LOCAL)
        if local and network.nptv6 is None and not network.nat66:
            yield f"guests have no IPv6 to the outside: {network.subnet6} is local, and neither nptv6 nor nat66 is set"


def _translated(network: Network) -> Iterator[str]:
    bridge = f'"{network.bridge}"'
    out = f'oifname "{network.uplink}"' if network.uplink else f"oifname != {bridge}"
    for subnet in network.subnets:
        source = f"{FAMILY[subnet.version]} saddr {subnet}"
        if subnet.version == 4 or network.nat66:
            yield f"{source} {out} masquerade"
        elif network.nptv6 is not None:
            yield f"{source} {out} snat ip6 prefix to {network.nptv6}"
        # A guest that asks for the host's own address and is sent to its neighbour must get the answer from us.
        yield f"{source} oifname {bridge} ct status dnat masquerade"

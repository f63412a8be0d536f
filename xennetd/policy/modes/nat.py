"""Mode nat: guests on the network's own bridge, whose addresses are translated to the host's on the way out.

Without a network it does what the stock vif-nat script does: guests are routed, and numbered by domid and devid.
"""

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
from xennetd.policy.mode import AttachmentRequest, ModeModule, Remark, keys
from xennetd.policy.network_objects import bridge_objects
from xennetd.policy.network_reader import NetworkReader
from xennetd.render.nft_ruleset import FAMILY, FROM_OWN_BRIDGE, NOT_OURS, TO_OWN_BRIDGE, NetworkRules, forward_element

NAT = Mode("nat", own_bridge=True)

_UNIQUE_LOCAL = IPv6Network("fc00::/7")
_NOT_ON_A_BRIDGE = ("proxy_arp", "accept_ra", "disable_ipv6")
"""The sysctls of a routed guest's link that the network's own bridge does not need, or has other values of."""


class NatMode(ModeModule):
    """Guests leave the host under the host's address, or under a prefix of the network's (`nptv6`)."""

    mode = NAT
    keys = keys("bridge", "subnets", "uplink", "dhcp", "ra", "domain", "nat66", "nptv6", "forward")
    script = "nat"
    needs_subnets = True

    def attach(self, request: AttachmentRequest, assignment: Assignment) -> Attachment:
        """Return a port of the network's own bridge; without a network, the stock script's routing."""
        if request.network is None:
            return routed.attach_stock_nat(request, assignment)
        return bridged.attach(request, assignment)

    def keeps(self, request: AttachmentRequest, link: Link, master: str | None) -> bool:
        """Return whether `master` is the network's own bridge; without a network, whether the link is routed."""
        if request.network is None:
            return Routed.serves(link)
        return bridged.keeps(request, link, master)

    def unused_nodes(self, network: Network | None) -> frozenset[str]:
        """Return `gatewaydev` with a network, `bridge` without one."""
        return frozenset({"bridge" if network is None else "gatewaydev"})

    def host_objects(self, network: Network, host: HostView) -> list[HostObject]:
        """Return the bridge with its addresses and dnsmasq, the sysctls for forwarding, and the forwarded ports.

        Ports that are forwarded to a VM's name are needs of that VM's vif (`policy.guests`).
        """
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
        ports = [forward_element(port, port.to) for port in network.forwards if not isinstance(port.to, str)]
        return [*bridge_objects(network, host), *bridge, *way_out, *ports]

    def firewall(self, network: Network) -> NetworkRules:
        """Return the rules. Guests may open connections by the uplink; others reach guests by forwarded ports only."""
        bridge = f'"{network.bridge}"'
        out = f'oifname "{network.uplink}" ' if network.uplink else ""
        unrouted: tuple[str, ...] = ()
        if network.nptv6 is not None:
            # Answers to guests have the guest's address again at this point. Other packets to the outside prefix would
            # be routed back to the router, which would return them, until their hop limit is used up.
            unrouted = (f"{NOT_OURS} ip6 daddr {network.nptv6}",)
        subnets = [f"{FAMILY[subnet.version]} saddr {subnet}" for subnet in network.subnets]
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
            bridge=network.bridge,
            visits=tuple(subnets),
            enters=tuple(f"{FAMILY[subnet.version]} daddr {subnet} ct status dnat" for subnet in network.subnets),
            leaves=tuple(f"{out}{subnet}" for subnet in subnets),
        )

    def check(self, reader: NetworkReader, network: Network) -> None:
        """Report nat66 and nptv6 together, without an IPv6 subnet, or with a prefix of another length."""
        if network.nat66 and network.nptv6 is not None:
            reader.wrong("nptv6", "not together with nat66 = true; a network has at most one of the two")
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

    def remarks(self, network: Network, host: HostNotes) -> Iterator[Remark]:
        """Yield a remark if the guests' IPv6 addresses are unique local ones that nothing translates."""
        local = network.subnet6 is not None and network.subnet6.subnet_of(_UNIQUE_LOCAL)
        if local and network.nptv6 is None and not network.nat66:
            reason = f"{network.subnet6} is unique local, and neither nptv6 nor nat66 is set"
            yield Remark(f"guests can't reach the outside by IPv6: {reason}", ("subnets",))


def _translated(network: Network) -> Iterator[str]:
    bridge = f'"{network.bridge}"'
    out = f'oifname "{network.uplink}"' if network.uplink else f"oifname != {bridge}"
    gateways = {gateway.version: gateway.ip for gateway in network.gateways}
    for subnet in network.subnets:
        source, target = (f"{FAMILY[subnet.version]} {way} {subnet}" for way in ("saddr", "daddr"))
        # By the name while somebody has changed the bridge's group, and by the group while it has another name. The
        # host's own packets come in by no link, as frames between ports of another bridge do.
        senders = [f"{FROM_OWN_BRIDGE} {source}", f"iifname {bridge} {source}"]
        if subnet.version in gateways:
            senders.append(f"{FAMILY[subnet.version]} saddr {gateways[subnet.version]}")
        if subnet.version == 4 or network.nat66:
            yield from (f"{sender} {out} masquerade" for sender in senders)
        elif network.nptv6 is not None:
            yield from (f"{sender} {out} snat ip6 prefix to {network.nptv6}" for sender in senders)
        # A guest that connects to a forwarded port at the host's address reaches another guest of its own bridge. The
        # answer must come back by the host, or else the first guest would get it from an address that it did not ask.
        yield f"{TO_OWN_BRIDGE} {source} {target} ct status dnat masquerade"

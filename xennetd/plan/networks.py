"""What the host itself must have for a network, whichever guests there are in it."""

from __future__ import annotations

import hashlib

from xennetd.model.attachment import Mode
from xennetd.model.errors import PolicyError
from xennetd.model.ground import BRIDGE_GROUP, GroundObject, HostAddress, OwnBridge, Setting
from xennetd.model.link import HostView
from xennetd.plan import dnsmasq
from xennetd.policy.config import Network, Policy
from xennetd.policy.firewall import forward_element, rules, subnets
from xennetd.policy.forwarding import closed, forwarding, guest_settings, has_ipv6


def needs(policy: Policy, network: Network, host: HostView) -> frozenset[GroundObject]:
    """Return what a network needs. Raises PolicyError for a subnet or an uplink that this host can't give it."""
    if network.mode is Mode.BRIDGE:
        return frozenset()
    _check(network, host)
    found: list[GroundObject] = [rules(policy)]
    if network.own:
        found += _bridge(network, host)
    elif network.dhcp:
        found += _unported(network)
    if network.mode is Mode.NAT:
        found += _way_out(network, host)
        found += [forward_element(each, each.to) for each in network.forwards if not isinstance(each.to, str)]
    if network.dhcp:
        found += dnsmasq.services(network)
    return frozenset(found)


def named_links(policy: Policy) -> frozenset[str]:
    """Return the names of the links that networks of ours consist of, or lead through."""
    networks = [network for network in policy.networks.values() if network.mode is not Mode.BRIDGE]
    names = {name for each in networks for name in (each.bridge, each.served_link, each.uplink)}
    return frozenset(name for name in names if name)


def _check(network: Network, host: HostView) -> None:
    if network.uplink is not None and host.link(network.uplink) is None:
        raise PolicyError(
            f'network "{network.name}": uplink "{network.uplink}" does not exist: create it, or correct '
            f"network.{network.name}.uplink in xennetd's configuration",
            waits_on=frozenset({network.uplink}),
        )
    bridge = host.link(network.bridge)
    if not network.own or (bridge is not None and bridge.group == BRIDGE_GROUP):
        # Guests that are routed may well have addresses of the uplink's subnet. And a network that stands is not taken
        # from its guests because another link has got an address there since: anybody's router could do that to it.
        return
    for subnet in subnets(network):
        other = host.neighbouring(subnet)
        if other is not None:
            raise PolicyError(
                f'network "{network.name}": subnet {subnet} is in use on this host already, on link "{other.name}"',
                waits_on=frozenset({other.name}),
            )


def _bridge(network: Network, host: HostView) -> list[GroundObject]:
    name = network.bridge
    found: list[GroundObject] = [OwnBridge(name, _mac(network))]
    found += [HostAddress(name, gateway) for gateway in (network.gateway4, network.gateway6) if gateway is not None]
    if has_ipv6(host):
        found += [Setting(6, name, "accept_ra", 0), Setting(6, name, "disable_ipv6", int(network.subnet6 is None))]
        # Nobody else can have the link-local address that follows from our MAC, and no guest is to deny it to us.
        found.append(Setting(6, name, "accept_dad", 0))
    if network.mode is Mode.ISOLATED:
        found += closed(name, host)
    if network.mode is Mode.NAT:
        settings = guest_settings(host, ipv6=network.subnet6 is not None)
        found += [
            Setting(version, name, key, value)
            for version, key, value in settings
            if key not in ("proxy_arp", "accept_ra")
        ]
    return found


def _unported(network: Network) -> list[GroundObject]:
    """Return the link without ports whose addresses dnsmasq serves routed guests by."""
    name = network.served_link
    addresses = dnsmasq.unported_addresses(network)
    return [OwnBridge(name, _mac(network)), *(HostAddress(name, each) for each in addresses)]


def _way_out(network: Network, host: HostView) -> list[Setting]:
    found: list[Setting] = []
    for subnet in subnets(network):
        way_out = host.link(network.uplink) if network.uplink is not None else host.default_uplink(subnet.version)
        if way_out is not None:
            found += forwarding(subnet.version, [way_out.name], host)
    return found


def _mac(network: Network) -> str:
    """Return a locally administered MAC that stays the same, so that guests know their gateway again."""
    return "02:" + hashlib.sha256(network.name.encode()).digest()[:5].hex(":")

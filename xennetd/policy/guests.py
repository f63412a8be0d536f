"""One guest in a network: its addresses, its MAC and names, and what the host must have so that it is known by them."""

from __future__ import annotations

from collections.abc import Collection

from xennetd.model.attachment import Name, segment
from xennetd.model.errors import GuestError
from xennetd.model.ip import IPAddress, IPNetwork
from xennetd.model.objects import DhcpHost, HostObject
from xennetd.model.text import dns_label
from xennetd.model.vif import XenbusState
from xennetd.policy.addresses import guest_destinations, holder
from xennetd.policy.mac import mac_warnings, stable_mac
from xennetd.policy.mode import Request
from xennetd.render.nft_ruleset import forward_element


def guest_addresses(request: Request) -> tuple[IPNetwork, ...]:
    """Return the addresses and prefixes of a guest: fixed by a policy, named by its vif= line, or allocated."""
    rule, network = request.rule, request.network
    fixed = rule.ips if rule is not None else ()

    def reserved() -> set[IPAddress]:
        name = network.name if network is not None else None
        others = (each for each in request.policy.rules if each.ips and each is not rule)
        return {ip for each in others if each.network is not None and each.network.name == name for ip in each.ips}

    return guest_destinations(request.vif, network, fixed, reserved, request.others)


def guest_names(request: Request, mac: str | None, bridge: str | None) -> frozenset[Name]:
    """Return what the guest goes by in a network of ours: its MAC and its VM's name, unless another guest has them."""
    network, vif, others = request.network, request.vif, request.others
    if network is None:
        return frozenset()
    wanted: list[Name] = []
    if network.dhcp and mac is not None:
        wanted.append((mac, segment(bridge, network.name)))
    if vif.vm is not None and any(forward.to == vif.vm for forward in network.forwards):
        wanted.append((vif.vm, network.name))
    return frozenset(name for name in wanted if holder(vif, name, others.namesakes(name, vif.id), others) is None)


def network_needs(
    request: Request,
    mac: str | None,
    bridge: str | None,
    found: tuple[IPNetwork, ...],
    names: Collection[Name],
) -> list[HostObject]:
    """Return what a network of ours needs for one guest: dnsmasq's knowledge of it, and the ports that are its."""
    network, vif = request.network, request.vif
    if network is None:
        return []
    hosts = [each.network_address for each in found if each.prefixlen == each.max_prefixlen]
    needs: list[HostObject] = []
    if network.dhcp:
        if mac is None:
            raise GuestError(f'network "{network.name}" gives addresses by MAC, and this vif has none: set mac=')
        label = dns_label(vif.vm or "")
        name = f"{label}.{network.domain}" if label is not None else None
        if (mac, segment(bridge, network.name)) in names:
            needs.append(DhcpHost(network.served_link, mac, tuple(hosts), name))
    for forward in network.forwards:
        if forward.to == vif.vm and (vif.vm, network.name) in names:
            firsts: dict[int, IPAddress] = {}
            for address in hosts:
                firsts.setdefault(address.version, address)
            needs += [forward_element(forward, address) for address in firsts.values()]
    return needs


def guest_mac(request: Request, where: str) -> tuple[str | None, list[str]]:
    """Return the MAC that the guest has, or is to have, on the segment `where`, and what there is to say of it."""
    vif = request.vif
    mac = vif.mac
    warnings: list[str] = []
    if request.rule is not None and request.rule.stable_mac:
        wanted = stable_mac(vif)
        if wanted is None:
            warnings.append("the domain's uuid can't be read here, so its MAC can't be a stable one")
        elif vif.state in (XenbusState.INITIALISING, XenbusState.INIT_WAIT) or mac == wanted:
            mac = wanted
        else:
            warnings.append(f"its MAC stays {mac} until it starts anew: the guest uses it already")
    claims = request.others.namesakes((mac, where), vif.id) if mac is not None else ()
    return mac, [*warnings, *mac_warnings(vif, mac, where, claims)]

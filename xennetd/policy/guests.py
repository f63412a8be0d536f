"""One guest in a network: its addresses, its MAC and names, and the host objects that depend on them."""

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
from xennetd.policy.mode import AttachmentRequest
from xennetd.render.nft_ruleset import forward_element


def guest_addresses(request: AttachmentRequest) -> tuple[IPNetwork, ...]:
    """Return the addresses and prefixes of a guest: fixed by a policy, named in its vif= line, or allocated.

    Raises GuestError and HostError as `guest_destinations` does.
    """
    rule, network = request.rule, request.network
    fixed = rule.ips if rule is not None else ()

    def reserved() -> set[IPAddress]:
        name = network.name if network is not None else None
        others = (other for other in request.policy.rules if other.ips and other is not rule)
        return {ip for other in others if other.network is not None and other.network.name == name for ip in other.ips}

    return guest_destinations(request.vif, network, fixed, reserved, request.others)


def guest_names(request: AttachmentRequest, mac: str | None, bridge: str | None) -> frozenset[Name]:
    """Return the names of the guest in its network, without names that another guest has.

    The names are the guest's MAC if the network has `dhcp`, and its VM's name if a port is forwarded to this name.
    """
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
    request: AttachmentRequest,
    mac: str | None,
    bridge: str | None,
    destinations: tuple[IPNetwork, ...],
    names: Collection[Name],
) -> list[HostObject]:
    """Return the host objects that a network needs for one guest: its dnsmasq entry, and its forwarded ports.

    `destinations` are the guest's addresses and prefixes, `names` the result of `guest_names`. Raises GuestError for a
    guest without a MAC in a network with `dhcp`.
    """
    network, vif = request.network, request.vif
    if network is None:
        return []
    hosts = [ip.network_address for ip in destinations if ip.prefixlen == ip.max_prefixlen]
    needs: list[HostObject] = []
    if network.dhcp:
        if mac is None:
            raise GuestError(f'network "{network.name}" assigns addresses by MAC, and this vif has no MAC: set mac=')
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


def guest_mac(request: AttachmentRequest, where: str) -> tuple[str | None, list[str]]:
    """Return the MAC that the guest has or is to get on the segment `where`, and warnings about it."""
    vif = request.vif
    mac = vif.mac
    warnings: list[str] = []
    if request.rule is not None and request.rule.stable_mac:
        wanted = stable_mac(vif)
        if wanted is None:
            warnings.append("mac = \"stable\" has no effect: the domain's uuid can't be read here")
        elif vif.state in (XenbusState.INITIALISING, XenbusState.INIT_WAIT) or mac == wanted:
            mac = wanted
        else:
            warnings.append(f"the guest keeps MAC {mac} until it starts anew, because it uses this MAC already")
    claims = request.others.namesakes((mac, where), vif.id) if mac is not None else ()
    return mac, [*warnings, *mac_warnings(vif, mac, where, claims)]

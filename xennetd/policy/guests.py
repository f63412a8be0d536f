"""One guest in a network: its addresses, its MAC and names, and the host objects that depend on them."""

from __future__ import annotations

from collections.abc import Collection

from xennetd.model.attachment import Name, dns_scope, segment
from xennetd.model.errors import GuestError
from xennetd.model.ip import IPAddress, IPNetwork
from xennetd.model.objects import DhcpHost, HostObject
from xennetd.model.offload import Offload
from xennetd.model.text import dns_label, visible
from xennetd.model.vif import Vif, XenbusState
from xennetd.policy.addresses import Claim, guest_destinations, holder
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


def guest_names(request: AttachmentRequest, mac: str | None, bridge: str | None) -> tuple[frozenset[Name], list[str]]:
    """Return the names of the guest in its network, without names that another guest has, and warnings about them.

    In a network with `dhcp` the names are the guest's MAC and the DNS label made of its VM's name. If a port is
    forwarded to the VM's name, that is one as well. All interfaces of a domain may have the same DNS label.
    """
    network, vif = request.network, request.vif
    names: list[Name] = []
    warnings: list[str] = []
    if network is None:
        return frozenset(), warnings
    if network.dhcp and mac is not None and _holder(request, by_mac := (mac, segment(bridge, network.name))) is None:
        names.append(by_mac)
    if vif.vm is not None and any(forward.to == vif.vm for forward in network.forwards):
        by_vm = vif.vm, network.name
        if _holder(request, by_vm) is None:
            names.append(by_vm)
    if network.dhcp and vif.vm is not None:
        label = dns_label(vif.vm)
        other = _holder(request, (label, dns_scope(network.name))) if label is not None else None
        if label is None:
            warnings.append(f'the VM\'s name "{visible(vif.vm)}" makes no DNS name: the guest has none')
        elif other is not None and not _same_domain(vif, other):
            taken = f"{label}.{network.domain} is the name of {other.title}"
            warnings.append(f"{taken}: the guest has no name in DNS until that one is gone, or one VM is renamed")
        else:
            names.append((label, dns_scope(network.name)))
            if label != vif.vm.lower():
                known = f"the guest is {label}.{network.domain}"
                warnings.append(f'the VM\'s name "{visible(vif.vm)}" is no DNS label: {known} in DHCP and DNS')
    return frozenset(names), warnings


def _holder(request: AttachmentRequest, name: Name) -> Claim | None:
    vif, others = request.vif, request.others
    return holder(vif, name, others.namesakes(name, vif.id), others)


def _same_domain(vif: Vif, other: Claim) -> bool:
    return other.vif.domid == vif.id.domid or (vif.uuid is not None and other.uuid == vif.uuid)


def network_needs(
    request: AttachmentRequest,
    mac: str | None,
    bridge: str | None,
    destinations: tuple[IPNetwork, ...],
    names: Collection[Name],
) -> list[HostObject]:
    """Return the host objects that a network needs for one guest: its dnsmasq entry, and its forwarded ports.

    `destinations` are the guest's addresses and prefixes, `names` the names of `guest_names`. Raises GuestError for a
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
        named = label is not None and (label, dns_scope(network.name)) in names
        name = f"{label}.{network.domain}" if named else None
        if (mac, segment(bridge, network.name)) in names:
            needs.append(DhcpHost(network.served_link, mac, tuple(hosts), name))
    for forward in network.forwards:
        if forward.to == vif.vm and (vif.vm, network.name) in names:
            firsts: dict[int, IPAddress] = {}
            for address in hosts:
                firsts.setdefault(address.version, address)
            needs += [forward_element(forward, address) for address in firsts.values()]
    return needs


def guest_offload(request: AttachmentRequest) -> Offload | None:
    """Return the tx checksum offload of the guest's interface, None if neither its policy nor its network names it.

    The tap of an emulated NIC is left alone: the host sends through it without checksums only if the guest's own driver
    has asked for that.
    """
    rule, network, vif = request.rule, request.network, request.vif
    wanted = rule.tx_checksum if rule is not None else None
    if wanted is None and network is not None:
        wanted = network.tx_checksum
    return Offload(vif.link_name, wanted, vif.id) if wanted is not None else None


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

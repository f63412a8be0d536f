"""Guests that are no bridge's ports: their gateway, the way on from the host, and what the host must have for them.

Where no network says otherwise, the vif's own nodes mean what the stock vif-route and vif-nat scripts make of them,
made right: nothing is half-applied, several addresses and IPv6 are as good as one IPv4 address, and no guest can claim
another's address.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from errno import EADDRNOTAVAIL, EAFNOSUPPORT, ENODEV
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

from xennetd.model.attachment import Assignment, Attachment, Name, segment
from xennetd.model.configuration import Network
from xennetd.model.errors import GuestError, HostError, PolicyError
from xennetd.model.ip import IPAddress, IPInterface, IPNetwork
from xennetd.model.link import HostView, Link, Neighbour, is_link_name
from xennetd.model.marks import GUEST_GROUP
from xennetd.model.objects import HostObject, ProxyNeighbour, SetElement, Sysctl
from xennetd.model.placement import Routed
from xennetd.model.text import visible
from xennetd.model.vif import Vif
from xennetd.policy.addresses import uncontested
from xennetd.policy.forwarding import forwarding, guest_sysctls, keys, proxying
from xennetd.policy.guests import guest_addresses, guest_mac, guest_names, network_needs
from xennetd.policy.mode import Request
from xennetd.render.nft_ruleset import MASQUERADE4

LINK_LOCAL4 = IPv4Interface("169.254.1.1/32")
LINK_LOCAL6 = IPv6Interface("fe80::1/64")
"""The gateway's addresses that are the same on every vif."""

NO_IPV6 = "the guest has an IPv6 address, and this host's kernel has no IPv6"

_MOST_PROXIED = 256
"""Addresses of one prefix that the host answers for one by one."""


def attach(request: Request, assignment: Assignment) -> Attachment:
    """Return the attachment of a guest that is routed to by its addresses."""
    vif, network, host = request.vif, request.network, request.host
    uplink = uplink_of(vif, network, host)
    mac, warnings = guest_mac(request, segment(None, assignment.network))
    found = guest_addresses(request)
    placement = routing(mac, network, uplink, found, host)
    kept, lost = uncontested(vif, found, request.others)
    _check_host_addresses(found, host)
    needed, said = _needs(network, uplink, kept, host)
    names = guest_names(request, mac, None)
    needed += network_needs(request, mac, None, found, names)
    warnings += said
    if not found:
        warnings.append("no ip= is given and no policy fixes an address: nothing is routed to this guest")
    if network is not None and network.dhcp and vif.vifname is not None:
        warnings.append(f'dhcp serves interfaces named vif* only, and this one is "{vif.vifname}": set its addresses')
    kept_only = without(placement, set(found) - set(kept))
    granted, told = (*kept, *names), (*warnings, *_no_mac(found, mac), *lost)
    return _attachment(request, assignment, kept_only, uplink, mac, found, granted, needed, told)


def attach_stock_nat(request: Request, assignment: Assignment) -> Attachment:
    """Return the attachment of a guest as the stock vif-nat script numbers it."""
    vif, host = request.vif, request.host
    uplink = uplink_of(vif, None, host)
    mac, warnings = guest_mac(request, segment(None, None))
    placement, found = stock_nat(vif, mac, uplink, host)
    kept, lost = uncontested(vif, found, request.others)
    _check_host_addresses(found, host)
    kept_only = without(placement, set(found) - set(kept))
    needed = _nat_needs(uplink, kept, host)
    said = (*warnings, *_no_mac(found, mac), *lost)
    return _attachment(request, assignment, kept_only, uplink, mac, found, kept, needed, said)


def _attachment(
    request: Request,
    assignment: Assignment,
    placement: Routed,
    uplink: Link,
    mac: str | None,
    found: tuple[IPNetwork, ...],
    granted: Collection[IPNetwork | Name],
    needed: list[HostObject],
    warnings: tuple[str, ...],
) -> Attachment:
    return Attachment(
        vif=request.vif.id,
        assignment=assignment,
        placement=placement,
        mtu=request.vif.mtu,
        mac=mac,
        ips=found,
        granted=frozenset(granted),
        needs=(request.ruleset, *needed),
        waits_on=frozenset({uplink.name, DEFAULT_ROUTE}),
        warnings=warnings,
    )


def _no_mac(found: Collection[IPNetwork], mac: str | None) -> tuple[str, ...]:
    if not found or mac is not None:
        return ()
    return ("without a mac= no neighbour entry keeps others from answering for this guest's address",)


def uplink_of(vif: Vif, network: Network | None, host: HostView) -> Link:
    """Return the link that leads on from the host: the network's, the vif's `gatewaydev`, or the default route's."""
    if network is not None and network.uplink is not None:
        name, remedy = network.uplink, f"correct network.{network.name}.uplink in xennetd's configuration"
    elif vif.gatewaydev is not None:
        name, remedy = vif.gatewaydev, "correct gatewaydev= in the domain's vif line"
    else:
        link = host.default_uplink(4) or host.default_uplink(6)
        if link is not None:
            return link
        raise HostError(
            "the host has no default route, and nothing names an uplink: set gatewaydev= in the domain's vif line",
            errno=ENODEV,
            waits_on=frozenset({DEFAULT_ROUTE}),
        )
    if not is_link_name(name):
        raise GuestError(f'"{visible(name)}" can\'t be the name of an uplink: {remedy}')
    link = host.link(name)
    if link is None:
        error = PolicyError if network is not None and network.uplink is not None else HostError
        raise error(f'uplink "{name}" does not exist: create it, or {remedy}', waits_on=frozenset({name}))
    return link


DEFAULT_ROUTE = "default route"
"""In an error's `waits_on`: not a link's name, but any change of the host's default routes."""


def routing(
    mac: str | None, network: Network | None, uplink: Link, found: tuple[IPNetwork, ...], host: HostView
) -> Routed:
    """Return how a vif with the destinations `found` is reached.

    Raises HostError where the host has no address to be its gateway's.
    """
    ipv4 = any(each.version == 4 for each in found)
    ipv6 = any(each.version == 6 for each in found)
    if ipv6 and not host.has_ipv6:
        raise HostError(NO_IPV6, errno=EAFNOSUPPORT)
    link_local = network is not None and network.gateway == "link-local"
    gateways: list[IPInterface] = []
    if link_local:
        gateways += [LINK_LOCAL4] if ipv4 else []
    else:
        main = _main_address(uplink, 4)
        if main is None and ipv4:
            remedy = "give it one" + (', or set gateway = "link-local"' if network is not None else "")
            raise HostError(
                f'uplink "{uplink.name}" has no IPv4 address to be the guest\'s gateway: {remedy}',
                errno=EADDRNOTAVAIL,
                waits_on=frozenset({uplink.name}),
            )
        gateways += [IPv4Interface(main)] if main is not None else []
        main6 = _main_address(uplink, 6) if ipv6 else None
        gateways += [IPv6Interface(main6)] if main6 is not None else []
    gateways += [LINK_LOCAL6] if ipv6 else []
    return _routing(mac, uplink, tuple(gateways), found, host)


def stock_nat(vif: Vif, mac: str | None, uplink: Link, host: HostView) -> tuple[Routed, tuple[IPNetwork, ...]]:
    """Return the routing and destinations of a vif as the stock vif-nat script numbers them.

    The guest is 10.<domid / 256>.<domid % 256>.<devid + 1> unless ip= says otherwise. Its gateway's last octet is 127
    more than its own, from 128 on 127 less: the stock script's sum overflows there.
    """
    if any(ip.version == 6 for ip in vif.ips):
        raise GuestError("this script translates IPv4 only: leave the IPv6 address out of ip=, or use another script")
    if len(vif.ips) > 1:
        raise GuestError("this script knows one address: name one in ip=, or none")
    if vif.ips:
        address = IPv4Address(int(vif.ips[0].ip))
    else:
        domid, devid = vif.id
        if devid > 253:
            raise GuestError(f"the stock numbering has no address for device {devid}: name one with ip=")
        address = IPv4Address((10 << 24) + (domid << 8) + devid + 1)
    last = int(address) & 0xFF
    if last in (0, 255):
        raise GuestError(f"ip {address}: its last octet must be 1 to 254")
    gateway = IPv4Interface(IPv4Address(int(address) + (127 if last < 128 else -127)))
    found = (IPv4Network(address),)
    return replace(_routing(mac, uplink, (gateway,), found, host), translated=True), found


def _routing(
    mac: str | None, uplink: Link, gateways: tuple[IPInterface, ...], found: tuple[IPNetwork, ...], host: HostView
) -> Routed:
    hosts = [each.network_address for each in found if each.prefixlen == each.max_prefixlen]
    return Routed(
        uplink=uplink.name,
        gateways=gateways,
        source=next((gateway.ip for gateway in gateways if isinstance(gateway, IPv4Interface)), None),
        destinations=found,
        neighbours=frozenset(Neighbour(address, mac) for address in hosts) if mac is not None else frozenset(),
        sysctls=guest_sysctls(host, ipv6=any(each.version == 6 for each in found)),
    )


def without(routing: Routed, lost: Collection[IPNetwork]) -> Routed:
    """Return a routing without some of its destinations."""
    if not lost:
        return routing
    kept = tuple(each for each in routing.destinations if each not in lost)
    hosts = {each.network_address for each in lost if each.prefixlen == each.max_prefixlen}
    neighbours = frozenset(each for each in routing.neighbours if each.address not in hosts)
    return replace(routing, destinations=kept, neighbours=neighbours)


def _main_address(uplink: Link, version: int) -> IPAddress | None:
    """Return the first address of a link that is good beyond it."""
    return next((each.ip for each in uplink.addresses if each.version == version and not each.ip.is_link_local), None)


def _needs(
    network: Network | None, uplink: Link, found: tuple[IPNetwork, ...], host: HostView
) -> tuple[list[HostObject], list[str]]:
    """Return what the host must have so that the destinations are reached through the uplink, and warnings."""
    needed: list[HostObject] = []
    warnings: list[str] = []
    versions = sorted({each.version for each in found})
    forwards = {version: forwarding(version, [uplink.name], host) for version in versions}
    for sysctls in forwards.values():
        needed += sysctls
    for each in found:
        if network is not None and not network.proxy:
            continue
        if network is None and not any(_within(each, own.network) for own in uplink.addresses):
            continue  # Its router sends it here as it is.
        if each.num_addresses > _MOST_PROXIED:
            warnings.append(f"{each} is too large to be answered for on {uplink.name}: let a router send it here")
            continue
        proxies = proxying(each.version, uplink.name, host)
        needed += proxies
        after = keys([*forwards[each.version], *proxies])
        needed += [ProxyNeighbour(uplink.name, address, after) for address in each]
    return needed, warnings


def _nat_needs(uplink: Link, found: tuple[IPNetwork, ...], host: HostView) -> list[HostObject]:
    """Return what the host must have so that the destinations go out under the uplink's address."""
    # By the uplink's index: a guest's packets leave under its address whatever it is called.
    elements = [SetElement(MASQUERADE4, (str(each.network_address), str(uplink.index))) for each in found]
    settings: list[Sysctl] = forwarding(4, [uplink.name], host)
    return [*elements, *settings]


def _check_host_addresses(found: Sequence[IPNetwork], host: HostView) -> None:
    """A guest can't have an address of the host's own, nor its router's."""
    for each in found:
        owner = host.owner(each)
        if owner is not None:
            sentence = f"address {each.network_address} is the host's own"
            detail = f"{sentence}, on {owner.name}"
            guests = owner.group == GUEST_GROUP  # its name is not this guest's business
            raise HostError(sentence if guests else detail, detail=detail, waits_on=frozenset({owner.name}))
        router = host.router(each)
        if router is not None:
            raise HostError(
                f"address {router} is that of the host's router, to which its default route leads: use another in ip=",
                waits_on=frozenset({DEFAULT_ROUTE}),
            )


def _within(each: IPNetwork, network: IPNetwork) -> bool:
    return each.version == network.version and each.network_address in network and each.broadcast_address in network

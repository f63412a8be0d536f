"""Routed guests: their gateway, their uplink, and the host objects that they need.

Without a network, the vif's own nodes mean what the stock vif-route and vif-nat scripts make of them, with the scripts'
faults corrected: nothing is half-applied, several addresses and IPv6 work as one IPv4 address does, and no guest can
claim the address of another.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from errno import EADDRNOTAVAIL, EAFNOSUPPORT, ENODEV
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

from xennetd.model.attachment import Assignment, Attachment, segment
from xennetd.model.configuration import Network
from xennetd.model.errors import GuestError, HostError, PolicyError
from xennetd.model.ip import IPAddress, IPInterface, IPNetwork
from xennetd.model.link import HostView, Link, Neighbour, is_link_name
from xennetd.model.marks import GUEST_GROUP
from xennetd.model.objects import HostObject, ProxyNeighbour, SetElement, Sysctl
from xennetd.model.placement import Routed
from xennetd.model.text import visible
from xennetd.model.value import replace
from xennetd.model.vif import Vif
from xennetd.policy.addresses import uncontested
from xennetd.policy.forwarding import forwarding, guest_sysctls, keys, proxying
from xennetd.policy.guests import guest_addresses, guest_mac, guest_names, network_needs
from xennetd.policy.mode import AttachmentRequest
from xennetd.render.nft_ruleset import MASQUERADE4

LINK_LOCAL4 = IPv4Interface("169.254.1.1/32")
LINK_LOCAL6 = IPv6Interface("fe80::1/64")
"""The link-local addresses of the gateway, the same on every vif."""

NO_IPV6 = "the guest has an IPv6 address, and this host's kernel has no IPv6"
"""The sentence of the error for such a guest."""

DEFAULT_ROUTE = "default route"
"""In an error's `waits_on`: any change of the host's default routes, instead of one link's name."""

_MOST_PROXIED = 256
"""The most addresses of a prefix. Every address needs a proxy neighbour entry of its own."""


def attach(request: AttachmentRequest, assignment: Assignment) -> Attachment:
    """Return the attachment of a guest that the host routes to.

    Raises XennetdError if there is no uplink, or if the guest can't have one of its addresses.
    """
    vif, network, host = request.vif, request.network, request.host
    uplink = uplink_of(vif, network, host)
    mac, warnings = guest_mac(request, segment(None, assignment.network))
    addresses = guest_addresses(request)
    placement = routing(mac, network, uplink, addresses, host)
    kept, lost_warnings = uncontested(vif, addresses, request.others)
    _check_host_addresses(addresses, host)
    needs, needs_warnings = _needs(network, uplink, kept, host)
    names, name_warnings = guest_names(request, mac, None)
    warnings += name_warnings
    needs += network_needs(request, mac, None, addresses, names)
    warnings += needs_warnings
    if not addresses:
        warnings.append("no ip= is given and no policy fixes an address: nothing is routed to this guest")
    if network is not None and network.dhcp and vif.vifname is not None:
        interface = f'this interface is named "{vif.vifname}"'
        warnings.append(f"dhcp serves interfaces named vif* only, and {interface}: set the addresses within the guest")
    return Attachment(
        vif=vif.id,
        assignment=assignment,
        placement=without(placement, set(addresses) - set(kept)),
        mtu=vif.mtu,
        mac=mac,
        ips=addresses,
        granted=frozenset((*kept, *names)),
        needs=(request.ruleset, *needs),
        waits_on=frozenset({uplink.name, DEFAULT_ROUTE}),
        warnings=(*warnings, *_mac_warnings(addresses, mac), *lost_warnings),
    )


def attach_stock_nat(request: AttachmentRequest, assignment: Assignment) -> Attachment:
    """Return the attachment of a guest whose address the stock vif-nat script's numbering determines.

    Raises XennetdError if there is no uplink, or if the guest can't have its address.
    """
    vif, host = request.vif, request.host
    uplink = uplink_of(vif, None, host)
    mac, warnings = guest_mac(request, segment(None, None))
    placement, addresses = stock_nat(vif, mac, uplink, host)
    kept, lost_warnings = uncontested(vif, addresses, request.others)
    _check_host_addresses(addresses, host)
    return Attachment(
        vif=vif.id,
        assignment=assignment,
        placement=without(placement, set(addresses) - set(kept)),
        mtu=vif.mtu,
        mac=mac,
        ips=addresses,
        granted=frozenset(kept),
        needs=(request.ruleset, *_nat_needs(uplink, kept, host)),
        waits_on=frozenset({uplink.name, DEFAULT_ROUTE}),
        warnings=(*warnings, *_mac_warnings(addresses, mac), *lost_warnings),
    )


def _mac_warnings(addresses: Collection[IPNetwork], mac: str | None) -> tuple[str, ...]:
    if not addresses or mac is not None:
        return ()
    return ("without mac= no neighbour entry stops other guests from answering for this guest's address",)


def uplink_of(vif: Vif, network: Network | None, host: HostView) -> Link:
    """Return the link by which the guest's packets leave the host.

    It is the network's `uplink`, else the vif's `gatewaydev`, else the link of the default route, IPv4 first. Raises
    XennetdError if there is none, or if it does not exist.
    """
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


def routing(
    mac: str | None, network: Network | None, uplink: Link, destinations: tuple[IPNetwork, ...], host: HostView
) -> Routed:
    """Return the placement of a guest to which `destinations` are routed.

    The gateway has the uplink's main addresses or, with `gateway = "link-local"`, a link-local one; for IPv6 always a
    link-local one too. Raises HostError if the uplink has no IPv4 address for the gateway.
    """
    ipv4 = any(destination.version == 4 for destination in destinations)
    ipv6 = any(destination.version == 6 for destination in destinations)
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
    return _routing(mac, uplink, tuple(gateways), destinations, host)


def stock_nat(vif: Vif, mac: str | None, uplink: Link, host: HostView) -> tuple[Routed, tuple[IPNetwork, ...]]:
    """Return the placement and the destinations of a guest as the stock vif-nat script numbers them.

    Without ip= the guest has the address 10.<domid / 256>.<domid % 256>.<devid + 1>. The gateway's last octet is 127
    more than the guest's if the latter is below 128, else 127 less: there the stock script's sum overflows. Raises
    GuestError for an ip= that this numbering does not support.
    """
    if any(ip.version == 6 for ip in vif.ips):
        raise GuestError("this script translates IPv4 only: leave the IPv6 address out of ip=, or use another script")
    if len(vif.ips) > 1:
        raise GuestError("this script supports one address: name one in ip=, or none")
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
    destinations = (IPv4Network(address),)
    return replace(_routing(mac, uplink, (gateway,), destinations, host), translated=True), destinations


def _routing(
    mac: str | None,
    uplink: Link,
    gateways: tuple[IPInterface, ...],
    destinations: tuple[IPNetwork, ...],
    host: HostView,
) -> Routed:
    return Routed(
        uplink=uplink.name,
        gateways=gateways,
        source=next((gateway.ip for gateway in gateways if isinstance(gateway, IPv4Interface)), None),
        destinations=destinations,
        neighbours=frozenset(Neighbour(ip, mac) for ip in _hosts(destinations)) if mac is not None else frozenset(),
        sysctls=guest_sysctls(host, ipv6=any(destination.version == 6 for destination in destinations)),
    )


def _hosts(destinations: Collection[IPNetwork]) -> list[IPAddress]:
    """Return the single addresses among the destinations."""
    return [ip.network_address for ip in destinations if ip.prefixlen == ip.max_prefixlen]


def without(routing: Routed, lost: Collection[IPNetwork]) -> Routed:
    """Return the placement `routing` without the destinations `lost` and their neighbour entries."""
    if not lost:
        return routing
    kept = tuple(destination for destination in routing.destinations if destination not in lost)
    hosts = set(_hosts(lost))
    neighbours = frozenset(neighbour for neighbour in routing.neighbours if neighbour.address not in hosts)
    return replace(routing, destinations=kept, neighbours=neighbours)


def _main_address(uplink: Link, version: int) -> IPAddress | None:
    """Return the first address of a link that is not link-local."""
    addresses = (own.ip for own in uplink.addresses if own.version == version)
    return next((address for address in addresses if not address.is_link_local), None)


def _needs(
    network: Network | None, uplink: Link, destinations: tuple[IPNetwork, ...], host: HostView
) -> tuple[list[HostObject], list[str]]:
    """Return the host objects by which the destinations are reached through the uplink, and warnings."""
    needs: list[HostObject] = []
    warnings: list[str] = []
    versions = sorted({destination.version for destination in destinations})
    forwards = {version: forwarding(version, [uplink.name], host) for version in versions}
    for sysctls in forwards.values():
        needs += sysctls
    for destination in destinations:
        if network is not None and not network.proxy:
            continue
        if network is None and not any(_within(destination, own.network) for own in uplink.addresses):
            continue  # A destination outside of the uplink's subnets comes here by a route of its router.
        if destination.num_addresses > _MOST_PROXIED:
            limit = f"larger than {_MOST_PROXIED} addresses, so the host does not answer for it on {uplink.name}"
            warnings.append(f"{destination} is {limit}: let a router send it here")
            continue
        proxies = proxying(destination.version, uplink.name, host)
        needs += proxies
        after = keys([*forwards[destination.version], *proxies])
        needs += [ProxyNeighbour(uplink.name, address, after) for address in destination]
    return needs, warnings


def _nat_needs(uplink: Link, destinations: tuple[IPNetwork, ...], host: HostView) -> list[HostObject]:
    """Return the host objects by which packets from the guest leave under the uplink's address."""
    # The set holds the uplink's index, not its name: so translation goes on when the uplink is renamed.
    elements = [SetElement(MASQUERADE4, (str(ip.network_address), str(uplink.index))) for ip in destinations]
    settings: list[Sysctl] = forwarding(4, [uplink.name], host)
    return [*elements, *settings]


def _check_host_addresses(destinations: Sequence[IPNetwork], host: HostView) -> None:
    """Raise HostError if a destination holds an address of the host or of the host's router."""
    for destination in destinations:
        owner = host.owner(destination)
        if owner is not None:
            sentence = f"address {destination.network_address} is the host's own"
            detail = f"{sentence}, on {owner.name}"
            guests = owner.group == GUEST_GROUP  # The sentence must not name another guest's link.
            raise HostError(sentence if guests else detail, detail=detail, waits_on=frozenset({owner.name}))
        router = host.router(destination)
        if router is not None:
            raise HostError(
                f"address {router} is that of the host's router, to which its default route leads: use another in ip=",
                waits_on=frozenset({DEFAULT_ROUTE}),
            )


def _within(destination: IPNetwork, network: IPNetwork) -> bool:
    addresses = (destination.network_address, destination.broadcast_address)
    return destination.version == network.version and all(address in network for address in addresses)

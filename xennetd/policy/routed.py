"""Guests that are no bridge's ports: their gateway, the way on from the host, and what the host must have for them.

Where no network says otherwise, the vif's own nodes mean what the stock vif-route and vif-nat scripts make of them,
made right: nothing is half-applied, several addresses and IPv6 are as good as one IPv4 address, and no guest can claim
another's address.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from errno import EADDRNOTAVAIL, EAFNOSUPPORT, ENODEV
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

from xennetd.model.attachment import Routing
from xennetd.model.errors import GuestError, HostError, PolicyError
from xennetd.model.ground import Element, GroundObject, IPAddress, IPNetwork, ProxyNeighbour, Setting
from xennetd.model.link import HostView, Link, Neighbour, is_link_name
from xennetd.model.text import visible
from xennetd.model.vif import IPInterface, Vif
from xennetd.policy.config import Network
from xennetd.policy.firewall import MASQUERADE4
from xennetd.policy.forwarding import forwarding, guest_settings, has_ipv6, proxying

LINK_LOCAL4 = IPv4Interface("169.254.1.1/32")
LINK_LOCAL6 = IPv6Interface("fe80::1/64")
"""The gateway's addresses that are the same on every vif."""

_MOST_PROXIED = 256
"""Addresses of one prefix that the host answers for one by one."""


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
) -> Routing:
    """Return how a vif with the destinations `found` is reached.

    Raises HostError where the host has no address to be its gateway's.
    """
    ipv4 = any(each.version == 4 for each in found)
    ipv6 = any(each.version == 6 for each in found)
    if ipv6 and not has_ipv6(host):
        raise HostError("the guest has an IPv6 address, and this host's kernel has no IPv6", errno=EAFNOSUPPORT)
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


def stock_nat(vif: Vif, mac: str | None, uplink: Link, host: HostView) -> tuple[Routing, tuple[IPNetwork, ...]]:
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
    return _routing(mac, uplink, (gateway,), found, host), found


def _routing(
    mac: str | None, uplink: Link, gateways: tuple[IPInterface, ...], found: tuple[IPNetwork, ...], host: HostView
) -> Routing:
    hosts = [each.network_address for each in found if each.prefixlen == each.max_prefixlen]
    return Routing(
        uplink=uplink.name,
        gateways=gateways,
        source=next((gateway.ip for gateway in gateways if isinstance(gateway, IPv4Interface)), None),
        destinations=found,
        neighbours=frozenset(Neighbour(address, mac) for address in hosts) if mac is not None else frozenset(),
        settings=guest_settings(host, ipv6=any(each.version == 6 for each in found)),
    )


def without(routing: Routing, lost: Collection[IPNetwork]) -> Routing:
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


def needs(
    network: Network | None, uplink: Link, found: tuple[IPNetwork, ...], host: HostView
) -> tuple[list[GroundObject], list[str]]:
    """Return what the host must have so that the destinations are reached through the uplink, and warnings."""
    needed: list[GroundObject] = []
    warnings: list[str] = []
    for version in sorted({each.version for each in found}):
        needed += forwarding(version, [uplink.name], host)
    for each in found:
        if network is not None and not network.proxy:
            continue
        if network is None and not any(_within(each, own.network) for own in uplink.addresses):
            continue  # Its router sends it here as it is.
        if each.num_addresses > _MOST_PROXIED:
            warnings.append(f"{each} is too large to be answered for on {uplink.name}: let a router send it here")
            continue
        needed += proxying(each.version, uplink.name, host)
        needed += [ProxyNeighbour(uplink.name, address) for address in each]
    return needed, warnings


def nat_needs(uplink: Link, found: tuple[IPNetwork, ...], host: HostView) -> list[GroundObject]:
    """Return what the host must have so that the destinations go out under the uplink's address."""
    elements = [Element(MASQUERADE4, (str(each.network_address), uplink.name)) for each in found]
    settings: list[Setting] = forwarding(4, [uplink.name], host)
    return [*elements, *settings]


def _within(each: IPNetwork, network: IPNetwork) -> bool:
    return each.version == network.version and each.network_address in network and each.broadcast_address in network

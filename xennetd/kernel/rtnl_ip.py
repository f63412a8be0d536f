"""The messages of rtnetlink(7) about addresses, routes and neighbours, as bytes, as far as xennetd needs them.

The kernel sends events of foreign routes and of ordinary neighbours by the thousand. So a parser checks a message's
fixed header first, and returns None for a message that xennetd does not need. "Our route" means a route with xennetd's
protocol number, ROUTE_PROTOCOL. Constants are those of linux/rtnetlink.h, linux/if_addr.h and linux/neighbour.h.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from msgspec import Struct

from xennetd.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    U32,
    Header,
    NetlinkFormatError,
    attribute,
    attributes,
    request,
)
from xennetd.model.ip import IPAddress, IPInterface, IPNetwork
from xennetd.model.link import Neighbour, Route
from xennetd.model.marks import ADDRESS_PROTOCOL, ROUTE_PROTOCOL

RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26
RTM_NEWNEIGH = 28
RTM_DELNEIGH = 29
RTM_GETNEIGH = 30
RTM_NEWNETCONF = 80

RTMGRP_NEIGH = 0x4
RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV4_ROUTE = 0x40
RTMGRP_IPV6_IFADDR = 0x100
RTMGRP_IPV6_ROUTE = 0x400
RTMGRP_IPV4_NETCONF = 0x800000
RTMGRP_IPV6_NETCONF = 0x1000000

RT_TABLE_MAIN = 254
RTN_UNICAST = 1
NUD_PERMANENT = 0x80

_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_PROTO = 11
_IFA_F_NODAD = 0x02

_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_PREFSRC = 7
_RTA_MULTIPATH = 9
_RTA_VIA = 18
_RTA_NH_ID = 30
_RT_SCOPE_LINK = 253
_RT_SCOPE_NOWHERE = 255

_NDA_DST = 1
_NDA_LLADDR = 2
_NDA_PROTOCOL = 12
_NTF_PROXY = 0x08

_NETCONFA_IFINDEX = 1
ALL_LINKS = -1
"""The index in an RTM_NEWNETCONF about the settings of `all` (NETCONFA_IFINDEX_ALL of linux/netconf.h)."""

_IFADDRMSG = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_S32 = struct.Struct("=i")
_RTNEXTHOP = struct.Struct("=HBBi")
_RTVIA = struct.Struct("=H")
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class AddressChange(Struct, frozen=True):
    """An address that the link with this index has now, or lost if `gone`.

    `protocol` is the number (IFA_PROTO) of the program that made the address, 0 if the kernel tells none.
    """

    index: int
    address: IPInterface
    gone: bool = False
    protocol: int = 0


class RouteChange(Struct, frozen=True):
    """Our route that leads through the link with this index now, or was deleted if `gone`."""

    index: int
    route: Route
    gone: bool = False


class DefaultRoute(Struct, frozen=True):
    """A default route of the main table, ours or not.

    `index` is the link of the first next hop, 0 if the kernel names no link. `routers` are those of all next hops.
    """

    version: int
    index: int
    metric: int
    routers: tuple[IPAddress, ...] = ()


class NeighbourChange(Struct, frozen=True):
    """The permanent MAC of an address on the link with this index; `mac` None if it has no permanent entry now."""

    index: int
    address: IPAddress
    mac: str | None


class Proxy(Struct, frozen=True):
    """An address that the host answers for on the link with this index.

    `protocol` is the route protocol number of the program that made the entry, 0 if unknown.
    """

    index: int
    address: IPAddress
    protocol: int


def parse_address(data: bytes, message: Header) -> AddressChange | None:
    """Return the change that an RTM_NEWADDR or RTM_DELADDR describes, None for a family besides IPv4 and IPv6."""
    try:
        family, prefix, _flags, _scope, index = _IFADDRMSG.unpack_from(data, message.start)
        raw = b""
        protocol = 0
        for kind, at, stop in attributes(data, message.start + 8, message.end):
            if kind == _IFA_LOCAL or (kind == _IFA_ADDRESS and not raw):
                raw = data[at:stop]
            elif kind == _IFA_PROTO:
                protocol = data[at]
        gone = message.type == RTM_DELADDR
        if family == socket.AF_INET:
            return AddressChange(index, IPv4Interface((raw, prefix)), gone, protocol)
        if family == socket.AF_INET6:
            return AddressChange(index, IPv6Interface((raw, prefix)), gone, protocol)
    except (struct.error, ValueError, IndexError) as error:
        raise NetlinkFormatError(str(error)) from None
    return None


def parse_route(data: bytes, message: Header) -> RouteChange | DefaultRoute | None:
    """Return the change that an RTM_NEWROUTE or RTM_DELROUTE describes: of our route, or of a default route.

    Returns None for a foreign route, for a route with a next hop, and for a route outside the main table.
    """
    try:
        header = _RTMSG.unpack_from(data, message.start)
        family, length, _source, tos, table, protocol, _scope, kind, _flags = header
        if table != RT_TABLE_MAIN or kind != RTN_UNICAST or family not in _FAMILIES or tos:
            return None
        if length and protocol != ROUTE_PROTOCOL:
            return None
        found = {kind: (at, stop) for kind, at, stop in attributes(data, message.start + 12, message.end)}
        metric = U32.unpack_from(data, found[_RTA_PRIORITY][0])[0] if _RTA_PRIORITY in found else 0
        if not length:
            return _default(data, family, found, metric)
        if _RTA_OIF not in found or found.keys() & {_RTA_GATEWAY, _RTA_VIA, _RTA_MULTIPATH, _RTA_NH_ID}:
            return None
        (index,) = U32.unpack_from(data, found[_RTA_OIF][0])
        destination = data[slice(*found[_RTA_DST])] if _RTA_DST in found else b""
        source = _address(family, data[slice(*found[_RTA_PREFSRC])]) if _RTA_PREFSRC in found else None
        route = Route(_network(family, destination, length), metric, source)
    except (struct.error, ValueError) as error:
        raise NetlinkFormatError(str(error)) from None
    return RouteChange(index, route, message.type == RTM_DELROUTE)


def _default(data: bytes, family: int, found: dict[int, tuple[int, int]], metric: int) -> DefaultRoute:
    """Return a default route. Its `index` is 0 where the kernel names no link."""
    index = 0
    hops = [found]
    if _RTA_OIF in found:
        (index,) = U32.unpack_from(data, found[_RTA_OIF][0])
    elif _RTA_MULTIPATH in found:
        at, end = found[_RTA_MULTIPATH]
        hops = []
        while at < end:
            length, _flags, _weight, out = _RTNEXTHOP.unpack_from(data, at)
            if length < _RTNEXTHOP.size or at + length > end:
                raise NetlinkFormatError(f"next hop of {length} bytes")
            inner = attributes(data, at + _RTNEXTHOP.size, at + length)
            hops.append({kind: (start, stop) for kind, start, stop in inner})
            index = index or out
            at += length
    routers = (_router(data, family, hop) for hop in hops)
    return DefaultRoute(_version(family), index, metric, tuple(router for router in routers if router is not None))


def _router(data: bytes, family: int, hop: dict[int, tuple[int, int]]) -> IPAddress | None:
    if _RTA_GATEWAY in hop:
        return _address(family, data[slice(*hop[_RTA_GATEWAY])])
    if _RTA_VIA in hop:  # A router of the other address family: struct rtvia.
        at, end = hop[_RTA_VIA]
        (other,) = _RTVIA.unpack_from(data, at)
        return _address(other, data[at + _RTVIA.size : end])
    return None


def settings_index(data: bytes, message: Header) -> int | None:
    """Return the index of the link that an RTM_NEWNETCONF is about, None if the message has no index.

    A program has set the link's `forwarding`, `rp_filter`, `proxy_arp` or `proxy_ndp`. `all` and `default` have
    negative numbers.
    """
    for kind, start, end in attributes(data, message.start + 4, message.end):
        if kind == _NETCONFA_IFINDEX and end - start == 4:
            return int(_S32.unpack_from(data, start)[0])
    return None


def neighbour_index(data: bytes, message: Header) -> int:
    """Return the link index of an RTM_NEWNEIGH or RTM_DELNEIGH, without parsing the rest of the message."""
    if message.end - message.start < 12:
        raise NetlinkFormatError("neighbour message without ndmsg")
    return int(_NDMSG.unpack_from(data, message.start)[1])


def parse_neighbour(data: bytes, message: Header, *, permanent_only: bool) -> NeighbourChange | None:
    """Return the change that an RTM_NEWNEIGH or RTM_DELNEIGH describes.

    Returns None for a bridge's forwarding entry and for a proxy entry. With `permanent_only`, returns None also for an
    entry that is not permanent; that is right for a link without permanent entries that it could replace.
    """
    try:
        family, index, state, flags, _type = _NDMSG.unpack_from(data, message.start)
        if family not in _FAMILIES or flags & _NTF_PROXY or (permanent_only and not state & NUD_PERMANENT):
            return None
        found = {kind: (at, stop) for kind, at, stop in attributes(data, message.start + 12, message.end)}
        address = _address(family, data[slice(*found.get(_NDA_DST, (0, 0)))])
        mac = None
        if state & NUD_PERMANENT and message.type == RTM_NEWNEIGH:
            mac = data[slice(*found.get(_NDA_LLADDR, (0, 0)))].hex(":")
    except (struct.error, ValueError) as error:
        raise NetlinkFormatError(str(error)) from None
    return NeighbourChange(index, address, mac)


def parse_proxy(data: bytes, message: Header) -> Proxy | None:
    """Return the proxy ARP or proxy NDP entry that an RTM_NEWNEIGH of a dump describes, None for any other entry.

    An entry without a link holds for all links. xennetd makes no such entry, so it is ignored.
    """
    try:
        family, index, _state, flags, _type = _NDMSG.unpack_from(data, message.start)
        if family not in _FAMILIES or not flags & _NTF_PROXY or not index:
            return None
        found = {kind: (at, stop) for kind, at, stop in attributes(data, message.start + 12, message.end)}
        address = _address(family, data[slice(*found.get(_NDA_DST, (0, 0)))])
        protocol = data[found[_NDA_PROTOCOL][0]] if _NDA_PROTOCOL in found else 0
    except (struct.error, ValueError, IndexError) as error:
        raise NetlinkFormatError(str(error)) from None
    return Proxy(index, address, protocol)


def _address(family: int, raw: bytes) -> IPAddress:
    return IPv4Address(raw) if family == socket.AF_INET else IPv6Address(raw)


def _network(family: int, raw: bytes, length: int) -> IPNetwork:
    return IPv4Network((raw, length)) if family == socket.AF_INET else IPv6Network((raw, length))


def _version(family: int) -> int:
    return 4 if family == socket.AF_INET else 6


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def dump_addresses(seq: int, index: int = 0) -> bytes:
    """Return the request for all IPv4 and IPv6 addresses: of the link with this index, or of all links for 0."""
    return request(RTM_GETADDR, NLM_F_DUMP, seq, _IFADDRMSG.pack(0, 0, 0, 0, index))


def dump_routes(seq: int, version: int) -> bytes:
    """Return the request for the unicast routes of the main table.

    On a socket without NETLINK_GET_STRICT_CHK the kernel answers with the routes of all tables.
    """
    return request(RTM_GETROUTE, NLM_F_DUMP, seq, _route_header(_family(version), 0, protocol=0, scope=0))


def dump_our_routes(seq: int, version: int, index: int) -> bytes:
    """Return the request for our routes through the link with this index."""
    body = _route_header(_family(version), 0, protocol=ROUTE_PROTOCOL, scope=0)
    return request(RTM_GETROUTE, NLM_F_DUMP, seq, body + attribute(_RTA_OIF, U32.pack(index)))


def get_route(seq: int, destination: IPAddress) -> bytes:
    """Return the request for the route that the kernel takes to an address."""
    body = _RTMSG.pack(_family(destination.version), destination.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return request(RTM_GETROUTE, 0, seq, body + attribute(_RTA_DST, destination.packed))


def parse_way(data: bytes, message: Header) -> int:
    """Return the index of the link by which a route leads, 0 without one, from the answer to `get_route`."""
    try:
        for kind, at, _stop in attributes(data, message.start + _RTMSG.size, message.end):
            if kind == _RTA_OIF:
                return int(U32.unpack_from(data, at)[0])
    except struct.error as error:
        raise NetlinkFormatError(str(error)) from None
    return 0


def dump_neighbours(seq: int) -> bytes:
    """Return the request for all neighbour entries of IPv4 and IPv6."""
    return request(RTM_GETNEIGH, NLM_F_DUMP, seq, _NDMSG.pack(0, 0, 0, 0, 0))


def dump_proxies(seq: int) -> bytes:
    """Return the request for all proxy ARP and proxy NDP entries. The kernel has no events for them."""
    return request(RTM_GETNEIGH, NLM_F_DUMP, seq, _NDMSG.pack(0, 0, 0, _NTF_PROXY, 0))


def add_address(seq: int, index: int, address: IPInterface, *, marked: bool = False) -> bytes:
    """Return the request that gives the link with this index an address, without duplicate address detection.

    With `marked`, the address gets xennetd's protocol number, also if the link has the address already.
    """
    flags = _IFA_F_NODAD if address.version == 6 else 0
    body = _IFADDRMSG.pack(_family(address.version), address.network.prefixlen, flags, 0, index)
    body += attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    if marked:
        body += attribute(_IFA_PROTO, bytes([ADDRESS_PROTOCOL]))
    return request(RTM_NEWADDR, NLM_F_CREATE | (NLM_F_REPLACE if marked else NLM_F_EXCL), seq, body)


def delete_address(seq: int, index: int, address: IPInterface) -> bytes:
    """Return the request that takes an address off the link with this index.

    IFA_ADDRESS is left out. For an address with a peer it means the peer's address, which would have to match.
    """
    body = _IFADDRMSG.pack(_family(address.version), address.network.prefixlen, 0, 0, index)
    return request(RTM_DELADDR, 0, seq, body + attribute(_IFA_LOCAL, address.packed))


def add_route(seq: int, index: int, route: Route, *, replace: bool) -> bytes:
    """Return the request that adds our route through the link with this index.

    With `replace`, it takes the place of a route with the same destination and metric. Without `replace`, such a route
    makes the request fail with EEXIST.
    """
    destination = route.destination
    body = _route_header(_family(destination.version), destination.prefixlen, scope=_RT_SCOPE_LINK)
    body += _route_key(index, route)
    if route.source is not None:
        body += attribute(_RTA_PREFSRC, route.source.packed)
    return request(RTM_NEWROUTE, NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL), seq, body)


def delete_route(seq: int, index: int, route: Route) -> bytes:
    """Return the request that deletes our route through the link with this index, with any preferred source address."""
    destination = route.destination
    body = _route_header(_family(destination.version), destination.prefixlen, scope=_RT_SCOPE_NOWHERE)
    return request(RTM_DELROUTE, 0, seq, body + _route_key(index, route))


def _route_header(family: int, length: int, *, scope: int, protocol: int = ROUTE_PROTOCOL) -> bytes:
    return _RTMSG.pack(family, length, 0, 0, RT_TABLE_MAIN, protocol, scope, RTN_UNICAST, 0)


def _route_key(index: int, route: Route) -> bytes:
    return (
        attribute(_RTA_DST, route.destination.network_address.packed)
        + attribute(_RTA_OIF, U32.pack(index))
        + attribute(_RTA_PRIORITY, U32.pack(route.metric))
    )


def set_neighbour(seq: int, index: int, neighbour: Neighbour) -> bytes:
    """Return the request that makes or replaces the permanent neighbour entry of an address on this link."""
    body = _NDMSG.pack(_family(neighbour.address.version), index, NUD_PERMANENT, 0, 0)
    body += attribute(_NDA_DST, neighbour.address.packed)
    body += attribute(_NDA_LLADDR, bytes.fromhex(neighbour.mac.replace(":", "")))
    body += attribute(_NDA_PROTOCOL, bytes([ROUTE_PROTOCOL]))
    return request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, seq, body)


def delete_neighbour(seq: int, index: int, address: IPAddress) -> bytes:
    """Return the request that deletes the neighbour entry of an address on the link with this index."""
    body = _NDMSG.pack(_family(address.version), index, 0, 0, 0) + attribute(_NDA_DST, address.packed)
    return request(RTM_DELNEIGH, 0, seq, body)


def add_proxy(seq: int, index: int, address: IPAddress) -> bytes:
    """Return the request that lets the host answer for an address on the link with this index.

    The entry is permanent: the kernel deletes others when the link loses its carrier.
    """
    body = _NDMSG.pack(_family(address.version), index, NUD_PERMANENT, _NTF_PROXY, 0)
    body += attribute(_NDA_DST, address.packed) + attribute(_NDA_PROTOCOL, bytes([ROUTE_PROTOCOL]))
    return request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, seq, body)


def delete_proxy(seq: int, index: int, address: IPAddress) -> bytes:
    """Return the request that ends the host's answering for an address on the link with this index."""
    body = _NDMSG.pack(_family(address.version), index, 0, _NTF_PROXY, 0) + attribute(_NDA_DST, address.packed)
    return request(RTM_DELNEIGH, 0, seq, body)

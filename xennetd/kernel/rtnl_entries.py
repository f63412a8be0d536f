"""Addresses, routes, rules and neighbour entries as `IpEntry`: from rtnetlink(7) messages and back, losing nothing.

What names a link is taken out of a message and put back by the link's name. What the kernel counts or finds out by
itself is left out: lifetimes, states, caches. Constants are those of linux/rtnetlink.h and its neighbours.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_interface

from xennetd.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    U32,
    Header,
    NetlinkFormatError,
    attribute,
    attributes,
    request,
    text_of,
)
from xennetd.kernel.rtnl_ip import (
    NUD_PERMANENT,
    RTM_DELADDR,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
)
from xennetd.model.ip_entry import FOREVER, EntryKind, IpEntry
from xennetd.model.link import is_link_name

RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

NameOf = Callable[[int], str | None]
"""Returns the name of the link with this index, None for a link that no entry may be about."""

Index = Callable[[str], int]
"""Returns the index of the link with this name. Raises HostError without one."""

_IFADDRMSG, _RTMSG, _NDMSG = struct.Struct("=BBBBI"), struct.Struct("=BBBBBBBBI"), struct.Struct("=BxxxiHBB")
_FIB_RULE, _RTNEXTHOP, _CACHEINFO = struct.Struct("=BBBBBxxBI"), struct.Struct("=HBBi"), struct.Struct("=IIII")

_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 3, 6, 8
_IFA_F_NODAD, _IFA_F_PERMANENT, _IFA_F_KEPT = 0x02, 0x80, 0x10 | 0x100 | 0x200 | 0x400
_IFA_F_TEMPORARY = 0x01
NOPREFIXROUTE = 0x200
_SCOPE_LINK = 253

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH = 1, 4, 5, 6, 9
_RTA_CACHEINFO, _RTA_TABLE, _RTA_VIA, _RTA_EXPIRES, _RTA_UID, _RTA_NH_ID = 12, 15, 18, 23, 25, 30
_NOT_OF_ROUTES = frozenset({_RTA_OIF, _RTA_CACHEINFO, _RTA_EXPIRES, _RTA_UID})
_RTM_F_CLONED, _RTNH_F_ONLINK = 0x200, 0x4
_TABLE_LOCAL, _TABLE_MAIN = 255, 254
_PROTO_KERNEL, _PROTO_RA = 2, 9
_RTN_UNICAST = 1

_FRA_IIFNAME, _FRA_PRIORITY, _FRA_OIFNAME = 3, 6, 17
_NDA_DST, _NDA_CACHEINFO, _NDA_PROBES = 1, 3, 4
_NTF_PROXY = 0x08


def dump_requests() -> list[tuple[Callable[[int], bytes], EntryKind]]:
    """Return the requests for everything that entries are read from, each with the kind of entries in its answer."""
    families = (socket.AF_INET, socket.AF_INET6)
    dumps: list[tuple[Callable[[int], bytes], EntryKind]] = []
    for family in families:
        dumps.append((_dump(RTM_GETADDR, _IFADDRMSG.pack(family, 0, 0, 0, 0)), "ip address"))
        dumps.append((_dump(RTM_GETROUTE, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)), "ip route"))
        dumps.append((_dump(RTM_GETRULE, _FIB_RULE.pack(family, 0, 0, 0, 0, 0, 0)), "ip rule"))
        dumps.append((_dump(RTM_GETNEIGH, _NDMSG.pack(family, 0, 0, 0, 0)), "ip neighbour"))
    return dumps


def _dump(kind: int, body: bytes) -> Callable[[int], bytes]:
    return lambda seq: request(kind, NLM_F_DUMP, seq, body)


def parse_entries(data: bytes, message: Header, name: NameOf) -> list[IpEntry]:
    """Return the entries in a message, none for a message about something else or that the kernel makes by itself."""
    try:
        match message.type:
            case _ if message.type == RTM_NEWADDR:
                return _address(data, message, name)
            case _ if message.type == RTM_NEWROUTE:
                return _route(data, message, name)
            case _ if message.type == RTM_NEWRULE:
                return _rule(data, message)
            case _ if message.type == RTM_NEWNEIGH:
                return _neighbour(data, message, name)
    except (struct.error, ValueError, IndexError) as error:
        raise NetlinkFormatError(str(error)) from None
    return []


def _found(data: bytes, at: int, end: int) -> dict[int, bytes]:
    return {kind: data[start:stop] for kind, start, stop in attributes(data, at, end)}


def _address(data: bytes, message: Header, name: NameOf) -> list[IpEntry]:
    family, length, flags, scope, index = _IFADDRMSG.unpack_from(data, message.start)
    link = name(index)
    if family not in (socket.AF_INET, socket.AF_INET6) or link is None:
        return []
    found = _found(data, message.start + 8, message.end)
    flags = U32.unpack(found.pop(_IFA_FLAGS))[0] if _IFA_FLAGS in found else flags
    preferred, valid = FOREVER, FOREVER
    if _IFA_CACHEINFO in found:
        preferred, valid, _, _ = _CACHEINFO.unpack_from(found.pop(_IFA_CACHEINFO))
    label = text_of(found[_IFA_LABEL], 0, len(found.pop(_IFA_LABEL))) if _IFA_LABEL in found else link
    interface = ip_interface((found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b"")), length))
    if family == socket.AF_INET6 and (scope == _SCOPE_LINK or flags & _IFA_F_TEMPORARY):
        return []
    kept = flags & _IFA_F_KEPT
    entry = IpEntry(
        "ip address",
        str(interface),
        (link,),
        _IFADDRMSG.pack(family, length, 0, scope, 0),
        tuple(sorted({**found, **({_IFA_FLAGS: U32.pack(kept)} if kept else {})}.items())),
        words=f"ip addr add {interface}",
        interface=interface,
        label=label.removeprefix(link) if label.startswith(f"{link}:") else "",
        leased=not flags & _IFA_F_PERMANENT,
        lifetime=(preferred, valid),
    )
    return [entry]


def _route(data: bytes, message: Header, name: NameOf) -> list[IpEntry]:
    family, length, source, tos, table, protocol, scope, kind, flags = _RTMSG.unpack_from(data, message.start)
    found = _found(data, message.start + 12, message.end)
    table = U32.unpack(found[_RTA_TABLE])[0] if _RTA_TABLE in found else table
    if table == _TABLE_LOCAL or flags & _RTM_F_CLONED or _is_of_every_link(found.get(_RTA_DST), family, protocol):
        return []
    six = family == socket.AF_INET6
    kept = {each: value for each, value in found.items() if each not in _NOT_OF_ROUTES}
    fixed = _RTMSG.pack(
        family, length, source, tos, table if table < 256 else 0, protocol, scope, kind, flags & _RTNH_F_ONLINK
    )
    ways = _ways(kept.pop(_RTA_MULTIPATH), name) if _RTA_MULTIPATH in kept else None
    variants: list[tuple[tuple[str | None, ...], dict[int, bytes]]]
    if ways is None:
        links: tuple[str | None, ...] = (name(U32.unpack(found[_RTA_OIF])[0]),) if _RTA_OIF in found else ()
        variants = [(links, kept)]
    elif six:
        # The kernel joins routes of one destination and metric to one with several ways, and takes each by itself.
        variants = [((link,), {**kept, **way}) for link, _, way in ways]
    else:
        variants = [(tuple(link for link, _, _ in ways), {**kept, _RTA_MULTIPATH: _multipath(ways)})]
    entries = []
    for names, attributes_kept in variants:
        if not names or None in names:
            continue
        destination = _prefix(family, found.get(_RTA_DST), length)
        metric = U32.unpack(found[_RTA_PRIORITY])[0] if _RTA_PRIORITY in found else 0
        gateway = attributes_kept.get(_RTA_GATEWAY)
        words = [f"ip{' -6' if six else ''} route replace {destination}"]
        words += [f"via {ip_address(gateway)}"] if gateway else []
        words += [f"metric {metric}"] if metric else []
        words += [f"table {table}"] if table != _TABLE_MAIN else []
        via = six and f" via {ip_address(gateway)}" if gateway else ""
        identity = f"{destination} metric {metric} table {table} tos {tos}{via or ''}"
        entries.append(
            IpEntry(
                "ip route",
                identity,
                tuple(str(each) for each in names),
                fixed,
                tuple(sorted(attributes_kept.items())),
                words=" ".join(words),
                of_link=six,
                leased=protocol == _PROTO_RA,
                obstacle="it has a nexthop object (ip nexthop)" if _RTA_NH_ID in found else "",
                via=bool(gateway) or _RTA_VIA in attributes_kept or _RTA_MULTIPATH in attributes_kept,
            )
        )
    return entries


def _is_of_every_link(raw: bytes | None, family: int, protocol: int) -> bool:
    """Return whether a route is one of those that the kernel makes for each link with IPv6."""
    if family != socket.AF_INET6 or protocol != _PROTO_KERNEL or raw is None:
        return False
    destination = ip_address(raw)
    return destination.is_link_local or destination.is_multicast


def _prefix(family: int, raw: bytes | None, length: int) -> str:
    if raw is None:
        return "default"
    return f"{ip_address(raw)}/{length}" if length < (32 if family == socket.AF_INET else 128) else str(ip_address(raw))


_Ways = list[tuple[str | None, bytes, dict[int, bytes]]]
"""The ways of a route: link, flags and weight as two bytes, attributes."""


def _ways(raw: bytes, name: NameOf) -> _Ways:
    ways: _Ways = []
    at = 0
    while at + 8 <= len(raw):
        length, flags, hops, index = _RTNEXTHOP.unpack_from(raw, at)
        if length < 8 or at + length > len(raw):
            raise NetlinkFormatError(f"a way of {length} bytes where {len(raw) - at} are left")
        ways.append((name(index), bytes([flags & _RTNH_F_ONLINK, hops]), _found(raw, at + 8, at + length)))
        at += (length + 3) & ~3
    return ways


def _multipath(ways: _Ways) -> bytes:
    return b"".join(_way(0, marks, found) for _, marks, found in ways)


def _way(index: int, marks: bytes, found: Mapping[int, bytes]) -> bytes:
    nested = b"".join(attribute(kind, value) for kind, value in sorted(found.items()))
    return _RTNEXTHOP.pack(8 + len(nested), marks[0], marks[1], index) + nested


def _rule(data: bytes, message: Header) -> list[IpEntry]:
    family, *_ = _FIB_RULE.unpack_from(data, message.start)
    found = _found(data, message.start + 12, message.end)
    links = tuple(text_of(found[kind], 0, len(found[kind])) for kind in (_FRA_IIFNAME, _FRA_OIFNAME) if kind in found)
    if family not in (socket.AF_INET, socket.AF_INET6) or not all(map(is_link_name, links)):
        return []
    kept = {kind: b"" if kind in (_FRA_IIFNAME, _FRA_OIFNAME) else value for kind, value in found.items()}
    fixed = bytearray(data[message.start : message.start + 12])
    fixed[8:12] = bytes(4)  # flags: whether the link is there
    priority = U32.unpack(found[_FRA_PRIORITY])[0] if _FRA_PRIORITY in found else 0
    six = " -6" if family == socket.AF_INET6 else ""
    names = (("iif", _FRA_IIFNAME), ("oif", _FRA_OIFNAME))
    identity = f"{priority}{six} {bytes(fixed).hex()} {[(kind, value.hex()) for kind, value in sorted(kept.items())]}"
    which = " ".join(word for word, kind in names if kind in found)
    entry = IpEntry(
        "ip rule",
        identity,
        links,
        bytes(fixed),
        tuple(sorted(kept.items())),
        words=f"ip{six} rule add priority {priority} {which} {' '.join(links)}",
    )
    return [entry]


def _neighbour(data: bytes, message: Header, name: NameOf) -> list[IpEntry]:
    family, index, state, flags, kind = _NDMSG.unpack_from(data, message.start)
    link = name(index)
    if family not in (socket.AF_INET, socket.AF_INET6) or link is None or flags & _NTF_PROXY:
        return []
    if not state & NUD_PERMANENT:
        return []
    found = _found(data, message.start + 12, message.end)
    kept = {each: value for each, value in found.items() if each not in (_NDA_CACHEINFO, _NDA_PROBES)}
    if _NDA_DST not in kept:
        return []
    address = ip_address(kept[_NDA_DST])
    if address.is_multicast:
        return []
    mac = kept.get(2, b"").hex(":")
    entry = IpEntry(
        "ip neighbour",
        str(address),
        (link,),
        _NDMSG.pack(family, 0, state, flags, kind),
        tuple(sorted(kept.items())),
        words=f"ip neigh replace {address} lladdr {mac} nud permanent",
    )
    return [entry]


def make_entry(seq: int, entry: IpEntry, index: Index) -> bytes:
    """Return the request that makes an entry, or puts it in the place of one with the same identity."""
    kinds = {"ip address": RTM_NEWADDR, "ip route": RTM_NEWROUTE, "ip rule": RTM_NEWRULE, "ip neighbour": RTM_NEWNEIGH}
    flags = NLM_F_CREATE | (0 if entry.kind == "ip rule" else NLM_F_REPLACE)
    if entry.kind == "ip route" and entry.of_link:
        flags = NLM_F_CREATE  # An IPv6 route on another link is one beside it.
    return request(kinds[entry.kind], flags, seq, _body(entry, index, making=True))


def delete_entry(seq: int, entry: IpEntry, index: Index) -> bytes:
    """Return the request that deletes an entry."""
    kinds = {"ip address": RTM_DELADDR, "ip route": RTM_DELROUTE, "ip rule": RTM_DELRULE, "ip neighbour": RTM_DELNEIGH}
    return request(kinds[entry.kind], 0, seq, _body(entry, index, making=False))


def _body(entry: IpEntry, index: Index, *, making: bool) -> bytes:
    found = dict(entry.attributes)
    fixed = bytearray(entry.fixed)
    if entry.kind == "ip address":
        fixed[4:8] = U32.pack(index(entry.links[0]))
        if making:
            _complete_address(found, entry)
    elif entry.kind == "ip neighbour":
        fixed[4:8] = struct.pack("=i", index(entry.links[0]))
    elif entry.kind == "ip rule":
        names = iter(entry.links)
        for kind in (_FRA_IIFNAME, _FRA_OIFNAME):
            if kind in found:
                found[kind] = next(names).encode() + b"\0"
    elif _RTA_MULTIPATH in found:
        found[_RTA_MULTIPATH] = _indexed(found[_RTA_MULTIPATH], entry.links, index)
    else:
        found[_RTA_OIF] = U32.pack(index(entry.links[0]))
    return bytes(fixed) + b"".join(attribute(kind, value) for kind, value in sorted(found.items()))


def _complete_address(found: dict[int, bytes], entry: IpEntry) -> None:
    flags = U32.unpack(found.get(_IFA_FLAGS, bytes(4)))[0]
    if entry.fixed[0] == socket.AF_INET6:
        flags |= _IFA_F_NODAD  # The host had the address before: nobody else has it.
    elif entry.label:
        found[_IFA_LABEL] = f"{entry.links[0]}{entry.label}".encode() + b"\0"
    if flags:
        found[_IFA_FLAGS] = U32.pack(flags)
    if entry.lifetime != (FOREVER, FOREVER):
        found[_IFA_CACHEINFO] = _CACHEINFO.pack(*entry.lifetime, 0, 0)


def _indexed(raw: bytes, links: tuple[str, ...], index: Index) -> bytes:
    ways = _ways(raw, lambda _: None)
    return b"".join(_way(index(link), marks, found) for link, (_, marks, found) in zip(links, ways, strict=True))


def is_made_by_an_address(route: IpEntry, addresses: list[IpEntry]) -> bool:
    """Return whether the kernel makes a route by itself, with one of these addresses on the same link."""
    if route.kind != "ip route" or route.fixed[5] != _PROTO_KERNEL or route.via or route.fixed[7] != _RTN_UNICAST:
        return False
    return any(
        address.interface is not None
        and address.links == route.links
        and not U32.unpack(dict(address.attributes).get(_IFA_FLAGS, bytes(4)))[0] & NOPREFIXROUTE
        and route.identity.startswith(
            (f"{address.interface.network} ", f"{address.interface.network.network_address} ")
        )
        for address in addresses
    )

"""The messages of rtnetlink(7) about links, as bytes, as far as xennetd needs them.

An attribute that a request leaves out stays as it was. An AF_BRIDGE message is only about the link as a port.
Constants are those of linux/rtnetlink.h and linux/if_link.h.
"""

from __future__ import annotations

import socket
import struct

from xennetd.kernel.netlink import (
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    U32,
    Header,
    NetlinkFormatError,
    attribute,
    attributes,
    request,
    text_of,
)
from xennetd.model.link import IFF_NOARP, IFF_UP, IN6_ADDR_GEN_MODE_NONE, Link
from xennetd.model.vif import VifId
from xennetd.plan.properties import PORT_FLAGS

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_SETLINK = 19

RTMGRP_LINK = 0x1

RTEXT_FILTER_SKIP_STATS = 0x8

_IFLA_EVENT_FEATURES = 2

_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_MASTER = 10
_IFLA_PROTINFO = 12
_IFLA_LINKINFO = 18
_IFLA_IFALIAS = 20
_IFLA_AF_SPEC = 26
_IFLA_GROUP = 27
_IFLA_EXT_MASK = 29
_IFLA_EVENT = 44
_IFLA_PROP_LIST = 52
_IFLA_PARENT_DEV_NAME = 56
_IFLA_PARENT_DEV_BUS_NAME = 57

_IFLA_INFO_KIND = 1
_IFLA_INFO_SLAVE_KIND = 4
_IFLA_INFO_SLAVE_DATA = 5
_IFLA_INET6_ADDR_GEN_MODE = 8

_LINK_ATTRIBUTES = frozenset(
    {
        _IFLA_ADDRESS,
        _IFLA_IFNAME,
        _IFLA_MTU,
        _IFLA_MASTER,
        _IFLA_LINKINFO,
        _IFLA_IFALIAS,
        _IFLA_AF_SPEC,
        _IFLA_GROUP,
        _IFLA_PROP_LIST,
        _IFLA_PARENT_DEV_NAME,
        _IFLA_PARENT_DEV_BUS_NAME,
    }
)

_LINKINFO_ATTRIBUTES = frozenset({_IFLA_INFO_KIND, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA})
_AF_SPEC_FAMILIES = frozenset({int(socket.AF_INET6)})
_INET6_ATTRIBUTES = frozenset({_IFLA_INET6_ADDR_GEN_MODE})
_PORT_NEST = frozenset({_IFLA_PROTINFO})
_EVENT = frozenset({_IFLA_EVENT})
_FLAG_NAMES = {attribute: name for name, attribute in PORT_FLAGS.items()}
_PORT_ATTRIBUTES = frozenset(_FLAG_NAMES)

_IFINFOMSG = struct.Struct("=BxHiII")
_UNKNOWN = Link(index=0, name="")
_NO_FLAGS: frozenset[str] = frozenset()


def link_key(data: bytes, message: Header) -> tuple[int, int, int]:
    """Return (address family, index, flags) of a link message, without parsing the rest of the message."""
    if message.end - message.start < 16:
        raise NetlinkFormatError("link message without ifinfomsg")
    family, _type, index, flags, _change = _IFINFOMSG.unpack_from(data, message.start)
    return family, index, flags


def tells_features(data: bytes, message: Header) -> bool:
    """Return whether an RTM_NEWLINK was sent because the link's features have changed, which it does not have."""
    return any(
        stop - at == U32.size and U32.unpack_from(data, at)[0] == _IFLA_EVENT_FEATURES
        for _, at, stop in attributes(data, message.start + _IFINFOMSG.size, message.end, _EVENT)
    )


def parse_link(data: bytes, message: Header, *, stand_in: bool = False, known: Link | None = None) -> Link:
    """Return the link that an AF_UNSPEC RTM_NEWLINK describes.

    The message has no addresses, routes, neighbours and generation; they are those of `known`. With `stand_in`, an
    alternative name `vif-D-N` counts as the parent device of that name: tests use veths in place of vifs.
    """
    try:
        return _parse_link(data, message.start, message.end, stand_in, known or _UNKNOWN)
    except struct.error as error:
        raise NetlinkFormatError(str(error)) from None


def _parse_link(data: bytes, start: int, end: int, stand_in: bool, known: Link) -> Link:
    _family, _type, index, flags, _change = _IFINFOMSG.unpack_from(data, start)
    found = {kind: (at, stop) for kind, at, stop in attributes(data, start + 16, end, _LINK_ATTRIBUTES)}
    kind, flags_on = _parse_linkinfo(data, *found[_IFLA_LINKINFO]) if _IFLA_LINKINFO in found else ("", _NO_FLAGS)
    mode = _parse_addr_gen_mode(data, *found[_IFLA_AF_SPEC]) if _IFLA_AF_SPEC in found else IN6_ADDR_GEN_MODE_NONE
    parent = None
    if _IFLA_PARENT_DEV_BUS_NAME in found and text_of(data, *found[_IFLA_PARENT_DEV_BUS_NAME]) == "xen-backend":
        parent = _parse_parent(text_of(data, *found.get(_IFLA_PARENT_DEV_NAME, (0, 0))))
    elif stand_in and _IFLA_PROP_LIST in found:
        names = (text_of(data, at, stop) for _, at, stop in attributes(data, *found[_IFLA_PROP_LIST]))
        parent = next(filter(None, map(_parse_parent, names)), None)
    return Link(
        index=index,
        name=text_of(data, *found[_IFLA_IFNAME]) if _IFLA_IFNAME in found else "",
        kind=kind,
        master=_number(data, found.get(_IFLA_MASTER)),
        flags=flags,
        mtu=_number(data, found.get(_IFLA_MTU)),
        address=data[slice(*found[_IFLA_ADDRESS])].hex(":") if _IFLA_ADDRESS in found else "",
        group=_number(data, found.get(_IFLA_GROUP)),
        addr_gen_mode=mode,
        parent=parent,
        flags_on=flags_on,
        addresses=known.addresses,
        routes=known.routes,
        neighbours=known.neighbours,
        generation=known.generation,
        alias=text_of(data, *found[_IFLA_IFALIAS]) if _IFLA_IFALIAS in found else "",
    )


def _number(data: bytes, place: tuple[int, int] | None) -> int:
    return int(U32.unpack_from(data, place[0])[0]) if place is not None else 0


def _parse_parent(name: str) -> VifId | None:
    """Return the vif that the xenbus device `vif-D-N` serves."""
    return VifId.parse(name.replace("vif-", "vif", 1).replace("-", ".", 1)) if name.startswith("vif-") else None


def _parse_linkinfo(data: bytes, offset: int, end: int) -> tuple[str, frozenset[str]]:
    kind = slave_kind = ""
    slave = (0, 0)
    for attribute_type, at, stop in attributes(data, offset, end, _LINKINFO_ATTRIBUTES):
        if attribute_type == _IFLA_INFO_KIND:
            kind = text_of(data, at, stop)
        elif attribute_type == _IFLA_INFO_SLAVE_KIND:
            slave_kind = text_of(data, at, stop)
        elif attribute_type == _IFLA_INFO_SLAVE_DATA:
            slave = (at, stop)
    return kind, _parse_flags(data, *slave, _NO_FLAGS) if slave_kind == "bridge" and slave[1] else _NO_FLAGS


def _parse_flags(data: bytes, offset: int, end: int, was: frozenset[str]) -> frozenset[str]:
    """Return the names of a bridge port's flags that are on. A flag without an attribute is as in `was`."""
    found = {
        _FLAG_NAMES[kind]: data[at] for kind, at, stop in attributes(data, offset, end, _PORT_ATTRIBUTES) if stop > at
    }
    return frozenset(flag for flag in PORT_FLAGS if found.get(flag, flag in was)) or _NO_FLAGS


def _parse_addr_gen_mode(data: bytes, offset: int, end: int) -> int:
    """Return the link's addr_gen_mode. A link without IPv6 (MTU below 1280, or no IPv6 at all) makes no address."""
    for _, at, stop in attributes(data, offset, end, _AF_SPEC_FAMILIES):
        for _, value, value_end in attributes(data, at, stop, _INET6_ATTRIBUTES):
            if value_end > value:
                return data[value]
    return IN6_ADDR_GEN_MODE_NONE


def merge_flags(data: bytes, message: Header, was: frozenset[str]) -> frozenset[str]:
    """Return the names of the flags that are on after an AF_BRIDGE RTM_NEWLINK (net/bridge/br_netlink.c).

    A flag that the message does not have is as in `was`.
    """
    try:
        for _, at, stop in attributes(data, message.start + 16, message.end, _PORT_NEST):
            return _parse_flags(data, at, stop, was)
    except struct.error as error:
        raise NetlinkFormatError(str(error)) from None
    return was


def dump_links(seq: int) -> bytes:
    """Return the request for all links, without their counters."""
    body = _IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(_IFLA_EXT_MASK, U32.pack(RTEXT_FILTER_SKIP_STATS))
    return request(RTM_GETLINK, NLM_F_DUMP, seq, body)


def get_link(seq: int, index: int) -> bytes:
    """Return the request for the link with this index."""
    return request(RTM_GETLINK, 0, seq, _IFINFOMSG.pack(0, 0, index, 0, 0))


def delete_link(seq: int, index: int) -> bytes:
    """Return the request that deletes the link with this index."""
    return request(RTM_DELLINK, 0, seq, _IFINFOMSG.pack(0, 0, index, 0, 0))


def add_bridge(seq: int, name: str, address: str, group: int) -> bytes:
    """Return the request that makes a bridge and brings it up. It fails with EEXIST if a link has that name."""
    body = _IFINFOMSG.pack(0, 0, 0, IFF_UP, IFF_UP) + _name(name) + _mac(address)
    body += attribute(_IFLA_GROUP, U32.pack(group))
    body += attribute(_IFLA_LINKINFO | NLA_F_NESTED, attribute(_IFLA_INFO_KIND, b"bridge\0"))
    return request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, seq, body)


def set_link(  # noqa: PLR0913 # a parameter for each property that a request can set
    seq: int,
    index: int,
    *,
    up: bool | None = None,
    arp: bool | None = None,
    name: str | None = None,
    address: str | None = None,
    mtu: int | None = None,
    master: int | None = None,
    group: int | None = None,
    addr_gen_mode: int | None = None,
    alias: str | None = None,
) -> bytes:
    """Return the request that changes the link with this index.

    None leaves a property as it is. `master` 0 takes the link out of its bridge. `mtu` is in bytes.
    An empty `alias` removes the alias.
    """
    flags, change = (0, 0) if up is None else (int(up), IFF_UP)
    if arp is not None:
        flags, change = flags | (0 if arp else IFF_NOARP), change | IFF_NOARP
    body = _IFINFOMSG.pack(0, 0, index, flags, change)
    if name is not None:
        body += _name(name)
    if address is not None:
        body += _mac(address)
    if mtu is not None:
        body += attribute(_IFLA_MTU, U32.pack(mtu))
    if master is not None:
        body += attribute(_IFLA_MASTER, U32.pack(master))
    if group is not None:
        body += attribute(_IFLA_GROUP, U32.pack(group))
    if alias is not None:
        body += attribute(_IFLA_IFALIAS, alias.encode())
    if addr_gen_mode is not None:
        mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([addr_gen_mode]))
        family = attribute(socket.AF_INET6 | NLA_F_NESTED, mode)
        body += attribute(_IFLA_AF_SPEC | NLA_F_NESTED, family)
    return request(RTM_SETLINK, 0, seq, body)


def set_port_flag(seq: int, index: int, flag: int, on: bool) -> bytes:
    """Return the request that sets a flag (IFLA_BRPORT_*) of the port with this index (rtnl_bridge_setlink())."""
    body = _IFINFOMSG.pack(socket.AF_BRIDGE, 0, index, 0, 0)
    body += attribute(_IFLA_PROTINFO | NLA_F_NESTED, attribute(flag, bytes([on])))
    return request(RTM_SETLINK, 0, seq, body)


def _name(name: str) -> bytes:
    return attribute(_IFLA_IFNAME, name.encode() + b"\0")


def _mac(address: str) -> bytes:
    return attribute(_IFLA_ADDRESS, bytes.fromhex(address.replace(":", "")))

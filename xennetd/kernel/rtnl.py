"""The part of rtnetlink(7) that the hot path needs, as bytes: sans I/O, typed, host byte order.

Rule 1: a parser raises `NetlinkFormatError` and nothing else, whatever the bytes.
Rule 2: what a message does not mention stays as it was; an AF_BRIDGE message only speaks of the port it is about.
Constants are those of linux/netlink.h, linux/rtnetlink.h, linux/if_link.h and linux/if_addr.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface
from typing import NamedTuple

from xennetd.model.link import IN6_ADDR_GEN_MODE_NONE, BridgePort, Link
from xennetd.model.vif import IPInterface, VifId

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLMSGERR_ATTR_MSG = 1

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_SETLINK = 19
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22

RTMGRP_LINK = 0x1
RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV6_IFADDR = 0x100

RTEXT_FILTER_SKIP_STATS = 0x8

_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_MASTER = 10
_IFLA_PROTINFO = 12
_IFLA_LINKINFO = 18
_IFLA_AF_SPEC = 26
_IFLA_GROUP = 27
_IFLA_EXT_MASK = 29
_IFLA_PROP_LIST = 52
_IFLA_ALT_IFNAME = 53
_IFLA_PARENT_DEV_NAME = 56
_IFLA_PARENT_DEV_BUS_NAME = 57

_IFLA_INFO_KIND = 1
_IFLA_INFO_SLAVE_KIND = 4
_IFLA_INFO_SLAVE_DATA = 5
_IFLA_INET6_ADDR_GEN_MODE = 8

_IFLA_BRPORT_STATE = 1
_IFLA_BRPORT_MODE = 4
_IFLA_BRPORT_LEARNING = 8
_IFLA_BRPORT_UNICAST_FLOOD = 9
_IFLA_BRPORT_ISOLATED = 33
_IFLA_BRPORT_LOCKED = 39

_IFA_ADDRESS = 1
_IFA_LOCAL = 2

_LINK_ATTRIBUTES = frozenset(
    {
        _IFLA_ADDRESS,
        _IFLA_IFNAME,
        _IFLA_MTU,
        _IFLA_MASTER,
        _IFLA_LINKINFO,
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
_PORT_ATTRIBUTES = frozenset(
    {
        _IFLA_BRPORT_STATE,
        _IFLA_BRPORT_MODE,
        _IFLA_BRPORT_LEARNING,
        _IFLA_BRPORT_UNICAST_FLOOD,
        _IFLA_BRPORT_ISOLATED,
        _IFLA_BRPORT_LOCKED,
    }
)

_NLMSGHDR = struct.Struct("=IHHII")
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_RTATTR = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")

_TYPE_MASK = 0x3FFF
"""NLA_TYPE_MASK: without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""

_NLA_F_NESTED = 0x8000
_NO_ADDRESSES: frozenset[IPInterface] = frozenset()


class NetlinkFormatError(ValueError):
    """The bytes are not what rtnetlink(7) says they are."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The kernel's answer to one request: `errno` 0 means done; `text` is the extended acknowledgement's message."""

    seq: int
    errno: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class AddressChange:
    """An address that appeared on (or left) the link with this index."""

    index: int
    address: IPInterface
    gone: bool = False


class Header(NamedTuple):
    """nlmsghdr, and where the message's body lies in its buffer."""

    type: int
    flags: int
    seq: int
    start: int
    end: int


def headers(data: bytes) -> Iterator[Header]:
    """Yield each message of a datagram."""
    offset, size = 0, len(data)
    while offset + 16 <= size:
        length, kind, flags, seq, _pid = _NLMSGHDR.unpack_from(data, offset)
        if length < 16 or offset + length > size:
            raise NetlinkFormatError(f"message of {length} bytes where {size - offset} are left")
        yield Header(kind, flags, seq, offset + 16, offset + length)
        offset += (length + 3) & ~3


def _attributes(data: bytes, offset: int, end: int, wanted: frozenset[int] | None = None) -> list[tuple[int, int, int]]:
    """Return (type, start, end) of the attributes of a nest or a body: those of the `wanted` types, or all of them."""
    found = []
    unpack = _RTATTR.unpack_from
    while offset + 4 <= end:
        length, kind = unpack(data, offset)
        if length < 4 or offset + length > end:
            raise NetlinkFormatError(f"attribute of {length} bytes where {end - offset} are left")
        kind &= _TYPE_MASK
        if wanted is None or kind in wanted:
            found.append((kind, offset + 4, offset + length))
        offset += (length + 3) & ~3
    return found


def _text(data: bytes, start: int, end: int) -> str:
    return data[start:end].rstrip(b"\0").decode("utf-8", "backslashreplace")


def seq_of(request: bytes) -> int:
    """Return the sequence number of a request that was made here."""
    return int(_U32.unpack_from(request, 8)[0])


def link_key(data: bytes, message: Header) -> tuple[int, int]:
    """Return (address family, index) of a link message without parsing the rest of it."""
    if message.end - message.start < 16:
        raise NetlinkFormatError("link message without ifinfomsg")
    family, _type, index, _flags, _change = _IFINFOMSG.unpack_from(data, message.start)
    return family, index


def parse_link(
    data: bytes,
    message: Header,
    *,
    stand_in: bool = False,
    addresses: frozenset[IPInterface] = _NO_ADDRESSES,
    generation: int = 0,
) -> Link:
    """Return the link that an AF_UNSPEC RTM_NEWLINK describes, with `addresses` and `generation`, which are not in it.

    With `stand_in`, an alternative name `vif-D-N` counts as the parent device of that name.
    """
    try:
        return _parse_link(data, message.start, message.end, stand_in, addresses, generation)
    except struct.error as error:
        raise NetlinkFormatError(str(error)) from None


def _parse_link(
    data: bytes, start: int, end: int, stand_in: bool, addresses: frozenset[IPInterface], generation: int
) -> Link:
    _family, _type, index, flags, _change = _IFINFOMSG.unpack_from(data, start)
    found = {kind: (at, stop) for kind, at, stop in _attributes(data, start + 16, end, _LINK_ATTRIBUTES)}
    kind, port = _parse_linkinfo(data, *found[_IFLA_LINKINFO]) if _IFLA_LINKINFO in found else ("", None)
    mode = _parse_addr_gen_mode(data, *found[_IFLA_AF_SPEC]) if _IFLA_AF_SPEC in found else IN6_ADDR_GEN_MODE_NONE
    parent = None
    if _IFLA_PARENT_DEV_BUS_NAME in found and _text(data, *found[_IFLA_PARENT_DEV_BUS_NAME]) == "xen-backend":
        parent = _parse_parent(_text(data, *found.get(_IFLA_PARENT_DEV_NAME, (0, 0))))
    elif stand_in and _IFLA_PROP_LIST in found:
        names = (_text(data, at, stop) for _, at, stop in _attributes(data, *found[_IFLA_PROP_LIST]))
        parent = next(filter(None, map(_parse_parent, names)), None)
    return Link(
        index=index,
        name=_text(data, *found[_IFLA_IFNAME]) if _IFLA_IFNAME in found else "",
        kind=kind,
        master=_number(data, found.get(_IFLA_MASTER)),
        flags=flags,
        mtu=_number(data, found.get(_IFLA_MTU)),
        address=data[slice(*found[_IFLA_ADDRESS])].hex(":") if _IFLA_ADDRESS in found else "",
        group=_number(data, found.get(_IFLA_GROUP)),
        addr_gen_mode=mode,
        parent=parent,
        port=port,
        addresses=addresses,
        generation=generation,
    )


def _number(data: bytes, place: tuple[int, int] | None) -> int:
    return int(_U32.unpack_from(data, place[0])[0]) if place is not None else 0


def _parse_parent(name: str) -> VifId | None:
    """Return the vif that the xenbus device `vif-D-N` serves."""
    return VifId.parse(name.replace("vif-", "vif", 1).replace("-", ".", 1)) if name.startswith("vif-") else None


def _parse_linkinfo(data: bytes, offset: int, end: int) -> tuple[str, BridgePort | None]:
    kind = slave_kind = ""
    slave = (0, 0)
    for attribute, at, stop in _attributes(data, offset, end, _LINKINFO_ATTRIBUTES):
        if attribute == _IFLA_INFO_KIND:
            kind = _text(data, at, stop)
        elif attribute == _IFLA_INFO_SLAVE_KIND:
            slave_kind = _text(data, at, stop)
        elif attribute == _IFLA_INFO_SLAVE_DATA:
            slave = (at, stop)
    port = _parse_port(data, *slave, BridgePort()) if slave_kind == "bridge" and slave[1] else None
    return kind, port


def _parse_port(data: bytes, offset: int, end: int, was: BridgePort) -> BridgePort:
    flags = {kind: data[at] for kind, at, stop in _attributes(data, offset, end, _PORT_ATTRIBUTES) if stop > at}
    return BridgePort(
        state=flags.get(_IFLA_BRPORT_STATE, was.state),
        learning=bool(flags.get(_IFLA_BRPORT_LEARNING, was.learning)),
        unicast_flood=bool(flags.get(_IFLA_BRPORT_UNICAST_FLOOD, was.unicast_flood)),
        isolated=bool(flags.get(_IFLA_BRPORT_ISOLATED, was.isolated)),
        locked=bool(flags.get(_IFLA_BRPORT_LOCKED, was.locked)),
        hairpin=bool(flags.get(_IFLA_BRPORT_MODE, was.hairpin)),
    )


def _parse_addr_gen_mode(data: bytes, offset: int, end: int) -> int:
    """Return the link's addr_gen_mode; a link that IPv6 does not know (no IPv6, MTU below 1280) makes no address."""
    for _, at, stop in _attributes(data, offset, end, _AF_SPEC_FAMILIES):
        for _, value, value_end in _attributes(data, at, stop, _INET6_ATTRIBUTES):
            if value_end > value:
                return data[value]
    return IN6_ADDR_GEN_MODE_NONE


def merge_port(data: bytes, message: Header, link: Link) -> Link:
    """Return `link` with what an AF_BRIDGE RTM_NEWLINK (net/bridge/br_netlink.c) says of its port."""
    try:
        for attribute, at, stop in _attributes(data, message.start + 16, message.end):
            if attribute == _IFLA_PROTINFO:
                return replace(link, port=_parse_port(data, at, stop, link.port or BridgePort()))
    except struct.error as error:
        raise NetlinkFormatError(str(error)) from None
    return link


def parse_address(data: bytes, message: Header) -> AddressChange | None:
    """Return what an RTM_NEWADDR or RTM_DELADDR says, None for another family than IPv4 and IPv6."""
    try:
        family, prefix, _flags, _scope, index = _IFADDRMSG.unpack_from(data, message.start)
        raw = b""
        for attribute, at, stop in _attributes(data, message.start + 8, message.end):
            if attribute == _IFA_LOCAL or (attribute == _IFA_ADDRESS and not raw):
                raw = data[at:stop]
        gone = message.type == RTM_DELADDR
        if family == socket.AF_INET:
            return AddressChange(index, IPv4Interface((raw, prefix)), gone)
        if family == socket.AF_INET6:
            return AddressChange(index, IPv6Interface((raw, prefix)), gone)
    except (struct.error, ValueError) as error:
        raise NetlinkFormatError(str(error)) from None
    return None


def parse_ack(data: bytes, message: Header) -> Ack:
    """Return what an NLMSG_ERROR or NLMSG_DONE says about the request with that sequence number."""
    try:
        (code,) = _S32.unpack_from(data, message.start)
        text = ""
        if code and message.flags & NLM_F_ACK_TLVS:
            offset = message.start + 4
            if message.type == NLMSG_ERROR:
                (inner,) = _U32.unpack_from(data, offset)
                offset += 16 if message.flags & NLM_F_CAPPED else (inner + 3) & ~3
            for attribute, at, stop in _attributes(data, offset, message.end):
                if attribute == NLMSGERR_ATTR_MSG:
                    text = _text(data, at, stop)
    except struct.error as error:
        raise NetlinkFormatError(str(error)) from None
    return Ack(message.seq, -code, text)


def _attribute(kind: int, value: bytes) -> bytes:
    return _RTATTR.pack(4 + len(value), kind) + value + b"\0" * (-len(value) & 3)


def _message(kind: int, flags: int, seq: int, body: bytes) -> bytes:
    return _NLMSGHDR.pack(16 + len(body), kind, flags, seq, 0) + body


def dump_links(seq: int) -> bytes:
    """Ask for all links, without their counters."""
    body = _IFINFOMSG.pack(0, 0, 0, 0, 0) + _attribute(_IFLA_EXT_MASK, _U32.pack(RTEXT_FILTER_SKIP_STATS))
    return _message(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, seq, body)


def dump_addresses(seq: int) -> bytes:
    """Ask for all IPv4 and IPv6 addresses of all links."""
    return _message(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, seq, _IFADDRMSG.pack(0, 0, 0, 0, 0))


def get_link(seq: int, index: int) -> bytes:
    """Ask for the link with this index."""
    return _message(RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, seq, _IFINFOMSG.pack(0, 0, index, 0, 0))


def set_link(
    seq: int,
    index: int,
    *,
    up: bool | None = None,
    name: str | None = None,
    address: str | None = None,
    mtu: int | None = None,
    master: int | None = None,
    addr_gen_mode: int | None = None,
) -> bytes:
    """Ask to change the link with this index. `master` 0 takes it out of its bridge; None leaves a thing as it is."""
    flags, change = (0, 0) if up is None else (int(up), 1)
    body = _IFINFOMSG.pack(0, 0, index, flags, change)
    if name is not None:
        body += _attribute(_IFLA_IFNAME, name.encode() + b"\0")
    if address is not None:
        body += _attribute(_IFLA_ADDRESS, bytes.fromhex(address.replace(":", "")))
    if mtu is not None:
        body += _attribute(_IFLA_MTU, _U32.pack(mtu))
    if master is not None:
        body += _attribute(_IFLA_MASTER, _U32.pack(master))
    if addr_gen_mode is not None:
        mode = _attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([addr_gen_mode]))
        family = _attribute(socket.AF_INET6 | _NLA_F_NESTED, mode)
        body += _attribute(_IFLA_AF_SPEC | _NLA_F_NESTED, family)
    return _message(RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, seq, body)


def delete_address(seq: int, index: int, address: IPInterface) -> bytes:
    """Ask to take an address off the link with this index.

    IFA_ADDRESS is left out: for an address with a peer it is the peer's, which would have to match.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _IFADDRMSG.pack(family, address.network.prefixlen, 0, 0, index)
    body += _attribute(_IFA_LOCAL, address.packed)
    return _message(RTM_DELADDR, NLM_F_REQUEST | NLM_F_ACK, seq, body)

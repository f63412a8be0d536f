"""The messages of rtnetlink(7) about the links of the host's own topology: bonds, VLANs, bridges, VXLANs, dummies.

The settings of a kind of link are the attributes of IFLA_INFO_DATA; `model.link_settings.SETTINGS` has their table.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Address

from msgspec import Struct

from xennetd.kernel.netlink import (
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    U32,
    Header,
    NetlinkFormatError,
    attribute,
    attributes,
    request,
    text_of,
)
from xennetd.kernel.rtnl import RTM_NEWLINK
from xennetd.model.link_settings import SETTINGS, Setting
from xennetd.model.topology import SettingValue
from xennetd.policy.bond_ports import BondPort

_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_LINK = 5
_IFLA_LINKINFO = 18
_IFLA_GROUP = 27
_IFLA_PERM_ADDRESS = 54
_IFLA_PARENT_DEV_NAME = 56
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_IFLA_INFO_SLAVE_KIND = 4
_IFLA_INFO_SLAVE_DATA = 5
_IFLA_VXLAN_LINK = 3
_MII_STATUS = 2
_SLAVE_PERM_HWADDR = 4
_AD_ACTOR_STATE = 7
_AD_PARTNER_STATE = 8
_U16 = struct.Struct("=H")

_IFINFOMSG = struct.Struct("=BxHiII")
_NUMBERS = {"u8": struct.Struct("=B"), "u16": struct.Struct("=H"), "u32": U32, "be16": struct.Struct(">H"), "link": U32}


class LinkDetails(Struct, frozen=True):
    """What `model.link.Link` lacks of a link.

    `parent` is the index of the link that it is on, 0 for none. `settings` has the values of the link's kind; a link is
    its index there. `permanent_mac` is empty for a link without hardware, `bus_device` for one without a bus.
    `bond_port` is None for a link that is no port of a bond.
    """

    kind: str = ""
    parent: int = 0
    settings: Mapping[str, SettingValue] = {}
    permanent_mac: str = ""
    bus_device: str = ""
    bond_port: BondPort | None = None


def parse_details(data: bytes, message: Header) -> LinkDetails:
    """Return the details in an AF_UNSPEC RTM_NEWLINK."""
    try:
        found = {kind: (at, stop) for kind, at, stop in attributes(data, message.start + 16, message.end)}
        kind, settings, parent = _parse_info(data, *found[_IFLA_LINKINFO]) if _IFLA_LINKINFO in found else ("", {}, 0)
        if kind != "vxlan" and _IFLA_LINK in found:
            parent = int(U32.unpack_from(data, found[_IFLA_LINK][0])[0])
        permanent = found.get(_IFLA_PERM_ADDRESS, (0, 0))
        return LinkDetails(
            kind=kind,
            parent=parent,
            settings=settings,
            permanent_mac=data[slice(*permanent)].hex(":"),
            bus_device=text_of(data, *found.get(_IFLA_PARENT_DEV_NAME, (0, 0))),
            bond_port=_parse_bond_port(data, *found[_IFLA_LINKINFO]) if _IFLA_LINKINFO in found else None,
        )
    except (struct.error, ValueError, IndexError) as error:
        raise NetlinkFormatError(str(error)) from None


def _parse_info(data: bytes, offset: int, end: int) -> tuple[str, dict[str, SettingValue], int]:
    """Return the kind, its settings, and the index of the link that a VXLAN is on."""
    kind, place = "", (0, 0)
    for attribute_type, at, stop in attributes(data, offset, end):
        if attribute_type == _IFLA_INFO_KIND:
            kind = text_of(data, at, stop)
        elif attribute_type == _IFLA_INFO_DATA:
            place = (at, stop)
    known = {setting.attribute: (name, setting) for name, setting in SETTINGS.get(kind, {}).items()}
    settings: dict[str, SettingValue] = {}
    parent = 0
    for attribute_type, at, stop in attributes(data, *place) if known else ():
        if kind == "vxlan" and attribute_type == _IFLA_VXLAN_LINK:
            parent = int(U32.unpack_from(data, at)[0])
        if attribute_type in known:
            name, setting = known[attribute_type]
            settings[name] = _parse_setting(data, at, stop, setting)
    return kind, settings, parent


def _parse_bond_port(data: bytes, offset: int, end: int) -> BondPort | None:
    """Return what there is about a bond's port, None for a link that is none."""
    slave = {kind: (at, stop) for kind, at, stop in attributes(data, offset, end)}
    if text_of(data, *slave.get(_IFLA_INFO_SLAVE_KIND, (0, 0))) != "bond" or _IFLA_INFO_SLAVE_DATA not in slave:
        return None
    found = {kind: (at, stop) for kind, at, stop in attributes(data, *slave[_IFLA_INFO_SLAVE_DATA])}
    if _MII_STATUS not in found:
        return None
    lacp = None
    if _AD_ACTOR_STATE in found and _AD_PARTNER_STATE in found:
        lacp = data[found[_AD_ACTOR_STATE][0]], int(_U16.unpack_from(data, found[_AD_PARTNER_STATE][0])[0])
    own_mac = data[slice(*found.get(_SLAVE_PERM_HWADDR, (0, 0)))].hex(":")
    return BondPort(data[found[_MII_STATUS][0]], lacp, own_mac)


def _parse_setting(data: bytes, at: int, stop: int, setting: Setting) -> SettingValue:
    if setting.form == "ipv4 list":
        return tuple(str(IPv4Address(data[start:end])) for _, start, end in attributes(data, at, stop))
    if setting.form == "ipv4":
        return str(IPv4Address(data[at:stop]))
    number = _NUMBERS[setting.form]
    if stop - at < number.size:
        raise ValueError(f"a setting of {stop - at} bytes")
    return int(number.unpack_from(data, at)[0])


def add_link(  # noqa: PLR0913 # a parameter for each property of a new link
    seq: int,
    kind: str,
    name: str,
    group: int,
    settings: Mapping[str, SettingValue],
    *,
    parent: int = 0,
    mac: str | None = None,
    mtu: int | None = None,
) -> bytes:
    """Return the request that makes a link. `parent`, and a setting that is a link, are indexes."""
    body = _IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name.encode() + b"\0")
    body += attribute(_IFLA_GROUP, U32.pack(group))
    if parent and kind != "vxlan":
        body += attribute(_IFLA_LINK, U32.pack(parent))
    if mac is not None:
        body += attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
    if mtu is not None:
        body += attribute(_IFLA_MTU, U32.pack(mtu))
    return request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, seq, body + _info(kind, settings, parent))


def change_settings(seq: int, index: int, kind: str, settings: Mapping[str, SettingValue]) -> bytes:
    """Return the request that changes settings of the link with this index, which is of this kind."""
    return request(RTM_NEWLINK, 0, seq, _IFINFOMSG.pack(0, 0, index, 0, 0) + _info(kind, settings))


def _info(kind: str, settings: Mapping[str, SettingValue], parent: int = 0) -> bytes:
    nested = attribute(_IFLA_INFO_KIND, kind.encode() + b"\0")
    values = b"".join(_setting(SETTINGS[kind][name], value) for name, value in settings.items())
    if parent and kind == "vxlan":
        values += attribute(_IFLA_VXLAN_LINK, U32.pack(parent))
    if values:
        nested += attribute(_IFLA_INFO_DATA | NLA_F_NESTED, values)
    return attribute(_IFLA_LINKINFO | NLA_F_NESTED, nested)


def _setting(setting: Setting, value: SettingValue) -> bytes:
    if isinstance(value, tuple):
        targets = b"".join(attribute(i, IPv4Address(target).packed) for i, target in enumerate(value))
        return attribute(setting.attribute | NLA_F_NESTED, targets)
    if isinstance(value, str):
        return attribute(setting.attribute, IPv4Address(value).packed)
    return attribute(setting.attribute, _NUMBERS[setting.form].pack(value))

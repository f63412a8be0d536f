"""The codec of the topology's links, against pyroute2, which knows nothing of it."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from tests.unit.test_rtnl import attribute
from xennetd.kernel import netlink
from xennetd.kernel.rtnl_topology import LinkDetails, add_link, change_settings, parse_details
from xennetd.model.link_settings import SETTINGS
from xennetd.policy.bond_ports import BondPort

PREFIXES = {"bridge": "IFLA_BR_", "bond": "IFLA_BOND_", "vlan": "IFLA_VLAN_", "vxlan": "IFLA_VXLAN_"}
LARGEST = {"u8": 0xFF, "u16": 0xFFFF, "u32": 0xFFFFFFFF, "be16": 0xFFFF, "link": 0x7FFFFFFF}
TARGETS = st.lists(st.ip_addresses(v=4).map(str), min_size=1, max_size=16).map(tuple)

VALUES: dict[str, st.SearchStrategy[Any]] = {"ipv4 list": TARGETS, "ipv4": st.ip_addresses(v=4).map(str)}


def name_of(kind: str, setting: str) -> str:
    """What pyroute2 calls a setting."""
    return PREFIXES[kind] + {"lacp_rate": "AD_LACP_RATE"}.get(setting, setting.upper())


@st.composite
def settings(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    kind = draw(st.sampled_from(sorted(PREFIXES)))
    names = draw(st.lists(st.sampled_from(sorted(SETTINGS[kind])), unique=True))
    values = {
        name: draw(VALUES[form] if form in VALUES else st.integers(0, LARGEST[form]))
        for name in names
        for form in (SETTINGS[kind][name].form,)
    }
    return kind, values


def read_by_pyroute2(request: bytes) -> tuple[Any, dict[str, Any]]:
    """The message, and the settings of its link by their names there."""
    (message,) = MarshalRtnl().parse(request)
    info = message.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA")
    return message, dict(data["attrs"]) if data is not None else {}


def expected(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name_of(kind, name): list(each) if isinstance(each, tuple) else each for name, each in values.items()}


@given(settings(), st.integers(1, 2**31 - 1))
def test_a_new_link_is_what_was_meant(wanted: tuple[str, dict[str, Any]], parent: int) -> None:
    kind, values = wanted
    request = add_link(7, kind, "x0", 30829, values, parent=parent, mac="02:00:00:00:00:01", mtu=1400)
    message, read = read_by_pyroute2(request)
    assert message["event"] == "RTM_NEWLINK"
    assert message["header"]["flags"] == 0x605  # REQUEST, ACK, CREATE, EXCL
    on = read.pop("IFLA_VXLAN_LINK") if kind == "vxlan" else message.get_attr("IFLA_LINK")
    assert on == parent
    assert {name: message.get_attr(f"IFLA_{name}") for name in ("IFNAME", "ADDRESS", "MTU", "GROUP")} == {
        "IFNAME": "x0",
        "ADDRESS": "02:00:00:00:00:01",
        "MTU": 1400,
        "GROUP": 30829,
    }
    assert message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == kind
    assert read == expected(kind, values)


@given(settings(), st.integers(1, 2**31 - 1))
def test_a_change_is_about_one_link_and_makes_none(wanted: tuple[str, dict[str, Any]], index: int) -> None:
    kind, values = wanted
    message, read = read_by_pyroute2(change_settings(7, index, kind, values))
    assert (message["index"], message["header"]["flags"]) == (index, 0x5)
    assert read == expected(kind, values)


@given(settings(), st.integers(1, 2**31 - 1))
def test_what_is_written_is_read_again(wanted: tuple[str, dict[str, Any]], parent: int) -> None:
    kind, values = wanted
    data = add_link(7, kind, "x0", 30829, values, parent=parent)
    (header,) = netlink.headers(data)
    assert parse_details(data, header) == LinkDetails(kind=kind, parent=parent, settings=values)


def test_hardware_is_read_from_what_pyroute2_writes() -> None:
    message = ifinfmsg()
    message["index"] = 7
    message["attrs"] = [
        ("IFLA_IFNAME", "eth0"),
        ("IFLA_ADDRESS", "02:00:00:00:00:01"),
    ]
    message["header"]["type"] = 16
    message.encode()
    # pyroute2 0.9.6 knows neither the type of IFLA_PERM_ADDRESS (54) nor IFLA_PARENT_DEV_NAME (56).
    data = bytes(message.data) + attribute(54, bytes.fromhex("525400000001")) + attribute(56, b"0000:01:00.0\0")
    data = struct.pack("=I", len(data)) + data[4:]
    (header,) = netlink.headers(data)
    details = parse_details(data, header)
    assert (details.permanent_mac, details.bus_device, details.kind) == ("52:54:00:00:00:01", "0000:01:00.0", "")


def test_a_port_of_a_bond_is_read_from_what_pyroute2_writes() -> None:
    message = ifinfmsg()
    message["index"] = 7
    states = [("IFLA_BOND_SLAVE_MII_STATUS", 2), ("IFLA_BOND_SLAVE_PERM_HWADDR", "02:00:00:00:00:01")]
    info = [("IFLA_INFO_SLAVE_KIND", "bond"), ("IFLA_INFO_SLAVE_DATA", {"attrs": states})]
    message["attrs"] = [("IFLA_IFNAME", "eth0"), ("IFLA_LINKINFO", {"attrs": info})]
    message["header"]["type"] = 16
    message.encode()
    (header,) = netlink.headers(bytes(message.data))
    assert parse_details(bytes(message.data), header).bond_port == BondPort(2, None, "02:00:00:00:00:01")

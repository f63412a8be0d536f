"""Which entries of the host move where, with any topology before and after."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from xennetd.model.ip_entry import IpEntry
from xennetd.model.objects import Key
from xennetd.model.topology import Topology, TopologyLink
from xennetd.policy.adoption import adoption


def address(link: str, text: str = "192.0.2.7/24", *, leased: bool = False) -> IpEntry:
    return IpEntry(
        "ip address", text, (link,), b"\n" if ":" in text else b"\x02", interface=ip_interface(text), leased=leased
    )


def route(link: str, text: str = "default", *, via: bool = True) -> IpEntry:
    return IpEntry("ip route", text, (link,), b"\x02", of_link=False, via=via)


NOTHING = Topology()
BOND = TopologyLink("bond", "bond0", ("eth0", "eth1"))
VLAN = TopologyLink("vlan", "bond0.100", parent="bond0")
OVER_BOND = Topology((BOND, VLAN, TopologyLink("bridge", "xenbr0", ("bond0.100",), adopts=True)))
BRIDGE = Topology((TopologyLink("bridge", "xenbr0", ("eth0",), adopts=True),))
LISTED = Topology((TopologyLink("bridge", "xenbr0", ("eth0",), addresses=(ip_interface("192.0.2.7/24"),)),))


@pytest.mark.parametrize(
    ("before", "after", "there", "then"),
    [
        (NOTHING, BRIDGE, "eth0", "xenbr0"),
        (NOTHING, OVER_BOND, "eth0", "xenbr0"),
        (NOTHING, OVER_BOND, "eth1", "xenbr0"),
        (NOTHING, OVER_BOND, "bond0", "xenbr0"),
        (NOTHING, OVER_BOND, "eth2", None),
        (BRIDGE, BRIDGE, "eth0", "xenbr0"),
        (BRIDGE, BRIDGE, "xenbr0", None),
        (BRIDGE, OVER_BOND, "xenbr0", None),
        (BRIDGE, NOTHING, "xenbr0", "eth0"),
        (OVER_BOND, NOTHING, "xenbr0", "eth0"),
        (BRIDGE, Topology((TopologyLink("bridge", "other", ("eth0",), adopts=True),)), "xenbr0", "other"),
        (LISTED, NOTHING, "xenbr0", None),
        (NOTHING, LISTED, "eth0", None),
        (BRIDGE, LISTED, "xenbr0", None),
        (NOTHING, Topology((*OVER_BOND, TopologyLink("nic", "eth0", addresses=()))), "eth0", None),
    ],
)
def test_entries_move_to_what_adopts_and_back(before: Topology, after: Topology, there: str, then: str | None) -> None:
    entries = [address(there), route(there), address("lo0", "10.0.0.1/8")]
    found = adoption(before, after, entries, str)
    assert {entry.links for entry in found.former} == (set() if then is None else {(there,)})
    assert {entry.links for entry in found.moved} == (set() if then is None else {(then,)})
    assert found.refusals == {}


def test_another_name_for_the_same_nic_moves_nothing() -> None:
    after = Topology(
        (TopologyLink("nic", "uplink", mac="02:00:00:00:00:01"), TopologyLink("bridge", "xenbr0", ("uplink",)))
    )
    names = {"uplink": "eth0"}
    found = adoption(BRIDGE, after, [address("xenbr0"), route("xenbr0")], lambda name: names.get(name, name))
    assert (found.former, found.moved) == ((), ())


def test_a_route_by_a_router_comes_after_the_way_to_the_router_and_all_after_the_ports() -> None:
    entries = [route("eth0"), route("eth0", "192.0.2.0/24", via=False), address("eth0")]
    moved = {entry.identity: entry for entry in adoption(NOTHING, OVER_BOND, entries, str).moved}
    ports = {
        Key("port", "bond0.100"),
        Key("port", "eth0"),
        *(Key("link", name) for name in ("bond0", "bond0.100", "xenbr0")),
    }
    assert moved["192.0.2.7/24"].after == ports
    near = moved["192.0.2.0/24"]
    assert near.after == ports | {moved["192.0.2.7/24"].key}
    assert moved["default"].after == near.after | {near.key}
    assert Key("link", "xenbr0") in moved["default"].requires


def test_a_leased_ipv4_address_is_a_reason_to_refuse_and_an_ipv6_one_comes_anew() -> None:
    four, six = address("eth0", leased=True), address("eth0", "2001:db8::7/64", leased=True)
    found = adoption(NOTHING, BRIDGE, [four, six, route("eth0")], str)
    assert (found.moved, found.former) == ((), ())
    assert found.refusals.keys() == {Key("port", "eth0")}
    assert "192.0.2.7/24 from a DHCP client" in found.refusals[Key("port", "eth0")]
    found = adoption(NOTHING, BRIDGE, [six], str)
    assert (found.moved, found.former, found.refusals) == ((), (six,), {})


def test_names_are_those_of_the_kernel() -> None:
    lan = Topology(
        (TopologyLink("nic", "lan", mac="02:00:00:00:00:01"), TopologyLink("bridge", "b", ("lan",), adopts=True))
    )
    found = adoption(NOTHING, lan, [address("enp1s0")], {"lan": "enp1s0", "b": "b"}.__getitem__)
    assert [entry.links for entry in found.moved] == [("b",)]
    assert found.moved[0].after == {Key("port", "enp1s0"), Key("link", "b")}


def test_an_entry_waits_for_its_own_kin_only() -> None:
    """What fails in one IP version, or on another leg, keeps nothing else from its place."""
    six = IpEntry("ip address", "2001:db8::7/64", ("eth1",), b"\n", interface=ip_interface("2001:db8::7/64"))
    moved = {
        entry.identity: entry
        for entry in adoption(NOTHING, OVER_BOND, [six, address("eth0"), route("eth0")], str).moved
    }
    assert moved["2001:db8::7/64"].key not in moved["default"].after
    assert Key("port", "eth1") not in moved["default"].after
    assert Key("port", "eth1") in moved["2001:db8::7/64"].after


def test_what_can_not_be_put_back_is_a_reason_to_refuse() -> None:
    odd = IpEntry("ip route", "default", ("eth0",), b"\x02", words="ip route replace default", obstacle="it is odd")
    found = adoption(NOTHING, BRIDGE, [odd, address("eth0")], str)
    assert (found.moved, found.former) == ((), ())
    assert found.refusals == {
        Key("port", "eth0"): "eth0 can't be adopted from: `ip route replace default dev eth0`: it is odd"
    }


def test_a_bridge_that_loses_its_port_loses_what_it_had_adopted_of_it() -> None:
    after = Topology(
        (TopologyLink("bridge", "xenbr0", adopts=True), TopologyLink("bridge", "b", ("eth0",), adopts=True))
    )
    assert [entry.links for entry in adoption(BRIDGE, after, [address("xenbr0")], str).moved] == [("b",)]

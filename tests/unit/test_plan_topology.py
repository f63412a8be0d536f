"""The topology's plan: from any configuration to any other, whatever else the host has; and what it refuses."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xennetd.model.ip_entry import IpEntry
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.objects import HostAddress, HostObject, Key
from xennetd.model.topology import Topology, TopologyLink
from xennetd.model.value import replace
from xennetd.plan.difference import Change, Make, Remove, by_key
from xennetd.plan.topology_plan import TopologyPlan, interrupted, topology_plan
from xennetd.policy.topology_objects import TopologyFacts, topology_objects

NICS = ("eth0", "eth1", "eth2")


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Any topology that can be built: NICs, bonds of them, VLANs on both, bridges of what is free, dummies."""
    free, links = list(NICS), list[TopologyLink]()

    def some(names: list[str]) -> tuple[str, ...]:
        taken = draw(st.lists(st.sampled_from(names), unique=True, max_size=2)) if names else []
        for name in taken:
            names.remove(name)
        return tuple(taken)

    for name in draw(st.lists(st.sampled_from(["bond0", "bond1"]), unique=True)):
        links.append(TopologyLink("bond", name, some(free), settings=(("mode", draw(st.sampled_from([1, 4]))),)))
    parents = free + [link.name for link in links]
    for parent, vid in draw(st.sets(st.tuples(st.sampled_from(parents), st.integers(1, 3)))) if parents else ():
        links.append(TopologyLink("vlan", f"{parent}.{vid}", parent=parent, settings=(("id", vid),)))
    free = [*free, *(link.name for link in links)]
    for name in draw(st.lists(st.sampled_from(["xenbr0", "xenbr1"]), unique=True)):
        mtu = draw(st.sampled_from([None, 1400]))
        addresses = draw(st.sampled_from([None, (), (ip_interface("192.0.2.1/24"),)]))
        links.append(TopologyLink("bridge", name, some(free), mtu=mtu, addresses=addresses))
    if draw(st.booleans()):
        links.append(TopologyLink("dummy", "d0"))
    return Topology(tuple(links))


def objects(topology: Topology) -> dict[Key, HostObject]:
    return by_key(topology_objects(topology, TopologyFacts(machine="one")))


class Kernel:
    """What a kernel has, and what it refuses: a port of no link, a link of no parent, an address on nothing."""

    def __init__(self, there: dict[Key, HostObject]) -> None:
        self.there = dict(there)

    def execute(self, step: Make | Change | Remove) -> None:
        wanted = step.object
        if isinstance(step, Remove):
            self.there.pop(wanted.key, None)
            if isinstance(wanted, HostLink):  # The kernel takes with it what is on it.
                self.there = {
                    key: each
                    for key, each in self.there.items()
                    if not (isinstance(each, HostPort) and wanted.name in {each.link, each.master})
                    and not (isinstance(each, HostAddress) and each.link == wanted.name)
                }
            return
        for needed in wanted.requires:
            assert needed.kind in {"bridge", "sysctl"} or needed in self.there, f"{wanted.describe()} before {needed}"
        self.there[wanted.key] = wanted


@given(topologies(), topologies())
def test_any_configuration_leads_to_any_other(before: Topology, after: Topology) -> None:
    """Two rounds at most: what went with a link that others stood on is made again in the second."""
    foreign = by_key([HostLink("bridge", "foreign"), HostPort("tap0", "foreign"), *(HostLink("nic", n) for n in NICS)])
    kernel = Kernel({**foreign, **objects(before)})
    desired = objects(after)
    surplus = {
        key: each
        for key, each in objects(before).items()
        if key not in desired and not (isinstance(each, HostLink) and each.kind == "nic")
    }
    for _ in range(2):
        observed = {key: each for key, each in kernel.there.items() if key in desired or key in surplus}
        for step in topology_plan(desired, observed, {}).steps:
            kernel.execute(step)
    assert {key: each for key, each in kernel.there.items() if key not in foreign} == {
        key: each for key, each in desired.items() if key not in foreign
    }
    assert all(kernel.there[key] == each for key, each in foreign.items())
    assert topology_plan(desired, {key: kernel.there[key] for key in desired}, {}).steps == ()


@given(topologies())
def test_what_is_there_needs_no_step(topology: Topology) -> None:
    assert topology_plan(objects(topology), objects(topology), {}).steps == ()


@pytest.mark.parametrize(
    ("addresses", "refused"),
    [((), False), (("fe80::1/64",), False), (("192.0.2.1/24",), True), (("2001:db8::1/64", "fe80::1/64"), True)],
    ids=["none", "link-local", "IPv4", "IPv6"],
)
def test_a_port_keeps_its_host_reachable(addresses: tuple[str, ...], refused: bool) -> None:
    desired = by_key([HostLink("bridge", "xenbr0"), HostLink("nic", "eth0"), HostPort("eth0", "xenbr0")])
    held = {"eth0": [ip_interface(each) for each in addresses]}
    plan = topology_plan(desired, {}, held)
    assert bool(plan.refusals) == refused
    assert all("eth0 has " in each and "fe80" not in each for each in plan.refusals.values())
    assert topology_plan(desired, desired, held).refusals == {}, "it is a port already"


@pytest.mark.parametrize(("text", "refused"), [("192.0.2.1/24", True), ("2001:db8::1/64", True), ("fe80::1/64", False)])
def test_an_address_is_not_given_back_to_a_port(text: str, refused: bool) -> None:
    """A bridge adopted it from eth0, and now another one without addresses is to have eth0."""
    family = b"\n" if ":" in text else b"\x02"
    given_back = IpEntry("ip address", text, ("eth0",), family, interface=ip_interface(text))
    desired = by_key([HostLink("bridge", "other"), HostLink("nic", "eth0"), HostPort("eth0", "other"), given_back])
    plan = topology_plan(desired, by_key([HostLink("nic", "eth0"), HostPort("eth0", "xenbr0")]), {})
    assert bool(plan.refusals) == refused
    for sentence in plan.refusals.values():
        assert f"eth0 would get {text}, which nobody could reach there, since eth0 is a port of other" in sentence
    assert topology_plan(desired, by_key([given_back]), {}).refusals == {}, "it is there already"


def test_the_configuration_gives_no_address_to_a_port() -> None:
    given = HostAddress("bond0", ip_interface("192.0.2.1/24"))
    desired = by_key([HostLink("bond", "bond0"), HostLink("bridge", "xenbr0"), HostPort("bond0", "xenbr0"), given])
    assert list(topology_plan(desired, {}, {}).refusals) == [given.key]


def test_an_address_that_goes_in_the_same_apply_is_no_reason_to_refuse() -> None:
    address = HostAddress("eth0", ip_interface("192.0.2.1/24"))
    desired = by_key([HostLink("bridge", "xenbr0"), HostPort("eth0", "xenbr0")])
    held = {"eth0": [address.address]}
    assert topology_plan(desired, by_key([address]), held).refusals == {}


def test_the_addresses_that_go_with_an_apply() -> None:
    """An address that another link gets does not go, and a deleted link takes all of its addresses with it."""
    old, new = (HostAddress(link, ip_interface("192.0.2.1/24")) for link in ("xenbr0", "xenbr1"))
    held = {"xenbr0": [old.address, ip_interface("192.0.2.7/24")], "eth0": [ip_interface("192.0.2.9/24")]}
    bridge = by_key([HostLink("bridge", "xenbr0"), old])
    assert topology_plan({}, by_key([old]), held).gone == {ip_address("192.0.2.1")}
    assert topology_plan({}, bridge, held).gone == {ip_address("192.0.2.1"), ip_address("192.0.2.7")}
    assert topology_plan(by_key([new]), bridge, held).gone == {ip_address("192.0.2.7")}
    assert topology_plan(bridge, bridge, held).gone == frozenset()
    one, two = interrupted(
        TopologyPlan(gone=frozenset({ip_address("192.0.2.7"), ip_address("192.0.2.1")})),
        {ip_address("192.0.2.7"): 2, ip_address("192.0.2.1"): 1},
    )
    assert one.startswith("192.0.2.1 goes, and with it 1 connection to this host: ")
    assert two.startswith("192.0.2.7 goes, and with it 2 connections to this host: ")


def test_addresses_are_shaken_where_their_link_loses_what_it_is_reached_by() -> None:
    host = ip_interface("192.0.2.7/24")
    bond: list[HostObject] = [HostLink("bond", "bond0"), HostPort("eth0", "bond0"), HostPort("eth1", "bond0")]
    vlan = HostLink("vlan", "bond0.5", parent="bond0", settings=(("id", 5),))
    bridge: list[HostObject] = [HostLink("bridge", "xenbr0"), HostPort("bond0.5", "xenbr0")]
    observed = by_key([*bond, vlan, *bridge])
    held = {"xenbr0": [host]}

    def shaken(*desired: HostObject) -> bool:
        return topology_plan(by_key(desired), observed, held).shaken == {host.ip}

    assert not shaken(*bond, vlan, *bridge)
    assert not shaken(*bond[:2], vlan, *bridge), "the bond keeps a port"
    assert shaken(bond[0], vlan, *bridge), "it keeps none"
    assert shaken(*bond, vlan, bridge[0])
    assert shaken(*bond, replace(vlan, settings=(("id", 6),)), *bridge), "the VLAN is made anew"
    moved = HostAddress("eth9", host)
    old = by_key([HostAddress("xenbr0", host)])
    assert topology_plan(by_key([bridge[0], moved]), {**observed, **old}, held).shaken == frozenset(), "it moves"


def test_an_address_by_hand_keeps_a_link_from_being_made_anew() -> None:
    before = HostLink("vxlan", "v", settings=(("id", 5),))
    after, given = replace(before, settings=(("id", 6),)), HostAddress("v", ip_interface("192.0.2.7/24"))
    held = {"v": [given.address]}
    (refusal,) = topology_plan(by_key([after]), by_key([before]), held).refusals.values()
    assert refusal == "v has 192.0.2.7/24, which would be lost, since the link is made anew: take them off v first"
    assert topology_plan(by_key([after, given]), by_key([before, given]), held).refusals == {}


def test_another_kind_of_link_is_not_replaced() -> None:
    desired = by_key([HostLink("bridge", "xenbr0")])
    (refusal,) = topology_plan(desired, by_key([HostLink("nic", "xenbr0")]), {}).refusals.values()
    assert refusal == '"xenbr0" can\'t be a bridge: there is a link of another kind with that name'

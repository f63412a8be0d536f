"""A guest's port: the Steps to it, as a person would type them, and what must hold for any link."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from xennetd.model.ground import GUEST_GROUP, Setting
from xennetd.model.link import GUEST_PORT_ADDRESS, IFF_UP, IN6_ADDR_GEN_MODE_NONE, Link, Neighbour, Route
from xennetd.plan.port import PortGoal, apply, attach, release
from xennetd.plan.steps import AddAddress, AddRoute, LinkStep, SetMtu, SetNeighbour, SetSetting, SetUp

GOAL = PortGoal(name="vif7.0", bridge=2, bridge_name="xenbr0", bridge_mtu=1500, mtu=1500)
NEW = Link(9, "vif7.0", address="00:16:3e:00:00:01")
RP_FILTER = Setting(4, "vif7.0", "rp_filter", 1)
ROUTE = Route(IPv4Network("10.0.0.5/32"), 2, IPv4Address("192.0.2.1"))
NEIGHBOUR = Neighbour(IPv4Address("10.0.0.5"), "00:16:3e:00:00:01")
ROUTED = PortGoal(
    name="vif7.0",
    addresses=(IPv4Interface("192.0.2.1/32"),),
    routes=frozenset({ROUTE}),
    neighbours=frozenset({NEIGHBOUR}),
    settings=(RP_FILTER,),
)
READY = Link(9, "vif7.0", master=2, flags=IFF_UP, address=GUEST_PORT_ADDRESS, addr_gen_mode=IN6_ADDR_GEN_MODE_NONE)

names = st.sampled_from(["vif7.0", "web0", "eth5"])
addresses = st.lists(
    st.sampled_from([IPv4Interface("192.0.2.1/32"), IPv6Interface("fe80::1/64"), IPv6Interface("2001:db8::1/64")]),
    unique=True,
).map(tuple)
routes = st.frozensets(
    st.builds(
        Route,
        st.sampled_from([IPv4Network("10.0.0.5/32"), IPv4Network("10.0.1.0/28"), IPv6Network("2001:db8::5/128")]),
        st.sampled_from([1, 2]),
        st.sampled_from([None, IPv4Address("192.0.2.1")]),
    ),
    max_size=3,
)
neighbours = st.frozensets(
    st.builds(
        Neighbour,
        st.just(IPv4Address("10.0.0.5")) | st.just(IPv6Address("2001:db8::5")),
        st.sampled_from(["00:16:3e:00:00:01", "00:16:3e:00:00:02"]),
    ),
    max_size=1,
)
links = st.builds(
    Link,
    index=st.just(9),
    name=names,
    master=st.sampled_from([0, 2, 3]),
    flags=st.sampled_from([0, IFF_UP, IFF_UP | 0x1000]),
    mtu=st.sampled_from([68, 1400, 1500, 9000]),
    address=st.sampled_from([GUEST_PORT_ADDRESS, "00:16:3e:00:00:01"]),
    addr_gen_mode=st.sampled_from([0, 1]),
    group=st.sampled_from([0, 7, GUEST_GROUP]),
    addresses=addresses,
    routes=routes,
    neighbours=neighbours,
)
bridged_goals = st.builds(
    PortGoal,
    name=names,
    bridge=st.sampled_from([2, 3]),
    bridge_name=st.just("xenbr0"),
    bridge_mtu=st.sampled_from([1400, 1500, 9000]),
    mtu=st.sampled_from([None, 68, 1400, 1500, 9000]),
)
routed_goals = st.builds(
    PortGoal,
    name=names,
    mtu=st.sampled_from([None, 1400, 9000]),
    addresses=addresses,
    routes=routes,
    neighbours=neighbours,
    settings=st.sampled_from([(), (RP_FILTER,)]),
)
goals = bridged_goals | routed_goals


def described(steps: tuple[LinkStep, ...]) -> list[str]:
    return [step.describe() for step in steps]


def test_a_new_link_is_configured_while_it_is_down_and_comes_up_last() -> None:
    assert described(attach(GOAL, NEW, fresh=True)) == [
        "ip link set dev vif7.0 address fe:ff:ff:ff:ff:ff",
        "ip link set dev vif7.0 addrgenmode none",
        "ip link set dev vif7.0 master xenbr0",
        "ip link set dev vif7.0 up",
    ]


def test_a_new_link_that_someone_brought_up_goes_down_first() -> None:
    steps = described(attach(GOAL, replace(NEW, flags=IFF_UP), fresh=True))
    assert steps[0] == "ip link set dev vif7.0 down"
    assert steps[-1] == "ip link set dev vif7.0 up"


def test_a_new_link_that_someone_put_into_another_bridge_is_not_moved_while_it_is_up() -> None:
    link = replace(NEW, flags=IFF_UP, master=3)
    steps = described(attach(GOAL, link, fresh=True))
    assert steps[0] == "ip link set dev vif7.0 down"
    assert steps[-1] == "ip link set dev vif7.0 up"


def test_a_new_link_that_is_in_its_bridge_already_gets_its_mtu() -> None:
    steps = described(attach(replace(GOAL, mtu=1400), READY, fresh=True))
    assert steps == ["ip link set dev vif7.0 mtu 1400", "ip link set dev xenbr0 mtu 1500"]


def test_a_vifname_is_given_while_the_link_is_down() -> None:
    steps = described(attach(replace(GOAL, name="web0"), NEW, fresh=True))
    assert steps[0] == "ip link set dev vif7.0 name web0"
    assert steps[-1] == "ip link set dev web0 up"


def test_a_smaller_mtu_does_not_drag_the_bridge_down() -> None:
    steps = described(attach(replace(GOAL, mtu=1400), NEW, fresh=True))
    assert steps[2:] == [
        "ip link set dev vif7.0 mtu 1400",
        "ip link set dev vif7.0 master xenbr0",
        "ip link set dev xenbr0 mtu 1500",
        "ip link set dev vif7.0 up",
    ]


def test_an_mtu_that_netback_lowered_is_not_drift() -> None:
    assert attach(replace(GOAL, mtu=None, bridge_mtu=9000), replace(READY, mtu=1500), fresh=False) == ()


def test_a_port_moves_to_another_bridge_in_one_step() -> None:
    goal = replace(GOAL, bridge=3, bridge_name="xenbr1")
    assert described(attach(goal, READY, fresh=False)) == ["ip link set dev vif7.0 master xenbr1"]


def test_a_port_that_was_taken_down_comes_up_again() -> None:
    assert described(attach(GOAL, replace(READY, flags=0), fresh=False)) == ["ip link set dev vif7.0 up"]


def test_addresses_go_whatever_their_family() -> None:
    link = replace(READY, addresses=(IPv4Interface("192.0.2.1/24"), IPv6Interface("fe80::1/64")))
    assert described(attach(GOAL, link, fresh=False)) == [
        "ip addr del 192.0.2.1/24 dev vif7.0",
        "ip addr del fe80::1/64 dev vif7.0",
    ]


def test_release_takes_the_port_down_before_it_leaves_the_bridge() -> None:
    assert described(release(READY)) == ["ip link set dev vif7.0 down", "ip link set dev vif7.0 nomaster"]


def test_a_routed_link_comes_up_once_it_is_guarded_and_gets_its_routes_then() -> None:
    assert described(attach(ROUTED, NEW, fresh=True)) == [
        "ip link set dev vif7.0 address fe:ff:ff:ff:ff:ff",
        "ip link set dev vif7.0 addrgenmode none",
        "ip link set dev vif7.0 group 30831",
        "sysctl net/ipv4/conf/vif7.0/rp_filter=1",
        "ip link set dev vif7.0 up",
        "ip addr add 192.0.2.1/32 dev vif7.0",
        "ip neigh replace 10.0.0.5 lladdr 00:16:3e:00:00:01 dev vif7.0 nud permanent",
        "ip route add 10.0.0.5/32 dev vif7.0 src 192.0.2.1 metric 2 proto 120",
    ]


def test_a_route_that_another_link_of_ours_has_is_taken_over_in_one_step() -> None:
    steps = described(attach(replace(ROUTED, taken=frozenset({ROUTE})), NEW, fresh=True))
    assert steps[-1] == "ip route replace 10.0.0.5/32 dev vif7.0 src 192.0.2.1 metric 2 proto 120"


def test_another_gateway_replaces_what_hangs_on_the_old_one() -> None:
    link = apply(attach(ROUTED, NEW, fresh=True), NEW)
    route = replace(ROUTE, source=IPv4Address("192.0.2.9"))
    goal = replace(ROUTED, addresses=(IPv4Interface("192.0.2.9/32"),), routes=frozenset({route}), settings=())
    assert described(attach(goal, link, fresh=False)) == [
        "ip route del 10.0.0.5/32 dev vif7.0 src 192.0.2.1 metric 2 proto 120",
        "ip addr del 192.0.2.1/32 dev vif7.0",
        "ip addr add 192.0.2.9/32 dev vif7.0",
        "ip route add 10.0.0.5/32 dev vif7.0 src 192.0.2.9 metric 2 proto 120",
    ]


def test_a_routed_link_that_is_to_be_bridged_goes_down_and_leaves_nothing_behind() -> None:
    link = apply(attach(ROUTED, NEW, fresh=True), NEW)
    steps = attach(GOAL, link, fresh=False)
    assert described(steps)[0] == "ip link set dev vif7.0 down"
    after = apply(steps, link)
    assert (after.routes, after.neighbours, after.addresses, after.group) == (frozenset(), frozenset(), (), 0)


def test_a_port_of_a_bridge_that_is_to_be_routed_is_down_in_between() -> None:
    steps = described(attach(ROUTED, READY, fresh=False))
    assert steps[0] == "ip link set dev vif7.0 down"
    assert steps.index("ip link set dev vif7.0 nomaster") < steps.index("ip link set dev vif7.0 up")


@given(goals, links, st.booleans())
def test_the_steps_lead_to_the_goal_and_no_further(goal: PortGoal, link: Link, fresh: bool) -> None:
    after = apply(attach(goal, link, fresh=fresh), link)
    assert attach(replace(goal, settings=()), after, fresh=fresh) == ()
    assert (after.name, after.master, after.up) == (goal.name, goal.bridge, True)
    assert set(after.addresses) == set(goal.addresses)
    assert (after.routes, after.neighbours) == (goal.routes, goal.neighbours)
    assert (after.group == GUEST_GROUP) == goal.routed


@given(bridged_goals, links, st.booleans())
def test_no_frame_passes_before_the_link_is_in_its_bridge(goal: PortGoal, link: Link, fresh: bool) -> None:
    """After each Step: a link that is up is the port of a bridge, but for one that was found up outside of any."""
    for step in attach(goal, link, fresh=fresh):
        link = apply((step,), link)
        assert not link.up or link.master
        if isinstance(step, SetUp):
            assert link.master == goal.bridge


@given(routed_goals, links, st.booleans())
def test_no_frame_passes_before_a_routed_link_is_guarded(goal: PortGoal, link: Link, fresh: bool) -> None:
    """Whenever a link comes up that was down, it is in our group and has its settings; no route leads there before."""
    settings = 0
    for step in attach(goal, link, fresh=fresh):
        link = apply((step,), link)
        settings += isinstance(step, SetSetting)
        if isinstance(step, SetUp):
            assert (link.group, link.master, settings) == (GUEST_GROUP, 0, len(goal.settings))
        if isinstance(step, AddRoute | SetNeighbour | AddAddress):
            assert link.up


@given(goals, links, st.booleans())
def test_no_other_link_is_touched_but_for_the_bridges_mtu(goal: PortGoal, link: Link, fresh: bool) -> None:
    others = [step for step in attach(goal, link, fresh=fresh) if step.index != link.index]
    assert others in ([], [SetMtu(goal.bridge, goal.bridge_name, goal.bridge_mtu, needed=False)])


@given(bridged_goals, links)
def test_a_new_link_is_never_up_anywhere_but_in_its_bridge_once_we_have_begun(goal: PortGoal, link: Link) -> None:
    for step in attach(goal, link, fresh=True):
        link = apply((step,), link)
        assert not link.up or link.master == goal.bridge


@given(links)
def test_a_released_link_is_down_and_nowhere_and_released_once(link: Link) -> None:
    after = apply(release(link), link)
    assert not after.up
    assert after.master == 0
    assert release(after) == ()

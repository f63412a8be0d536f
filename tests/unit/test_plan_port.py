"""A guest's port: the Steps to it, as a person would type them, and what must hold for any link."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.hosts import TableHost
from xennetd.model.link import GUEST_PORT_ADDRESS, IFF_UP, IN6_ADDR_GEN_MODE_NONE, Link, LinkGoal, Neighbour, Route
from xennetd.model.marks import GUEST_GROUP, is_port_group, joined, port_alias, port_group, port_of
from xennetd.model.placement import SETTINGS_OF_ROUTED, BridgePort, Routed
from xennetd.model.value import replace
from xennetd.plan.port import apply, attach, release, stop
from xennetd.plan.steps import AddAddress, AddRoute, LinkStep, ResetSysctls, SetLink, SetNeighbour, set_value
from xennetd.policy.forwarding import guest_sysctls

GOAL = LinkGoal("vif7.0", master=2, master_name="xenbr0", master_mtu=1500, mtu=1500)
ISOLATED = replace(GOAL, flags=(("isolated", True),))
NEW = Link(9, "vif7.0", address="00:16:3e:00:00:01", sysctls=frozenset({(4, "rp_filter", 0)}))
ROUTE = Route(IPv4Network("10.0.0.5/32"), 2, IPv4Address("192.0.2.1"))
NEIGHBOUR = Neighbour(IPv4Address("10.0.0.5"), "00:16:3e:00:00:01")
ROUTED = LinkGoal(
    "vif7.0",
    group=GUEST_GROUP,
    addresses=(IPv4Interface("192.0.2.1/32"),),
    routes=frozenset({ROUTE}),
    neighbours=frozenset({NEIGHBOUR}),
    sysctls=((4, "rp_filter", 1),),
)
READY = Link(9, "vif7.0", master=2, flags=IFF_UP, address=GUEST_PORT_ADDRESS, addr_gen_mode=IN6_ADDR_GEN_MODE_NONE)

names = st.sampled_from(["vif7.0", "web0", "eth5"])
addresses = st.lists(
    st.sampled_from([IPv4Interface("192.0.2.1/32"), IPv6Interface("fe80::1/64"), IPv6Interface("2001:db8::1/64")]),
    unique=True,
).map(tuple)
# The kernel's table has one route for a destination and a metric.
routes = st.lists(
    st.builds(
        Route,
        st.sampled_from([IPv4Network("10.0.0.5/32"), IPv4Network("10.0.1.0/28"), IPv6Network("2001:db8::5/128")]),
        st.sampled_from([1, 2]),
        st.sampled_from([None, IPv4Address("192.0.2.1"), IPv4Address("192.0.2.9")]),
    ),
    unique_by=lambda route: (route.destination, route.metric),
    max_size=3,
).map(frozenset)
neighbours = st.frozensets(
    st.builds(
        Neighbour,
        st.just(IPv4Address("10.0.0.5")) | st.just(IPv6Address("2001:db8::5")),
        st.sampled_from(["00:16:3e:00:00:01", "00:16:3e:00:00:02"]),
    ),
    max_size=1,
)
sysctls = st.fixed_dictionaries(
    {}, optional={(4, "rp_filter"): st.integers(0, 2), (6, "accept_ra"): st.integers(0, 2)}
).map(lambda drawn: tuple((*key, value) for key, value in drawn.items()))
links = st.builds(
    Link,
    index=st.just(9),
    name=names,
    master=st.sampled_from([0, 2, 3]),
    flags=st.sampled_from([0, IFF_UP, IFF_UP | 0x1000]),
    mtu=st.sampled_from([68, 1400, 1500, 9000]),
    address=st.sampled_from([GUEST_PORT_ADDRESS, "00:16:3e:00:00:01"]),
    addr_gen_mode=st.sampled_from([0, 1]),
    group=st.sampled_from([0, 7, GUEST_GROUP, port_group(port_alias("xenbr1", 3))]),
    flags_on=st.sampled_from([frozenset(), frozenset({"isolated"})]),
    addresses=addresses,
    routes=routes,
    neighbours=neighbours,
    sysctls=sysctls.map(frozenset),
    alias=st.sampled_from(["", port_alias("xenbr0", 2), port_alias("xenbr1", 3), "rack 7"]),
)
bridged_goals = st.builds(
    LinkGoal,
    name=names,
    master=st.sampled_from([2, 3]),
    master_name=st.just("xenbr0"),
    master_mtu=st.sampled_from([1400, 1500, 9000]),
    mtu=st.sampled_from([None, 68, 1400, 1500, 9000]),
    flags=st.sampled_from([(), (("isolated", True),), (("isolated", False),)]),
    alias=st.sampled_from([port_alias("xenbr0", 2), port_alias("xenbr1", 3)]),
)
routed_goals = st.builds(
    LinkGoal,
    name=names,
    group=st.just(GUEST_GROUP),
    mtu=st.sampled_from([None, 1400, 9000]),
    addresses=addresses,
    routes=routes,
    neighbours=neighbours,
    sysctls=sysctls,
)
goals = bridged_goals | routed_goals


def planned(goal: LinkGoal, link: Link, *, fresh: bool) -> tuple[LinkStep, ...]:
    """The Steps as the daemon plans them: whether a link serves, the goal's placement says."""
    serves = BridgePort.serves(link) if goal.master else Routed.serves(link)
    return attach(goal, link, serves=serves, fresh=fresh)


def described(steps: tuple[LinkStep, ...]) -> list[str]:
    return [step.describe() for step in steps]


def is_set_up(step: LinkStep) -> bool:
    return isinstance(step, SetLink) and step.property == "up" and step.value is True


def wrong_sysctls(goal: LinkGoal, link: Link) -> set[tuple[int, str, int]]:
    """The values of the goal that the link has and that are not so."""
    now = {(version, setting): value for version, setting, value in link.sysctls}
    return {each for each in goal.sysctls if now.get(each[:2], each[2]) != each[2]}


def wrong_flags(goal: LinkGoal, link: Link) -> set[str]:
    return {flag for flag, on in goal.flags if (flag in link.flags_on) != on}


def test_a_new_link_is_configured_while_it_is_down_and_comes_up_last() -> None:
    assert described(planned(GOAL, NEW, fresh=True)) == [
        "ip link set dev vif7.0 address fe:ff:ff:ff:ff:ff",
        "ip link set dev vif7.0 addrgenmode none",
        "ip link set dev vif7.0 master xenbr0",
        "ip link set dev vif7.0 up",
    ]


def test_a_new_link_that_someone_brought_up_goes_down_first() -> None:
    steps = described(planned(GOAL, replace(NEW, flags=IFF_UP), fresh=True))
    assert steps[0] == "ip link set dev vif7.0 down"
    assert steps[-1] == "ip link set dev vif7.0 up"


def test_a_new_link_that_someone_put_into_another_bridge_is_not_moved_while_it_is_up() -> None:
    link = replace(NEW, flags=IFF_UP, master=3)
    steps = described(planned(GOAL, link, fresh=True))
    assert steps[0] == "ip link set dev vif7.0 down"
    assert steps[-1] == "ip link set dev vif7.0 up"


def test_a_new_link_that_is_in_its_bridge_already_gets_its_mtu() -> None:
    steps = described(planned(replace(GOAL, mtu=1400), READY, fresh=True))
    assert steps == ["ip link set dev vif7.0 mtu 1400", "ip link set dev xenbr0 mtu 1500"]


def test_a_vifname_is_given_while_the_link_is_down() -> None:
    steps = described(planned(replace(GOAL, name="web0"), NEW, fresh=True))
    assert steps[0] == "ip link set dev vif7.0 name web0"
    assert steps[-1] == "ip link set dev web0 up"


def test_a_connected_port_is_down_while_it_is_renamed() -> None:
    assert described(planned(replace(GOAL, name="web0"), READY, fresh=False)) == [
        "ip link set dev vif7.0 down",
        "ip link set dev vif7.0 name web0",
        "ip link set dev web0 up",
    ]


def test_a_smaller_mtu_does_not_drag_the_bridge_down() -> None:
    steps = described(planned(replace(GOAL, mtu=1400), NEW, fresh=True))
    assert steps[2:] == [
        "ip link set dev vif7.0 mtu 1400",
        "ip link set dev vif7.0 master xenbr0",
        "ip link set dev xenbr0 mtu 1500",
        "ip link set dev vif7.0 up",
    ]


def test_an_mtu_that_netback_lowered_is_not_drift() -> None:
    assert planned(replace(GOAL, mtu=None, master_mtu=9000), replace(READY, mtu=1500), fresh=False) == ()


def test_a_port_moves_to_another_bridge_in_one_step() -> None:
    goal = replace(GOAL, master=3, master_name="xenbr1")
    assert described(planned(goal, READY, fresh=False)) == ["ip link set dev vif7.0 master xenbr1"]


def test_a_port_keeps_the_name_under_which_it_joined_its_bridge() -> None:
    port = BridgePort("xenbr0", 2)
    steps = planned(port.goal("vif7.0", None, 2, frozenset()), NEW, fresh=True)
    after = apply(steps, NEW)
    assert joined(after.alias, after.group, after.master, ["xenbr0"])
    assert not joined(after.alias, after.group, after.master, ["xenbr1", None])
    assert not joined(after.alias, after.group, 3, ["xenbr0"])  # Somebody has moved it to another bridge.
    assert len([step for step in steps if isinstance(step, SetLink) and step.alias is not None]) == 1
    assert not [step for step in steps if isinstance(step, SetLink) and step.property == "alias"]


def test_a_new_port_has_its_flags_before_it_comes_up() -> None:
    assert described(planned(ISOLATED, NEW, fresh=True))[2:] == [
        "ip link set dev vif7.0 master xenbr0",
        "bridge link set dev vif7.0 isolated on",
        "ip link set dev vif7.0 up",
    ]


def test_a_new_link_that_someone_put_into_its_bridge_is_down_until_it_has_its_flags() -> None:
    assert described(planned(ISOLATED, READY, fresh=True)) == [
        "ip link set dev vif7.0 down",
        "bridge link set dev vif7.0 isolated on",
        "ip link set dev vif7.0 up",
    ]


def test_a_flag_is_switched_in_place_and_one_that_policy_does_not_name_is_left() -> None:
    isolated = replace(READY, flags_on=frozenset({"isolated"}))
    assert described(planned(ISOLATED, READY, fresh=False)) == ["bridge link set dev vif7.0 isolated on"]
    off = replace(GOAL, flags=(("isolated", False),))
    assert described(planned(off, isolated, fresh=False)) == ["bridge link set dev vif7.0 isolated off"]
    assert planned(ISOLATED, isolated, fresh=False) == planned(off, READY, fresh=False) == ()
    assert planned(GOAL, isolated, fresh=False) == ()


def test_a_port_that_moves_gets_its_flags_anew() -> None:
    isolated = replace(READY, master=3, flags_on=frozenset({"isolated"}))
    assert described(planned(ISOLATED, isolated, fresh=False)) == [
        "ip link set dev vif7.0 down",
        "ip link set dev vif7.0 master xenbr0",
        "bridge link set dev vif7.0 isolated on",
        "ip link set dev vif7.0 up",
    ]
    assert described(planned(GOAL, isolated, fresh=False)) == ["ip link set dev vif7.0 master xenbr0"]


def test_a_port_that_was_taken_down_comes_up_again() -> None:
    assert described(planned(GOAL, replace(READY, flags=0), fresh=False)) == ["ip link set dev vif7.0 up"]


def test_addresses_go_whatever_their_family() -> None:
    link = replace(READY, addresses=(IPv4Interface("192.0.2.1/24"), IPv6Interface("fe80::1/64")))
    assert described(planned(GOAL, link, fresh=False)) == [
        "ip addr del 192.0.2.1/24 dev vif7.0",
        "ip addr del fe80::1/64 dev vif7.0",
    ]


def test_release_takes_the_alias_with_the_bridge() -> None:
    port = replace(READY, alias=port_alias("xenbr0", 2))
    assert apply(release(port), port).alias == ""
    left = replace(port, master=0)
    assert described(release(left))[-1] == 'ip link set dev vif7.0 alias ""'
    foreign = replace(READY, alias="rack 7", group=port_group(port_alias("xenbr0", 2)))
    after = apply(release(foreign), foreign)
    assert (after.alias, after.group) == ("rack 7", 0)


def test_release_takes_the_port_down_before_it_leaves_the_bridge() -> None:
    assert described(release(READY)) == ["ip link set dev vif7.0 down", "ip link set dev vif7.0 nomaster"]


def test_a_routed_link_comes_up_once_it_is_guarded_and_gets_its_routes_then() -> None:
    assert described(planned(ROUTED, NEW, fresh=True)) == [
        "ip link set dev vif7.0 address fe:ff:ff:ff:ff:ff",
        "ip link set dev vif7.0 addrgenmode none",
        "ip link set dev vif7.0 group 30831",
        "sysctl net/ipv4/conf/vif7.0/rp_filter=1",
        "ip link set dev vif7.0 up",
        "ip addr add 192.0.2.1/32 dev vif7.0",
        "ip neigh replace 10.0.0.5 lladdr 00:16:3e:00:00:01 dev vif7.0 nud permanent",
        "ip route add 10.0.0.5/32 dev vif7.0 src 192.0.2.1 metric 2 proto 120",
    ]


def test_a_sysctl_that_is_right_or_that_the_link_does_not_have_is_no_step() -> None:
    goal = replace(ROUTED, sysctls=((4, "rp_filter", 1), (6, "accept_ra", 0)))
    link = apply(planned(ROUTED, NEW, fresh=True), NEW)
    assert planned(goal, link, fresh=False) == ()
    changed = replace(link, sysctls=frozenset({(4, "rp_filter", 1), (6, "accept_ra", 1)}))
    assert described(planned(goal, changed, fresh=False)) == ["sysctl net/ipv6/conf/vif7.0/accept_ra=0"]
    steps = described(planned(goal, changed, fresh=True))
    assert (steps[0], steps[1:3]) == (
        "ip link set dev vif7.0 down",
        ["sysctl net/ipv6/conf/vif7.0/accept_ra=0", "ip link set dev vif7.0 up"],
    )


def test_a_route_that_another_link_of_ours_has_is_taken_over_in_one_step() -> None:
    steps = described(planned(replace(ROUTED, taken=frozenset({ROUTE})), NEW, fresh=True))
    assert steps[-1] == "ip route replace 10.0.0.5/32 dev vif7.0 src 192.0.2.1 metric 2 proto 120"


def test_another_gateway_replaces_what_hangs_on_the_old_one() -> None:
    link = apply(planned(ROUTED, NEW, fresh=True), NEW)
    route = replace(ROUTE, source=IPv4Address("192.0.2.9"))
    goal = replace(ROUTED, addresses=(IPv4Interface("192.0.2.9/32"),), routes=frozenset({route}))
    assert described(planned(goal, link, fresh=False)) == [
        "ip addr add 192.0.2.9/32 dev vif7.0",
        "ip route replace 10.0.0.5/32 dev vif7.0 src 192.0.2.9 metric 2 proto 120",
        "ip addr del 192.0.2.1/32 dev vif7.0",
    ]


def test_a_routed_link_that_is_to_be_bridged_goes_down_and_leaves_nothing_behind() -> None:
    link = apply(planned(ROUTED, NEW, fresh=True), NEW)
    steps = planned(GOAL, link, fresh=False)
    assert described(steps)[0] == "ip link set dev vif7.0 down"
    after = apply(steps, link)
    assert (after.routes, after.neighbours, after.addresses, after.group) == (frozenset(), frozenset(), (), 0)


def test_a_port_of_a_bridge_that_is_to_be_routed_is_down_in_between() -> None:
    steps = described(planned(ROUTED, READY, fresh=False))
    assert steps[0] == "ip link set dev vif7.0 down"
    assert steps.index("ip link set dev vif7.0 nomaster") < steps.index("ip link set dev vif7.0 up")


@given(goals, links, st.booleans())
def test_the_steps_lead_to_the_goal_and_no_further(goal: LinkGoal, link: Link, fresh: bool) -> None:
    after = apply(planned(goal, link, fresh=fresh), link)
    assert planned(goal, after, fresh=fresh) == ()
    assert (after.name, after.master, after.up) == (goal.name, goal.master, True)
    assert (after.address, after.addr_gen_mode) == (GUEST_PORT_ADDRESS, IN6_ADDR_GEN_MODE_NONE)
    assert after.mtu == (link.mtu if goal.mtu is None else goal.mtu)
    assert set(after.addresses) == set(goal.addresses)
    assert (after.routes, after.neighbours) == (goal.routes, goal.neighbours)
    assert (after.group == GUEST_GROUP) == (goal.group == GUEST_GROUP)
    assert (wrong_sysctls(goal, after), wrong_flags(goal, after)) == (set(), set())
    assert after.alias == (link.alias if link.alias == "rack 7" else goal.alias)
    if (port := port_of(goal.alias)) is not None and not (link.alias == "rack 7" and link.group == 7):
        assert joined(after.alias, after.group, after.master, port[:1]) == (port[1] == after.master)
    assert is_port_group(after.group) == bool(goal.master and link.alias == "rack 7" and link.group != 7)


@given(bridged_goals, links, st.booleans())
def test_no_frame_passes_before_the_link_is_in_its_bridge(goal: LinkGoal, link: Link, fresh: bool) -> None:
    """After each Step: a link that is up is the port of a bridge, but for one that was found up outside of any.

    Whenever a link comes up that was down, it is in its own bridge and has its flags.
    """
    for step in planned(goal, link, fresh=fresh):
        link = apply((step,), link)
        assert not link.up or link.master
        if is_set_up(step):
            assert link.master == goal.master
            assert wrong_flags(goal, link) == set()


@given(routed_goals, links, st.booleans())
def test_no_frame_passes_before_a_routed_link_is_guarded(goal: LinkGoal, link: Link, fresh: bool) -> None:
    """Whenever a link comes up that was down, it is in our group and has its sysctls; no route leads there before.

    A new link is never up without them once we have begun.
    """
    for step in planned(goal, link, fresh=fresh):
        link = apply((step,), link)
        if is_set_up(step):
            assert (link.group, link.master) == (GUEST_GROUP, 0)
        if is_set_up(step) or (fresh and link.up):
            assert wrong_sysctls(goal, link) == set()
        if isinstance(step, AddRoute | SetNeighbour | AddAddress):
            assert link.up


@given(goals, links, st.booleans())
def test_no_other_link_is_touched_but_for_the_bridges_mtu(goal: LinkGoal, link: Link, fresh: bool) -> None:
    others = [step for step in planned(goal, link, fresh=fresh) if step.index != link.index]
    assert others in ([], [set_value(goal.master or 0, goal.master_name, "mtu", goal.master_mtu, needed=False)])


@given(bridged_goals, links)
def test_a_new_link_is_never_up_anywhere_but_in_its_bridge_once_we_have_begun(goal: LinkGoal, link: Link) -> None:
    for step in planned(goal, link, fresh=True):
        link = apply((step,), link)
        assert not link.up or link.master == goal.master
        assert not link.up or wrong_flags(goal, link) == set()


@given(links)
def test_a_released_link_is_down_and_nowhere_and_released_once(link: Link) -> None:
    after = apply(release(link), link)
    assert not after.up
    assert after.master == 0
    assert release(after) == ()


SERVED = replace(
    READY,
    master=0,
    group=GUEST_GROUP,
    addresses=(*ROUTED.addresses, IPv6Interface("fe80::1/64")),
    routes=ROUTED.routes,
    neighbours=ROUTED.neighbours,
    sysctls=frozenset({(4, "rp_filter", 1)}),
)
"""A link through which a guest has IPv4 and IPv6."""


def test_a_released_routed_link_has_no_sysctls_addresses_or_group_whenever_the_daemon_is_killed() -> None:
    steps = release(SERVED)
    assert described(steps)[0] == "ip link set dev vif7.0 down"
    for done in range(len(steps) + 1):
        killed = apply(steps[:done], SERVED)
        later = apply(release(killed), killed)
        assert (later.up, later.group, later.addresses) == (False, 0, ())
        assert any(isinstance(step, ResetSysctls) for step in (*steps[:done], *release(killed)))
    assert described(stop(SERVED)) == ["ip link set dev vif7.0 down"], "the link goes, or is served again"


@pytest.mark.parametrize(("goal", "versions"), [(GOAL, {4, 6}), (ROUTED, {6})])
def test_sysctls_that_a_routed_link_needs_no_more_are_reset_whenever_the_daemon_is_killed(
    goal: LinkGoal, versions: set[int]
) -> None:
    steps = attach(goal, SERVED, serves=goal is ROUTED, fresh=False)
    (at,) = [number for number, step in enumerate(steps) if isinstance(step, ResetSysctls)]
    reset = steps[at]
    assert isinstance(reset, ResetSysctls)
    assert {version for version, _ in reset.settings} == versions
    for done in range(at + 1):
        later = attach(goal, apply(steps[:done], SERVED), serves=goal is ROUTED, fresh=False)
        assert reset in later, "a later daemon does it"
    assert not any(
        isinstance(step, ResetSysctls)
        for step in attach(goal, apply(steps, SERVED), serves=goal is ROUTED, fresh=False)
    )


def test_the_sysctls_of_a_routed_guest_are_all_reset() -> None:
    host = TableHost(settings={(6, "all", "forwarding"): 0, (6, "default", "force_forwarding"): 0})
    given = {(sysctl.version, sysctl.setting) for sysctl in guest_sysctls(host, ipv6=True)}
    assert given == set(SETTINGS_OF_ROUTED)

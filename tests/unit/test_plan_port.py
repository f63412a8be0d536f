"""A guest's port: the Steps to it, as a person would type them, and what must hold for any link."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface

from hypothesis import given
from hypothesis import strategies as st

from xennetd.model.link import GUEST_PORT_ADDRESS, IFF_UP, IN6_ADDR_GEN_MODE_NONE, Link
from xennetd.plan.port import PortGoal, apply, attach, release
from xennetd.plan.steps import SetMtu, SetUp, Step

GOAL = PortGoal(name="vif7.0", bridge=2, bridge_name="xenbr0", bridge_mtu=1500, mtu=1500)
NEW = Link(9, "vif7.0", address="00:16:3e:00:00:01")
READY = Link(9, "vif7.0", master=2, flags=IFF_UP, address=GUEST_PORT_ADDRESS, addr_gen_mode=IN6_ADDR_GEN_MODE_NONE)

names = st.sampled_from(["vif7.0", "web0", "eth5"])
addresses = st.frozensets(
    st.sampled_from([IPv4Interface("192.0.2.1/24"), IPv6Interface("fe80::1/64"), IPv6Interface("2001:db8::1/64")])
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
    addresses=addresses,
)
goals = st.builds(
    PortGoal,
    name=names,
    bridge=st.sampled_from([2, 3]),
    bridge_name=st.just("xenbr0"),
    bridge_mtu=st.sampled_from([1400, 1500, 9000]),
    mtu=st.sampled_from([None, 68, 1400, 1500, 9000]),
)


def described(steps: tuple[Step, ...]) -> list[str]:
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
    link = replace(READY, addresses=frozenset({IPv4Interface("192.0.2.1/24"), IPv6Interface("fe80::1/64")}))
    assert described(attach(GOAL, link, fresh=False)) == [
        "ip addr del 192.0.2.1/24 dev vif7.0",
        "ip addr del fe80::1/64 dev vif7.0",
    ]


def test_release_takes_the_port_down_before_it_leaves_the_bridge() -> None:
    assert described(release(READY)) == ["ip link set dev vif7.0 down", "ip link set dev vif7.0 nomaster"]


@given(goals, links, st.booleans())
def test_the_steps_lead_to_the_goal_and_no_further(goal: PortGoal, link: Link, fresh: bool) -> None:
    after = apply(attach(goal, link, fresh=fresh), link)
    assert attach(goal, after, fresh=fresh) == ()
    assert (after.name, after.master, after.up, after.addresses) == (goal.name, goal.bridge, True, frozenset())


@given(goals, links, st.booleans())
def test_no_frame_passes_before_the_link_is_in_its_bridge(goal: PortGoal, link: Link, fresh: bool) -> None:
    """After each Step: a link that is up is the port of a bridge, but for one that was found up outside of any."""
    for step in attach(goal, link, fresh=fresh):
        link = apply((step,), link)
        assert not link.up or link.master
        if isinstance(step, SetUp):
            assert link.master == goal.bridge


@given(goals, links, st.booleans())
def test_no_other_link_is_touched_but_for_the_bridges_mtu(goal: PortGoal, link: Link, fresh: bool) -> None:
    others = [step for step in attach(goal, link, fresh=fresh) if step.index != link.index]
    assert others in ([], [SetMtu(goal.bridge, goal.bridge_name, goal.bridge_mtu, needed=False)])


@given(goals, links)
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

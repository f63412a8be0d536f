"""When networks are looked at, and what becomes of them while a policy gives way to another."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Interface, IPv4Network
from typing import Any
from unittest import mock

import pytest

from tests.unit.hosts import TableHost
from tests.unit.test_host_state import KINDS, Heap
from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.networks import Networks
from xennetd.daemon.reconcile.reload import follow
from xennetd.kernel.links import DEFAULT_ROUTES, LinkChange
from xennetd.model.configuration import DaemonConfig, Network, Policy
from xennetd.model.errors import HostError
from xennetd.model.link import Link
from xennetd.model.marks import BRIDGE_GROUP
from xennetd.model.objects import RULESET, ManagedBridge, Sysctl
from xennetd.model.value import replace
from xennetd.model.vif import VifId
from xennetd.plan.difference import Make
from xennetd.policy.modes import BRIDGE, NAT, ROUTE
from xennetd.policy.network_needs import ruleset

LAB = Network("lab", NAT, bridge="xn-lab", subnet4=IPv4Network("10.77.0.0/24"), uplink="eth0")
EDGE = Network("edge", ROUTE, subnet4=IPv4Network("192.0.2.0/24"), uplink="eth1", dhcp=True)
LAN = Network("lan", BRIDGE, bridge="xenbr0")
CONTAINER = Link(7, "veth3f2a")
WITH_ADDRESS = Link(7, "eth9", addresses=(IPv4Interface("10.77.0.1/24"),))
VIF = Link(7, "vif3.0", addresses=(IPv4Interface("192.0.2.1/32"),), parent=VifId(3, 0))


def is_woken(change: LinkChange, *networks: Network) -> bool:
    policy = Policy(networks={network.name: network for network in networks})
    looked = Networks(InForce(policy), TableHost(), HostState({}), mock.Mock(), mock.Mock())
    looked.links_changed([change])
    return looked._wake.is_set()


@pytest.mark.parametrize(
    "change",
    [
        LinkChange(None, Link(9, "xn-lab", "bridge")),
        LinkChange(Link(9, "xn-edge", "bridge"), None),
        LinkChange(Link(2, "eth0"), Link(2, "eth0", mtu=9000)),
        LinkChange(None, Link(3, "eth1")),
        LinkChange(CONTAINER, WITH_ADDRESS),
        LinkChange(WITH_ADDRESS, CONTAINER),
        LinkChange(Link(2, "eth0"), Link(2, "eth0")),
        DEFAULT_ROUTES,
    ],
    ids=["bridge", "served link", "uplink", "new uplink", "address", "address gone", "setting", "default route"],
)
def test_what_networks_are_made_of(change: LinkChange) -> None:
    assert is_woken(change, LAB, EDGE, LAN)
    assert not is_woken(change, LAN)


@pytest.mark.parametrize(
    "change",
    [
        LinkChange(None, CONTAINER),
        LinkChange(CONTAINER, None),
        LinkChange(CONTAINER, CONTAINER),
        LinkChange(None, VIF),
        LinkChange(VIF, VIF),
    ],
    ids=["a container's", "it goes", "its settings", "a guest's", "a guest's settings"],
)
def test_what_they_are_not_made_of(change: LinkChange) -> None:
    assert not is_woken(change, LAB, EDGE, LAN)


GIVEN = Make(ManagedBridge("xn-lab", "02:00:00:00:00:01"))


def networks_of(*networks: Network, host: mock.Mock) -> Networks:
    policy = Policy(networks={network.name: network for network in networks})
    return Networks(InForce(policy), TableHost((Link(2, "eth0"),)), host, mock.Mock(), mock.Mock())


@pytest.fixture
def host() -> mock.Mock:
    made = mock.Mock(spec=HostState)
    made.difference.return_value = ()
    made.conflict.return_value = None
    made.ensure = mock.AsyncMock()
    made.settle = mock.AsyncMock(return_value=frozenset())
    made.pause.side_effect = HostState({}).pause
    made.problems.return_value = []
    return made


def test_what_guests_are_in_goes_only_when_they_have_moved(host: mock.Mock) -> None:
    async def scenario() -> None:
        networks = networks_of(LAB, host=host)
        await networks.look()
        host.settle.reset_mock()
        networks._in_force.policy = Policy(networks={"lab": replace(LAB, bridge="xn-other")})
        await networks.follow_policy()
        networks.hint()
        await networks.catch_up()
        host.settle.assert_not_called()
        await networks.retire()
        assert [call.args[0] for call in host.settle.call_args_list] == ["lab"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (UnicodeError("a defect"), 'network "lab" is not ready: xennetd met a defect of its own'),
        (OSError(12, "Cannot allocate memory"), "the host is short of memory"),
        (MemoryError(), "the host is short of memory"),
    ],
)
def test_a_defect_in_a_look_at_a_network_is_that_networks_problem_until_it_is_gone(
    host: mock.Mock, capfd: pytest.CaptureFixture[str], error: Exception, problem: str
) -> None:
    fails = True

    def difference(name: str, needed: object) -> tuple[Make, ...]:
        if name == "lab" and fails:
            raise error
        return () if name == "lab" else (GIVEN,)

    async def scenario() -> None:
        nonlocal fails
        networks = networks_of(LAB, LAN, host=host)
        host.difference.side_effect = difference
        running = asyncio.create_task(networks.run())
        for _ in range(3):
            networks.hint()
            await networks.catch_up()
        assert [call.args[0] for call in host.ensure.call_args_list][:1] == ["lan"], "the others are looked at"
        (told,) = networks.problems()
        assert problem in told
        assert networks.problem("lab") is not None
        assert networks.problem("lan") is None
        fails = False
        networks.hint()
        await networks.catch_up()
        assert networks.problems() == []
        assert not running.done(), "the care of the networks goes on"
        running.cancel()

    asyncio.run(scenario())
    logged = "".join(capfd.readouterr())
    assert logged.count("network=lab") == 1
    assert logged.count("Traceback") == (1 if isinstance(error, UnicodeError) else 0)


def test_a_problem_that_a_reload_brings_is_tried_again(host: mock.Mock) -> None:
    networks = networks_of(host=host)
    host.difference.return_value = (GIVEN,)
    host.ensure.side_effect = HostError("nftables refuses")

    async def scenario() -> None:
        running = asyncio.create_task(networks.run())
        await asyncio.sleep(0)
        networks._in_force.policy = Policy(networks={"lab": LAB})
        await networks.follow_policy()
        await networks.retire()
        assert networks.problems() == ["nftables refuses"]
        host.ensure.side_effect = None
        await asyncio.sleep(0.3)
        assert networks.problems() == []
        running.cancel()

    asyncio.run(scenario())


def test_a_network_that_is_put_right_again_and_again_is_so_less_and_less_often(host: mock.Mock) -> None:
    host.difference.return_value = (GIVEN,)

    async def scenario() -> None:
        networks = networks_of(LAB, host=host)
        running = asyncio.create_task(networks.run())
        for _ in range(1000):
            networks.hint()
            await asyncio.sleep(0)
        assert host.ensure.await_count < 5
        for _ in range(20):
            networks.hint()
            await asyncio.sleep(0.05)
        assert 2 <= host.ensure.await_count < 8, "0.1, 0.2, 0.4, 0.8, ... seconds apart"
        running.cancel()

    asyncio.run(scenario())


class Live:
    """A view whose links a test changes."""

    def __init__(self, *links: Link) -> None:
        self.now = TableHost(links)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)


UPLINK = Link(2, "eth0")
OWN = Link(9, "xn-lab", "bridge", group=BRIDGE_GROUP)
SERVED = replace(LAB, dhcp=True, domain="lab.internal")


def guests_to_move() -> mock.Mock:
    """Return a reconciler's part in a reload."""
    nobody = mock.Mock(find=mock.AsyncMock())
    return mock.Mock(eviction=mock.Mock(return_value=nobody), follow_policy=mock.AsyncMock())


class Real:
    """Networks over a real `HostState`, whose adapter is a heap."""

    def __init__(self, network: Network, heap: Heap, *links: Link) -> None:
        self.view, self.heap = Live(*links), heap
        self.host = HostState(dict.fromkeys(KINDS, heap))
        self.in_force = InForce(Policy(networks={network.name: network}))
        view: Any = self.view
        self.networks = Networks(self.in_force, view, self.host, mock.Mock(), mock.Mock())

    async def reload(self, network: Network) -> None:
        guests = guests_to_move()
        policy = Policy(networks={network.name: network})
        await follow(policy, (), self.in_force, self.host, self.networks, guests)


def kinds(heap: Heap) -> set[str]:
    return {key.kind for key in heap.objects}


def test_a_network_keeps_what_it_has_while_its_uplink_is_gone_whatever_it_is_called() -> None:
    async def scenario() -> None:
        real = Real(SERVED, Heap(), UPLINK, OWN)
        await real.networks.look()
        made = kinds(real.heap)
        real.view.now = TableHost((OWN,))
        await real.reload(replace(SERVED, name="office"))
        assert kinds(real.heap) == made
        assert not [line for line in real.heap.done if line.startswith("-") and "eth0" not in line]
        assert "eth0" in (real.networks.problem("office") or HostError("")).sentence

        again = Real(SERVED, real.heap, OWN)  # a new daemon
        await again.networks.look()
        await again.host.prune()
        assert kinds(real.heap) == made

    asyncio.run(scenario())


def test_a_network_with_a_problem_gives_up_nothing_for_another_bridge() -> None:
    async def scenario() -> None:
        real = Real(SERVED, Heap(), UPLINK, OWN)
        await real.networks.look()
        real.view.now = TableHost((OWN,))
        await real.reload(replace(SERVED, bridge="xn-new"))
        assert not [line for line in real.heap.done if line.startswith("-") and "xn-lab" in line]
        real.view.now = TableHost((UPLINK, OWN))
        await real.networks.look()
        assert {key.name for key in real.heap.objects if key.kind == "bridge"} == {"xn-new"}

    asyncio.run(scenario())


def test_a_reload_that_is_cancelled_leaves_the_new_policy_in_force() -> None:
    async def scenario() -> None:
        real = Real(LAB, Heap(), UPLINK, OWN)
        await real.networks.look()
        guests = guests_to_move()
        guests.follow_policy.side_effect = asyncio.CancelledError
        guests.records = {VifId(7, 0): None}
        policy = Policy(networks={"lab": replace(LAB, uplink=None)})
        with pytest.raises(asyncio.CancelledError):
            await follow(policy, (), real.in_force, real.host, real.networks, guests)
        assert real.in_force.policy is policy
        guests.triggers.hint.assert_called_once_with(VifId(7, 0))
        await real.networks.look()
        assert real.heap.objects[RULESET] == ruleset(policy)

    asyncio.run(scenario())


def test_a_defect_in_the_search_for_those_who_must_go_leaves_the_new_policy_in_force() -> None:
    async def scenario() -> None:
        real = Real(LAB, Heap(), UPLINK, OWN)
        guests = guests_to_move()
        guests.eviction.return_value.find.side_effect = LookupError("a defect")
        guests.records = {}
        elsewhere = replace(LAB, bridge="xn-else", uplink="wg0")
        policy = Policy(networks={"lab": elsewhere})
        with pytest.raises(LookupError):
            await follow(policy, (), real.in_force, real.host, real.networks, guests)
        assert real.in_force.policy is policy
        assert "wg0" in real.networks._links

    asyncio.run(scenario())


def test_a_network_gets_its_filter_back_although_its_uplink_is_gone() -> None:
    async def scenario() -> None:
        real = Real(LAB, Heap(), UPLINK, OWN)
        await real.networks.look()
        real.view.now = TableHost((OWN,))
        del real.heap.objects[RULESET]
        await real.networks.look()
        assert RULESET in real.heap.objects

    asyncio.run(scenario())


def test_a_restart_of_nftables_which_removes_the_filter_twice_is_no_problem() -> None:
    async def scenario() -> None:
        real = Real(LAB, Heap(), UPLINK, OWN)
        await real.networks.look()
        for _ in range(2):
            del real.heap.objects[RULESET]
            await real.networks.look()
            assert RULESET in real.heap.objects
        assert real.networks.problem("lab") is None

    asyncio.run(scenario())


def test_a_network_that_was_never_made_keeps_nothing_of_others() -> None:
    async def scenario() -> None:
        taken = Link(8, "eth9", addresses=(IPv4Interface("10.77.0.7/24"),))
        real = Real(LAB, Heap(), UPLINK, taken)
        guest, forwarding = VifId(7, 0), Sysctl(4, "eth0", "forwarding", 1)
        for objects in ((forwarding,), ()):
            await real.host.ensure(guest, real.host.difference(guest, objects))
            await real.networks.look()
            assert "in use on this host already" in real.networks.problems()[0]
            await real.host.settle(guest, objects)
        assert real.heap.there == []

    asyncio.run(scenario())


def test_a_policy_that_was_only_observed_is_no_step_on_the_way_to_the_next() -> None:
    in_force = InForce(Policy(networks={"lab": LAB}))
    observed = Policy(daemon=DaemonConfig(mode="observe"))
    in_force.put(observed)
    assert in_force.enforced == Policy(networks={"lab": LAB})
    assert InForce(observed).enforced is None


def test_no_guest_joins_a_network_whose_filter_another_program_keeps_removing() -> None:
    async def scenario() -> None:
        real = Real(LAB, Heap(), UPLINK, OWN)
        for _ in range(6):
            real.heap.objects.pop(RULESET, None)
            await real.networks.look()
            assert (RULESET in real.heap.objects) is (real.networks.problem("lab") is None)
        assert RULESET not in real.heap.objects
        await asyncio.sleep(0.3)
        await real.networks.look()
        assert RULESET in real.heap.objects
        assert real.networks.problem("lab") is None

    asyncio.run(scenario())


def test_what_is_gone_again_as_soon_as_it_is_made_is_made_again(host: mock.Mock) -> None:
    """The events of both may be read together, and then they show no change."""
    undone = iter([(GIVEN,), (GIVEN,), (GIVEN,)])
    host.difference.side_effect = lambda *_: next(undone, ())
    host.wants_any.return_value = False

    async def scenario() -> None:
        networks = networks_of(LAB, host=host)
        running = asyncio.create_task(networks.run())
        networks.hint()
        await asyncio.sleep(0.3)
        running.cancel()

    asyncio.run(scenario())
    assert host.ensure.call_count == 2

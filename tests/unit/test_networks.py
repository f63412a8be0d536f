"""When networks are looked at, and what becomes of them while a policy gives way to another."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network
from unittest import mock

import pytest

from tests.unit.hosts import TableHost
from xennetd.daemon.ground import Ground
from xennetd.daemon.networks import Networks
from xennetd.kernel.links import DEFAULT_ROUTES, LinkChange
from xennetd.model.attachment import Mode
from xennetd.model.errors import HostError
from xennetd.model.ground import OwnBridge
from xennetd.model.link import Link
from xennetd.model.vif import VifId
from xennetd.policy.config import Network, Policy

LAB = Network("lab", Mode.NAT, bridge="xn-lab", subnet4=IPv4Network("10.77.0.0/24"), uplink="eth0")
EDGE = Network("edge", Mode.ROUTE, subnet4=IPv4Network("192.0.2.0/24"), uplink="eth1", dhcp=True)
LAN = Network("lan", Mode.BRIDGE, bridge="xenbr0")
CONTAINER = Link(7, "veth3f2a")
WITH_ADDRESS = Link(7, "eth9", addresses=(IPv4Interface("10.77.0.1/24"),))
VIF = Link(7, "vif3.0", addresses=(IPv4Interface("192.0.2.1/32"),), parent=VifId(3, 0))


def is_woken(change: LinkChange, *networks: Network) -> bool:
    policy = Policy(networks={network.name: network for network in networks})
    looked = Networks(policy, TableHost(), Ground({}), mock.Mock(), mock.Mock())
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


GIVEN = frozenset({OwnBridge("xn-lab", "02:00:00:00:00:01")})


def networks_of(*networks: Network, ground: mock.Mock) -> Networks:
    policy = Policy(networks={network.name: network for network in networks})
    return Networks(policy, TableHost((Link(2, "eth0"),)), ground, mock.Mock(), mock.Mock())


@pytest.fixture
def ground() -> mock.Mock:
    made = mock.Mock(spec=Ground)
    made.missing.return_value = ()
    made.needs.return_value = GIVEN
    return made


def test_what_guests_are_in_goes_only_when_they_have_moved(ground: mock.Mock) -> None:
    networks = networks_of(LAB, ground=ground)
    networks.look()
    ground.claim.reset_mock()
    networks.set_policy(Policy(networks={"lab": replace(LAB, bridge="xn-other")}))
    networks.hint()
    networks.catch_up()
    ground.claim.assert_not_called()
    networks.retire()
    assert [call.args[0] for call in ground.claim.call_args_list] == ["lab"]


def test_a_defect_in_a_look_at_networks_is_not_a_guests(ground: mock.Mock) -> None:
    networks = networks_of(LAB, ground=ground)
    ground.missing.side_effect = RuntimeError("a defect")
    networks.hint()
    networks.catch_up()
    assert networks._wake.is_set(), "it is still to be looked at, by the task that a defect ends"
    with pytest.raises(RuntimeError):
        asyncio.run(networks.run())


def test_a_problem_that_a_reload_brings_is_tried_again(ground: mock.Mock) -> None:
    networks = networks_of(ground=ground)
    ground.missing.return_value = GIVEN
    ground.ensure.side_effect = HostError("nftables refuses")

    async def scenario() -> None:
        running = asyncio.create_task(networks.run())
        await asyncio.sleep(0)
        networks.set_policy(Policy(networks={"lab": LAB}))
        networks.retire()
        assert networks.problems() == ["nftables refuses"]
        ground.ensure.side_effect = None
        await asyncio.sleep(0.05)
        assert networks.problems() == []
        running.cancel()

    asyncio.run(scenario())

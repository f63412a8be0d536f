"""Which news of links is worth a look at the networks."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network
from unittest import mock

import pytest

from tests.unit.hosts import TableHost
from xennetd.daemon.ground import Ground
from xennetd.daemon.networks import Networks
from xennetd.kernel.links import DEFAULT_ROUTES, LinkChange
from xennetd.model.attachment import Mode
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
        LinkChange(Link(2, "eth0"), Link(2, "eth0"), settings=True),
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
        LinkChange(CONTAINER, CONTAINER, settings=True),
        LinkChange(None, VIF),
        LinkChange(VIF, VIF, settings=True),
    ],
    ids=["a container's", "it goes", "its settings", "a guest's", "a guest's settings"],
)
def test_what_they_are_not_made_of(change: LinkChange) -> None:
    assert not is_woken(change, LAB, EDGE, LAN)

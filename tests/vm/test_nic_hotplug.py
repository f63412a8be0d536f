"""A NIC vanishes and comes back while a guest is pinged 20 times a second."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.bed.guest import Guest
from tests.bed.pinging import Pinging
from tests.bed.toolstack import VifSpec
from tests.vm.fabric import GUEST, MACS, MOST_LOST, ROUTER, Fabric, is_told, problems
from tests.vm.machine import Machine, until
from tests.vm.test_bond_failover import connected, fabric
from tests.vm.test_topology import apply, plan

MakeGuest = Callable[..., Guest]

__all__ = ["fabric"]

FOUND_BY_MAC = f"""
[nic.first]
mac = "{MACS["leg0"]}"
[bond.bond0]
ports = ["first", "leg1"]
mode = "active-backup"
miimon = 50
[vlan."bond0.100"]
[bridge.service]
ports = ["bond0.100"]
addresses = []
"""

ONE_NIC = """
[vlan."leg0.100"]
[bridge.service]
ports = ["leg0.100"]
addresses = []
"""


@pytest.mark.long
@pytest.mark.parametrize("again", ["leg0", "enp9s0"])
def test_a_port_of_a_bond_that_was_pulled_out_comes_back_by_itself(
    host: Machine, fabric: Fabric, guest: MakeGuest, again: str
) -> None:
    """Under whatever name: it is found by its MAC, which the bond gives to its other port too."""
    apply(FOUND_BY_MAC)
    web = connected(guest)
    with Pinging(web.namespace, ROUTER) as pinging:
        host.rtnl.delete("leg0")
        until(partial(is_told, 'there is no NIC "first"'))
        lost = pinging.lost()
    print(f"pulled out: {len(lost)} requests lost")
    assert len(lost) <= MOST_LOST
    with Pinging(web.namespace, ROUTER) as pinging:
        fabric.leg(again, "a", MACS["leg0"])
        until(lambda: (host.link(again) or {}).get("master") == "bond0")
        until(lambda: not problems())
        lost = pinging.lost()
    print(f"back as {again}: {len(lost)} requests lost")
    assert len(lost) <= MOST_LOST
    assert plan() == []
    fabric.cut("leg1")
    until(lambda: web.ping(ROUTER))


def test_the_only_nic_of_a_bridge_comes_back_with_its_vlan(host: Machine, fabric: Fabric, guest: MakeGuest) -> None:
    apply(ONE_NIC)
    web = connected(guest)
    other = guest("other", VifSpec(bridge="service"), address=GUEST.replace(".5", ".6") + "/24")
    other.connect()
    until(lambda: other.ping(GUEST))
    with Pinging(other.namespace, GUEST) as pinging:
        host.rtnl.delete("leg0")
        until(partial(is_told, 'there is no NIC "leg0"'))
        fabric.leg("leg0", "a", MACS["leg0"])
        until(lambda: web.ping(ROUTER))
        assert pinging.lost() == [], "the guests are on the same bridge"
    until(lambda: not problems())
    assert plan() == []

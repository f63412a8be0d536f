"""Links that build machines' kernels lack: VLAN-filtering bridges, bonds, dummies; and systemd-networkd beside us."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.bed.guest import Guest
from tests.bed.toolstack import VifSpec
from tests.vm.machine import Machine, do, run, until

MakeGuest = Callable[..., Guest]

pytestmark = pytest.mark.usefixtures("service")


def test_a_vlan_filtering_bridge_takes_guests_into_its_default_vlan(host: Machine, guest: MakeGuest) -> None:
    do("ip", "link", "add", "br0", "up", "type", "bridge", "vlan_filtering", "1", "vlan_default_pvid", "7")
    one = guest("one", VifSpec(bridge="br0"), address="10.8.0.1/24")
    two = guest("two", VifSpec(bridge="br0"), address="10.8.0.2/24")
    one.connect()
    two.connect()
    assert "7 PVID Egress Untagged" in do("bridge", "vlan", "show", "dev", one.vif.netdev)
    assert one.ping("10.8.0.2")
    do("bridge", "vlan", "add", "vid", "9", "pvid", "untagged", "dev", two.vif.netdev)
    assert not one.ping("10.8.0.2"), "these two are in two VLANs now"


def takes_leg(leg: str) -> bool:
    """Add a leg to the bond. It takes none that is up, and the host's networkd puts each new link up."""
    return run("ip", "link", "set", leg, "down", "master", "bond0").returncode == 0


def test_guests_leave_by_a_bond_and_survive_the_loss_of_a_leg(host: Machine, guest: MakeGuest) -> None:
    do("ip", "link", "add", "bond0", "type", "bond", "mode", "active-backup", "miimon", "50")
    beyond = host.guest("beyond")
    beyond.rtnl.add_bridge("wire")
    beyond.rtnl.set("wire", up=True)
    beyond.rtnl.add_address("wire", "10.8.0.254/24")
    for leg in ("leg0", "leg1"):
        host.rtnl.add_veth(leg, leg, beyond.fd)
        beyond.rtnl.set(leg, master="wire", up=True)
        until(partial(takes_leg, leg))
    host.bridge("br0")
    do("ip", "link", "set", "bond0", "master", "br0", "up")
    web = guest("web", VifSpec(bridge="br0"), address="10.8.0.1/24")
    web.connect()
    until(lambda: web.ping("10.8.0.254"))
    do("ip", "link", "set", "leg0", "down")
    until(lambda: web.ping("10.8.0.254"))


def test_a_guest_takes_the_mtu_of_the_bonds_bridge(host: Machine, guest: MakeGuest) -> None:
    do("ip", "link", "add", "dummy0", "mtu", "1400", "up", "type", "dummy")
    host.bridge("br0")
    do("ip", "link", "set", "dummy0", "master", "br0")
    web = guest("web", VifSpec(bridge="br0"))
    web.connect()
    link = host.link(web.vif.netdev)
    assert link is not None
    assert link["mtu"] == 1400


def test_networkd_leaves_vifs_alone(host: Machine, guest: MakeGuest) -> None:
    """The host has a .network file that matches every link."""
    do("ip", "link", "add", "other0", "up", "type", "dummy")
    host.bridge("br0")
    web = guest("web", VifSpec(bridge="br0"))
    web.connect()
    until(lambda: "80-everything.network" in do("networkctl", "--no-pager", "status", "other0"))
    until(lambda: "unmanaged" in do("networkctl", "--no-pager", "list", web.vif.netdev))
    assert host.addresses(web.vif.netdev) == []

"""A host whose kernel has no IPv6: networks that are to have it have IPv4, and a problem says what they lack."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bed.dhcp import udhcpc
from tests.bed.guest import Guest
from tests.bed.toolstack import VifSpec
from tests.vm.machine import CONFIGURATION, UNIT, Machine, do, run, until

MakeGuest = Callable[..., Guest]

POLICY = """
[network.lab]
mode = "nat"
subnets = ["10.77.0.0/24", "fd77::/64"]
nat66 = true
dhcp = true

[network.six]
mode = "isolated"
subnets = ["fd78::/64"]

[network.dmz]
mode = "route"
subnets = ["10.99.0.0/24", "2001:db8:99::/64"]
uplink = "eth0"
gateway = "link-local"

[[policy]]
match = { vm = "lab-*" }
network = "lab"

[[policy]]
match = { vm = "six-*" }
network = "six"

[[policy]]
match = { vm = "dmz-*" }
network = "dmz"
"""


@pytest.fixture
def networks(host: Machine, service: None) -> Iterator[None]:
    assert not Path("/proc/sys/net/ipv6").exists(), "this machine has IPv6"
    host.rtnl.add_veth("eth0", "eth0", host.guest("beyond").fd)
    host.rtnl.set("eth0", up=True)
    host.rtnl.add_address("eth0", "203.0.113.2/24")
    (CONFIGURATION / "test.toml").write_text(POLICY)
    do("systemctl", "reload", UNIT)
    yield
    (CONFIGURATION / "test.toml").unlink()
    do("systemctl", "reload", UNIT)
    until(lambda: run("ip", "link", "show", "xn-lab").returncode != 0)


def problems() -> list[str]:
    found: list[str] = json.loads(run("xennetctl", "status", "--json").stdout)["problems"]
    return found


def test_a_network_of_both_has_ipv4_and_says_what_it_lacks(networks: None, guest: MakeGuest) -> None:
    lab = guest("lab-1", VifSpec())
    lab.connect()
    given = udhcpc(lab.namespace, tries=20)
    assert given["ip"].startswith("10.77.0.")
    lab.namespace.rtnl.add_address("eth0", f"{given['ip']}/{given['mask']}")
    until(lambda: lab.ping("10.77.0.1"))
    (lacks,) = (problem for problem in problems() if "lab" in problem)
    assert "no IPv6" in lacks
    assert "fd77::/64" in lacks


def test_a_network_of_ipv6_alone_can_not_be_had(networks: None, guest: MakeGuest) -> None:
    six = guest("six-1", VifSpec())
    until(lambda: six.hotplug_status() == "error")
    assert "IPv6" in (six.hotplug_error() or "")


def test_a_routed_guest_has_its_ipv4_address_alone(networks: None, guest: MakeGuest) -> None:
    dmz = guest("dmz-1", VifSpec(script="vif-xennetd-route", ip="10.99.0.5 2001:db8:99::5"))
    dmz.connect()
    assert "10.99.0.5" in do("ip", "route", "show", "proto", "120")
    (row,) = json.loads(do("xennetctl", "list", "--json"))
    assert row["ips"] == ["10.99.0.5"]
    assert any("2001:db8:99::5 is left out" in warning for warning in row["warnings"])

"""Networks of our own under systemd: what xennetd makes from within its sandbox, and what outlives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bed.dhcp import udhcpc
from tests.bed.guest import Guest
from tests.bed.toolstack import VifSpec
from tests.vm.machine import CONFIGURATION, UNIT, Machine, do, run, until

MakeGuest = Callable[..., Guest]

DNSMASQ = "xennetd-dnsmasq@xn\\x2dlab.service"
UPLINK = "203.0.113.1"
LAB = """
[network.lab]
mode = "nat"
subnets = ["10.77.0.0/24", "fd77::/64"]
nat66 = true
uplink = "eth0"
dhcp = true

[network.dmz]
mode = "route"
uplink = "eth0"
gateway = "link-local"

[[policy]]
match = { vm = "lab-*" }
network = "lab"

[[policy]]
match = { vm = "dmz-*" }
network = "dmz"
"""


@pytest.fixture
def outside(host: Machine, service: None) -> Iterator[None]:
    beyond = host.guest("beyond")
    host.rtnl.add_veth("eth0", "eth0", beyond.fd)
    for namespace in (host, beyond):
        namespace.rtnl.set("eth0", up=True)
    host.rtnl.add_address("eth0", "203.0.113.2/24")
    beyond.rtnl.add_address("eth0", f"{UPLINK}/24")
    beyond.run("ip", "route", "add", "10.99.0.0/24", "via", "203.0.113.2")
    (CONFIGURATION / "test.toml").write_text(LAB)
    do("systemctl", "reload", UNIT)
    yield
    (CONFIGURATION / "test.toml").unlink()
    do("systemctl", "reload", UNIT)
    until(lambda: run("ip", "link", "show", "xn-lab").returncode != 0)
    until(lambda: run("systemctl", "is-active", DNSMASQ).returncode != 0)


def setting(path: str) -> str:
    return Path("/proc/sys/net", path).read_text().strip()


def test_a_network_is_made_from_within_the_sandbox_and_taken_away_without_a_trace(outside: None) -> None:
    until(lambda: run("systemctl", "is-active", DNSMASQ).returncode == 0)
    assert "10.77.0.1/24" in do("ip", "address", "show", "dev", "xn-lab")
    until(lambda: "unmanaged" in do("networkctl", "--no-pager", "list", "xn-lab"))
    assert (setting("ipv4/conf/xn-lab/forwarding"), setting("ipv4/conf/eth0/forwarding")) == ("1", "1")
    assert "masquerade" in do("nft", "list", "table", "inet", "xennetd")
    (CONFIGURATION / "test.toml").write_text("")
    do("systemctl", "reload", UNIT)
    until(lambda: run("systemctl", "is-active", DNSMASQ).returncode != 0)
    assert setting("ipv4/conf/eth0/forwarding") == "0"
    assert run("nft", "list", "table", "inet", "xennetd").returncode != 0
    until(lambda: not Path("/var/lib/xennetd/xn-lab").exists())


def test_a_guest_gets_its_address_and_reaches_the_outside(outside: None, guest: MakeGuest) -> None:
    lab = guest("lab-1", VifSpec())
    lab.connect()
    given = udhcpc(lab.namespace, tries=20)
    lab.namespace.rtnl.add_address("eth0", f"{given['ip']}/{given['mask']}")
    lab.namespace.run("ip", "route", "add", "default", "via", given["router"])
    until(lambda: lab.ping(UPLINK))
    dmz = guest("dmz-1", VifSpec(ip="10.99.0.5"))
    dmz.connect()
    dmz.namespace.rtnl.add_address("eth0", "10.99.0.5/32")
    dmz.namespace.run("ip", "route", "add", "169.254.1.1", "dev", "eth0")
    dmz.namespace.run("ip", "route", "add", "default", "via", "169.254.1.1")
    until(lambda: dmz.ping(UPLINK))


def test_ipv6_is_forwarded_and_the_host_keeps_heeding_its_router(outside: None, guest: MakeGuest) -> None:
    """Kernels before 6.17 have one switch for all links, which makes them deaf to router advertisements."""
    Path("/proc/sys/net/ipv6/conf/eth0/accept_ra").write_text("1")
    guest("dmz-6", VifSpec(ip="2001:db8:99::5")).connect()
    if Path("/proc/sys/net/ipv6/conf/eth0/force_forwarding").exists():
        assert setting("ipv6/conf/eth0/force_forwarding") == "1"
    else:
        assert (setting("ipv6/conf/all/forwarding"), setting("ipv6/conf/eth0/accept_ra")) == ("1", "2")


def test_what_a_network_has_lost_while_nothing_ran_goes_and_what_an_administrator_added_stays(outside: None) -> None:
    """The kernel keeps xennetd's mark on an address (IFA_PROTO), and gives it to no address of others."""
    do("ip", "address", "add", "10.98.0.1/24", "dev", "xn-lab")
    do("systemctl", "stop", UNIT)
    (CONFIGURATION / "test.toml").write_text(LAB.replace("10.77.", "10.79.").replace("fd77:", "fd79:"))
    do("systemctl", "start", UNIT)
    until(lambda: "10.79.0.1/24" in do("ip", "address", "show", "dev", "xn-lab"))
    shown = do("ip", "address", "show", "dev", "xn-lab")
    gateways = ("10.77.0.1", "fd77::1", "10.79.0.1", "fd79::1", "10.98.0.1")
    assert [address in shown for address in gateways] == [False, False, True, True, True], shown
    (CONFIGURATION / "test.toml").write_text(LAB)
    do("systemctl", "reload", UNIT)

"""What others do to guests' routes, rules, bridges and settings, and to the uplink: put right and recorded, at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import Daemon
from tests.bed.guest import Bed, Guest
from tests.bed.netns import NetNs
from tests.bed.site import HOST4, HOST6, ROUTER4, Site, ip, sysctl
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.every_mode import (
    EVERY_MODE,
    held,
    networks,
    populate,
    proxied,
    same,
    served,
    setting,
    way,
    write_setting,
)
from tests.kernel.status import status
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually, paused

pytestmark = pytest.mark.usefixtures("dnsmasq")

EDGE, LAB, ALONE, NAT = "edge-1", "lab-1", "alone-1", "alone-2"

Everyone = dict[str, Guest]


@pytest.fixture
def xennetd(site: Site, bed: Bed, daemon: MakeDaemon, journal: Journal) -> Daemon:
    sysctl(site.host, ipv6__conf__default__accept_dad=0)
    return daemon(EVERY_MODE)


@pytest.fixture
def everyone(bed: Bed, guest: MakeGuest, xennetd: Daemon) -> Everyone:
    """A connected guest in each mode."""
    found = populate(bed, guest)
    for each in found.values():
        each.connect()
    served("lab", "store")
    up = [*(each.vif.netdev for each in found.values()), "xenbr0", "xn-lab", "xn-store"]
    eventually(lambda: all(bed.host.links()[name]["operstate"] == "UP" for name in up))
    return found


DAMAGE: dict[str, tuple[str, Callable[[NetNs, str], object]]] = {
    "a route is deleted": (EDGE, lambda host, vif: ip(host, f"route del 203.0.113.11 dev {vif} proto 120")),
    "an IPv6 route is deleted": (EDGE, lambda host, vif: ip(host, f"route del 2001:db8::17 dev {vif} proto 120")),
    "a neighbour is given another MAC": (
        EDGE,
        lambda host, vif: ip(host, f"neighbour replace 203.0.113.11 lladdr 02:00:00:00:00:99 dev {vif} nud permanent"),
    ),
    "a neighbour is deleted": (EDGE, lambda host, vif: ip(host, f"neighbour del 203.0.113.11 dev {vif}")),
    "the gateway is taken off": (EDGE, lambda host, vif: ip(host, f"address del {HOST4}/32 dev {vif}")),
    "the vif is taken down": (EDGE, lambda host, vif: ip(host, f"link set {vif} down")),
    "the vif is put into a bridge": (EDGE, lambda host, vif: ip(host, f"link set {vif} master xenbr0")),
    "the vif forwards no longer": (EDGE, lambda host, vif: write_setting(host, f"ipv4/conf/{vif}/forwarding", 0)),
    "the vif's sources are not looked at": (
        EDGE,
        lambda host, vif: write_setting(host, f"ipv4/conf/{vif}/rp_filter", 0),
    ),
    "the uplink forwards no longer": (EDGE, lambda host, vif: write_setting(host, "ipv4/conf/eth0/forwarding", 0)),
    "nothing forwards any longer": (EDGE, lambda host, vif: sysctl(host, ipv4__ip_forward=0)),
    "nothing forwards IPv6 any longer": (EDGE, lambda host, vif: sysctl(host, ipv6__conf__all__forwarding=0)),
    "the uplink answers for nobody": (EDGE, lambda host, vif: write_setting(host, "ipv6/conf/eth0/proxy_ndp", 0)),
    "the uplink goes down and comes up": (EDGE, lambda host, vif: _down_and_up(host)),
    "the uplink is without its address for a moment": (EDGE, lambda host, vif: _without_address(host)),
    "nftables is started anew": (NAT, lambda host, vif: host.run("nft", "flush", "ruleset")),
    "our table is deleted": (NAT, lambda host, vif: host.run("nft", "delete table inet xennetd")),
    "a rule of ours is deleted": (NAT, lambda host, vif: host.run("nft", "flush chain inet xennetd outgoing")),
    "an element is deleted": (NAT, lambda host, vif: host.run("nft", "flush set inet xennetd masquerade4")),
    "a forward is led elsewhere": (LAB, lambda host, vif: _redirect(host)),
    "the bridge's address is deleted": (LAB, lambda host, vif: ip(host, "address del 10.77.0.1/24 dev xn-lab")),
    "the bridge is taken down": (LAB, lambda host, vif: ip(host, "link set xn-lab down")),
    "the vif is taken out of the bridge": (LAB, lambda host, vif: ip(host, f"link set {vif} nomaster")),
}


def _down_and_up(host: NetNs) -> None:
    ip(host, "link set eth0 down", "link set eth0 up", f"route add default via {ROUTER4}")
    ip(host, f"address replace {HOST6}/64 dev eth0 nodad", "route add default via 2001:db8::1")


def _without_address(host: NetNs) -> None:
    """As a DHCP client does whose lease has ended."""
    ip(host, f"address del {HOST4}/24 dev eth0", f"address add {HOST4}/24 dev eth0", f"route add default via {ROUTER4}")


def _redirect(host: NetNs) -> None:
    flush, add = "flush map inet xennetd forward4", "add element inet xennetd forward4"
    host.run("nft", f"{flush}; {add} {{ tcp . 8080 : 10.77.0.99 . 80 }}")


def test_a_proxy_entry_whose_end_the_kernel_does_not_tell_comes_back_at_a_reload(
    bed: Bed, xennetd: Daemon, everyone: Everyone
) -> None:
    before = proxied(bed.host)
    ip(bed.host, "neighbour delete proxy 203.0.113.11 dev eth0")
    assert xennetd.ctl("reload").returncode == 0
    assert proxied(bed.host) == before


@pytest.mark.parametrize("what", DAMAGE)
def test_all_is_as_it_was(bed: Bed, everyone: Everyone, what: str) -> None:
    name, damage = DAMAGE[what]
    before = held(bed)
    damage(bed.host, everyone[name].vif.netdev)
    assert same(before, lambda: held(bed))


@pytest.mark.parametrize("what", [what for what in DAMAGE if what.startswith("the uplink ")])
def test_what_was_over_before_it_was_seen_is_put_right_too(
    bed: Bed, everyone: Everyone, xennetd: Daemon, what: str
) -> None:
    name, damage = DAMAGE[what]
    before = held(bed)
    with paused(xennetd.pid):
        damage(bed.host, everyone[name].vif.netdev)
    assert same(before, lambda: held(bed))


@pytest.mark.parametrize(
    ("what", "record"),
    [
        ("a route is deleted", "ip route add 203.0.113.11/32 dev {} src 192.0.2.2 metric 2"),
        ("a neighbour is given another MAC", "ip neigh replace 203.0.113.11 lladdr 00:16:3e:"),
        ("the uplink forwards no longer", "sysctl net/ipv4/conf/eth0/forwarding=1"),
        ("an element is deleted", "nft add element inet xennetd masquerade4"),
    ],
)
def test_a_repair_is_recorded_with_what_was_done(
    bed: Bed, everyone: Everyone, journal: Journal, what: str, record: str
) -> None:
    name, damage = DAMAGE[what]
    vif = everyone[name].vif.netdev
    damage(bed.host, vif)
    entry = journal.wait(lambda entry: entry.get("XENNET_EVENT") == "drift").fields
    assert record.format(vif) in entry["MESSAGE"]
    assert not journal.having(XENNET_EVENT="drift", XENNET_VIF=everyone["lan-1"].vif.netdev)
    assert not journal.having(XENNET_EVENT="drift", XENNET_VIF=everyone["store-1"].vif.netdev)


class TestTheBridgeOfANetwork:
    def test_is_made_again_with_all_its_guests(self, bed: Bed, everyone: Everyone, journal: Journal) -> None:
        dnsmasq = served("lab")
        ip(bed.host, "link del xn-lab")
        eventually(lambda: "xn-lab" in bed.host.links())
        lab = everyone[LAB].vif.netdev
        eventually(lambda: bed.host.links()[lab].get("master") == "xn-lab")
        assert {"10.77.0.1/24", "fd77::1/64"} <= set(bed.host.addresses("xn-lab"))
        eventually(lambda: served("lab") != dnsmasq)  # a new link needs a new listener
        assert everyone[LAB].hotplug_status() == "connected"
        journal.wait_for(XENNET_EVENT="drift", XENNET_NETWORK="lab", XENNET_VIF=lab)
        assert not journal.having(XENNET_EVENT="error"), "no guest is told of a network that is put right at once"


class TestTheUplink:
    def test_with_another_address_is_followed(self, bed: Bed, site: Site, everyone: Everyone) -> None:
        """As a DHCP client's lease may have it: the guests' gateway is the uplink's address."""
        vif = everyone[EDGE].vif.netdev
        ip(site.host, "address add 192.0.2.3/24 dev eth0", f"address del {HOST4}/24 dev eth0")
        ip(site.host, "address replace 192.0.2.3/24 dev eth0", f"route replace default via {ROUTER4}")
        eventually(lambda: [each for each in bed.host.addresses(vif) if "." in each] == ["192.0.2.3/32"])
        eventually(lambda: f"203.0.113.11 dev {vif} proto 120 scope link src 192.0.2.3" in _routes(site.host))
        assert everyone[EDGE].hotplug_status() == "connected"

    def test_without_an_address_is_an_error_until_it_has_one(
        self, bed: Bed, site: Site, everyone: Everyone, journal: Journal
    ) -> None:
        vif = everyone[EDGE].vif.netdev
        ip(site.host, f"address del {HOST4}/24 dev eth0")
        error = journal.wait_for(XENNET_EVENT="error", XENNET_VIF=vif)
        assert 'uplink "eth0" has no IPv4 address to be the guest\'s gateway' in error["XENNET_ERROR"]
        ip(site.host, f"address add {HOST4}/24 dev eth0", f"route replace default via {ROUTER4}")
        journal.wait_for(XENNET_EVENT="change", XENNET_VIF=vif)
        eventually(lambda: way(site.host, "203.0.113.11") == vif)

    def test_that_is_renamed_and_back_is_found_again(
        self, bed: Bed, site: Site, everyone: Everyone, journal: Journal
    ) -> None:
        before = held(bed)
        ip(site.host, "link set eth0 down", "link set eth0 name wan0", "link set wan0 up")
        journal.wait_for(XENNET_EVENT="error", XENNET_VIF=everyone[EDGE].vif.netdev)
        ip(site.host, "link set wan0 down", "link set wan0 name eth0")
        _down_and_up(site.host)
        assert same(_without_routes_of_others(before), lambda: _without_routes_of_others(held(bed)))

    def test_another_default_route_is_followed(self, bed: Bed, site: Site, everyone: Everyone) -> None:
        vif = everyone[ALONE].vif.netdev
        bed.host.rtnl.add_veth("eth1", "eth0", bed.host.guest("other-way").fd)
        ip(site.host, "link set eth1 up", "address add 192.0.3.2/24 dev eth1", "route del default")
        ip(site.host, "route add default via 192.0.3.1")
        eventually(lambda: [each for each in bed.host.addresses(vif) if "." in each] == ["192.0.3.2/32"])
        eventually(lambda: setting(site.host, "ipv4/conf/eth1/forwarding") == 1)


def _routes(host: NetNs) -> str:
    return re.sub(" +", " ", host.run("ip", "route", "show").stdout)


def _without_routes_of_others(lines: list[str]) -> list[str]:
    """Without what a test can't put back exactly: routes of others, and what a link's settings were under its name."""
    return [line for line in lines if not re.search("default|eth0|elements", line)]


def test_a_guest_that_waits_for_its_uplink_is_connected_when_that_appears(
    bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    xennetd = daemon(networks('[network.edge]\nmode = "route"\nuplink = "wan9"\n'))
    web = guest("edge-1", VifSpec(ip="203.0.113.11"))
    bed.toolstack.xs.until(f"{web.vif.backend}/hotplug-status", "error")
    assert 'uplink "wan9" does not exist: create it, or correct' in (web.hotplug_error() or "")
    assert any('uplink "wan9" does not exist: create it, or correct' in each for each in status(xennetd)["problems"])
    bed.host.rtnl.add_veth("wan9", "eth0", bed.host.guest("beyond-wan9").fd)
    ip(site.host, "address add 192.0.9.2/24 dev wan9", "link set wan9 up")
    connected(bed, web.vif)
    assert Path("/sys/class/net", web.vif.netdev, "operstate").exists()
    assert bed.host.addresses(web.vif.netdev) == ["192.0.9.2/32"]

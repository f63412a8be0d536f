"""What can't be had: a named error before anything is changed, the host as it was, and nobody else disturbed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed
from tests.bed.reach import ask
from tests.bed.site import HOST4, ROUTER4, ROUTER6, Site, ip, sysctl
from tests.bed.state import changes, host_state
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import FENCE, Inhabit, MakeDaemon, MakeGuest
from tests.kernel.status import status
from tests.kernel.verdict import connected, refused

ROUTED = VifSpec(script="vif-xennetd-route")
RESTART_PREVENTED = 78
EDGE = STAND_IN + '[network.edge]\nmode = "route"\nsubnets = ["203.0.113.0/28", "2001:db8:5::/64"]\n'
LAB = STAND_IN + '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/29", "fd77::/64"]\n'
TO_EDGE, TO_LAB = (f'[[policy]]\nmatch = {{ vm = "web*" }}\nnetwork = "{name}"\n' for name in ("edge", "lab"))


def test_networks_that_overlap_are_no_configuration(site: Site, daemon: MakeDaemon) -> None:
    other = '[network.other]\nmode = "isolated"\nsubnets = ["10.77.0.4/30"]\n'
    before = host_state(site.host)
    xennetd = daemon(LAB + other, ready=False)
    assert xennetd.wait() == RESTART_PREVENTED
    assert "network.other.subnets[1]" in xennetd.stderr()
    assert "10.77.0.0/29" in xennetd.stderr()
    assert changes(before, host_state(site.host)) == []


@pytest.mark.parametrize(
    ("config", "spec", "sentence"),
    [
        (STAND_IN, VifSpec("vif-xennetd-route", ip="203.0.113.11 2001:db8::zz"), "2001:db8::zz"),
        (STAND_IN, VifSpec("vif-xennetd-route", ip="203.0.113.11 203.0.113.0/99"), "203.0.113.0/99"),
        (STAND_IN, VifSpec("vif-xennetd-route", ip="203.0.113.11, 203.0.113.12"), "203.0.113.11,"),
        (STAND_IN, VifSpec("vif-xennetd-route", ip="203.0.113.11", gatewaydev="eth7"), 'uplink "eth7" does not exist'),
        (STAND_IN, VifSpec("vif-xennetd-route", ip="203.0.113.11", gatewaydev="../eth0"), '"../eth0"'),
        (STAND_IN, VifSpec("vif-xennetd-route", ip=HOST4), f"address {HOST4} is the host's own, on eth0"),
        (STAND_IN, VifSpec("vif-xennetd-route", ip=ROUTER4), f"address {ROUTER4} is that of the host's router"),
        (STAND_IN, VifSpec("vif-xennetd-route", ip=ROUTER6), f"address {ROUTER6} is that of the host's router"),
        (STAND_IN, VifSpec("vif-xennetd-nat", ip="10.0.0.5 10.0.0.6"), "one address"),
        (STAND_IN, VifSpec("vif-xennetd-nat", ip="2001:db8:5::1"), "IPv4 only"),
        (STAND_IN, VifSpec("vif-xennetd-nat", ip="10.0.0.255"), "its last octet must be 1 to 254"),
        (EDGE + TO_EDGE, VifSpec(ip="203.0.113.77"), "203.0.113.77: not in 203.0.113.0/28"),
        (EDGE + TO_EDGE, VifSpec(ip="203.0.113.3 2001:db8:6::1"), "2001:db8:6::1: not in 2001:db8:5::/64"),
        (EDGE + TO_EDGE, VifSpec(ip="203.0.113.0/24"), "203.0.113.0/24: not in 203.0.113.0/28"),
        (LAB + TO_LAB, VifSpec(ip="10.77.0.9"), "10.77.0.9: not in 10.77.0.0/29"),
        (LAB + TO_LAB, VifSpec(ip="10.77.0.1"), "10.77.0.1: the gateway of"),
        (LAB + TO_LAB, VifSpec(ip="10.77.0.7"), "10.77.0.7: an address that no guest of"),
        (LAB + TO_LAB, VifSpec(ip="10.77.0.3 rubbish"), "rubbish"),
    ],
)
def test_a_guest_that_asks_for_what_it_cant_have_changes_nothing(
    site: Site,
    bed: Bed,
    guest: MakeGuest,
    daemon: MakeDaemon,
    settle: Callable[[], None],
    config: str,
    spec: VifSpec,
    sentence: str,
) -> None:
    xennetd = daemon(config)
    settle()
    without = rf"{FENCE}|vif1\.0|vif1/0"
    before = host_state(site.host, without=without)
    web = guest("web", spec, domid=1)
    assert sentence in refused(bed, web.vif)
    settle()
    assert changes(before, host_state(site.host, without=without)) == []
    link = site.host.links()[web.vif.netdev]
    assert ("UP" in link["flags"], "master" in link) == (False, False)
    assert site.host.addresses(web.vif.netdev) == []
    (row,) = (row for row in xennetd.ask("list") if row["vm"] == "web")
    assert sentence in row["error"]


class TestAnAddressThatAnotherLiveGuestHas:
    @pytest.mark.parametrize(
        "wanted", ["203.0.113.11", "203.0.113.12 203.0.113.11", "203.0.113.8/29", "2001:db8:5::11"]
    )
    def test_stays_with_it(
        self,
        site: Site,
        bed: Bed,
        guest: MakeGuest,
        daemon: MakeDaemon,
        inhabit: Inhabit,
        settle: Callable[[], None],
        wanted: str,
    ) -> None:
        # given
        xennetd = daemon()
        first = guest("first", VifSpec("vif-xennetd-route", ip="203.0.113.11 2001:db8:5::11"), domid=1)
        place = inhabit(first, "203.0.113.11/32", "2001:db8:5::11/128", gateways=(HOST4, "fe80::1"))
        settle()
        without = rf"{FENCE}|vif2\.0"
        before = host_state(site.host, without=without)
        # when
        second = guest("second", VifSpec("vif-xennetd-route", ip=wanted), domid=2)
        told = refused(bed, second.vif)
        # then
        assert "is in use by another guest" in told
        assert "first" not in told
        assert "first" in xennetd.ask("show", "second")["error"]
        settle()
        assert changes(before, host_state(site.host, without=without)) == []
        for address in (place.ipv4, place.ipv6):
            answer = ask(site.internet, address)
            assert answer is not None
            assert answer.name == "first"
        # and: it is free when its owner has gone
        first.destroy()
        connected(bed, second.vif)

    def test_the_first_of_two_connected_ones_keeps_it_over_a_restart(
        self, site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        xennetd = daemon()
        first = guest("first", VifSpec("vif-xennetd-route", ip="203.0.113.11"), domid=9)
        connected(bed, first.vif)
        second = guest("second", VifSpec("vif-xennetd-route", ip="203.0.113.11"), domid=2)
        refused(bed, second.vif)
        xennetd.kill9()
        xennetd.start()
        settle()
        assert first.hotplug_status() == "connected"
        assert second.hotplug_status() == "error"
        assert "dev vif9.0" in site.host.run("ip", "route", "get", "203.0.113.11").stdout


@pytest.mark.usefixtures("dnsmasq")
class TestAFullPool:
    def test_is_said_and_the_next_gets_what_is_free_again(
        self, site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        # given: a /29 has the gateway and five guests
        daemon(LAB + "dhcp = true\n" + TO_LAB)
        guests = [guest(f"web-{number}") for number in range(5)]
        for each in guests:
            connected(bed, each.vif)
        # when
        late = guest("web-late")
        assert refused(bed, late.vif) == 'network "lab" has no free address left in 10.77.0.0/29'
        # then
        guests[3].destroy()
        connected(bed, late.vif)


class TestAHostThatCantHaveTheNetwork:
    """The host has the addresses, or lacks the uplink: the network is not ready, its guests wait with an error."""

    def test_a_subnet_that_the_host_has_already(
        self, site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        sysctl(site.host, ipv6__conf__default__accept_dad=0)  # it has IPv6 at once
        bed.host.bridge("docker0", address="10.77.0.5/16")
        before = host_state(site.host, without=FENCE)
        xennetd = daemon(LAB + TO_LAB)
        web = guest("web", VifSpec(ip="10.77.0.3"))
        why = 'subnet 10.77.0.0/29 is in use on this host already, on link "docker0"'
        assert refused(bed, web.vif) == f'network "lab": {why}'
        assert any(why in problem for problem in status(xennetd)["problems"])
        assert changes(before, host_state(site.host, without=rf"{FENCE}|vif1\.0")) == []
        # and: when the address goes, all is well without anybody's doing
        bed.host.rtnl.delete("docker0")
        connected(bed, web.vif, timeout=10)

    def test_an_uplink_that_comes_later(
        self, site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit
    ) -> None:
        xennetd = daemon(LAB + 'uplink = "eth1"\n' + TO_LAB)
        web = guest("web", VifSpec(ip="10.77.0.3"))
        assert refused(bed, web.vif).startswith('network "lab": uplink "eth1" does not exist: create it')
        assert any('uplink "eth1" does not exist' in problem for problem in status(xennetd)["problems"])
        wire = bed.host.guest("wire")
        bed.host.rtnl.add_veth("eth1", "eth0", wire.fd)
        ip(bed.host, "link set eth1 up", "address add 192.0.3.2/24 dev eth1")
        ip(wire, "link set eth0 up", "address add 192.0.3.1/24 dev eth0")
        connected(bed, web.vif)
        place = inhabit(web, "10.77.0.3/29", gateways=("10.77.0.1",))
        assert place.namespace.ping("192.0.3.1")
        assert place.namespace.ping("192.0.2.1", wait=0.3) is False

    def test_others_are_attached_all_the_same(self, site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.bridge("xenbr0")
        daemon(LAB + 'uplink = "eth1"\n' + TO_LAB)
        refused(bed, guest("web", VifSpec(ip="10.77.0.3")).vif)
        connected(bed, guest("other").vif)
        connected(bed, guest("routed", VifSpec("vif-xennetd-route", ip="203.0.113.11")).vif)

    def test_no_default_route_and_no_uplink_named(
        self, site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        ip(site.host, "route del default", f"route del default via {ROUTER6}")
        daemon()
        web = guest("web", VifSpec("vif-xennetd-route", ip="203.0.113.11"))
        assert refused(bed, web.vif).startswith("the host has no default route, and nothing names an uplink")
        ip(site.host, "route add default via 192.0.2.1")
        connected(bed, web.vif)

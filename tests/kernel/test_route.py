"""Routed guests: their gateway, who answers for them on the uplink, what they can't pretend, what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed
from tests.bed.netns import NetNs
from tests.bed.reach import Place, Services, ask, matrix, table
from tests.bed.site import HOST4, HOST6, ROUTER4, SERVER4, SERVER6, UPLINK, UPLINK_MAC, Site, ip
from tests.bed.state import changes, host_state
from tests.bed.toolstack import VifSpec
from tests.bed.wire import ALL, REPLY, REQUEST, Wire, advertisement, arp, router_advertisement, udp
from tests.kernel.conftest import FENCE, Inhabit, MakeDaemon, MakeGuest
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually

ROUTED = "vif-xennetd-route"
EVERYBODY = table(
    """
    from\\to   web db  dom0 internet
    web       .   yes yes  yes
    db        yes .   yes  yes
    dom0      yes yes .    yes
    internet  yes yes yes  .
    """
)
NOT_THE_INTERNET = table(
    """
    from\\to   web db  dom0 internet
    web       .   yes yes  no
    db        yes .   yes  no
    dom0      yes yes .    yes
    internet  no  no  yes  .
    """
)


def edge(*lines: str) -> str:
    """A configuration with one routed network for all."""
    return "\n".join((STAND_IN, "[network.edge]", 'mode = "route"', *lines, "[[policy]]", 'network = "edge"', ""))


@pytest.fixture
def everybody(site: Site, services: Services) -> Callable[[Place, Place], list[Place]]:
    """The two guests, dom0 and the internet, who answer too."""

    def add(web: Place, db: Place) -> list[Place]:
        for place in (site.dom0, site.beyond):
            services.offer(place)
        return [web, db, site.dom0, site.beyond]

    return add


Everybody = Callable[[Place, Place], list[Place]]


class TestReachability:
    def test_without_configuration_by_the_scripts_name(
        self, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, everybody: Everybody
    ) -> None:
        daemon()
        web = guest("web", VifSpec(script=ROUTED, ip="203.0.113.11 2001:db8:5::11"))
        db = guest("db", VifSpec(script=ROUTED, ip="203.0.113.12 2001:db8:5::12"))
        # The uplink's own IPv6 address is a gateway as good as fe80::1.
        places = everybody(
            inhabit(web, "203.0.113.11/32", "2001:db8:5::11/128", gateways=(HOST4, "fe80::1")),
            inhabit(db, "203.0.113.12/32", "2001:db8:5::12/128", gateways=(HOST4, HOST6)),
        )
        assert matrix(places, 4) == EVERYBODY
        assert matrix(places, 6) == EVERYBODY

    def test_with_the_same_link_local_gateway_for_all(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, everybody: Everybody
    ) -> None:
        daemon(edge('gateway = "link-local"'))
        gateways = ("169.254.1.1", "fe80::1")
        web = guest("web", VifSpec(ip="203.0.113.11 2001:db8:5::11"))
        db = guest("db", VifSpec(ip="203.0.113.12 2001:db8:5::12"))
        places = everybody(
            inhabit(web, "203.0.113.11/32", "2001:db8:5::11/128", gateways=gateways),
            inhabit(db, "203.0.113.12/32", "2001:db8:5::12/128", gateways=gateways),
        )
        assert matrix(places, 4) == EVERYBODY
        assert matrix(places, 6) == EVERYBODY
        for each in (web, db):
            assert sorted(bed.host.addresses(each.vif.netdev)) == ["169.254.1.1/32", "fe80::1/64"]

    @pytest.mark.parametrize("proxy", [True, False])
    def test_addresses_of_the_uplinks_own_subnet_need_a_proxy(
        self, site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, everybody: Everybody, proxy: bool
    ) -> None:
        for prefix in ("192.0.2.16/28", "2001:db8::/64"):
            site.by_neighbours(prefix)
        daemon(edge(f"proxy = {str(proxy).lower()}"))
        web = guest("web", VifSpec(ip="192.0.2.17 2001:db8::17"))
        db = guest("db", VifSpec(ip="192.0.2.18 2001:db8::18"))
        # Else the kernel takes up to 0.8 s, by chance, to answer for another.
        site.host.run("sysctl", "-qw", "net.ipv4.neigh.eth0.proxy_delay=0", "net.ipv6.neigh.eth0.proxy_delay=0")
        places = everybody(
            inhabit(web, "192.0.2.17/32", "2001:db8::17/128", gateways=(HOST4, "fe80::1")),
            inhabit(db, "192.0.2.18/32", "2001:db8::18/128", gateways=(HOST4, "fe80::1")),
        )
        assert matrix(places, 4) == (EVERYBODY if proxy else NOT_THE_INTERNET)
        assert matrix(places, 6) == (EVERYBODY if proxy else NOT_THE_INTERNET)

    def test_without_configuration_the_uplinks_own_subnet_is_proxied(
        self, site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, everybody: Everybody
    ) -> None:
        for prefix in ("192.0.2.16/28", "2001:db8::/64"):
            site.by_neighbours(prefix)
        daemon()
        web = guest("web", VifSpec(script=ROUTED, ip="192.0.2.17 2001:db8::17"))
        db = guest("db", VifSpec(script=ROUTED, ip="203.0.113.12 2001:db8:5::12"))
        # Else the kernel takes up to 0.8 s, by chance, to answer for another.
        site.host.run("sysctl", "-qw", "net.ipv4.neigh.eth0.proxy_delay=0", "net.ipv6.neigh.eth0.proxy_delay=0")
        places = everybody(
            inhabit(web, "192.0.2.17/32", "2001:db8::17/128", gateways=(HOST4, "fe80::1")),
            inhabit(db, "203.0.113.12/32", "2001:db8:5::12/128", gateways=(HOST4, "fe80::1")),
        )
        assert matrix(places, 4) == EVERYBODY
        assert matrix(places, 6) == EVERYBODY
        proxied = site.host.run("ip", "-json", "neighbour", "show", "proxy").stdout
        assert {entry["dst"] for entry in json.loads(proxied)} == {"192.0.2.17", "2001:db8::17"}

    def test_a_prefix_is_routed_to_the_guest(
        self, site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, services: Services
    ) -> None:
        daemon(edge())
        router = guest("router", VifSpec(ip="203.0.113.11 203.0.113.64/29 2001:db8:5::11 2001:db8:5:0:1::/80"))
        inhabit(router, "203.0.113.11/32", "2001:db8:5::11/128", gateways=(HOST4, "fe80::1"))
        for address, outside in (("203.0.113.66", "203.0.113.72"), ("2001:db8:5:0:1::66", "2001:db8:5:0:2::66")):
            for each in (address, outside):
                ip(router.namespace, f"address add {each} dev eth0")
                services.offer(Place(f"at-{each}", router.namespace, *((each, "") if "." in each else ("", each))))
            answer = ask(site.internet, address)
            assert answer is not None
            assert answer.name == f"at-{address}"
            assert ask(site.internet, outside) is None

    def test_gatewaydev_names_the_link_whose_address_is_the_gateway(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit
    ) -> None:
        wire = bed.host.guest("wire")
        bed.host.rtnl.add_veth("eth1", "eth0", wire.fd)
        ip(bed.host, "link set eth1 up", "address add 192.0.3.2/24 dev eth1")
        daemon()
        web = guest("web", VifSpec(script=ROUTED, ip="203.0.113.11", gatewaydev="eth1"))
        inhabit(web, "203.0.113.11/32", gateways=("192.0.3.2",))
        assert bed.host.addresses(web.vif.netdev) == ["192.0.3.2/32"]
        assert web.ping(SERVER4) is False  # what comes in by eth0 is not to be forwarded
        assert web.ping("192.0.3.2")


class TestWhatAGuestCantPretend:
    @pytest.fixture
    def victim(self, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit) -> Place:
        daemon(edge())
        web = guest("web", VifSpec(ip="203.0.113.11 2001:db8:5::11"))
        return inhabit(web, "203.0.113.11/32", "2001:db8:5::11/128", gateways=(HOST4, "fe80::1"))

    @pytest.fixture
    def villain(self, victim: Place, guest: MakeGuest, inhabit: Inhabit) -> Place:
        evil = guest("evil", VifSpec(ip="203.0.113.12 2001:db8:5::12"))
        return inhabit(evil, "203.0.113.12/32", "2001:db8:5::12/128", gateways=(HOST4, "fe80::1"))

    def test_packets_from_addresses_that_are_not_its_own_go_nowhere(self, site: Site, villain: Place) -> None:
        sources = {
            "the other guest's": ("203.0.113.11", "2001:db8:5::11"),
            "the host's": (HOST4, HOST6),
            "the router's": (ROUTER4, "2001:db8::1"),
            "anybody's": ("198.51.100.77", "2001:db8:ffff::77"),
            "nobody's": ("240.0.0.1", "fe80::12"),
            "the loopback's": ("127.0.0.1", "::1"),
        }
        with Wire(site.internet) as outside, Wire(villain.namespace) as wire:
            for whose, (ipv4, ipv6) in sources.items():
                for source, target in ((ipv4, SERVER4), (ipv6, SERVER6)):
                    wire.send(udp(mac(villain), "fe:ff:ff:ff:ff:ff", source, target, f"as {whose}".encode()))
            for source, target in ((villain.ipv6, SERVER6), (villain.ipv4, SERVER4)):
                wire.send(udp(mac(villain), "fe:ff:ff:ff:ff:ff", source, target, f"as its own, {target}".encode()))
            passed = [frame for frame in outside.until(f"as its own, {SERVER4}".encode()) if b"as " in frame.raw]
        assert [frame.sender for frame in passed] == [villain.ipv6, villain.ipv4]

    def test_it_does_not_get_the_traffic_of_an_address_that_it_claims(
        self, site: Site, services: Services, victim: Place, villain: Place
    ) -> None:
        # given: it has the addresses, answers for them, and says so to everybody who listens
        ip(villain.namespace, *(f"address add {each} dev eth0 nodad" for each in ("2001:db8:5::11/128",)))
        ip(villain.namespace, "address add 203.0.113.11/32 dev eth0")
        services.offer(Place("evil", villain.namespace, victim.ipv4, victim.ipv6))
        with Wire(villain.namespace) as wire:
            for operation in (REQUEST, REPLY):
                for target in (ALL, "fe:ff:ff:ff:ff:ff"):
                    wire.send(arp(operation, mac(villain), victim.ipv4, target, victim.ipv4))
                    wire.send(arp(operation, mac(villain), victim.ipv4, target, HOST4))
            wire.send(advertisement(mac(villain), villain.ipv6, "ff02::1", victim.ipv6))
            wire.send(advertisement(mac(villain), "fe80::1", "ff02::1", victim.ipv6))
        # then
        for asking in (site.host, site.internet):
            for address in (victim.ipv4, victim.ipv6):
                answer = ask(asking, address)
                assert answer is not None
                assert answer.name == "web"

    def test_its_router_advertisements_do_not_concern_the_host(self, site: Site, villain: Place) -> None:
        before = host_state(site.host)
        with Wire(villain.namespace) as wire, Wire(site.internet) as outside:
            for receiver in ("ff02::1", "fe80::1"):
                wire.send(router_advertisement(mac(villain), "fe80::bad", receiver))
            wire.send(udp(mac(villain), "fe:ff:ff:ff:ff:ff", villain.ipv4, SERVER4, b"fence"))
            outside.until(b"fence")
        assert changes(before, host_state(site.host)) == []


def mac(place: Place) -> str:
    return str(place.namespace.links()["eth0"]["address"])


class TestWhatIsLeft:
    SPEC = VifSpec(script=ROUTED, ip="203.0.113.11 192.0.2.17 2001:db8:5::11 2001:db8::17")

    @pytest.mark.parametrize("forwards", [0, 1])
    def test_the_host_is_as_before_when_the_last_guest_has_gone(
        self, site: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None], forwards: int
    ) -> None:
        """Forwarding included: it is off again, or on if it was on before."""
        ip(site.host, "route add 100.64.0.0/10 via 192.0.2.1", "neighbour add proxy 192.0.2.99 dev eth0")
        for setting in (f"ipv4.conf.{UPLINK}.forwarding", f"ipv6.conf.{UPLINK}.forwarding"):
            site.host.run("sysctl", "-qw", f"net.{setting}={forwards}")
        daemon()
        settle()
        before = host_state(site.host, without=FENCE)

        web = guest("web", self.SPEC)
        web.connect()
        assert changes(before, host_state(site.host, without=FENCE)) != []

        web.destroy()
        settle()
        assert changes(before, host_state(site.host, without=FENCE)) == []

    def test_a_vif_that_is_detached_is_out_of_service_before_it_has_gone(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        daemon()
        web = guest("web", self.SPEC)
        web.connect()
        bed.toolstack.detach_vif(web.vif)
        eventually(lambda: "UP" not in bed.host.links()[web.vif.netdev]["flags"])
        eventually(lambda: "203.0.113.11" not in bed.host.run("ip", "route").stdout)
        eventually(lambda: "192.0.2.17" not in bed.host.run("ip", "neighbour", "show", "proxy").stdout)


class TestReboot:
    """The new domain is there before the old one has gone."""

    def test_the_address_goes_over_and_the_old_ones_end_does_not_take_it_away(
        self, site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, settle: Callable[[], None]
    ) -> None:
        spec = VifSpec(script=ROUTED, ip="192.0.2.17 2001:db8::17", mac="00:16:3e:00:00:17")
        for prefix in ("192.0.2.16/28", "2001:db8::/64"):
            site.by_neighbours(prefix)
        daemon()
        old = guest("web", spec)
        inhabit(old, "192.0.2.17/32", "2001:db8::17/128", gateways=(HOST4, "fe80::1"))
        assert site.internet.ping("192.0.2.17")

        new = guest("web", spec, uuid=old.domain.uuid)
        place = inhabit(new, "192.0.2.17/32", "2001:db8::17/128", gateways=(HOST4, "fe80::1"))
        assert (ask(site.internet, place.ipv4), ask(site.internet, place.ipv6)) != (None, None)
        settle()
        assert self.who(site.host, place.ipv4) == new.vif.netdev

        old.destroy()
        settle()
        for address in (place.ipv4, place.ipv6):
            assert self.who(site.host, address) == new.vif.netdev
            assert ask(site.internet, address) is not None

    def test_the_domid_that_was_another_guests_is_a_new_guests(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        daemon()
        old = guest("old", VifSpec(script=ROUTED, ip="203.0.113.11"), domid=5)
        old.connect()
        old.destroy()
        new = guest("new", VifSpec(script=ROUTED, ip="203.0.113.12"), domid=5)
        connected(bed, new.vif)
        settle()
        assert self.who(site.host, "203.0.113.12") == "vif5.0"
        assert self.who(site.host, "203.0.113.11") == UPLINK

    @staticmethod
    def who(host: NetNs, address: str) -> str:
        """The link that the host sends to an address by."""
        return str(json.loads(host.run("ip", "-json", "route", "get", address).stdout)[0]["dev"])


def test_the_uplinks_mac_is_the_only_one_on_the_wire(
    site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit
) -> None:
    site.by_neighbours("192.0.2.16/28")
    daemon()
    with Wire(site.internet) as wire:
        web = guest("web", VifSpec(script=ROUTED, ip="192.0.2.17"))
        inhabit(web, "192.0.2.17/32", gateways=(HOST4,))
        assert web.ping(SERVER4)
        assert site.internet.ping("192.0.2.17")
        assert {frame.source for frame in wire.frames()} == {UPLINK_MAC}

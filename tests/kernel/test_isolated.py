"""Isolated networks lead nowhere: whatever a guest sends, no frame of it is on the uplink, and none comes to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed import dhcp
from tests.bed.daemon import STAND_IN
from tests.bed.reach import Place, Services, ask, matrix, table
from tests.bed.site import HOST4, HOST6, ROUTER4, ROUTER_MAC, SERVER4, SERVER6, UPLINK_MAC, Site
from tests.bed.state import changes, host_state
from tests.bed.toolstack import VifSpec
from tests.bed.wire import ALL, REQUEST, Frame, Wire, advertisement, arp, udp
from tests.kernel.conftest import FENCE, Inhabit, MakeDaemon, MakeGuest
from tests.kernel.wait import eventually

NETWORKS = """
[network.store]
mode = "isolated"
subnets = ["10.78.0.0/24", "fd78::/64"]
{dhcp}

[network.cable]
mode = "isolated"

[network.lab]
mode = "nat"
subnets = ["10.77.0.0/24", "fd77::/64"]
nat66 = true

[[policy]]
match = {{ vm = "cable-*" }}
network = "cable"

[[policy]]
match = {{ vm = "lab-*" }}
network = "lab"

[[policy]]
network = "store"
"""
CONFIGURATION = STAND_IN + NETWORKS.format(dhcp="")
WITH_DHCP = STAND_IN + NETWORKS.format(dhcp="dhcp = true")

MARK = b"what must not get out"


def everything(place: Place, gateway: str) -> list[bytes]:
    """Frames of all the kinds by which a guest could look for, or find, a way out; `gateway` is a MAC to send them to.

    Each has the guest's MAC or MARK in it.
    """
    mine = mac(place)
    sources4 = (place.ipv4, HOST4, ROUTER4, "10.77.0.11", "203.0.113.5", "0.0.0.0", "127.0.0.1")
    sources6 = (place.ipv6, HOST6, "fd77::11", "2001:db8:5::5", "fe80::5", "::", "::1")
    frames = [
        arp(REQUEST, mine, place.ipv4, ALL, ROUTER4),
        arp(REQUEST, mine, HOST4, ALL, SERVER4),
        advertisement(mine, place.ipv6, "ff02::1", HOST6),
        udp(mine, ALL, "0.0.0.0", "255.255.255.255", MARK, port=67),  # DHCP
        udp(mine, ALL, place.ipv4, "192.0.2.255", MARK),
        udp(mine, "01:00:5e:00:00:fb", place.ipv4, "224.0.0.251", MARK),  # mDNS
        udp(mine, "33:33:00:01:00:02", "fe80::5", "ff02::1:2", MARK, port=547),  # DHCPv6
        udp(mine, "33:33:00:00:00:02", "fe80::5", "ff02::2", MARK),
        udp(mine, "33:33:00:00:01:01", place.ipv6, "ff05::101", MARK),
    ]
    for to in (gateway, UPLINK_MAC, ROUTER_MAC, ALL):
        frames += [udp(mine, to, source, target, MARK) for source in sources4 for target in (SERVER4, ROUTER4)]
        frames += [udp(mine, to, source, target, MARK) for source in sources6 for target in (SERVER6, "ff0e::1")]
    return frames


def mac(place: Place) -> str:
    return str(place.namespace.links()["eth0"]["address"])


def leaks(frames: list[Frame], place: Place) -> list[str]:
    """Those frames that come from a guest, whoever has sent them on."""
    signs = (MARK, bytes.fromhex(mac(place).replace(":", "")))
    return [str(frame) for frame in frames if any(sign in frame.raw for sign in signs)]


@pytest.fixture
def member(guest: MakeGuest, inhabit: Inhabit) -> Callable[[str, int], Place]:
    """Have a guest of this name in `store`, with this number in its subnets, and with default routes."""

    def make(name: str, number: int) -> Place:
        spec = VifSpec(ip=f"10.78.0.{number} fd78::{number}")
        addresses = f"10.78.0.{number}/24", f"fd78::{number}/64"
        return inhabit(guest(name, spec), *addresses, gateways=("10.78.0.1", "fd78::1"))

    return make


Member = Callable[[str, int], Place]

MATRIX = table(
    """
    from\\to   store-1 store-2 dom0 internet
    store-1   .       yes     no   no
    store-2   yes     .       no   no
    dom0      yes     yes     .    yes
    internet  no      no      yes  .
    """
)


@pytest.fixture(params=[False, True], ids=["", "a host that forwards everything"])
def forwards(site: Site, request: pytest.FixtureRequest) -> None:
    """As the host is by itself; and as Docker, or libvirt, may have set it up."""
    if request.param:
        site.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        site.host.run("sysctl", "-qw", "net.ipv6.conf.default.forwarding=1", "net.ipv4.conf.all.proxy_arp=1")
        theirs = "type filter hook forward priority 0; policy accept;"
        site.host.run("nft", f"add table ip theirs; add chain ip theirs forwarded {{ {theirs} }}")


@pytest.mark.usefixtures("forwards")
def test_guests_reach_one_another_and_the_host_alone(
    site: Site, daemon: MakeDaemon, member: Member, services: Services
) -> None:
    daemon(CONFIGURATION)
    places = [member("store-1", 11), member("store-2", 12), site.dom0, site.beyond]
    for place in places[2:]:
        services.offer(place)
    assert matrix(places, 4) == MATRIX
    assert matrix(places, 6) == MATRIX
    # The host is there by its gateway's address alone: what listens on its others may know a way out.
    for store in places[:2]:
        assert store.namespace.ping("10.78.0.1")
        assert store.namespace.ping("fd78::1")


@pytest.mark.usefixtures("forwards")
class TestFrames:
    def test_none_of_the_guest_is_ever_on_the_uplink(
        self, site: Site, daemon: MakeDaemon, member: Member, guest: MakeGuest, inhabit: Inhabit
    ) -> None:
        # given
        daemon(CONFIGURATION)
        store = member("store-1", 11)
        lab = inhabit(guest("lab-1", VifSpec(ip="10.77.0.11")), "10.77.0.11/24", gateways=("10.77.0.1",))
        links = site.host.links()
        with Wire(site.internet) as outside:
            # when
            assert dhcp.udhcpc(store.namespace, tries=1) == {}
            store.namespace.ping(SERVER4, wait=0.2)
            store.namespace.ping(SERVER6, wait=0.2)
            send(store, everything(store, links["xn-store"]["address"]))
            # then: what came out by then did so before this, which shows that it would have been seen
            with Wire(lab.namespace) as wire:
                wire.send(udp(mac(lab), links["xn-lab"]["address"], lab.ipv4, SERVER4, b"fence"))
            frames = outside.until(b"fence")
        assert leaks(frames, store) == []

    @pytest.mark.usefixtures("br_netfilter")
    def test_a_network_without_subnets_is_a_cable_between_its_guests(
        self, site: Site, daemon: MakeDaemon, guest: MakeGuest, inhabit: Inhabit, services: Services
    ) -> None:
        # given: guests that try the host's bridge as their gateway
        daemon(CONFIGURATION)
        one = inhabit(guest("cable-1"), "10.99.0.1/24", "fd99::1/64")
        other = inhabit(guest("cable-2"), "10.99.0.2/24", "fd99::2/64")
        eventually(lambda: ask(one.namespace, other.ipv4))
        eventually(lambda: ask(one.namespace, other.ipv6))
        assert site.host.addresses("xn-cable") == []
        # when
        bridge = site.host.links()["xn-cable"]["address"]
        with Wire(site.internet) as outside, Wire(other.namespace) as inside:
            send(one, everything(one, bridge))
            assert inside.has(MARK)
            # then
            site.host.ping(ROUTER4)
            assert leaks(outside.frames(), one) == []

    def test_a_forged_source_gets_no_answer_out_of_the_host(
        self, site: Site, daemon: MakeDaemon, member: Member, services: Services
    ) -> None:
        # given: something that answers on the host
        daemon(CONFIGURATION)
        services.offer(Place("dom0", site.host, "10.78.0.1", "fd78::1"))
        store = member("store-1", 11)
        # when
        with Wire(site.internet) as outside, Wire(store.namespace) as wire:
            for source, target in ((SERVER4, HOST4), (SERVER4, "10.78.0.1"), (SERVER6, HOST6), (SERVER6, "fd78::1")):
                wire.send(udp(mac(store), site.host.links()["xn-store"]["address"], source, target, MARK, port=7))
            assert ask(store.namespace, "10.78.0.1", tcp=False) is not None  # by then the others were answered, too
            assert [str(frame) for frame in outside.frames() if b"dom0" in frame.raw] == []

    def test_nothing_from_outside_gets_in(self, site: Site, daemon: MakeDaemon, member: Member) -> None:
        daemon(CONFIGURATION)
        store = member("store-1", 11)
        with Wire(site.internet) as outside, Wire(store.namespace) as inside:
            for source, target in (
                (SERVER4, store.ipv4),
                ("10.78.0.12", store.ipv4),
                ("10.78.0.1", store.ipv4),
                (SERVER6, store.ipv6),
                ("fd78::12", store.ipv6),
            ):
                for to in (UPLINK_MAC, mac(store), ALL):
                    outside.send(udp(ROUTER_MAC, to, source, target, MARK))
            assert not inside.has(MARK, timeout=0.5)


@pytest.mark.usefixtures("dnsmasq")
class TestDhcp:
    def test_gives_an_address_and_no_way_out(self, site: Site, guest: MakeGuest, daemon: MakeDaemon) -> None:
        daemon(WITH_DHCP)
        web = guest("store-1")
        web.connect()
        with Wire(site.internet) as outside:
            lease = dhcp.udhcpc(web.namespace)
            assert lease["ip"].startswith("10.78.0.")
            assert "router" not in lease
            Site.give(web.namespace, f"{lease['ip']}/24")
            assert web.ping("10.78.0.1")
            site.host.ping(ROUTER4)
            assert leaks(outside.frames(), Place("web", web.namespace)) == []

    def test_dns_knows_the_guests_and_asks_nobody_else(self, site: Site, guest: MakeGuest, daemon: MakeDaemon) -> None:
        # given: a host with a resolver, which must not be asked for a guest (a tunnel out, a label at a time)
        Path("/etc/resolv.conf").write_text(f"nameserver {SERVER4}\n")
        daemon(WITH_DHCP)
        web = guest("store-1", VifSpec(ip="10.78.0.11"))
        web.connect()
        Site.give(web.namespace, "10.78.0.11/24")
        with Wire(site.internet) as outside:
            assert web.ping("10.78.0.1")
            answer = dhcp.ask(web.namespace, "10.78.0.1", "store-1.store.internal")
            assert answer == dhcp.Answer(dhcp.NOERROR, ["10.78.0.11"])
            for name in ("secret.tunnel.example", "secret", "secret.store.internal"):
                answer = dhcp.ask(web.namespace, "10.78.0.1", name)
                assert answer is not None
                assert answer.code != dhcp.NOERROR
            site.host.ping(ROUTER4)
            assert [str(frame) for frame in outside.frames() if b"secret" in frame.raw] == []

    def test_answers_on_no_other_network(self, site: Site, guest: MakeGuest, daemon: MakeDaemon) -> None:
        """Neither on another isolated network, nor on a bridge, nor on the uplink."""
        site.host.bridge("xenbr0")
        daemon(WITH_DHCP + '[network.lan]\nmode = "bridge"\nbridge = "xenbr0"\n')
        web = guest("store-1")
        web.connect()
        cable = guest("cable-1")
        cable.connect()
        bridged = site.host.guest("bridged")
        site.host.rtnl.add_veth("port0", "eth0", bridged.fd)
        site.host.rtnl.set("port0", master="xenbr0", up=True)
        bridged.rtnl.set("eth0", up=True)
        for stranger in (cable.namespace, bridged, site.internet):
            assert dhcp.udhcpc(stranger, tries=1) == {}
        assert dhcp.udhcpc(web.namespace) != {}
        for address in (HOST4, "10.78.0.1"):
            assert dhcp.ask(site.internet, address, "store-1.store.internal", timeout=0.3) is None


def test_nothing_is_left_of_it(site: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]) -> None:
    xennetd = daemon(STAND_IN)
    settle()
    before = host_state(site.host, without=FENCE)
    xennetd.configure(CONFIGURATION)
    assert xennetd.ctl("reload").returncode == 0
    web = guest("store-1", VifSpec(ip="10.78.0.11"))
    web.connect()
    web.destroy()
    xennetd.configure(STAND_IN)
    assert xennetd.ctl("reload").returncode == 0
    settle()
    assert changes(before, host_state(site.host, without=FENCE)) == []


def send(place: Place, frames: list[bytes]) -> None:
    with Wire(place.namespace) as wire:
        for frame in frames:
            wire.send(frame)

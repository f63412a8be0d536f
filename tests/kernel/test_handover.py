"""A guest's addresses while domains come and go: reboot, migration, domids used again, two who want the same one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.dhcp import udhcpc
from tests.bed.guest import Bed, Guest
from tests.bed.site import HOST4, SERVER4, Site, sysctl
from tests.bed.state import changes, host_state
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import FENCE, Inhabit, MakeDaemon, MakeGuest
from tests.kernel.every_mode import (
    EVERY_MODE,
    Pings,
    elements,
    neighbours,
    networks,
    policy,
    proxied,
    same,
    served,
    told,
    way,
)
from tests.kernel.status import status
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually, paused
from xennetd.model.value import replace

MAC = "00:16:3e:0a:0b:0c"
EDGE = VifSpec(ip="192.0.2.17 203.0.113.11 2001:db8::17", mac=MAC)
LAB = VifSpec(mac=MAC)
ADDRESSES = ("192.0.2.17", "203.0.113.11", "2001:db8::17")


@pytest.fixture(autouse=True)
def on_a_host(site: Site) -> None:
    """The host's bridges have IPv6 at once."""
    sysctl(site.host, ipv6__conf__default__accept_dad=0)


def has_all(site: Site, guest: Guest) -> bool:
    """Whether routes, neighbours and proxies of EDGE's addresses are those of this guest."""
    host, vif = site.host, guest.vif.netdev
    led = {way(host, address) for address in ADDRESSES} == {vif}
    known = neighbours(host, vif).items() >= dict.fromkeys(ADDRESSES, MAC).items()
    return led and known and set(ADDRESSES) == proxied(host)


class TestRoute:
    @pytest.fixture
    def old(self, site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit) -> Guest:
        daemon(networks('[network.edge]\nmode = "route"\nproxy = true\n'))
        old = guest("edge-1", EDGE)
        inhabit(old, "203.0.113.11/32", gateways=(HOST4,))
        return old

    def test_a_reboot_hands_everything_over_before_the_old_domain_has_gone(
        self, site: Site, old: Guest, guest: MakeGuest, inhabit: Inhabit, settle: Callable[[], None]
    ) -> None:
        assert has_all(site, old)
        new = guest("edge-1", EDGE, uuid=old.domain.uuid)
        inhabit(new, "203.0.113.11/32", gateways=(HOST4,))
        settle()
        assert has_all(site, new)
        assert site.internet.ping("203.0.113.11")
        old.destroy()
        settle()
        assert has_all(site, new)
        assert site.internet.ping("203.0.113.11")

    def test_a_reboot_after_the_old_domain_has_gone_is_the_same(
        self, site: Site, old: Guest, guest: MakeGuest, inhabit: Inhabit
    ) -> None:
        uuid = old.domain.uuid
        old.destroy()
        new = guest("edge-1", EDGE, uuid=uuid)
        inhabit(new, "203.0.113.11/32", gateways=(HOST4,))
        assert has_all(site, new)
        assert site.internet.ping("203.0.113.11")

    def test_a_reboot_costs_no_more_than_the_guest_itself_is_away(
        self, site: Site, old: Guest, guest: MakeGuest, inhabit: Inhabit
    ) -> None:
        pings = Pings(site.internet, "203.0.113.11", count=600)
        begun = time.monotonic()
        old.destroy()
        new = guest("edge-1", EDGE, uuid=old.domain.uuid)
        inhabit(new, "203.0.113.11/32", gateways=(HOST4,))  # both its drivers are connected, and it has its address
        away = time.monotonic() - begun
        assert 0 < pings.lost() * Pings.INTERVAL <= away + 2 * Pings.INTERVAL

    def test_a_migration_loses_no_packet(
        self, bed: Bed, site: Site, old: Guest, guest: MakeGuest, settle: Callable[[], None]
    ) -> None:
        """Both domains are online, with one uuid, until the old one is destroyed; the new one answers at once."""
        new = guest("edge-1--incoming", EDGE, uuid=old.domain.uuid)
        # The guest is in memory already, and answers as soon as it has its network.
        new.namespace.rtnl.set("eth0", up=True, address=MAC)
        site.give(new.namespace, "203.0.113.11/32", gateways=(HOST4,))
        pings = Pings(site.internet, "203.0.113.11")
        new.connect()
        settle()
        old.destroy()
        bed.toolstack.rename_domain(new.domain, "edge-1")
        settle()
        assert pings.lost() <= 1, "one may be on its way to the old domain"
        assert has_all(site, new)

    def test_a_migration_that_fails_leaves_the_old_one_in_its_place(
        self, site: Site, old: Guest, guest: MakeGuest, settle: Callable[[], None]
    ) -> None:
        new = guest("edge-1--incoming", EDGE, uuid=old.domain.uuid)
        new.connect()
        settle()
        assert has_all(site, new)
        new.destroy()
        settle()
        assert has_all(site, old)
        assert site.internet.ping("203.0.113.11")

    def test_a_domid_is_used_again_before_the_old_link_has_gone(
        self, bed: Bed, site: Site, old: Guest, guest: MakeGuest, settle: Callable[[], None]
    ) -> None:
        """The directory goes first, the link later, and in between the number is another guest's."""
        domid = old.domain.domid
        bed.toolstack.detach_vif(old.vif)
        bed.toolstack.forget_vif(old.vif)
        bed.netback.destroy(old.vif)
        bed.toolstack.destroy_domain(old.domain)
        heir = guest("edge-2", EDGE, domid=domid)
        connected(bed, heir.vif)
        settle()
        assert has_all(site, heir)

    def test_a_late_end_takes_nothing_from_others_with_neighbouring_numbers(
        self, site: Site, old: Guest, guest: MakeGuest, inhabit: Inhabit, settle: Callable[[], None], bed: Bed
    ) -> None:
        """dom1 and dom10: a stock script took the one for the other."""
        tenth = guest("edge-10", VifSpec(ip="203.0.113.110 192.0.2.110"), domid=10 * old.domain.domid)
        connected(bed, tenth.vif)
        old.destroy()
        settle()
        assert way(site.host, "203.0.113.110") == tenth.vif.netdev
        assert proxied(site.host) == {"192.0.2.110", "203.0.113.110"}


class TestTheSameAddressTwice:
    def test_who_has_it_keeps_it_and_the_other_gets_it_afterwards(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
    ) -> None:
        xennetd = daemon(networks('[network.edge]\nmode = "route"\nproxy = true\n'))
        first, second = guest("edge-1", EDGE), guest("edge-2", replace(EDGE, ip="203.0.113.99 203.0.113.11"))
        connected(bed, first.vif)
        assert refused(bed, second.vif) == "address 203.0.113.11 is in use by another guest"
        entry = journal.wait_for(XENNET_EVENT="error", XENNET_VIF=second.vif.netdev)
        assert f"belongs to {first.vif.netdev} of edge-1 already" in entry["MESSAGE"]
        assert any("edge-1 already" in problem for problem in status(xennetd)["problems"])
        # Nothing is half-applied.
        assert has_all(site, first)
        assert way(site.host, "203.0.113.99") == "eth0"

        first.destroy()
        connected(bed, second.vif)
        settle()
        assert way(site.host, "203.0.113.11") == second.vif.netdev
        assert proxied(site.host) == {"203.0.113.11", "203.0.113.99"}

    @pytest.mark.parametrize("lines", ["", "dhcp = true\n"])
    @pytest.mark.parametrize("mode", ["nat", "isolated"])
    def test_in_a_network_too(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, mode: str, lines: str, dnsmasq: None
    ) -> None:
        daemon(networks(f'[network.lab]\nmode = "{mode}"\nsubnets = ["10.77.0.0/24"]\n{lines}'))
        first, second = guest("lab-1", VifSpec(ip="10.77.0.5")), guest("lab-2", VifSpec(ip="10.77.0.5"))
        connected(bed, first.vif)
        assert refused(bed, second.vif) == "address 10.77.0.5 is in use by another guest"
        first.destroy()
        connected(bed, second.vif)

    def test_a_prefix_that_holds_anothers_address(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        daemon()
        first = guest("one", VifSpec(script="vif-xennetd-route", ip="203.0.113.66"))
        connected(bed, first.vif)
        second = guest("two", VifSpec(script="vif-xennetd-route", ip="203.0.113.64/29"))
        assert refused(bed, second.vif) == "address 203.0.113.64/29 is in use by another guest"
        first.destroy()
        connected(bed, second.vif)

    @pytest.mark.parametrize("names", [("keeper", "late"), ("late", "keeper")], ids=lambda names: f"{names[0]} first")
    def test_after_a_restart_it_is_the_one_that_was_connected_who_keeps_it(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, names: tuple[str, str]
    ) -> None:
        xennetd = daemon(STAND_IN + policy("late", 'deny = "later"'))
        spec = VifSpec(script="vif-xennetd-route", ip="203.0.113.11")
        guests = {name: guest(name, spec) for name in names}
        keeper, late = guests["keeper"], guests["late"]
        connected(bed, keeper.vif)
        assert "later" in refused(bed, late.vif)
        xennetd.reload(STAND_IN)
        assert "in use" in (late.hotplug_error() or "")
        xennetd.kill9()
        xennetd.start()
        assert way(site.host, "203.0.113.11") == keeper.vif.netdev
        assert late.hotplug_status() == "error"
        attached = {entry["XENNET_VIF"] for entry in journal.entries if entry.get("XENNET_EVENT") == "attach"}
        assert attached == {keeper.vif.netdev}, "it was never anybody else's"
        keeper.destroy()
        connected(bed, late.vif)
        assert way(site.host, "203.0.113.11") == late.vif.netdev

    def test_one_that_was_denied_for_a_while_does_not_take_it_back(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        xennetd = daemon()
        spec = VifSpec(script="vif-xennetd-route", ip="203.0.113.11")
        first = guest("first", spec)
        connected(bed, first.vif)
        xennetd.reload(STAND_IN + policy("first", 'deny = "it is quarantined"'))
        second = guest("second", spec)
        connected(bed, second.vif)
        xennetd.reload(STAND_IN)
        assert way(site.host, "203.0.113.11") == second.vif.netdev
        counts = status(xennetd)["counts"]
        assert (counts["connected"], counts["error"]) == (1, 1)
        second.destroy()
        eventually(lambda: way(site.host, "203.0.113.11") == first.vif.netdev)

    @pytest.mark.parametrize("end_first", [True, False])
    def test_one_whose_end_is_seen_together_with_the_next_ones_beginning_is_not_in_its_way(
        self,
        bed: Bed,
        site: Site,
        guest: MakeGuest,
        daemon: MakeDaemon,
        journal: Journal,
        settle: Callable[[], None],
        end_first: bool,
    ) -> None:
        xennetd = daemon()
        spec = VifSpec(script="vif-xennetd-route", ip="203.0.113.11")
        first = guest("first", spec)
        first.connect()
        settle()

        with paused(xennetd.pid):
            if end_first:
                first.begin_removal()
            second = guest("second", spec)
            if not end_first:
                first.begin_removal()
        connected(bed, second.vif)
        settle()
        assert way(site.host, "203.0.113.11") == second.vif.netdev
        assert not journal.having(XENNET_EVENT="error")


@pytest.mark.usefixtures("dnsmasq")
class TestNat:
    @pytest.fixture
    def old(self, guest: MakeGuest, daemon: MakeDaemon) -> Guest:
        daemon(EVERY_MODE)
        served("lab")
        old = guest("lab-1", LAB)
        old.connect()
        return old

    @staticmethod
    def take_lease(guest: Guest) -> str:
        vif = Path("/sys/class/net", guest.vif.netdev, "operstate")
        eventually(lambda: vif.read_text() == "up\n")
        lease = udhcpc(guest.namespace)
        guest.namespace.run("ip", "address", "replace", f"{lease['ip']}/24", "dev", "eth0")
        guest.namespace.run("ip", "route", "replace", "default", "via", lease["router"])
        return lease["ip"]

    @pytest.mark.parametrize("overlapping", [True, False])
    def test_a_reboot_keeps_lease_address_and_forwards(
        self,
        site: Site,
        old: Guest,
        guest: MakeGuest,
        settle: Callable[[], None],
        overlapping: bool,
    ) -> None:
        address = self.take_lease(old)
        assert old.ping(SERVER4)
        assert address in elements(site.host, "forward4")
        if not overlapping:
            old.destroy()
        new = guest("lab-1", LAB, uuid=old.domain.uuid)
        new.connect()
        if overlapping:
            settle()
            old.destroy()
            settle()
        assert self.take_lease(new) == address
        assert new.ping(SERVER4)
        assert address in elements(site.host, "forward4")
        assert list(told("lab")) == [MAC.replace(":", "")]

    def test_the_address_stays_the_domains_when_others_come_in_between(self, old: Guest, guest: MakeGuest) -> None:
        address = self.take_lease(old)
        old.destroy()
        others = [guest(f"lab-{number}") for number in range(2, 6)]
        for each in others:
            each.connect()
        new = guest("lab-1", LAB, uuid=old.domain.uuid)
        new.connect()
        assert self.take_lease(new) == address
        found = {line.split(",")[1] for line in told("lab").values()}
        assert len(found) == len(others) + 1

    def test_without_a_network_the_masquerade_is_the_guests_whose_address_it_is(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        daemon(STAND_IN)
        spec = VifSpec(script="vif-xennetd-nat", ip="10.9.9.9", mac=MAC)
        old = guest("web", spec)
        connected(bed, old.vif)
        new = guest("web", spec, uuid=old.domain.uuid)
        connected(bed, new.vif)
        old.destroy()
        settle()
        assert elements(site.host, "masquerade4") == '10.9.9.9 . "eth0"'
        assert way(site.host, "10.9.9.9") == new.vif.netdev


def test_a_crowd_of_reboots_leaves_nothing(
    bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
) -> None:
    daemon(networks('[network.edge]\nmode = "route"\nproxy = true\n'))
    settle()
    before = host_state(site.host, without=FENCE)
    life = guest("edge-1", EDGE)
    for _ in range(10):
        connected(bed, life.vif)
        later = guest("edge-1", EDGE, uuid=life.domain.uuid)
        connected(bed, later.vif)
        life.destroy()
        life = later
    settle()
    assert has_all(site, life)
    assert changes(before, host_state(site.host, without=FENCE)) != []
    life.destroy()
    settle()
    assert same(before, lambda: host_state(site.host, without=FENCE))

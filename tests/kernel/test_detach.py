"""A guest's end, a reboot and the reuse of a domid: state belongs to one incarnation of a vif and goes with it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from tests.bed.guest import Bed, Guest
from tests.bed.news import LinkNews
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Bystander, MakeDaemon, MakeGuest
from tests.kernel.verdict import connected
from tests.kernel.wait import paused

MAC = "00:16:3e:00:00:01"


def test_a_detached_port_is_out_of_its_bridge_before_its_link_goes(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon()
    web = guest("web")
    web.connect()

    bed.toolstack.detach_vif(web.vif)
    entry = journal.wait_for(XENNET_EVENT="detach", XENNET_VIF=web.vif.netdev)
    assert entry["MESSAGE"] == f"{web.vif.netdev} of web detached from xenbr0"
    assert (entry["XENNET_VM"], entry["XENNET_UUID"]) == ("web", web.domain.uuid)
    link = bed.host.links()[web.vif.netdev]
    assert "master" not in link
    assert "UP" not in link["flags"]
    assert xennetd.ask("show", web.vif.netdev)["state"] == "detaching"


@pytest.mark.parametrize("order", list(itertools.permutations(["driver", "link", "directory"])), ids="-".join)
def test_a_removal_in_any_order_leaves_nothing_behind(
    bed: Bed,
    guest: MakeGuest,
    daemon: MakeDaemon,
    journal: Journal,
    settle: Callable[[], None],
    bystander: Bystander,
    order: tuple[str, ...],
) -> None:
    xennetd = daemon()
    bystander.connect()
    web = guest("web")
    web.connect()

    bed.toolstack.detach_vif(web.vif)
    settle()
    for step in order:
        match step:
            case "driver" if bed.toolstack.xs.exists(web.vif.backend):
                bed.netback.close(web.vif)
            case "link":
                bed.netback.destroy(web.vif)
            case "directory":
                bed.toolstack.forget_vif(web.vif)
        settle()

    assert not bed.toolstack.xs.exists(web.vif.backend)
    assert web.vif.netdev not in [row["vif"] for row in xennetd.ask("list")]
    assert len(journal.having(XENNET_EVENT="detach", XENNET_VIF=web.vif.netdev)) == 1
    assert bystander.is_undisturbed()


def test_a_directory_that_vanishes_without_a_word_ends_the_vif(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon()
    web = guest("web")
    web.connect()
    bed.toolstack.forget_vif(web.vif)
    journal.wait_for(XENNET_EVENT="detach", XENNET_VIF=web.vif.netdev)
    settle()
    assert not bed.toolstack.xs.exists(web.vif.backend)
    assert web.vif.netdev not in [row["vif"] for row in xennetd.ask("list")]


def test_a_domain_destroyed_with_all_its_nodes_at_once_ends_its_vifs(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    web = guest("web")
    web.connect()
    bed.toolstack.xs.rm(f"/local/domain/0/backend/vif/{web.vif.domid}")
    assert journal.wait_for(XENNET_EVENT="detach", XENNET_VIF=web.vif.netdev)["XENNET_VM"] == "web"
    settle()
    assert not bed.toolstack.xs.exists(web.vif.backend)


class TestReboot:
    """The new domain is there, with the same name and MAC address, before the old one is gone."""

    @pytest.fixture
    def old_and_new(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> tuple[Guest, Guest]:
        bed.host.bridge("xenbr0", address="10.0.0.254/24")
        daemon()
        old = guest("web", VifSpec(mac=MAC, ip="10.0.0.1"), address="10.0.0.1/24")
        old.connect()
        bed.toolstack.detach_vif(old.vif)
        new = guest("web", VifSpec(mac=MAC, ip="10.0.0.1"), address="10.0.0.1/24")
        return old, new

    def test_the_new_one_is_connected_at_once(self, old_and_new: tuple[Guest, Guest]) -> None:
        _, new = old_and_new
        new.connect()
        assert new.ping("10.0.0.254")

    def test_the_old_ones_late_end_never_touches_the_new_one(
        self, bed: Bed, old_and_new: tuple[Guest, Guest], settle: Callable[[], None], journal: Journal
    ) -> None:
        old, new = old_and_new
        new.connect()
        assert new.ping("10.0.0.254")
        index = bed.host.rtnl.index(new.vif.netdev)
        with LinkNews(bed.host) as news:
            old.destroy()
            settle()
            seen = news.of(new.vif.netdev)
        assert all((link.index, link.up) == (index, True) and link.master for link in seen)
        assert new.ping("10.0.0.254")
        assert new.hotplug_status() == "connected"
        assert not journal.having(XENNET_EVENT="detach", XENNET_VIF=new.vif.netdev)

    def test_a_migration_to_the_same_host_is_a_handover(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
    ) -> None:
        # `xl migrate localhost`: both are online until the final destroy
        bed.host.bridge("xenbr0")
        daemon()
        old = guest("web", VifSpec(mac=MAC))
        old.connect()
        new = guest("web--incoming", VifSpec(mac=MAC))
        new.connect()
        assert journal.wait_for(XENNET_EVENT="attach", XENNET_VIF=new.vif.netdev)["XENNET_VM"] == "web"
        bed.toolstack.rename_domain(old.domain, "web--migratedaway")
        bed.toolstack.rename_domain(new.domain, "web")
        old.destroy()
        assert journal.wait_for(XENNET_EVENT="detach", XENNET_VIF=old.vif.netdev)["XENNET_VM"] == "web"
        assert new.hotplug_status() == "connected"
        assert bed.host.links()[new.vif.netdev]["master"] == "xenbr0"


def test_a_domid_used_again_is_another_guest(bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal) -> None:
    bed.host.bridge("xenbr0")
    bed.host.bridge("xenbr1")
    xennetd = daemon()
    first = guest("first", domid=7)
    first.connect()
    index = bed.host.rtnl.index("vif7.0")
    first.destroy()
    second = guest("second", VifSpec(bridge="xenbr1", mtu=1400), domid=7)
    second.connect()
    assert bed.host.rtnl.index("vif7.0") != index
    row = xennetd.ask("show", "vif7.0")
    assert (row["vm"], row["bridge"], row["mtu"], row["uuid"]) == ("second", "xenbr1", 1400, second.domain.uuid)
    journal.wait_for(XENNET_EVENT="attach", XENNET_VM="second")
    events = [(entry["XENNET_EVENT"], entry["XENNET_VM"]) for entry in journal.having(XENNET_VIF="vif7.0")]
    assert events == [("attach", "first"), ("detach", "first"), ("attach", "second")]


def test_a_domid_used_again_before_anyone_has_looked(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
) -> None:
    # given: a daemon that does not get to look between the old vif's end and the new one's beginning
    bed.host.bridge("xenbr0")
    bed.host.bridge("xenbr1")
    xennetd = daemon()
    first = guest("first", VifSpec(mtu=1300), domid=7)
    first.connect()
    with paused(xennetd.pid):
        first.destroy()
        second = guest("second", VifSpec(bridge="xenbr1"), domid=7)
    second.connect()
    link = bed.host.links()["vif7.0"]
    assert (link["master"], link["mtu"]) == ("xenbr1", 1500)
    journal.wait_for(XENNET_EVENT="attach", XENNET_VM="second")
    row = xennetd.ask("show", "vif7.0")
    assert (row["vm"], row["bridge"], row["uuid"]) == ("second", "xenbr1", second.domain.uuid)
    events = [(entry["XENNET_EVENT"], entry["XENNET_VM"]) for entry in journal.having(XENNET_VIF="vif7.0")]
    assert events == [("attach", "first"), ("detach", "first"), ("attach", "second")]


@pytest.mark.parametrize("forgets", [False, True], ids=["hotplug-status stays", "hotplug-status is deleted"])
def test_a_link_made_anew_under_a_live_directory_is_attached_again(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None], forgets: bool
) -> None:
    # given: netback's module is unloaded and loaded again
    bed.host.bridge("xenbr0", mtu=1400)
    daemon()
    web = guest("web")
    web.connect()
    with LinkNews(bed.host) as news:
        bed.netback.destroy(web.vif)
        if forgets:
            bed.netback.forget_hotplug_status(web.vif)
        settle()
        news.drain()

        # when
        bed.netback.prepare(web.vif)
        bed.netback.create(web.vif, bed.host.guest("web-again"))
        news.until(lambda link: link.name == web.vif.netdev and link.up and link.master != 0)

    # then: it is as any other new link
    connected(bed, web.vif)
    settle()
    assert bed.host.links()[web.vif.netdev]["mtu"] == 1400
    events = [entry["XENNET_EVENT"] for entry in journal.having(XENNET_VIF=web.vif.netdev)]
    assert events == ["attach", "detach", "attach"]


def test_many_guests_coming_and_going_leave_nothing(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None], bystander: Bystander
) -> None:
    xennetd = daemon()
    bystander.connect()
    for number in range(10):
        web = guest(f"web-{number}")
        if number % 2:
            connected(bed, web.vif)
        web.destroy()
    settle()
    assert sorted(row["vm"] for row in xennetd.ask("list")) == ["bystander", "fence"]
    assert set(bed.toolstack.xs.ls("/local/domain/0/backend/vif")) == {"31000", "32000"}
    assert bystander.is_undisturbed()

"""A guest is renamed while it runs: `xl rename`, and the end of a migration. Nothing below `backend/vif` changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed, Guest
from tests.bed.news import LinkNews
from tests.bed.reach import Services, ask
from tests.bed.site import HOST4, ROUTER4, Site, ip
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Inhabit, MakeDaemon, MakeGuest
from tests.kernel.every_mode import policy, way
from tests.kernel.status import status
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually, paused

WITHIN = 1.0
"""Seconds after which nobody is to meet the old name any more."""

FRONT_AND_BACK = (
    STAND_IN
    + '[network.front]\nmode = "bridge"\nbridge = "xenbr0"\n[network.back]\nmode = "bridge"\nbridge = "xenbr1"\n'
    + '[network.nowhere]\nmode = "bridge"\nbridge = "xenbr7"\n'
    + policy("*-quarantine", 'deny = "quarantined guests get no network"')
    + policy("web-*", 'network = "front"')
    + policy("db-*", 'network = "back"')
    + policy("lost-*", 'network = "nowhere"')
)


def names(xennetd: Daemon) -> dict[str, str]:
    """Whose each vif is, by `xennetctl list`."""
    return {row["vif"]: row["vm"] for row in xennetd.ask("list")}


def is_on(bed: Bed, guest: Guest, bridge: str | None) -> bool:
    """Whether a guest's port is up and in this bridge; None: whether it is down and in no bridge."""
    link = bed.host.links()[guest.vif.netdev]
    return link.get("master") == bridge and ("UP" in link["flags"]) == (bridge is not None)


def story(journal: Journal, guest: Guest) -> list[tuple[str, str]]:
    """What was recorded of a guest's vif, and under which name."""
    entries = journal.having(XENNET_VIF=guest.vif.netdev)
    return [(entry["XENNET_EVENT"], entry["XENNET_VM"]) for entry in entries]


class TestTheNewName:
    @pytest.mark.parametrize("script", ["vif-xennetd", "vif-bridge"], ids=["ours", "ignored"])
    def test_is_in_the_list_within_a_second(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, script: str) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        web = guest("web", VifSpec(script=script))
        eventually(lambda: names(xennetd) == {web.vif.netdev: "web"})
        for name in ("shop", "intranet", "web"):
            bed.toolstack.rename_domain(web.domain, name)
            time.sleep(WITHIN)
            assert names(xennetd) == {web.vif.netdev: name}

    def test_is_in_the_list_within_a_second_right_after_the_attach(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        web = guest("web")
        connected(bed, web.vif)
        bed.toolstack.rename_domain(web.domain, "shop")
        time.sleep(WITHIN)
        assert names(xennetd) == {web.vif.netdev: "shop"}

    def test_is_recorded_once_and_the_later_records_bear_it(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
    ) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        web = guest("web")
        web.connect()
        bed.toolstack.rename_domain(web.domain, "db")
        entry = journal.wait_for(XENNET_EVENT="change")
        assert entry["MESSAGE"] == f"the domain of {web.vif.netdev} was renamed from web to db"
        assert (entry["XENNET_VM"], entry["XENNET_UUID"]) == ("db", web.domain.uuid)
        assert (entry["XENNET_BRIDGE"], entry["PRIORITY"]) == ("xenbr0", "6")
        xennetd.reload(STAND_IN)
        web.destroy()
        journal.wait_for(XENNET_EVENT="detach")
        assert story(journal, web) == [("attach", "web"), ("change", "db"), ("detach", "db")]

    def test_of_a_guest_that_is_not_ours_is_nobodys_record(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
    ) -> None:
        xennetd = daemon()
        web = guest("web", VifSpec(script="vif-bridge"))
        settle()
        bed.toolstack.rename_domain(web.domain, "db")
        eventually(lambda: names(xennetd)[web.vif.netdev] == "db")
        settle()
        assert story(journal, web) == []

    def test_of_another_domain_under_the_same_number_is_no_rename(
        self, bed: Bed, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
    ) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        first = bed.toolstack.create_domain("first", domid=7)
        vif = bed.toolstack.add_vif(first)
        eventually(lambda: names(xennetd).get(vif.netdev) == "first")
        with paused(xennetd.pid):
            bed.toolstack.forget_vif(vif)
            bed.toolstack.destroy_domain(first)
            bed.toolstack.add_vif(bed.toolstack.create_domain("second", domid=7))
        eventually(lambda: names(xennetd).get(vif.netdev) == "second")
        settle()
        assert not journal.having(XENNET_EVENT="change")

    def test_is_the_one_that_a_reload_goes_by(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        bed.host.bridge("xenbr0")
        bed.host.bridge("xenbr1")
        xennetd = daemon()
        web = guest("web-1")
        web.connect()
        settle()
        bed.toolstack.rename_domain(web.domain, "db-1")
        eventually(lambda: names(xennetd)[web.vif.netdev] == "db-1")
        xennetd.reload(FRONT_AND_BACK)
        assert is_on(bed, web, "xenbr1")


class TestPolicy:
    @pytest.fixture
    def xennetd(self, bed: Bed, daemon: MakeDaemon, journal: Journal) -> Daemon:
        bed.host.bridge("xenbr0", address="10.0.0.254/24")
        bed.host.bridge("xenbr1", address="10.0.1.254/24")
        return daemon(FRONT_AND_BACK)

    @pytest.fixture
    def web(self, xennetd: Daemon, bed: Bed, guest: MakeGuest) -> Guest:
        web = guest("web-1", address="10.0.0.1/24")
        web.connect()
        assert is_on(bed, web, "xenbr0")
        assert web.ping("10.0.0.254")
        return web

    def test_for_the_new_name_moves_the_guest(self, bed: Bed, web: Guest, journal: Journal) -> None:
        web.namespace.rtnl.add_address("eth0", "10.0.1.1/24")
        index = bed.host.rtnl.index(web.vif.netdev)
        with LinkNews(bed.host) as news:
            bed.toolstack.rename_domain(web.domain, "db-1")
            eventually(lambda: is_on(bed, web, "xenbr1"))
            assert {link.index for link in news.of(web.vif.netdev)} == {index}
        eventually(lambda: web.namespace.ping("10.0.1.254", wait=0.2))
        assert not web.ping("10.0.0.254")
        assert web.hotplug_status() == "connected"
        moved = journal.wait_for(XENNET_EVENT="change", XENNET_NETWORK="back")
        assert f"{web.vif.netdev} of db-1 moved from xenbr0 to xenbr1" in moved["MESSAGE"]
        assert [event for event, _ in story(journal, web)] == ["attach", "change", "change"]
        # And back again.
        bed.toolstack.rename_domain(web.domain, "web-1")
        eventually(lambda: is_on(bed, web, "xenbr0"))

    def test_that_denies_the_new_name_takes_the_guest_down(
        self, bed: Bed, xennetd: Daemon, web: Guest, journal: Journal
    ) -> None:
        bed.toolstack.rename_domain(web.domain, "web-1-quarantine")
        eventually(lambda: is_on(bed, web, None))
        denied = journal.wait_for(XENNET_EVENT="denied", XENNET_VIF=web.vif.netdev)
        assert denied["XENNET_VM"] == "web-1-quarantine"
        assert "quarantined guests get no network" in denied["XENNET_ERROR"]
        (row,) = xennetd.ask("list")
        assert row["error"].startswith("denied by policy: quarantined guests get no network")
        assert not web.ping("10.0.0.254")
        bed.toolstack.rename_domain(web.domain, "web-1")
        eventually(lambda: is_on(bed, web, "xenbr0"))
        eventually(lambda: web.namespace.ping("10.0.0.254", wait=0.2))

    def test_that_can_not_be_carried_out_does_not_leave_the_guest_where_it_was(
        self, bed: Bed, web: Guest, journal: Journal
    ) -> None:
        """As after a reload: it is no business of the old network's any more."""
        bed.toolstack.rename_domain(web.domain, "lost-1")
        error = journal.wait_for(XENNET_EVENT="error", XENNET_VIF=web.vif.netdev)
        assert error["XENNET_ERROR"].startswith('bridge "xenbr7" of network "nowhere" does not exist')
        eventually(lambda: is_on(bed, web, None))
        bed.host.bridge("xenbr7")
        eventually(lambda: is_on(bed, web, "xenbr7"))

    def test_that_stays_the_same_touches_nothing(
        self, bed: Bed, xennetd: Daemon, web: Guest, settle: Callable[[], None]
    ) -> None:
        settle()
        with LinkNews(bed.host) as news:
            bed.toolstack.rename_domain(web.domain, "web-2")
            eventually(lambda: names(xennetd)[web.vif.netdev] == "web-2")
            settle()
            assert news.of(web.vif.netdev) == []

    def test_in_observe_mode_is_only_told(self, bed: Bed, xennetd: Daemon, web: Guest, journal: Journal) -> None:
        xennetd.reload(FRONT_AND_BACK.replace("[daemon]\n", '[daemon]\nmode = "observe"\n'))
        bed.toolstack.rename_domain(web.domain, "db-1")
        row = eventually(lambda: row if (row := xennetd.ask("show", web.vif.netdev))["vm"] == "db-1" else None)
        assert "would do this: " in row["reason"]
        assert is_on(bed, web, "xenbr0")
        assert not journal.having(XENNET_EVENT="change")


def test_a_rename_while_the_host_is_worse_cuts_nobody_off(
    bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
) -> None:
    """The same rule decides, and the guest would not be connected anew now: the uplink has lost its address."""
    daemon(STAND_IN + '[network.edge]\nmode = "route"\nproxy = true\n' + policy("edge-*", 'network = "edge"'))
    edge = guest("edge-1", VifSpec(ip="203.0.113.11"))
    edge.connect()
    settle()
    ip(site.host, f"address del {HOST4}/24 dev eth0")
    journal.wait_for(XENNET_EVENT="error", XENNET_VIF=edge.vif.netdev)
    with LinkNews(site.host) as news:
        bed.toolstack.rename_domain(edge.domain, "edge-2")
        journal.wait_for(XENNET_EVENT="change", XENNET_VM="edge-2")
        settle()
        assert all(link.up for link in news.of(edge.vif.netdev))
    ip(site.host, f"address add {HOST4}/24 dev eth0", f"route replace default via {ROUTER4}")
    eventually(lambda: way(site.host, "203.0.113.11") == edge.vif.netdev)


class TestAMigration:
    def test_that_ends_is_no_change(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
    ) -> None:
        bed.host.bridge("xenbr0")
        bed.host.bridge("xenbr1")
        xennetd = daemon(FRONT_AND_BACK)
        web = guest("web-1--incoming")
        web.connect()
        settle()
        assert is_on(bed, web, "xenbr0")
        with LinkNews(bed.host) as news:
            bed.toolstack.rename_domain(web.domain, "web-1")
            time.sleep(WITHIN)
            settle()
            assert news.of(web.vif.netdev) == []
        assert names(xennetd)[web.vif.netdev] == "web-1"
        assert story(journal, web) == [("attach", "web-1")]

    def test_after_which_the_guest_is_renamed_is_followed(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        bed.host.bridge("xenbr0")
        bed.host.bridge("xenbr1")
        daemon(FRONT_AND_BACK)
        web = guest("web-1--incoming")
        web.connect()
        settle()
        bed.toolstack.rename_domain(web.domain, "web-1")
        bed.toolstack.rename_domain(web.domain, "db-1")
        eventually(lambda: is_on(bed, web, "xenbr1"))


def test_renames_are_followed_after_a_restart_of_xenstored(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
) -> None:
    bed.host.bridge("xenbr0")
    bed.host.bridge("xenbr1")
    xennetd = daemon(FRONT_AND_BACK)
    web = guest("web-1")
    web.connect()
    bed.xenstored.restart(down=0.2)
    bed.reconnect()
    eventually(lambda: status(xennetd)["xenstore_reconnects"] == 1)
    for name, bridge in (("db-1", "xenbr1"), ("web-1", "xenbr0")):
        bed.toolstack.rename_domain(web.domain, name)
        eventually(partial(is_on, bed, web, bridge))
        journal.wait_for(XENNET_EVENT="change", XENNET_VM=name)


def test_no_watch_is_left_of_guests_that_have_gone(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    before = bed.xenstored.watches()
    guests = [guest(f"web-{number}") for number in range(5)]
    for each in guests:
        connected(bed, each.vif)
    eventually(lambda: bed.xenstored.watches() == before + 5)
    for each in guests:
        each.destroy()
    eventually(lambda: bed.xenstored.watches() == before)


def test_a_forward_by_name_follows_the_name(
    bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, services: Services
) -> None:
    daemon(
        STAND_IN
        + '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24"]\n'
        + 'forward = [{ proto = "tcp", port = 8080, to = "web-1:80" }]\n'
        + policy("*", 'network = "lab"')
    )
    first, second = guest("web-1", VifSpec(ip="10.77.0.11")), guest("web-2", VifSpec(ip="10.77.0.12"))
    for each, address in ((first, "10.77.0.11/24"), (second, "10.77.0.12/24")):
        services.offer(inhabit(each, address, gateways=("10.77.0.1",)), 80)

    def answers(name: str | None) -> bool:
        answer = ask(site.internet, HOST4, 8080, window=0.3)
        return (answer.name if answer is not None else None) == name

    assert answers("web-1")
    bed.toolstack.rename_domain(first.domain, "web-0")
    eventually(lambda: answers(None), timeout=3)
    # By the names that the guests answer with, which they had at first.
    bed.toolstack.rename_domain(second.domain, "web-1")
    eventually(lambda: answers("web-2"), timeout=3)
    bed.toolstack.rename_domain(second.domain, "web-3")
    bed.toolstack.rename_domain(first.domain, "web-1")
    eventually(lambda: answers("web-1"), timeout=3)

"""What xennetd does for a vif after its verdict: repairs, retries, and keeps its hands off where it is told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed, Guest
from tests.bed.netns import FE_FF
from tests.bed.news import LinkNews
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Bystander, MakeDaemon, MakeGuest
from tests.kernel.status import status
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually

DAMAGE: dict[str, Callable[[Bed, str], None]] = {
    "ip link set dev {} up": lambda bed, port: bed.host.rtnl.set(port, up=False),
    "ip link set dev {} master xenbr0": lambda bed, port: bed.host.rtnl.set(port, master=""),
    "ip link set dev {} address " + FE_FF: lambda bed, port: bed.host.rtnl.set(port, address="00:16:3e:00:00:99"),
    "ip addr del 192.0.2.1/24 dev {}": lambda bed, port: bed.host.rtnl.add_address(port, "192.0.2.1/24"),
    "ip addr del 2001:db8::1/64 dev {}": lambda bed, port: bed.host.rtnl.add_address(port, "2001:db8::1/64"),
}


class TestDrift:
    @pytest.mark.parametrize("repair", DAMAGE)
    def test_is_repaired_and_recorded_with_what_was_done(
        self,
        bed: Bed,
        guest: MakeGuest,
        daemon: MakeDaemon,
        journal: Journal,
        bystander: Bystander,
        repair: str,
    ) -> None:
        daemon()
        bystander.connect()
        web = guest("web", address="10.0.0.1/24")
        web.connect()
        assert web.ping("10.0.0.254")

        DAMAGE[repair](bed, web.vif.netdev)
        entry = journal.wait_for(XENNET_EVENT="drift", XENNET_VIF=web.vif.netdev)
        assert repair.format(web.vif.netdev) in entry["MESSAGE"]
        assert entry["PRIORITY"] == "4"
        assert web.ping("10.0.0.254")
        assert bed.host.addresses(web.vif.netdev) == []
        assert web.hotplug_status() == "connected"
        assert bystander.is_undisturbed()

    def test_into_another_bridge_is_undone(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
    ) -> None:
        bed.host.bridge("xenbr0")
        bed.host.bridge("xenbr1")
        daemon()
        web = guest("web")
        web.connect()
        bed.host.rtnl.set(web.vif.netdev, master="xenbr1")
        journal.wait_for(XENNET_EVENT="drift", XENNET_VIF=web.vif.netdev)
        assert bed.host.links()[web.vif.netdev]["master"] == "xenbr0"

    def test_of_the_bridge_itself_is_followed(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
    ) -> None:
        # given: an administrator deletes the bridge and makes it again, with `ip` or ifreload
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        web = guest("web", address="10.0.0.1/24")
        web.connect()
        bed.host.rtnl.delete("xenbr0")
        error = journal.wait_for(XENNET_EVENT="error", XENNET_VIF=web.vif.netdev)["XENNET_ERROR"]
        assert error.startswith('bridge "xenbr0" does not exist')
        assert "UP" not in bed.host.links()[web.vif.netdev]["flags"]
        assert web.hotplug_status() == "connected"  # the toolstack had its verdict
        assert any('bridge "xenbr0" does not exist' in problem for problem in status(xennetd)["problems"])

        bed.host.bridge("xenbr0", address="10.0.0.254/24")
        journal.wait_for(XENNET_EVENT="change", XENNET_VIF=web.vif.netdev)
        assert web.ping("10.0.0.254")
        assert not any(web.vif.netdev in problem for problem in status(xennetd)["problems"])


class TestAnErrorIsTriedAgain:
    def test_when_the_bridge_appears(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal) -> None:
        daemon()
        web = guest("web")
        refused(bed, web.vif)
        bed.host.bridge("xenbr0")
        connected(bed, web.vif)
        assert not bed.toolstack.xs.exists(f"{web.vif.backend}/hotplug-error")
        assert bed.host.links()[web.vif.netdev]["master"] == "xenbr0"
        journal.wait_for(XENNET_EVENT="attach", XENNET_VIF=web.vif.netdev)

    def test_when_any_bridge_appears_for_a_vif_without_one(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        daemon()
        web = guest("web", VifSpec(bridge=""))
        assert refused(bed, web.vif).startswith("no bridge is named and the host has none")
        bed.host.bridge("br7")
        connected(bed, web.vif)
        assert bed.host.links()[web.vif.netdev]["master"] == "br7"

    def test_when_a_link_is_renamed_to_the_bridge(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.rtnl.add_bridge("br-new")
        daemon()
        web = guest("web")
        refused(bed, web.vif)
        bed.host.rtnl.rename("br-new", "xenbr0")
        connected(bed, web.vif)

    def test_when_its_own_nodes_change(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.bridge("xenbr0")
        daemon()
        web = guest("web", VifSpec(bridge="xenbr1"))
        refused(bed, web.vif)
        bed.toolstack.xs.write(f"{web.vif.backend}/bridge", "xenbr0")
        connected(bed, web.vif)

    def test_by_a_reload_that_cures_it(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon(STAND_IN + '[[policy]]\nname = "no"\nmatch = { vm = "web" }\ndeny = "not today"\n')
        web = guest("web")
        assert refused(bed, web.vif) == "denied by policy: not today"
        xennetd.configure(STAND_IN)
        assert xennetd.ctl("reload").returncode == 0
        connected(bed, web.vif)

    def test_by_the_administrator(
        self, bed: Bed, daemon: MakeDaemon, settle: Callable[[], None], journal: Journal
    ) -> None:
        # given: an error whose end xennetd can't notice: a macvlan on the link keeps the bridge from it
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        vif = bed.toolstack.add_vif(bed.toolstack.create_domain("web"))
        bed.netback.create(vif, bed.host.guest("web"))
        macvlan = ("ip", "link", "add", "link", vif.netdev, "name", "macvlan0", "type", "macvlan")
        if bed.host.run(*macvlan, check=False).returncode:
            pytest.skip("this kernel has no macvlan")
        bed.netback.probe(vif)
        sentence = f'the kernel refuses {vif.netdev} as a port of bridge "xenbr0": Device or resource busy'
        assert refused(bed, vif) == sentence

        # when: it is tried for as long as the macvlan is there, then once more
        assert xennetd.ctl("retry", "web").returncode == 0
        settle()
        assert bed.toolstack.xs.read(f"{vif.backend}/hotplug-error") == sentence
        bed.host.rtnl.delete("macvlan0")
        settle()
        assert bed.toolstack.xs.read(f"{vif.backend}/hotplug-status") == "error"
        assert xennetd.ctl("retry", "web").returncode == 0

        # then
        connected(bed, vif)
        assert len(journal.having(XENNET_EVENT="error", XENNET_VIF=vif.netdev)) == 1
        assert xennetd.ctl("retry", "nobody").returncode == 1


class TestPin:
    @pytest.fixture
    def web(self, bed: Bed, guest: MakeGuest) -> Guest:
        bed.host.bridge("xenbr0")
        return guest("web")

    def test_keeps_hands_off_until_unpin(
        self, bed: Bed, web: Guest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
    ) -> None:
        xennetd = daemon()
        web.connect()
        settle()
        assert xennetd.ctl("pin", "web").returncode == 0
        assert xennetd.ask("show", "web")["pinned"] is True
        told = xennetd.ctl("status")
        assert (told.returncode, f"{web.vif.netdev} is pinned" in told.stdout) == (0, True)
        journal.wait_for(XENNET_EVENT="pin", XENNET_VIF=web.vif.netdev)

        # while pinned, nothing is put right
        bed.host.rtnl.set(web.vif.netdev, master="")
        bed.toolstack.xs.rm(f"{web.vif.backend}/hotplug-status")
        settle()
        assert "master" not in bed.host.links()[web.vif.netdev]
        assert web.hotplug_status() is None
        assert not journal.having(XENNET_EVENT="drift", XENNET_VIF=web.vif.netdev)

        # once unpinned, all is
        assert xennetd.ctl("unpin", "web").returncode == 0
        connected(bed, web.vif)
        assert bed.host.links()[web.vif.netdev]["master"] == "xenbr0"
        assert xennetd.ask("show", "web")["pinned"] is False
        assert status(xennetd)["pinned"] == []

    def test_holds_a_reload_and_a_removal_off(
        self, bed: Bed, web: Guest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        xennetd = daemon()
        web.connect()
        settle()
        xennetd.ctl("pin", "web")
        with LinkNews(bed.host) as news:
            xennetd.configure(STAND_IN + '[[policy]]\nname = "no"\nmatch = { vm = "web" }\ndeny = "not today"\n')
            assert xennetd.ctl("reload").returncode == 0
            bed.toolstack.detach_vif(web.vif)
            settle()
            assert news.of(web.vif.netdev) == []
        web.destroy()
        settle()
        assert status(xennetd)["pinned"] == []

    def test_survives_a_restart(self, bed: Bed, web: Guest, daemon: MakeDaemon, settle: Callable[[], None]) -> None:
        xennetd = daemon()
        web.connect()
        xennetd.ctl("pin", "web")
        bed.host.rtnl.set(web.vif.netdev, up=False)
        xennetd.kill9()
        xennetd.start()
        settle()
        assert status(xennetd)["pinned"] == [web.vif.netdev]
        assert "UP" not in bed.host.links()[web.vif.netdev]["flags"]

    def test_is_not_inherited_by_another_guest(
        self, bed: Bed, web: Guest, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        xennetd = daemon()
        web.connect()
        xennetd.ctl("pin", "web")
        domid = web.domain.domid
        web.destroy()
        settle()
        heir = guest("heir", domid=domid)
        connected(bed, heir.vif)

    def test_of_one_vif_is_no_concern_of_others(
        self, bed: Bed, web: Guest, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
    ) -> None:
        xennetd = daemon()
        web.connect()
        xennetd.ctl("pin", "web")
        other = guest("other")
        connected(bed, other.vif)
        bed.host.rtnl.set(other.vif.netdev, up=False)
        journal.wait_for(XENNET_EVENT="drift", XENNET_VIF=other.vif.netdev)


def test_a_port_that_someone_takes_down_again_and_again_is_a_problem_in_status(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon()
    web = guest("web")
    connected(bed, web.vif)
    flags = Path(f"/sys/class/net/{web.vif.netdev}/flags")
    downs = 0

    def is_told() -> bool:
        nonlocal downs
        if int(flags.read_text(), 16) & 1:
            bed.host.rtnl.set(web.vif.netdev, up=False)
            downs += 1
        return any("less and less often" in problem for problem in status(xennetd)["problems"])

    eventually(is_told)
    assert downs < 10
    (problem,) = status(xennetd)["problems"]
    assert f"{web.vif.netdev} of web is changed back after each repair" in problem
    assert f"ip link set dev {web.vif.netdev} up" in problem


def test_a_port_that_someone_takes_down_again_and_again_harms_nobody_else(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, bystander: Bystander, settle: Callable[[], None]
) -> None:
    daemon()
    bystander.connect()
    web = guest("web")
    connected(bed, web.vif)
    flags = Path(f"/sys/class/net/{web.vif.netdev}/flags")
    for _ in range(100):
        bed.host.rtnl.set(web.vif.netdev, up=False)
    settle()
    eventually(lambda: int(flags.read_text(), 16) & 1)
    assert bystander.is_undisturbed()

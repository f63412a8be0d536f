"""`vifname=` gives a guest's port a name of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.bed.guest import Bed, Guest
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually, paused


def test_the_port_gets_its_name(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon()
    web = guest("web", VifSpec(vifname="web-lan"))
    web.connect()
    links = bed.host.links()
    assert links["web-lan"]["master"] == "xenbr0"
    assert web.vif.netdev not in links
    assert xennetd.ask("show", "web-lan")["vif"] == web.vif.netdev


def test_a_restart_finds_the_renamed_port_and_leaves_it(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon()
    web = guest("web", VifSpec(vifname="web-lan"))
    web.connect()
    before = bed.host.links()["web-lan"]
    journal.wait_for(XENNET_EVENT="attach")
    xennetd.kill9()

    xennetd.start()
    assert xennetd.ask("show", "web-lan")["state"] == "connected"
    assert bed.host.links()["web-lan"]["ifindex"] == before["ifindex"]
    assert len(journal.having(XENNET_EVENT="attach")) == 1
    web.destroy()
    journal.wait_for(XENNET_EVENT="detach", XENNET_VIF=web.vif.netdev)


def test_a_port_renamed_by_someone_gets_its_name_back(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    web = guest("web", VifSpec(vifname="web-lan"))
    connected(bed, web.vif)
    bed.host.rtnl.set("web-lan", up=False)
    bed.host.rtnl.rename("web-lan", "mine")
    journal.wait_for(XENNET_EVENT="drift", XENNET_VIF=web.vif.netdev)
    # It may have been for the first of the two only.
    eventually(lambda: "UP" in bed.host.links().get("web-lan", {"flags": ()})["flags"])


class TestANameThatAnOlderVifHasStill:
    """A reboot: the new domain is built before the old one is gone."""

    @pytest.fixture
    def old(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> Guest:
        bed.host.bridge("xenbr0")
        daemon()
        old = guest("web", VifSpec(vifname="web-lan", mac="00:16:3e:00:00:01"))
        old.connect()
        return old

    def test_is_waited_for_and_taken_when_it_is_free(
        self, bed: Bed, guest: MakeGuest, old: Guest, settle: Callable[[], None]
    ) -> None:
        old.begin_removal()
        new = guest("web", VifSpec(vifname="web-lan", mac="00:16:3e:00:00:01"))
        settle()
        assert new.hotplug_status() == ""
        assert "UP" not in bed.host.links()[new.vif.netdev]["flags"]

        bed.netback.destroy(old.vif)
        connected(bed, new.vif)
        assert bed.host.links()["web-lan"]["master"] == "xenbr0"
        bed.toolstack.forget_vif(old.vif)
        assert new.hotplug_status() == "connected"

    def test_is_waited_for_by_one_that_is_seen_with_the_end_of_the_other(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        old = guest("web", VifSpec(vifname="web-lan"))
        old.connect()
        with paused(xennetd.pid):
            old.begin_removal()
            new = guest("web", VifSpec(vifname="web-lan"))
        settle()
        assert new.hotplug_status() == ""
        bed.netback.destroy(old.vif)
        connected(bed, new.vif)

    def test_is_waited_for_even_if_its_directory_is_gone(
        self, bed: Bed, guest: MakeGuest, old: Guest, settle: Callable[[], None]
    ) -> None:
        old.begin_removal()
        bed.toolstack.forget_vif(old.vif)
        new = guest("web", VifSpec(vifname="web-lan"))
        settle()
        assert new.hotplug_status() == ""
        bed.netback.destroy(old.vif)
        connected(bed, new.vif)

    def test_is_given_up_at_once_when_the_older_vif_stays(self, bed: Bed, guest: MakeGuest, old: Guest) -> None:
        new = guest("web", VifSpec(vifname="web-lan"))
        assert refused(bed, new.vif) == 'the interface name "web-lan" is already in use on this host'
        assert bed.host.links()["web-lan"]["master"] == "xenbr0"
        assert old.hotplug_status() == "connected"

    @pytest.mark.slow
    def test_is_given_up_after_ten_seconds(self, bed: Bed, guest: MakeGuest, old: Guest) -> None:
        old.begin_removal()
        began = time.monotonic()
        new = guest("web", VifSpec(vifname="web-lan"))
        assert refused(bed, new.vif, 15.0) == 'the interface name "web-lan" is already in use on this host'
        assert 9.5 < time.monotonic() - began < 11.5

        bed.netback.destroy(old.vif)
        connected(bed, new.vif)
        assert not bed.toolstack.xs.exists(f"{new.vif.backend}/hotplug-error")

"""The guest's driver goes and comes back, as netback's own sequences of writes have it: no script runs then."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.bed.guest import Bed
from tests.bed.news import LinkNews
from tests.bed.systemd import Journal
from tests.kernel.conftest import MakeDaemon, MakeGuest, both_stores
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually

pytestmark = both_stores


@pytest.mark.parametrize("forgets", [False, True], ids=["hotplug-status stays", "hotplug-status is deleted"])
def test_a_guest_is_on_the_network_again(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None], journal: Journal, forgets: bool
) -> None:
    # given
    bed.host.bridge("xenbr0", address="10.0.0.254/24")
    daemon()
    web = guest("web", address="10.0.0.1/24")
    web.connect()
    assert eventually(lambda: web.ping("10.0.0.254"))
    index = bed.host.rtnl.index(web.vif.netdev)

    # when: kexec in the guest, 5 -> 6 -> 2 -> 4
    with LinkNews(bed.host) as news:
        bed.netfront.close(web.vif, web.namespace)
        bed.netback.disconnect(web.vif, forget_hotplug_status=forgets)
        settle()
        assert web.hotplug_status() == (None if forgets else "connected")  # only with state 2 or 4
        bed.netfront.reset(web.vif)
        bed.netback.prepare(web.vif)
        web.connect()
        settle()
        seen = news.of(web.vif.netdev)

    # then
    assert web.ping("10.0.0.254")
    assert bed.host.rtnl.index(web.vif.netdev) == index
    assert all(link.up and link.master for link in seen)
    assert len(journal.having(XENNET_EVENT="attach", XENNET_VIF=web.vif.netdev)) == 1
    assert not journal.having(XENNET_EVENT="detach", XENNET_VIF=web.vif.netdev)
    assert not journal.having(XENNET_EVENT="drift", XENNET_VIF=web.vif.netdev)


def test_a_driver_that_registers_twice_before_it_connects(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    # Windows PV drivers: register, unregister, register.
    bed.host.bridge("xenbr0")
    daemon()
    web = guest("web")
    connected(bed, web.vif)
    for forgets in (True, False, True):
        bed.netback.disconnect(web.vif, forget_hotplug_status=forgets)
        bed.netback.prepare(web.vif)
    web.connect()


def test_hotplug_status_deleted_at_state_4_comes_back(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    web = guest("web")
    web.connect()
    bed.toolstack.xs.rm(f"{web.vif.backend}/hotplug-status")
    connected(bed, web.vif)


def test_the_deletion_that_is_part_of_a_removal_is_not_answered(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    web = guest("web")
    web.connect()
    bed.toolstack.detach_vif(web.vif)
    bed.netfront.close(web.vif, web.namespace)
    bed.netback.close(web.vif)
    settle()
    assert web.hotplug_status() is None


def test_a_removal_that_only_the_kernel_knows_of_is_not_answered(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
) -> None:
    # netback_remove by unbinding the driver: `online` stays 1
    bed.host.bridge("xenbr0")
    daemon()
    web = guest("web")
    web.connect()
    bed.toolstack.xs.write(f"{web.vif.backend}/state", "5")
    bed.netback.close(web.vif)
    bed.netback.destroy(web.vif)
    settle()
    assert web.hotplug_status() is None

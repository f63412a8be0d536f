"""A guest's port gets its MTU at attach, and one guest's MTU stays its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.bed.guest import Bed
from tests.bed.news import LinkNews
from tests.bed.systemd import Journal
from tests.bed.toolstack import Vif, VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually


def mtu(bed: Bed, name: str) -> Any:
    return bed.host.links()[name]["mtu"]


def told_to_the_guest(bed: Bed, vif: Vif) -> str | None:
    return bed.toolstack.xs.get(f"{vif.frontend}/mtu")


def test_the_vif_lines_own_mtu_comes_first(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    bed.host.uplink("xenbr0", mtu=9000)
    daemon()
    web = guest("web", VifSpec(mtu=4000))
    connected(bed, web.vif)
    assert mtu(bed, web.vif.netdev) == 4000
    assert told_to_the_guest(bed, web.vif) == "4000"


def test_else_the_smallest_uplinks(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    bed.host.uplink("xenbr0", "eth0", mtu=9000)
    bed.host.uplink("xenbr0", "eth1", mtu=8000, address="10.0.0.253/24")
    bed.host.rtnl.set("xenbr0", mtu=7000)
    daemon()
    web = guest("web")
    connected(bed, web.vif)
    assert mtu(bed, web.vif.netdev) == 8000
    assert told_to_the_guest(bed, web.vif) == "8000"


def test_else_the_bridges(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0", mtu=1400)
    daemon()
    web = guest("web")
    connected(bed, web.vif)
    assert mtu(bed, web.vif.netdev) == 1400
    assert told_to_the_guest(bed, web.vif) == "1400"


@pytest.mark.parametrize("uplink", [True, False])
def test_a_small_mtu_neither_drags_the_bridge_nor_spreads(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None], uplink: bool
) -> None:
    bed.host.bridge("xenbr0")
    if uplink:
        bed.host.uplink("xenbr0")
    daemon()
    before = guest("before")
    connected(bed, before.vif)
    small = guest("small", VifSpec(mtu=576))
    connected(bed, small.vif)
    after = guest("after")
    connected(bed, after.vif)
    settle()
    links = ("xenbr0", before.vif.netdev, small.vif.netdev, after.vif.netdev)
    assert [mtu(bed, name) for name in links] == [1500, 1500, 576, 1500]
    assert told_to_the_guest(bed, after.vif) == "1500"


def test_the_first_guest_of_a_bridge_does_not_drag_it_either(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    small = guest("small", VifSpec(mtu=576))
    connected(bed, small.vif)
    small.destroy()
    next_ = guest("next")
    connected(bed, next_.vif)
    assert (mtu(bed, "xenbr0"), mtu(bed, next_.vif.netdev)) == (1500, 1500)


def test_one_above_the_bridges_is_taken_with_a_warning(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
) -> None:
    bed.host.bridge("xenbr0")
    bed.host.uplink("xenbr0")
    xennetd = daemon()
    web = guest("web", VifSpec(mtu=9000))
    connected(bed, web.vif)
    warning = journal.wait_for(XENNET_EVENT="warning", XENNET_VIF=web.vif.netdev)
    assert warning["PRIORITY"] == "4"
    assert 'web: mtu 9000 is above the 1500 of bridge "xenbr0"' in warning["MESSAGE"]
    assert mtu(bed, web.vif.netdev) == 9000
    assert mtu(bed, "xenbr0") == 1500
    assert xennetd.ask("show", "web")["warnings"]


def test_netback_lowering_it_later_is_no_drift(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
) -> None:
    # given: a frontend without scatter-gather makes netback lower the MTU (xenvif_set_mtu, ETH_DATA_LEN)
    bed.host.bridge("xenbr0")
    bed.host.uplink("xenbr0", mtu=9000)
    daemon()
    web = guest("web")
    web.connect()
    assert mtu(bed, web.vif.netdev) == 9000

    with LinkNews(bed.host) as news:
        bed.host.rtnl.set(web.vif.netdev, mtu=1500)
        settle()
        seen = news.of(web.vif.netdev)
    assert {(link.mtu, link.up, link.master != 0) for link in seen} == {(1500, True, True)}
    assert not journal.having(XENNET_EVENT="drift", XENNET_VIF=web.vif.netdev)


def test_a_frontend_that_connects_again_gets_the_mtu_back_and_no_other_link_is_touched(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
) -> None:
    """A driver without scatter-gather came first, an installer's for example, and then the guest's own."""
    bed.host.bridge("xenbr0")
    bed.host.uplink("xenbr0", mtu=9000)
    daemon()
    web, other = guest("web"), guest("other")
    web.connect()
    other.connect()
    bed.host.rtnl.set(web.vif.netdev, mtu=1500)
    with LinkNews(bed.host) as news:
        bed.netfront.close(web.vif, web.namespace)
        bed.netback.disconnect(web.vif, forget_hotplug_status=False)
        settle()
        assert mtu(bed, web.vif.netdev) == 1500
        bed.netfront.reset(web.vif)
        bed.netback.prepare(web.vif)
        web.connect()
        eventually(lambda: mtu(bed, web.vif.netdev) == 9000)
        settle()
        assert {link.mtu for name in ("xenbr0", other.vif.netdev) for link in news.of(name)} <= {9000}
    bed.host.rtnl.set(web.vif.netdev, mtu=1500)
    settle()
    assert mtu(bed, web.vif.netdev) == 1500, "later changes are the administrator's, or netback's"


def test_the_true_frontend_is_told_also_of_a_renamed_vif(bed: Bed, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0", mtu=1400)
    daemon()
    domain = bed.toolstack.create_domain("web", domid=23)
    vif = bed.toolstack.add_vif(domain, VifSpec(vifname="web-lan"), devid=5)
    bed.netback.probe(vif)
    bed.netback.create(vif, bed.host.guest("web"))
    connected(bed, vif)
    assert bed.toolstack.xs.read("/local/domain/23/device/vif/5/mtu") == "1400"
    assert sorted(bed.toolstack.xs.ls("/local/domain/23/device/vif")) == ["5"]


def test_the_frontend_is_told_nothing_on_a_reconnect(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0", mtu=1400)
    daemon()
    web = guest("web")
    web.connect()
    bed.toolstack.xs.write(f"{web.vif.frontend}/mtu", "1300")
    bed.host.rtnl.set("xenbr0", mtu=1200)
    bed.toolstack.xs.rm(f"{web.vif.backend}/hotplug-status")
    connected(bed, web.vif)
    assert told_to_the_guest(bed, web.vif) == "1300"

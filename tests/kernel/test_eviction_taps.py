"""Whose tap goes down with a guest that a configuration denies: the guest's own, and no other's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.bed.guest import Bed
from tests.bed.netns import FE_FF
from tests.bed.site import Site, ip
from tests.bed.toolstack import VifSpec
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import MakeGuest
from tests.kernel.every_mode import networks, policy
from tests.kernel.gated import (
    DENY,
    EDGE,
    LAB,
    STORE,
    Gated,
    filters,
    tap_of,
)
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually


@pytest.fixture
def xennetd(xenstored: Xenstored, tmp_path: Path) -> Iterator[Gated]:
    with closing(Gated(xenstored, tmp_path)) as daemon:
        yield daemon


@pytest.mark.parametrize("way", ["start", "reload"])
def test_a_tap_that_may_be_another_guests_stays(
    bed: Bed, site: Site, guest: MakeGuest, xennetd: Gated, way: str
) -> None:
    """Two guests have the same `vifname`. One is denied, and has no tap yet."""
    bed.host.bridge("xenbr0")
    allow = networks(STORE) + policy("lan-*", 'network = "lan"') + '[network.lan]\nmode = "bridge"\nbridge = "xenbr0"\n'
    xennetd.run(allow)
    win = guest("lan-1", VifSpec(type="vif_ioemu", vifname="win"))
    tap = tap_of(bed, win)
    ip(site.host, f"link set win-emu address {FE_FF}")
    connected(bed, win.vif)
    guest("lab-1", VifSpec(type="vif_ioemu", vifname="win"))
    was = filters(site.host)
    (xennetd.begin_again if way == "start" else xennetd.begin_reload)(
        DENY.join([allow.replace("lab-*", "no"), LAB.replace("lab", "out").replace("77", "79")])
    )
    eventually(lambda: filters(site.host) != was)
    link = site.host.links()["win-emu"]
    assert "UP" in link["flags"]
    assert link["master"] == "xenbr0"
    xennetd.finish()
    tap.close()


@pytest.mark.parametrize("way", ["start", "reload"])
def test_a_tap_of_another_program_stays(bed: Bed, site: Site, guest: MakeGuest, xennetd: Gated, way: str) -> None:
    """An administrator's tap has the name that the tap of the guest would have."""
    bed.host.bridge("xenbr0")
    xennetd.run(networks(STORE, EDGE))
    tap = bed.host.tap("vpn-emu")
    ip(site.host, "link set vpn-emu address 02:00:00:00:12:34", "link set vpn-emu master xenbr0", "link set vpn-emu up")
    win = guest("lab-1", VifSpec(type="vif_ioemu", vifname="vpn"))
    connected(bed, win.vif)
    was = filters(site.host)
    (xennetd.begin_again if way == "start" else xennetd.begin_reload)(networks(EDGE) + DENY + LAB)
    eventually(lambda: filters(site.host) != was)
    link = site.host.links()["vpn-emu"]
    assert "UP" in link["flags"]
    assert link["master"] == "xenbr0"
    tap.close()


@pytest.mark.parametrize("way", ["start", "reload"])
def test_a_renamed_tap_goes_down_if_all_who_may_have_it_are_denied(
    bed: Bed, site: Site, guest: MakeGuest, xennetd: Gated, way: str
) -> None:
    xennetd.run(networks(STORE, EDGE))
    win = guest("lab-1", VifSpec(type="vif_ioemu", vifname="win"))
    tap = tap_of(bed, win)
    connected(bed, win.vif)
    refused(bed, guest("lab-2", VifSpec(type="vif_ioemu", vifname="win")).vif)
    was = filters(site.host)
    (xennetd.begin_again if way == "start" else xennetd.begin_reload)(networks(EDGE) + DENY + LAB)
    eventually(lambda: filters(site.host) != was)
    links = site.host.links()
    assert "UP" not in links["win"]["flags"]
    assert "UP" not in links["win-emu"]["flags"]
    tap.close()

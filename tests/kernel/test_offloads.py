"""`tx_checksum` of guests: it is off before a link comes up, and as before once no configuration names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.ethtool import switch, tx_checksums
from tests.bed.guest import Bed, Guest
from tests.bed.netns import Host
from tests.bed.news import LinkNews
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.test_topology import nics
from tests.kernel.wait import eventually

__all__ = ["nics"]

LAN = '[network.lan]\nmode = "bridge"\nbridge = "xenbr0"\n'
WITHOUT = STAND_IN + LAN + '[[policy]]\nnetwork = "lan"\n'
POLICY = (
    STAND_IN
    + LAN
    + "tx_checksum = false\n"
    + '[[policy]]\nmatch = { vm = "fast" }\nnetwork = "lan"\ntx_checksum = true\n'
    + '[[policy]]\nnetwork = "lan"\n'
)
SCTP = "tx-checksum-sctp"


@pytest.fixture
def web(bed: Bed, guest: MakeGuest) -> Guest:
    """A guest with its link, not connected yet."""
    bed.host.bridge("xenbr0")
    return guest("web")


def of(guest: Guest) -> set[str]:
    return tx_checksums(guest.vif.netdev)


def tag(link: str) -> str:
    return Path(f"/proc/sys/net/ipv4/conf/{link}/tag").read_text().strip()


def test_it_is_off_before_the_link_is_up_unless_the_guests_policy_says_otherwise(
    bed: Bed, web: Guest, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    fast = guest("fast")
    before = of(web)
    assert before, "a new vif has it on"
    with LinkNews(bed.host) as news:
        daemon(POLICY)
        web.connect()
        first = next(seen for seen in news.of(web.vif.netdev) if seen.features or seen.up)
    fast.connect()
    assert (first.features, first.up) == (True, False)
    assert bed.host.links()[web.vif.netdev]["master"] == "xenbr0"
    assert (of(web), of(fast)) == (set(), before)


def test_a_guest_without_the_key_keeps_what_it_has(web: Guest, daemon: MakeDaemon, settle: Callable[[], None]) -> None:
    switch(web.vif.netdev, [SCTP], on=False)
    before = of(web)
    xennetd = daemon(WITHOUT)
    web.connect()
    switch(web.vif.netdev, before, on=False)
    xennetd.reload(WITHOUT)
    settle()
    assert (of(web), tag(web.vif.netdev)) == (set(), "0")


def reloaded(xennetd: Daemon) -> None:
    xennetd.reload(WITHOUT)


def restarted(xennetd: Daemon) -> None:
    assert xennetd.terminate() == 0
    xennetd.configure(WITHOUT)
    xennetd.start()


def killed(xennetd: Daemon) -> None:
    xennetd.kill9()
    xennetd.configure(WITHOUT)
    xennetd.start()


@pytest.mark.parametrize("go_on", [reloaded, restarted, killed])
def test_without_the_key_it_is_as_before_on_a_running_guest(
    bed: Bed, web: Guest, daemon: MakeDaemon, go_on: Callable[[Daemon], None]
) -> None:
    switch(web.vif.netdev, [SCTP], on=False)
    before = of(web)
    assert before
    xennetd = daemon(POLICY)
    web.connect()
    assert of(web) == set()
    with LinkNews(bed.host) as news:
        go_on(xennetd)
        eventually(lambda: of(web) == before)
        assert all(seen.up and seen.master for seen in news.of(web.vif.netdev))
    assert tag(web.vif.netdev) == "0"


def test_a_reload_with_the_key_switches_it_off_in_place(bed: Bed, web: Guest, daemon: MakeDaemon) -> None:
    xennetd = daemon(WITHOUT)
    web.connect()
    with LinkNews(bed.host) as news:
        xennetd.reload(POLICY)
        assert all(seen.up and seen.master for seen in news.of(web.vif.netdev))
    assert of(web) == set()


def test_a_restart_leaves_it_and_changes_nothing(bed: Bed, web: Guest, daemon: MakeDaemon) -> None:
    xennetd = daemon(POLICY)
    web.connect()
    remembered = tag(web.vif.netdev)
    xennetd.kill9()
    with LinkNews(bed.host) as news:
        xennetd.start()
        assert news.of(web.vif.netdev) == []
    assert (of(web), tag(web.vif.netdev)) == (set(), remembered)


def test_what_another_program_switches_on_is_switched_off_again(
    bed: Bed, web: Guest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
) -> None:
    before, name = of(web), web.vif.netdev
    daemon(POLICY)
    web.connect()
    eventually(lambda: bed.host.links()[name]["operstate"] == "UP")
    settle()
    switch(name, before, on=True)
    eventually(lambda: of(web) == set())
    message = journal.wait_for(XENNET_EVENT="drift", XENNET_VIF=name)["MESSAGE"]
    assert f"ethtool -K {name} tx off" in message


def test_a_tag_of_somebody_elses_stays(web: Guest, daemon: MakeDaemon) -> None:
    Path(f"/proc/sys/net/ipv4/conf/{web.vif.netdev}/tag").write_text("42")
    xennetd = daemon(POLICY)
    web.connect()
    assert of(web) == set()
    xennetd.reload(WITHOUT)
    assert (of(web), tag(web.vif.netdev)) == (set(), "42")


def test_what_somebody_has_switched_on_stays_so_without_the_key(web: Guest, daemon: MakeDaemon) -> None:
    before = of(web)
    xennetd = daemon(POLICY)
    web.connect()
    xennetd.terminate()
    switch(web.vif.netdev, before - {SCTP}, on=True)
    xennetd.configure(WITHOUT)
    xennetd.start()
    eventually(lambda: tag(web.vif.netdev) == "0")
    assert of(web) == before - {SCTP}


def test_a_routed_guest_whose_link_is_renamed_has_it_off_too(guest: MakeGuest, daemon: MakeDaemon, nics: Host) -> None:
    nics.rtnl.add_address("eth0", "10.0.0.254/24")
    daemon(POLICY.replace('mode = "bridge"\nbridge = "xenbr0"', 'mode = "route"\nuplink = "eth0"'))
    routed = guest("routed", VifSpec(ip="10.9.9.9", vifname="web-lan"))
    routed.connect()
    assert tx_checksums("web-lan") == set()


def test_observing_only_says_it(bed: Bed, web: Guest, daemon: MakeDaemon) -> None:
    before = of(web)
    xennetd = daemon(POLICY.replace("[daemon]\n", '[daemon]\nmode = "observe"\n'))
    reason = eventually(lambda: xennetd.ask("list")[0]["reason"])
    assert f"ethtool -K {web.vif.netdev} tx off" in reason
    assert of(web) == before

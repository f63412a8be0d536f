"""A configuration that takes a guest off its network, and gives that network more: the guest's port goes down before.

Both happen at a start and at a reload. Thousands of other guests may be looked at before the one that loses its
network.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest

from tests.bed.echoes import Echoes
from tests.bed.guest import Bed, Guest
from tests.bed.site import ROUTER4, SERVER4, Site, ip
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import Inhabit, MakeGuest
from tests.kernel.every_mode import networks, policy
from tests.kernel.gated import (
    DENY,
    EDGE,
    ELSEWHERE,
    FORWARD,
    LAB,
    OBSERVE,
    STORE,
    WITH_IPV6,
    Gated,
    filters,
    is_off,
    tap_of,
)
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually, paused

Change = Callable[[Guest], object]

CHANGES = {
    "no network any more": (networks(LAB, EDGE), networks(EDGE) + DENY),
    "another network": (
        networks(LAB, EDGE),
        networks(EDGE, STORE.replace("lab", "store").replace("77", "78")) + DENY,
    ),
    "isolated to nat": (networks(STORE, EDGE), networks(EDGE) + DENY + LAB),
    "another uplink": (networks(ELSEWHERE, EDGE), networks(EDGE) + DENY + LAB),
    "a second subnet": (networks(LAB, EDGE), networks(EDGE) + DENY + WITH_IPV6),
    "a forwarded port": (networks(LAB, EDGE), networks(EDGE) + DENY + FORWARD),
}


@pytest.fixture
def xennetd(xenstored: Xenstored, tmp_path: Path) -> Iterator[Gated]:
    with closing(Gated(xenstored, tmp_path)) as daemon:
        yield daemon


@pytest.mark.parametrize(
    ("change", "way"),
    # A reload that takes the network away keeps the filter until all guests have moved.
    [pair for pair in product(CHANGES, ("start", "reload")) if pair != ("no network any more", "reload")],
)
def test_a_guest_that_is_denied_is_off_before_its_network_gets_more(
    bed: Bed, site: Site, guest: MakeGuest, xennetd: Gated, change: str, way: str
) -> None:
    # given
    before, after = CHANGES[change]
    ip(site.host, "link add up1 type bridge", "link set up1 up")
    xennetd.run(before)
    web = guest("lab-1")
    connected(bed, web.vif)
    assert site.host.links()[web.vif.netdev]["master"] == "xn-lab"
    was = filters(site.host)
    # when
    (xennetd.begin_again if way == "start" else xennetd.begin_reload)(after)
    eventually(lambda: filters(site.host) != was)
    # then
    assert is_off(site.host, web)
    xennetd.finish()


def test_it_is_off_before_a_daemon_that_has_only_observed_makes_anything(
    bed: Bed, site: Site, guest: MakeGuest, xennetd: Gated
) -> None:
    xennetd.run(networks(STORE, EDGE))
    web = guest("lab-1")
    connected(bed, web.vif)
    after = networks(EDGE) + DENY + LAB
    xennetd.begin_again(after.replace("[daemon]", OBSERVE))
    xennetd.finish()
    was = filters(site.host)
    xennetd.begin_reload(after)
    eventually(lambda: filters(site.host) != was)
    assert is_off(site.host, web)
    xennetd.gate.touch()


def test_it_is_off_before_anything_is_made_for_a_policy_that_came_before_xenstored_was_there(
    bed: Bed, site: Site, guest: MakeGuest, xennetd: Gated
) -> None:
    # given
    xennetd.run(networks(STORE, EDGE))
    web = guest("lab-1")
    connected(bed, web.vif)
    contents = bed.xenstored.dump()
    bed.xenstored.kill9()
    xennetd.begin_again(networks(STORE, EDGE))
    eventually(lambda: xennetd.notify.status() == "waiting for xenstored")
    was = filters(site.host)
    # when
    xennetd.reload(networks(EDGE) + DENY + LAB)
    # then
    assert filters(site.host) == was
    bed.xenstored.start(contents)
    eventually(lambda: filters(site.host) != was)
    assert is_off(site.host, web)
    xennetd.finish()
    bed.reconnect()


class TestAtAStart:
    """No earlier policy is known, and nobody has been looked at yet."""

    def off_first(self, bed: Bed, site: Site, guest: MakeGuest, xennetd: Gated, after: str, change: Change) -> Guest:
        xennetd.run(networks(STORE, EDGE))
        web = guest("lab-1")
        connected(bed, web.vif)
        was = filters(site.host)
        xennetd.begin_again(after, change=lambda: change(web))
        eventually(lambda: filters(site.host) != was)
        assert is_off(site.host, web)
        xennetd.finish()
        return web

    def test_one_that_is_being_removed(self, bed: Bed, site: Site, guest: MakeGuest, xennetd: Gated) -> None:
        self.off_first(bed, site, guest, xennetd, networks(LAB, EDGE), lambda web: bed.toolstack.detach_vif(web.vif))

    def test_one_whose_name_can_not_be_read_when_all_rules_deny(
        self, bed: Bed, site: Site, guest: MakeGuest, xennetd: Gated
    ) -> None:
        after = networks() + DENY + '[[policy]]\ndeny = "all others, too"\n' + LAB
        web = self.off_first(
            bed, site, guest, xennetd, after, lambda web: bed.toolstack.xs.rm(f"{web.domain.path}/name")
        )
        assert is_off(site.host, web)

    def test_all_of_them_while_xenstored_does_not_answer(
        self, bed: Bed, site: Site, guest: MakeGuest, xenstored: Xenstored, tmp_path: Path
    ) -> None:
        """The verdict on the first one's tap can't be written."""
        arm, found, go = (tmp_path / name for name in ("arm", "found", "go"))
        defect = f"""
import asyncio
from pathlib import Path
from xennetd.daemon.reconcile.eviction import Eviction
begin = Eviction.begin
async def slow(self):
    await begin(self)
    while Path({str(arm)!r}).exists() and not Path({str(go)!r}).exists():
        Path({str(found)!r}).touch()
        await asyncio.sleep(0.01)
Eviction.begin = slow
"""
        with closing(Gated(xenstored, tmp_path, defect=defect)) as xennetd:
            xennetd.run(networks(STORE, EDGE))
            windows = guest("lab-1", VifSpec(type="vif_ioemu"))
            tap = tap_of(bed, windows)
            web = guest("lab-2")
            connected(bed, web.vif)
            was = filters(site.host)
            xennetd.begin_again(networks(EDGE) + DENY + LAB, change=arm.touch)
            eventually(found.exists)
            with paused(xenstored.pid):
                go.touch()
                eventually(lambda: filters(site.host) != was)
                assert is_off(site.host, windows)
                assert is_off(site.host, web)
                assert "UP" not in site.host.links()[windows.vif.tap]["flags"]
            xennetd.finish()
            tap.close()


def test_a_search_that_fails_keeps_no_filter_out(
    bed: Bed, site: Site, guest: MakeGuest, xenstored: Xenstored, tmp_path: Path
) -> None:
    fail = tmp_path / "fail"
    defect = f"""
from pathlib import Path
from xennetd.daemon.reconcile.eviction import Eviction
find = Eviction.find
async def failing(self):
    if Path({str(fail)!r}).exists():
        raise MemoryError
    await find(self)
Eviction.find = failing
"""
    with closing(Gated(xenstored, tmp_path, defect=defect)) as xennetd:
        xennetd.run(networks(STORE, EDGE))
        web = guest("lab-1")
        connected(bed, web.vif)
        was = filters(site.host)
        fail.touch()
        xennetd.begin_reload(networks(EDGE) + DENY + LAB)
        eventually(lambda: filters(site.host) != was)
        xennetd.finish()
        eventually(lambda: is_off(site.host, web))
        assert xennetd.ask("status")["problems"] == []


def test_a_defect_about_one_port_does_not_end_the_daemon(
    bed: Bed, site: Site, guest: MakeGuest, xenstored: Xenstored, tmp_path: Path
) -> None:
    arm = tmp_path / "arm"
    defect = f"""
from pathlib import Path
from xennetd.daemon.reconcile import eviction
stop = eviction.stop
def failing(link):
    if Path({str(arm)!r}).exists() and link.name == "vif1.0":
        raise LookupError("a defect")
    return stop(link)
eviction.stop = failing
"""
    with closing(Gated(xenstored, tmp_path, defect=defect)) as xennetd:
        xennetd.run(networks(STORE, EDGE))
        one, two = guest("lab-1"), guest("lab-2")
        assert one.vif.netdev == "vif1.0"
        for each in (one, two):
            connected(bed, each.vif)
        was = filters(site.host)
        xennetd.begin_again(networks(EDGE) + DENY + LAB, change=arm.touch)
        eventually(lambda: filters(site.host) != was)
        assert is_off(site.host, two)
        xennetd.finish()
        assert is_off(site.host, one)


def test_a_policy_that_comes_during_a_start_waits_for_its_end(
    bed: Bed, site: Site, guest: MakeGuest, xenstored: Xenstored, journal: Journal, tmp_path: Path
) -> None:
    """The start has taken a port down, and the policy that comes would leave it there: it only observes."""
    arm, found = tmp_path / "arm", tmp_path / "found"
    defect = f"""
import asyncio
from pathlib import Path
from xennetd.daemon.reconcile.eviction import Eviction
begin = Eviction.begin
async def slow(self):
    await begin(self)
    while Path({str(arm)!r}).exists():
        Path({str(found)!r}).touch()
        await asyncio.sleep(0.01)
Eviction.begin = slow
"""
    with closing(Gated(xenstored, tmp_path, defect=defect)) as xennetd:
        xennetd.run(networks(STORE, EDGE))
        web = guest("lab-1")
        connected(bed, web.vif)
        xennetd.begin_again(networks(STORE, EDGE).replace("[[policy]]", DENY + "[[policy]]", 1), change=arm.touch)
        eventually(found.exists)
        assert is_off(site.host, web)
        xennetd.configure(networks(STORE, EDGE).replace("[daemon]", OBSERVE))
        xennetd.signal(signal.SIGHUP)
        arm.unlink()
        xennetd.finish()
        assert "denied by policy: gone" in journal.wait_for(XENNET_EVENT="denied")["MESSAGE"]
        assert journal.wait_for(XENNET_EVENT="reload")["MESSAGE"] == "policy reloaded"


SHORT = """
import errno
from pathlib import Path
from xennetd.kernel.kernel import Kernel
execute = Kernel.execute
def short(self, steps):
    if Path({arm!r}).exists():
        Path({arm!r}).unlink()
        raise OSError(errno.ENOBUFS, "No buffer space available")
    return execute(self, steps)
Kernel.execute = short
"""
BROKEN = """
from pathlib import Path
from xennetd.daemon.reconcile import reconciler
decide = reconciler.decide
def defective(seen):
    if Path({arm!r}).exists():
        Path({arm!r}).unlink()
        raise LookupError("once")
    return decide(seen)
reconciler.decide = defective
"""


@pytest.mark.parametrize("trouble", [SHORT, BROKEN], ids=["ENOBUFS", "a defect less than a minute ago"])
def test_what_happens_to_one_look_does_not_matter(
    bed: Bed, site: Site, guest: MakeGuest, xenstored: Xenstored, tmp_path: Path, trouble: str
) -> None:
    arm = tmp_path / "arm"
    with closing(Gated(xenstored, tmp_path, defect=trouble.format(arm=str(arm)))) as xennetd:
        xennetd.run(networks(STORE, EDGE))
        web = guest("lab-1")
        connected(bed, web.vif)
        arm.touch()
        if trouble is BROKEN:
            bed.toolstack.xs.write(f"{web.vif.backend}/mtu", "1400")
            eventually(lambda: not arm.exists())
        was = filters(site.host)
        xennetd.begin_reload(networks(EDGE) + DENY + LAB)
        eventually(lambda: filters(site.host) != was)
        assert not arm.exists()
        assert is_off(site.host, web)
        xennetd.finish()


def test_others_are_cared_for_while_the_toolstack_can_not_be_told(
    bed: Bed, site: Site, guest: MakeGuest, xennetd: Gated
) -> None:
    xennetd.run(networks(STORE, EDGE) + policy("web-*", 'network = "lab"'))
    web = guest("web-1")
    connected(bed, web.vif)
    windows = guest("lab-1", VifSpec(type="vif_ioemu"))
    tap = tap_of(bed, windows)
    with paused(bed.xenstored.pid):
        xennetd.configure(networks(EDGE) + DENY + policy("web-*", 'network = "lab"') + LAB)
        xennetd.signal(signal.SIGHUP)
        eventually(lambda: is_off(site.host, windows))
        site.host.run("ip", "link", "set", web.vif.netdev, "nomaster")
        eventually(lambda: "master" in site.host.links()[web.vif.netdev], timeout=2.0)
    tap.close()


def test_a_guest_that_is_still_allowed_loses_no_packet(
    site: Site, guest: MakeGuest, inhabit: Inhabit, xennetd: Gated
) -> None:
    xennetd.run(networks(LAB, EDGE))
    web = guest("lab-1")
    inhabit(web, "10.77.0.11/24", gateways=["10.77.0.1"])
    was = filters(site.host)
    with Echoes({"out": (web.namespace, SERVER4)}) as pings:
        xennetd.begin_again(networks(WITH_IPV6, EDGE))
        eventually(lambda: filters(site.host) != was)
        assert web.namespace.ping(ROUTER4, wait=0.5)  # a connection that begins now
        xennetd.finish()
        assert pings.lost() == {}

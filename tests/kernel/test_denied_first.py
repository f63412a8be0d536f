"""A configuration that denies a guest, and gives its old network more: the guest is taken off before that.

Both happen at a start and at a reload. Thousands of other guests may be looked at before the one that is denied.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest

from tests.bed.echoes import Echoes
from tests.bed.guest import Bed, Guest
from tests.bed.netns import NetNs
from tests.bed.site import ROUTER4, SERVER4, Site, ip
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import Inhabit, MakeGuest
from tests.kernel.defective import Defective
from tests.kernel.every_mode import networks, policy
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually

LAB = '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24"]\nuplink = "eth0"\n'
STORE = LAB.replace('"nat"', '"isolated"').replace('uplink = "eth0"\n', "")
ELSEWHERE = LAB.replace('"eth0"', '"up1"')
WITH_IPV6 = LAB.replace('/24"]', '/24", "fd77::/64"]')
FORWARD = LAB + 'forward = [{ proto = "tcp", port = 8080, to = "10.77.0.11:80" }]\n'
EDGE = '[network.edge]\nmode = "route"\n'
OBSERVE = '[daemon]\nmode = "observe"'
DENY = policy("lab-*", 'deny = "gone"')

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


class Gated(Defective):
    """A daemon that does not look at its guests in their turn while the gate is closed, as if others came first."""

    def __init__(self, xenstored: Xenstored, directory: Path, gate: Path) -> None:
        defect = f"""
import asyncio
from pathlib import Path
from xennetd.daemon.reconcile.reconciler import Reconciler
look_at_all = Reconciler.look_at_all
async def gated(self):
    while not Path({str(gate)!r}).exists():
        await asyncio.sleep(0.02)
    await look_at_all(self)
Reconciler.look_at_all = gated
run = Reconciler.run
async def run_gated(self):
    while not Path({str(gate)!r}).exists():
        await asyncio.sleep(0.02)
    await run(self)
Reconciler.run = run_gated
"""
        super().__init__(xenstored, directory, defect=defect)
        self.gate = gate

    def run(self, config: str) -> None:
        self.gate.touch()
        self.configure(config)
        self.start()

    def begin_again(self, config: str) -> None:
        self.kill9()
        self.gate.unlink()
        self.configure(config)
        self.start(ready=False)

    def begin_reload(self, config: str) -> None:
        self.gate.unlink()
        self.configure(config)
        self.signal(signal.SIGHUP)


def filters(host: NetNs) -> str:
    """The rules and the forwarded ports. The other sets may change before."""
    listed = host.run("nft", "list", "table", "inet", "xennetd").stdout
    forwarded = host.run("nft", "list", "map", "inet", "xennetd", "forward4", check=False).stdout
    return listed[listed.index("chain ") :] + forwarded


def is_off(host: NetNs, guest: Guest) -> bool:
    link = host.links()[guest.vif.netdev]
    return "master" not in link and "UP" not in link["flags"]


@pytest.fixture
def xennetd(xenstored: Xenstored, tmp_path: Path) -> Iterator[Gated]:
    with closing(Gated(xenstored, tmp_path, tmp_path / "gate")) as daemon:
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
    xennetd.gate.touch()
    xennetd.wait_ready()


def test_it_is_off_before_a_daemon_that_has_only_observed_makes_anything(
    bed: Bed, site: Site, guest: MakeGuest, xennetd: Gated
) -> None:
    xennetd.run(networks(STORE, EDGE))
    web = guest("lab-1")
    connected(bed, web.vif)
    after = networks(EDGE) + DENY + LAB
    xennetd.begin_again(after.replace("[daemon]", OBSERVE))
    xennetd.gate.touch()
    xennetd.wait_ready()
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
    xennetd.gate.touch()
    xennetd.wait_ready()
    bed.reconnect()


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
        xennetd.gate.touch()
        xennetd.wait_ready()
        assert pings.lost() == {}

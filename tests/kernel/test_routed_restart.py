"""What a restart does to guests of every mode: nothing. What an earlier xennetd left goes, what is others' stays."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed, Guest
from tests.bed.site import HOST4, Site, ip, sysctl
from tests.bed.state import changes, host_state
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Inhabit, MakeDaemon, MakeGuest
from tests.kernel.every_mode import (
    EVERY_MODE,
    SPECS,
    Pings,
    held,
    networks,
    populate,
    proxied,
    same,
    served,
    setting,
    told,
    way,
)
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually

pytestmark = pytest.mark.usefixtures("dnsmasq")

FOREIGN = (
    "route add 100.64.0.0/10 via 192.0.2.1",
    "route add 203.0.113.99 dev eth0 proto 121",
    "neighbour add proxy 192.0.2.99 dev eth0",
    "link add foreign type bridge",
    "address add 10.99.0.1/24 dev foreign",
)
BRIDGES = r"xenbr0|inet6 fe80|(anycast|local|multicast|:) (fe80|ff00)|: xn-\w+: <|dev xn-.* proto kernel"
"""Whether bridges have a carrier, and what the kernel makes of that."""

FOREIGN_TABLE = "add table inet filter; add chain inet filter input { type filter hook input priority 0; }"


class Trace:
    """What a daemon changes, or tries to, by strace; `wrapper` goes before its command line."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "strace"
        calls = "trace=sendto,sendmsg,openat,open,creat,unlink,unlinkat,rename,renameat,renameat2,execve,kill"
        options = ("-D", "-f", "-v", "-s", "100000", "-e", calls, "-e", "signal=none")
        self.wrapper = ["strace", *options, "-o", str(self._path)]

    def _having(self, *patterns: str) -> list[str]:
        lines = self._path.read_text(errors="replace").splitlines()
        return [line[:300] for line in lines if any(re.search(pattern, line) for pattern in patterns)]

    def netlink(self) -> list[str]:
        """Requests to rtnetlink and to nftables that change something."""
        return self._having(r"nlmsg_type=RTM_(NEW|SET|DEL)", r"nlmsg_type=NFNL_SUBSYS_NFTABLES<<8\|NFT_MSG_(NEW|DEL)")

    def files(self) -> list[str]:
        """Settings and files of dnsmasq opened to be written, or taken away."""
        opened = self._having(r'open(at)?\(.*"/proc/sys/.*O_(WRONLY|RDWR)', r'".*/var/lib/xennetd/.*(O_WRONLY|O_RDWR)')
        return opened + self._having(r'(unlink|rename)\w*\(.*"/var/lib/xennetd')

    def programs(self) -> list[str]:
        return self._having(r"execve\(.*dnsmasq.*= 0")


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path)


@pytest.fixture
def everyone(site: Site, bed: Bed, guest: MakeGuest) -> dict[str, Guest]:
    """A guest in each mode, not yet connected, on a host that has things of others, too."""
    ip(site.host, *FOREIGN)
    site.host.run("nft", FOREIGN_TABLE)
    sysctl(site.host, ipv6__conf__default__accept_dad=0)
    return populate(bed, guest)


def settled(bed: Bed, everyone: dict[str, Guest]) -> list[str]:
    """Have them all connected, and return what there then is."""
    for each in everyone.values():
        each.connect()
    served("lab", "store")
    up = [f"vif{each.domain.domid}.0" for each in everyone.values()]
    eventually(lambda: all(bed.host.links()[name]["operstate"] == "UP" for name in up))
    eventually(lambda: all(bed.host.links()[name]["operstate"] == "UP" for name in ("xenbr0", "xn-lab", "xn-store")))
    return held(bed)


class TestARestart:
    def test_changes_nothing_and_asks_for_no_change(
        self, bed: Bed, everyone: dict[str, Guest], daemon: MakeDaemon, trace: Trace, guest: MakeGuest
    ) -> None:
        xennetd = daemon(EVERY_MODE)
        before = settled(bed, everyone)
        dnsmasqs = served("lab", "store")
        xennetd.kill9()

        xennetd.wrapper = trace.wrapper
        xennetd.start()

        assert (trace.netlink(), trace.files(), trace.programs()) == ([], [], [])
        assert same(before, lambda: held(bed))
        assert served("lab", "store") == dnsmasqs
        rows = xennetd.ask("list")
        assert {row["vm"]: row["state"] for row in rows} == dict.fromkeys(SPECS, "connected")
        assert "stay as they are" in xennetd.stderr()
        # The trace would have shown it.
        guest("lab-2").connect()
        assert all((trace.netlink(), trace.files()))

    def test_neither_does_a_second_one_nor_a_stop(
        self, bed: Bed, everyone: dict[str, Guest], daemon: MakeDaemon
    ) -> None:
        xennetd = daemon(EVERY_MODE)
        before = settled(bed, everyone)
        dnsmasqs = served("lab", "store")
        for _ in range(2):
            assert xennetd.terminate() == 0
            assert same(before, lambda: held(bed))
            xennetd.start()
        assert same(before, lambda: held(bed))
        assert served("lab", "store") == dnsmasqs

    def test_nobody_loses_a_packet(
        self, site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, bed: Bed
    ) -> None:
        xennetd = daemon(EVERY_MODE)
        bed.host.bridge("xenbr0")
        inhabit(guest("edge-1", VifSpec(ip="203.0.113.11")), "203.0.113.11/32", gateways=(HOST4,))
        lab = guest("lab-1", VifSpec(ip="10.77.0.5"))
        inhabit(lab, "10.77.0.5/24", gateways=("10.77.0.1",))
        pings = [
            Pings(site.internet, "203.0.113.11"),
            Pings(lab.namespace, "198.51.100.1"),
        ]
        while any(ping.running for ping in pings):
            xennetd.kill9()
            xennetd.start()
        assert [ping.lost() for ping in pings] == [0, 0]


class TestWhatAnEarlierOneLeft:
    def test_goes_with_guests_that_were_destroyed_meanwhile(
        self, site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        ip(site.host, *FOREIGN)
        site.host.run("nft", FOREIGN_TABLE)
        xennetd = daemon(EVERY_MODE)
        served("lab", "store")
        bed.host.bridge("xenbr0")
        before = host_state(site.host, without=BRIDGES)
        everyone = populate(bed, guest)
        for each in everyone.values():
            each.connect()
        assert changes(before, host_state(site.host, without=BRIDGES)) != []
        xennetd.kill9()
        for each in everyone.values():
            each.destroy()
        xennetd.start()
        assert same(before, lambda: host_state(site.host, without=BRIDGES))

    def test_goes_with_networks_and_guests_of_a_policy_that_is_gone(
        self, site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        ip(site.host, *FOREIGN)
        site.host.run("nft", FOREIGN_TABLE)
        bed.host.bridge("xenbr0")
        before = host_state(site.host, without=BRIDGES)
        xennetd = daemon(EVERY_MODE)
        dnsmasqs = served("lab", "store")
        everyone = populate(bed, guest)
        for each in everyone.values():
            each.connect()
        xennetd.kill9()
        for each in everyone.values():
            each.destroy()
        xennetd.configure(STAND_IN)
        xennetd.start()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in dnsmasqs))
        eventually(lambda: not any(Path("/var/lib/xennetd").iterdir()))
        assert same(before, lambda: host_state(site.host, without=BRIDGES))

    def test_stays_where_a_guest_still_needs_it(
        self, site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        xennetd = daemon(EVERY_MODE)
        everyone = populate(bed, guest)
        other = guest("edge-2", VifSpec(ip="192.0.2.19"))
        for each in (*everyone.values(), other):
            each.connect()
        xennetd.kill9()
        everyone["edge-1"].destroy()
        everyone["lab-1"].destroy()
        xennetd.start()
        assert proxied(site.host) == {"192.0.2.19", "192.0.2.18"}
        assert (way(site.host, "192.0.2.19"), way(site.host, "192.0.2.17")) == (other.vif.netdev, "eth0")
        assert setting(site.host, "ipv4/conf/eth0/forwarding") == 1
        assert told("lab") == {}
        assert len(told("store")) == 1

    def test_settings_come_back_to_what_they_were_before_the_first_of_them(
        self, site: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        before = host_state(site.host, without="vif32000|zz-fence")
        xennetd = daemon()
        for _ in range(2):
            web = guest("web", SPECS["alone-1"])
            web.connect()
            assert setting(site.host, "ipv4/conf/eth0/forwarding") == 1
            xennetd.kill9()
            xennetd.start()
            assert setting(site.host, "ipv4/conf/eth0/forwarding") == 1
            web.destroy()
            settle()
            assert same(before, lambda: host_state(site.host, without="vif32000|zz-fence"))

    def test_a_guest_that_came_meanwhile_gets_its_network(
        self, site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        xennetd = daemon(EVERY_MODE)
        xennetd.kill9()
        everyone = populate(bed, guest)
        xennetd.start()
        for each in everyone.values():
            connected(bed, each.vif)

    def test_what_was_broken_meanwhile_is_mended_and_nobody_else_is_touched(
        self, bed: Bed, everyone: dict[str, Guest], daemon: MakeDaemon, journal: Journal
    ) -> None:
        xennetd = daemon(EVERY_MODE)
        before = settled(bed, everyone)
        xennetd.kill9()
        edge = everyone["edge-1"].vif.netdev
        ip(bed.host, f"route del 203.0.113.11 dev {edge} proto 120", "neighbour del proxy 192.0.2.18 dev eth0")
        bed.host.run("nft", "flush", "ruleset")
        bed.host.run("nft", FOREIGN_TABLE)
        xennetd.start()
        # What settings were before us, and on which links, is nowhere else. What let links forward is found again.
        lost = re.compile(r'0x\w+ \. 0x\w+ : |= { "eth0" }')

        def kept(lines: list[str]) -> list[str]:
            return [line for line in lines if not lost.search(line)]

        assert same(kept(before), lambda: kept(held(bed)))
        assert journal.wait_for(XENNET_EVENT="drift", XENNET_VIF=edge)
        assert not journal.having(XENNET_EVENT="drift", XENNET_VIF=everyone["lan-1"].vif.netdev)


def test_dnsmasq_that_died_while_nobody_looked_is_started(site: Site, daemon: MakeDaemon) -> None:
    xennetd: Daemon = daemon(networks('[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24"]\ndhcp = true\n'))
    (pid,) = served("lab")
    xennetd.kill9()
    os.kill(pid, 9)
    xennetd.start()
    eventually(lambda: served("lab") != [pid])

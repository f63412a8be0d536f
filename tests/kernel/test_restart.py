"""What a restart, a stop and a reload do to guests that are there: nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed, Guest, crowd
from tests.bed.netns import Host
from tests.bed.systemd import Fields, Message
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest, both_stores
from tests.kernel.status import status
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually, paused

PINGS = 400
PING_INTERVAL = 0.005

ELSEWHERE = """
[network.other]
mode = "bridge"
bridge = "xenbr1"
[[policy]]
name = "elsewhere"
match = { vm = "one" }
network = "other"
"""

WEDGED = """
import asyncio, sys
from xennetd.daemon import main
from xennetd.daemon.reconcile import reconciler
async def run(self):
    await asyncio.Event().wait()
reconciler.Reconciler.run = run
del sys.argv[:3]
sys.exit(main.main())
"""
"""xennetd, but for hints that nobody works on. Its arguments are the command line that it is put before."""


class Trace:
    """What a daemon sends, by strace, which decodes netlink. `wrapper` goes before the daemon's command line."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "strace"
        options = ("-D", "-f", "-v", "-s", "100000", "-e", "trace=sendto,sendmsg", "-e", "signal=none")
        self.wrapper = ["strace", *options, "-o", str(self._path)]

    def lines(self) -> list[str]:
        return self._path.read_text(errors="replace").splitlines()

    def reads(self) -> list[str]:
        """The netlink requests that only ask, by type."""
        return re.findall(r"nlmsg_type=(RTM_GET\w+)", "\n".join(self.lines()))

    def changes(self) -> list[str]:
        """The netlink requests that change something: RTM_NEW, RTM_SET and RTM_DEL."""
        return [line for line in self.lines() if re.search(r"nlmsg_type=RTM_(NEW|SET|DEL)", line)]


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path)


@pytest.fixture
def pair(bed: Bed, guest: MakeGuest) -> tuple[Guest, Guest]:
    """Two guests on xenbr0, not yet connected."""
    bed.host.bridge("xenbr0")
    return guest("one", address="10.0.0.1/24"), guest("two", address="10.0.0.2/24")


@pytest.fixture
def all_kinds(bed: Bed, guest: MakeGuest) -> tuple[Guest, ...]:
    """A guest of each kind that has something done to it at its attach; the last one is to be refused."""
    bed.host.bridge("xenbr0", mtu=9000)
    specs = {
        "windows": VifSpec(type="vif_ioemu"),
        "named": VifSpec(vifname="web0"),
        "small": VifSpec(mtu=1400),
        "plain": VifSpec(),
        "lost": VifSpec(bridge="xenbr7"),
    }
    guests = tuple(guest(name, spec) for name, spec in specs.items())
    bed.host.tap(guests[0].vif.tap)
    return guests


def settled(bed: Bed, all_kinds: tuple[Guest, ...]) -> tuple[object, object]:
    """Have them all connected, or refused, and return what the kernel and xenstore then hold."""
    *guests, lost = all_kinds
    for guest in guests:
        guest.connect()
    refused(bed, lost.vif)
    bed.toolstack.xs.until(f"{guests[0].vif.backend}/xennetd-tap", "connected")
    ports = [f"vif-{guest.vif.domid}-0" for guest in guests]
    eventually(lambda: all(link(bed.host, port)["operstate"] == "UP" for port in ports))
    return held(bed)


def held(bed: Bed) -> tuple[object, object]:
    """What the kernel and xenstore hold, without what changes by itself."""
    links = bed.host.links()
    for each in links.values():
        for key in ("info_data", "info_slave_data"):
            details = each.get("linkinfo", {}).get(key, {})
            for volatile in [name for name in details if name.endswith("_timer") or name == "fdb_n_learned"]:
                del details[volatile]
    return {name: (each, bed.host.addresses(name)) for name, each in links.items()}, bed.xenstored.dump()


def link(host: Host, name: str) -> dict[str, Any]:
    found = host.link(name)
    assert found is not None
    return found


def identity(name: str) -> list[str]:
    return [Path(f"/sys/class/net/{name}/{what}").read_text() for what in ("ifindex", "carrier_changes")]


class TestKill:
    def test_loses_no_packet(self, pair: tuple[Guest, Guest], daemon: MakeDaemon) -> None:
        xennetd = daemon()
        for each in pair:
            each.connect()
        assert pair[0].ping("10.0.0.2")
        before = [identity(each.vif.netdev) for each in pair]
        command = ("ping", "-q", "-c", str(PINGS), "-i", str(PING_INTERVAL), "-W", "1", "10.0.0.2")
        with pair[0].namespace:
            ping = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while ping.poll() is None:
            xennetd.kill9()
            xennetd.start()
        output, _ = ping.communicate()
        assert f"{PINGS} packets transmitted, {PINGS} received, 0% packet loss" in output
        assert [identity(each.vif.netdev) for each in pair] == before

    @both_stores
    def test_start_changes_nothing_that_is_right(
        self, bed: Bed, all_kinds: tuple[Guest, ...], guest: MakeGuest, daemon: MakeDaemon, trace: Trace
    ) -> None:
        xennetd = daemon()
        settled(bed, all_kinds)
        # netback lowers it for a frontend without scatter-gather, and that is no drift.
        bed.host.rtnl.set(all_kinds[3].vif.netdev, mtu=1500)
        before = held(bed)
        xennetd.kill9()

        xennetd.wrapper = trace.wrapper
        xennetd.start()

        routes_and_neighbours = ["RTM_GETROUTE"] * 2 + ["RTM_GETNEIGH"] * 2  # of IPv4 and IPv6; real ones and proxies
        assert trace.reads() == ["RTM_GETLINK", "RTM_GETADDR", *routes_and_neighbours]
        assert trace.changes() == []
        assert held(bed) == before
        assert [row["state"] for row in xennetd.ask("list")] == ["connected"] * 4 + ["error"]
        # The trace would have shown it.
        guest("late").connect()
        assert trace.changes()

    def test_start_repairs_what_is_broken_and_touches_nothing_else(
        self, pair: tuple[Guest, Guest], bed: Bed, daemon: MakeDaemon, trace: Trace
    ) -> None:
        xennetd = daemon()
        for each in pair:
            each.connect()
        xennetd.kill9()
        broken = pair[1].vif.netdev
        bed.host.rtnl.set(broken, master="")

        xennetd.wrapper = trace.wrapper
        xennetd.start()

        assert pair[0].ping("10.0.0.2")
        touched = re.findall(r'ifi_index=(?:if_nametoindex\("(.*?)"\)|(\d+))', "\n".join(trace.changes()))
        assert touched
        assert {name or int(index) for name, index in touched} <= {broken, bed.host.rtnl.index(broken)}

    def test_start_leaves_a_port_that_it_mends_its_mtu(
        self, pair: tuple[Guest, Guest], bed: Bed, daemon: MakeDaemon
    ) -> None:
        xennetd = daemon()
        pair[0].connect()
        xennetd.kill9()
        # netback may have lowered it, for a frontend without scatter-gather.
        bed.host.rtnl.set(pair[0].vif.netdev, mtu=1400, master="")
        xennetd.start()
        port = link(bed.host, pair[0].vif.netdev)
        assert (port["master"], port["mtu"]) == ("xenbr0", 1400)
        assert link(bed.host, "xenbr0")["mtu"] == 1500

    @both_stores
    def test_start_deals_with_what_came_and_went_meanwhile(
        self, pair: tuple[Guest, Guest], guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        xennetd = daemon()
        for each in pair:
            each.connect()
        xennetd.kill9()
        pair[1].destroy()
        late = guest("late", address="10.0.0.3/24")
        xennetd.start()
        late.connect()
        assert late.ping("10.0.0.1")
        assert [row["vm"] for row in xennetd.ask("list")] == ["one", "late"]

    def test_start_ends_a_removal_that_had_begun(self, pair: tuple[Guest, Guest], bed: Bed, daemon: MakeDaemon) -> None:
        xennetd = daemon()
        for each in pair:
            each.connect()
        xennetd.kill9()
        bed.toolstack.detach_vif(pair[1].vif)
        xennetd.start()
        port = link(bed.host, pair[1].vif.netdev)
        assert "master" not in port
        assert "UP" not in port["flags"]
        assert [row["state"] for row in xennetd.ask("list")] == ["connected", "detaching"]


class TestStop:
    def test_leaves_the_network_as_it_is(self, bed: Bed, all_kinds: tuple[Guest, ...], daemon: MakeDaemon) -> None:
        xennetd = daemon()
        before = settled(bed, all_kinds)
        assert xennetd.terminate() == 0
        assert held(bed) == before
        assert [m for m in xennetd.notify.messages if m.fields.get("STOPPING") == "1"]

    def test_waits_for_nobody(self, pair: tuple[Guest, Guest], bed: Bed, daemon: MakeDaemon) -> None:
        xennetd = daemon()
        for each in pair:
            each.connect()
        with paused(bed.xenstored.pid):
            began = time.monotonic()
            assert xennetd.terminate() == 0
            assert time.monotonic() - began < 1


class TestReady:
    def test_comes_after_every_verdict(self, bed: Bed, daemon: MakeDaemon, trace: Trace) -> None:
        bed.host.bridge("xenbr0")
        vifs = crowd(bed, [VifSpec()] * 30)
        xennetd = daemon(wrapper=trace.wrapper)
        lines = trace.lines()
        ready = next(number for number, line in enumerate(lines) if "READY=1" in line)
        verdicts = sum(line.count(r"hotplug-status\0connected") for line in lines[:ready])
        assert verdicts == len(vifs)
        assert xennetd.notify.ready().fields["STATUS"] == "30 vifs: 30 connected"

    def test_waits_for_nothing_that_is_up_to_others(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.bridge("xenbr0")
        guest("connected")
        guest("error", VifSpec(bridge="xenbr7"))
        guest("ignored", VifSpec(script="vif-bridge"))
        guest("removed").detach()
        domain = bed.toolstack.create_domain("no-netback-yet")
        bed.toolstack.add_vif(domain)
        bed.netback.probe(bed.toolstack.add_vif(domain, devid=1))
        leaving = guest("leaving")
        bed.toolstack.detach_vif(leaving.vif)
        xennetd = daemon()
        states = [row["state"] for row in xennetd.ask("list")]
        assert states == ["connected", "error", "ignored", "pending", "pending", "detaching"]
        assert status(xennetd)["ready"]

    @both_stores
    def test_waits_for_xenstored(self, pair: tuple[Guest, Guest], bed: Bed, daemon: MakeDaemon) -> None:
        with paused(bed.xenstored.pid):
            xennetd = daemon(ready=False)
            eventually(lambda: xennetd.notify.status() == "waiting for xenstored")
            with pytest.raises(TimeoutError):
                xennetd.notify.ready(0.2)
            assert not status(xennetd)["ready"]
        xennetd.wait_ready()
        for each in pair:
            connected(bed, each.vif)


class TestWatchdog:
    def test_is_fed_while_there_is_nothing_to_do(self, daemon: MakeDaemon) -> None:
        xennetd = daemon(watchdog=0.9)
        eventually(lambda: len(fed(xennetd.notify.messages)) >= 4)
        # systemd acts when none has come for the whole time.
        assert max(later - earlier for earlier, later in pairwise(fed(xennetd.notify.messages))) < 0.9

    def test_is_fed_while_xenstored_is_silent(self, pair: tuple[Guest, Guest], bed: Bed, daemon: MakeDaemon) -> None:
        xennetd = daemon(watchdog=0.3)
        for each in pair:
            connected(bed, each.vif)
        bed.toolstack.xs.rm(f"{pair[0].vif.backend}/hotplug-status")
        with paused(bed.xenstored.pid):
            before = len(fed(xennetd.notify.messages))
            eventually(lambda: len(fed(xennetd.notify.messages)) >= before + 6)

    def test_starves_when_nobody_works_on_hints(self, daemon: MakeDaemon) -> None:
        xennetd = daemon(watchdog=0.15, wrapper=[sys.executable, "-c", WEDGED])
        # Its loop runs: it answers. But that is not what it is for.
        for _ in range(3):
            assert status(xennetd)["ready"]
        assert fed(xennetd.notify.messages) == []


def fed(messages: list[Any]) -> list[float]:
    return [message.time for message in messages if message.fields.get("WATCHDOG") == "1"]


class TestReload:
    def test_moves_only_what_the_policy_changes(self, pair: tuple[Guest, Guest], bed: Bed, daemon: MakeDaemon) -> None:
        bed.host.bridge("xenbr1")
        xennetd = daemon()
        for each in pair:
            each.connect()
        before = [identity(each.vif.netdev) for each in pair]
        xennetd.configure(STAND_IN + ELSEWHERE)
        xennetd.signal(signal.SIGHUP)
        eventually(lambda: link(bed.host, pair[0].vif.netdev)["master"] == "xenbr1")
        assert link(bed.host, pair[1].vif.netdev)["master"] == "xenbr0"
        assert [identity(each.vif.netdev) for each in pair] == before
        assert [each.hotplug_status() for each in pair] == ["connected", "connected"]

    def test_takes_a_denied_guest_down(self, pair: tuple[Guest, Guest], bed: Bed, daemon: MakeDaemon) -> None:
        xennetd = daemon()
        for each in pair:
            each.connect()
        xennetd.configure(STAND_IN + '[[policy]]\nname = "no"\nmatch = { vm = "one" }\ndeny = "quarantined"\n')
        assert xennetd.ctl("reload").returncode == 0
        port = link(bed.host, pair[0].vif.netdev)
        assert "UP" not in port["flags"]
        assert "master" not in port
        assert pair[0].hotplug_status() == "connected"
        assert link(bed.host, pair[1].vif.netdev)["master"] == "xenbr0"
        xennetd.configure(STAND_IN)
        assert xennetd.ctl("reload").returncode == 0
        assert pair[0].ping("10.0.0.2")

    def test_of_what_has_not_changed_sends_no_request(
        self, bed: Bed, all_kinds: tuple[Guest, ...], daemon: MakeDaemon, trace: Trace
    ) -> None:
        xennetd = daemon(wrapper=trace.wrapper)
        before = settled(bed, all_kinds)
        count = len(trace.changes())
        assert xennetd.ctl("reload").returncode == 0
        assert len(trace.changes()) == count
        assert held(bed) == before

    def test_that_is_bad_keeps_the_old_policy(self, pair: tuple[Guest, Guest], bed: Bed, daemon: MakeDaemon) -> None:
        xennetd = daemon(STAND_IN + ELSEWHERE)
        bed.host.bridge("xenbr1")
        for each in pair:
            each.connect()
        xennetd.configure(STAND_IN + '[network.other]\nmode = "brigde"\nbridge = "xenbr0"\n')
        result = xennetd.ctl("reload")
        assert result.returncode == 1
        assert "brigde" in result.stdout + result.stderr
        assert link(bed.host, pair[0].vif.netdev)["master"] == "xenbr1"

    @pytest.mark.parametrize("good", [True, False])
    def test_tells_systemd_when_it_begins_and_ends(self, daemon: MakeDaemon, good: bool) -> None:
        xennetd = daemon()
        xennetd.configure(STAND_IN + ("" if good else "[bad]\n"))
        seen = len(xennetd.notify.messages)
        before = time.monotonic()
        assert xennetd.ctl("reload").returncode == (0 if good else 1)
        after = time.monotonic()
        told: list[Fields] = eventually(lambda: ended(xennetd.notify.messages[seen:]))
        began = next(number for number, fields in enumerate(told) if fields.get("RELOADING") == "1")
        # A RELOADING=1 without the time counts for nothing with Type=notify-reload.
        assert before < int(told[began]["MONOTONIC_USEC"]) / 1e6 < after
        assert any(fields.get("READY") == "1" for fields in told[began + 1 :])


def ended(messages: Sequence[Message]) -> list[Fields]:
    """What systemd was told, once that has been read up to the end of a reload."""
    told: list[Fields] = [message.fields for message in messages]
    return told if told and told[-1].get("READY") == "1" else []

"""What xennetd stands on fails: xenstored dies, the kernel's events overrun their buffer, journald stalls or goes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bed.guest import Bed, Guest
from tests.bed.news import LinkNews, Seen
from tests.bed.systemd import Journal
from tests.bed.toolstack import Vif, VifSpec
from tests.bed.xenstored import Oxenstored
from tests.bed.xs import Request, Xs
from tests.kernel.conftest import MakeDaemon, MakeGuest, both_stores
from tests.kernel.status import status
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually, paused

NO_STDERR = ["/bin/sh", "-c", 'exec "$0" "$@" 2>/dev/full']
"""Standard error that takes nothing."""


@pytest.fixture
def lan(bed: Bed, guest: MakeGuest) -> tuple[Guest, Guest]:
    """Two guests on xenbr0, not yet connected."""
    bed.host.bridge("xenbr0")
    return guest("one", address="10.0.0.1/24"), guest("two", address="10.0.0.2/24")


@contextmanager
def undisturbed(bed: Bed, *guests: Guest) -> Iterator[None]:
    """These guests' ports are up and in their bridges all the while, by every word of the kernel."""
    names = {guest.vif.spec.vifname or guest.vif.netdev for guest in guests}
    with LinkNews(bed.host) as news:
        yield
        disturbed: list[Seen] = [seen for seen in news.drain() if seen.name in names and not (seen.up and seen.master)]
    assert disturbed == []


def of_xenstore(problems: list[str]) -> list[str]:
    return [problem for problem in problems if problem.startswith("xenstore:")]


@both_stores
class TestXenstored:
    def test_restarted_disturbs_nobody(
        self, bed: Bed, lan: tuple[Guest, Guest], guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        xennetd = daemon()
        for each in lan:
            each.connect()
        with undisturbed(bed, *lan):
            bed.xenstored.restart(down=0.2)
            bed.reconnect()
            eventually(lambda: status(xennetd)["xenstore_reconnects"] == 1)
            late = guest("late", address="10.0.0.3/24")
            late.connect()
        assert late.ping("10.0.0.1")
        assert lan[0].ping("10.0.0.2")

    def test_away_is_said_and_the_ports_are_kept(self, bed: Bed, lan: tuple[Guest, Guest], daemon: MakeDaemon) -> None:
        xennetd = daemon()
        for each in lan:
            each.connect()
        contents = bed.xenstored.dump()
        with undisturbed(bed, *lan):
            bed.xenstored.kill9()
            (problem,) = eventually(lambda: of_xenstore(status(xennetd)["problems"]))
            assert "xenstored" in problem
            assert [row["state"] for row in xennetd.ask("list")] == ["connected", "connected"]
        # Damage is repaired without it.
        bed.host.rtnl.set(lan[1].vif.netdev, master="")
        assert lan[0].ping("10.0.0.2")
        bed.xenstored.start(contents)
        bed.reconnect()
        eventually(lambda: not of_xenstore(status(xennetd)["problems"]))

    def test_guests_that_came_and_went_meanwhile_are_dealt_with(
        self, bed: Bed, lan: tuple[Guest, Guest], guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        xennetd = daemon()
        for each in lan:
            each.connect()
        with undisturbed(bed, lan[0]):
            with paused(xennetd.pid):
                lan[1].destroy()
                late = guest("late", address="10.0.0.3/24")
                bed.xenstored.restart()
                bed.reconnect()
            late.connect()
        assert late.ping("10.0.0.1")
        assert [row["vm"] for row in xennetd.ask("list")] == ["one", "late"]

    def test_a_verdict_that_is_lost_with_it_is_given_again(
        self, bed: Bed, lan: tuple[Guest, Guest], daemon: MakeDaemon
    ) -> None:
        xennetd = daemon()
        lan[0].connect()
        connected(bed, lan[1].vif)
        with paused(xennetd.pid):
            bed.toolstack.xs.write(f"{lan[1].vif.backend}/hotplug-status", "")
            contents = bed.xenstored.dump()
        connected(bed, lan[1].vif)
        with undisturbed(bed, *lan):
            bed.xenstored.restart(contents)
            bed.reconnect()
            connected(bed, lan[1].vif)

    def test_a_verdict_that_it_died_over_is_given_to_the_next(
        self, bed: Bed, lan: tuple[Guest, Guest], guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        daemon()
        for each in lan:
            each.connect()
        late = guest("late", VifSpec(bridge="xenbr7"))
        refused(bed, late.vif)
        contents = bed.xenstored.dump()
        with undisturbed(bed, *lan), LinkNews(bed.host) as news:
            os.kill(bed.xenstored.pid, signal.SIGSTOP)
            bed.host.bridge("xenbr7")
            news.until(lambda seen: seen.name == late.vif.netdev and seen.up and seen.master != 0)
            bed.xenstored.restart(contents)
            bed.reconnect()
            connected(bed, late.vif)
        assert late.hotplug_error() is None

    def test_that_comes_back_empty_ends_no_guest(
        self, bed: Bed, lan: tuple[Guest, Guest], guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        xennetd = daemon()
        for each in lan:
            each.connect()
        contents = bed.xenstored.dump()
        with undisturbed(bed, *lan):
            bed.xenstored.kill9()
            bed.xenstored.start()
            eventually(lambda: "lost what it held" in status(xennetd)["xenstore"])
            assert [row["state"] for row in xennetd.ask("list")] == ["connected", "connected"]
            bed.reconnect()
            bed.toolstack.xs.restore(contents.nodes)
            for domid in contents.introduced:
                bed.toolstack.xs.introduce(domid)
            guest("late").connect()
        assert [row["state"] for row in xennetd.ask("list")] == ["connected"] * 3
        assert lan[0].ping("10.0.0.2")

    def test_that_is_not_there_at_the_start_is_waited_for(
        self, bed: Bed, lan: tuple[Guest, Guest], daemon: MakeDaemon
    ) -> None:
        contents = bed.xenstored.dump()
        bed.xenstored.kill9()
        xennetd = daemon(ready=False)
        eventually(lambda: xennetd.notify.status() == "waiting for xenstored")
        assert "xenstored is not running" in status(xennetd)["xenstore"]
        bed.xenstored.start(contents)
        xennetd.wait_ready()
        bed.reconnect()
        for each in lan:
            connected(bed, each.vif)


@contextmanager
def silent(bed: Bed, vif: Vif) -> Iterator[None]:
    """Have xenstored answer nothing. Have oxenstored answer nothing to a client that has written a node of `vif`.

    oxenstored answers a client no more once the events of the client's writes find no room, because a watcher has left
    some 2,000 unread. It never does again, whatever the watcher does then.
    """
    if not isinstance(bed.xenstored, Oxenstored):
        with paused(bed.xenstored.pid):
            yield
        return
    with bed.xenstored.connect() as deaf, Xs(bed.xenstored.socket, timeout=0.5) as writer:
        deaf.watch(vif.backend)
        with pytest.raises(TimeoutError):
            writer.batch([Request.write(f"{vif.backend}/junk", "")] * 5000)
        yield


@both_stores
def test_a_silent_xenstored_is_said(bed: Bed, lan: tuple[Guest, Guest], daemon: MakeDaemon) -> None:
    xennetd = daemon()
    for each in lan:
        each.connect()
    ctl = [*xennetd.command("xennetd.cli.main"), "--control", str(xennetd.control)]
    with silent(bed, lan[0].vif):
        asking = [
            subprocess.Popen([*ctl, verb, lan[0].vif.netdev], env=xennetd.environment) for verb in ("pin", "unpin")
        ]
        (problem,) = eventually(lambda: of_xenstore(status(xennetd)["problems"]))
        assert "xenstored has not answered for 3 s" in problem
        assert lan[0].ping("10.0.0.2")
    if not isinstance(bed.xenstored, Oxenstored):
        eventually(lambda: not of_xenstore(status(xennetd)["problems"]))
    for process in asking:
        process.kill()
        process.wait()


class TestLinkEvents:
    def test_overrun_is_made_good(
        self, bed: Bed, lan: tuple[Guest, Guest], guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        bed.host.bridge("noise")
        gone = guest("gone")
        xennetd = daemon()
        for each in (*lan, gone):
            each.connect()
        assert status(xennetd)["netlink_resyncs"] == 0
        with paused(xennetd.pid):
            for _ in range(12_000):
                bed.host.rtnl.set("noise", mtu=1400)
                bed.host.rtnl.set("noise", mtu=1500)
            # These the kernel can't tell any more.
            bed.host.rtnl.set(lan[1].vif.netdev, master="")
            gone.destroy()
            late = guest("late", address="10.0.0.3/24")
        late.connect()
        assert late.ping("10.0.0.1")
        eventually(lambda: lan[0].ping("10.0.0.2"))
        assert status(xennetd)["netlink_resyncs"] >= 1
        assert [(row["vm"], row["state"]) for row in xennetd.ask("list")] == [
            (vm, "connected") for vm in ("one", "two", "late")
        ]


class TestJournal:
    def test_absent_entries_go_to_standard_error_in_the_same_fields(
        self, lan: tuple[Guest, Guest], daemon: MakeDaemon
    ) -> None:
        xennetd = daemon()
        lan[0].connect()
        lines = [
            line.split() for line in xennetd.stderr().splitlines() if "XENNET_EVENT=attach XENNET_VIF=vif1.0" in line
        ]
        assert len(lines) == 1
        for field in ("MESSAGE_ID=17cfb1a3a61447ed8c9f4b9282ea61ea", "XENNET_VM=one", "XENNET_BRIDGE=xenbr0"):
            assert field in lines[0]
        assert status(xennetd)["audit_dropped"] == 0

    def test_stalled_entries_go_to_standard_error_and_nothing_waits(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        journal = small_journal()
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        with journal.stall():
            guests = [guest(f"guest-{number}") for number in range(12)]
            for each in guests:
                connected(bed, each.vif, 1.0)
            assert status(xennetd)["audit_dropped"] == 0
        guest("late").connect()
        journal.wait_for(XENNET_EVENT="attach", XENNET_VM="late")
        told = [entry["XENNET_VM"] for entry in journal.having(XENNET_EVENT="attach")]
        assert len(told) < 12
        for each in guests:
            assert (each.name in told) != (f"XENNET_VM={each.name} " in xennetd.stderr())
        journal.close()

    def test_what_nobody_takes_is_counted_and_reported(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon(wrapper=NO_STDERR)
        for number in range(5):
            connected(bed, guest(f"guest-{number}").vif, 1.0)
        dropped = eventually(lambda: lost if (lost := status(xennetd)["audit_dropped"]) >= 5 else None)
        journal = Journal()
        guest("late").connect()
        journal.wait_for(XENNET_EVENT="attach", XENNET_VM="late")
        (report,) = [entry for entry in journal.entries if "XENNET_LOST" in entry]
        assert report["XENNET_LOST"] == str(dropped)
        assert status(xennetd)["audit_dropped"] == dropped
        assert xennetd.stderr() == ""
        journal.close()

    def test_restarted_is_found_again(self, lan: tuple[Guest, Guest], daemon: MakeDaemon, journal: Journal) -> None:
        daemon()
        lan[0].connect()
        journal.wait_for(XENNET_EVENT="attach", XENNET_VM="one")
        journal.close()
        with_new = Journal()
        lan[0].detach()
        with_new.wait_for(XENNET_EVENT="detach", XENNET_VM="one")
        with_new.close()


def small_journal() -> Journal:
    """A journal whose socket holds few entries."""
    limit = Path("/proc/sys/net/unix/max_dgram_qlen")
    before = limit.read_text()
    limit.write_text("5")
    try:
        return Journal()
    finally:
        limit.write_text(before)

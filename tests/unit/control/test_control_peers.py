"""Peers of the control service that are slow, many, greedy or not root."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import time

from tests.unit.control.bed import FakeDaemon, row
from tests.unit.control.peer import NOBODY, PYTHON, Peer, as_user, ask_as, beside, monitor, needs_root, run
from xennetd.daemon.control.peers import MAX_PEERS
from xennetd.daemon.observability.audit import BACKLOG, Audit
from xennetd.model.event import Event, EventKind


def test_a_monitor_that_does_not_read_costs_a_bounded_backlog_and_is_told_what_it_missed(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        peer = await monitor(path)
        await peer.receive()
        peer.transport.pause_reading()
        (subscription,) = audit._subscriptions
        sent = 0
        while subscription._lost < 100:
            audit.record(Event(EventKind.WARNING, f"{sent} " + "x" * 2000))
            sent += 1
            await asyncio.sleep(0)
            assert sent < 5000
        assert len(subscription._events) <= BACKLOG
        peer.transport.resume_reading()
        received = lost = 0
        while received + lost < sent:
            reply = (await peer.receive())["parameters"]
            received, lost = received + 1, lost + reply["lost"]
        assert lost >= 100

    run(scenario, path)


def test_a_peer_that_asks_and_never_reads_is_not_served_further(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        daemon.rows = [row(number) for number in range(1000)]
        deaf, other = await Peer.connect(path), await Peer.connect(path)
        deaf.transport.pause_reading()
        for _ in range(500):
            deaf.send("List")
        await asyncio.sleep(0.1)
        assert daemon.listed <= 2
        assert "parameters" in await other.call("Status")

    run(scenario, path)


FLOOD = """
import socket, sys, threading
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
def drain():
    while s.recv(1 << 20): pass
threading.Thread(target=drain, daemon=True).start()
call = b'{"method":"org.xennetd.Control.Check"}\\0' * 1000
s.sendall(call)
print(flush=True)
while True: s.sendall(call)
"""


def test_a_peer_that_never_ceases_to_ask_starves_nobody(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        async with beside(*PYTHON, FLOOD, path):
            other = await Peer.connect(path)
            for _ in range(20):
                assert "parameters" in await other.call("Check")

    run(scenario, path)


@needs_root
def test_other_users_together_get_a_tenth_of_the_time_and_root_waits_for_none(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        daemon.check_takes = 0.01
        async with contextlib.AsyncExitStack() as floods:
            for _ in range(6):
                await floods.enter_async_context(beside(*as_user(NOBODY, NOBODY, *PYTHON, FLOOD, path)))
            root = await Peer.connect(path)
            before, began = daemon.checks, time.perf_counter()
            worst = 0.0
            while time.perf_counter() < began + 2:
                asked = time.perf_counter()
                assert "parameters" in await root.call("Status")
                worst = max(worst, time.perf_counter() - asked)
                await asyncio.sleep(0.01)
            took = time.perf_counter() - began
        assert 3 < daemon.checks - before < 0.15 * took / daemon.check_takes
        assert worst < 0.1

    run(scenario, path, group=grp.getgrgid(NOBODY).gr_name)


CONNECT = """
import socket, sys
for number in range(1 << 30):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(sys.argv[1])
    if number == 1000: print(flush=True)
"""


def test_a_peer_that_never_ceases_to_connect_starves_nobody(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        other = await Peer.connect(path)
        async with contextlib.AsyncExitStack() as floods:
            for _ in range(3):
                await floods.enter_async_context(beside(*PYTHON, CONNECT, path))
            for _ in range(20):
                begin = time.perf_counter()
                await other.call("Check")
                assert time.perf_counter() - begin < 2

    run(scenario, path)


def test_a_list_of_a_thousand_hardly_stops_the_loop(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> float:
        daemon.rows = [row(number) for number in range(1000)]
        peer = await Peer.connect(path)
        worst = 0.0

        async def watch() -> None:
            nonlocal worst
            while True:
                begin = time.perf_counter()
                await asyncio.sleep(0)
                worst = max(worst, time.perf_counter() - begin)

        # The client is in this loop too: let it only read, not decode.
        watching = asyncio.create_task(watch())
        peer.send("List")
        reply = await peer.reader.readuntil(b"\0")
        watching.cancel()
        assert len(json.loads(reply[:-1])["parameters"]["vifs"]) == 1000
        return worst

    assert min(run(scenario, path) for _ in range(3)) < 0.02


def test_with_all_places_taken_the_most_silent_peer_makes_room(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        peers = [await Peer.connect(path) for _ in range(MAX_PEERS)]
        for peer in peers:
            await peer.call("Status")
        await peers[0].call("Status")
        newcomer = await Peer.connect(path)
        assert "parameters" in await newcomer.call("Status")
        assert await peers[1].is_cut_off()
        assert "parameters" in await peers[0].call("Status")
        assert "parameters" in await peers[2].call("Status")

    run(scenario, path)


CROWD = """
import json, socket, sys
peers = []
for _ in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); peers.append(s)
    s.sendall(b'{"method":"org.xennetd.Control.Status"}\\0')
    s.recv(1)
print("in", flush=True)
sys.stdin.read()
"""


@needs_root
def test_another_users_crowd_neither_keeps_root_out_nor_puts_it_out(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        first = await Peer.connect(path)
        await first.call("Status")
        async with beside(*as_user(NOBODY, NOBODY, *PYTHON, CROWD, path, str(MAX_PEERS + 20))) as said:
            assert said == "in\n"
            assert "parameters" in await (await Peer.connect(path)).call("Status")
            assert "parameters" in await first.call("Status")

    run(scenario, path, group=grp.getgrgid(NOBODY).gr_name)


@needs_root
def test_another_user_never_puts_root_out(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        peers = [await Peer.connect(path) for _ in range(MAX_PEERS)]
        for peer in peers:
            await peer.call("Status")
        assert await ask_as(NOBODY, NOBODY, path, [("Status", {})]) != {"Status": None}
        for peer in peers:
            await peer.call("Status")

    run(scenario, path, group=grp.getgrgid(NOBODY).gr_name)


@needs_root
def test_others_may_read_and_only_root_may_change(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        vif = {"vif": "vif7.0"}
        changes = [("Reload", {}), ("Retry", vif), ("Pin", vif), ("Unpin", vif)]
        reads = [("Status", {}), ("List", {}), ("Show", vif), ("Check", {}), ("Monitor", {})]
        replies = await ask_as(NOBODY, NOBODY, path, changes + reads)
        assert replies == {
            **{method: "org.xennetd.Control.NotPermitted" for method, _ in changes},
            **{method: None for method, _ in reads},
        }
        assert daemon.asked == []
        assert await ask_as(0, 0, path, changes) == {method: None for method, _ in changes}
        assert daemon.asked == ["reload", "retry vif7.0", "pin vif7.0", "unpin vif7.0"]

    run(scenario, path, group=grp.getgrgid(NOBODY).gr_name)

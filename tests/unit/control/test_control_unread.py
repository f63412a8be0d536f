"""Users other than root who ask for long replies and don't read them, or read them slowly."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.control.bed import FakeDaemon, row
from tests.unit.control.peer import NOBODY, PYTHON, Peer, as_user, beside, needs_root, run, until
from xennetd.daemon.control import peers, turns
from xennetd.daemon.control.peers import USER_PEERS
from xennetd.daemon.observability.audit import BACKLOG, Audit
from xennetd.model.event import Event, EventKind
from xennetd.model.status import VifStatus
from xennetd.model.vif import VifId

MIB = 1 << 20
VIFS = 4000

pytestmark = needs_root

# Who asks on many connections, reads nothing and connects again when cut off; and who reads 64 KiB every 10 ms.
ASK_ONLY = """
import select, socket, sys
peers = []
while True:
    while len(peers) < int(sys.argv[3]):
        s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); peers.append(s)
        try: s.sendall(sys.argv[2].encode() + b"\\0")
        except OSError: pass
    print("asked", flush=True)
    cut = select.poll()
    for s in peers: cut.register(s, select.POLLHUP)
    gone = {fd for fd, _ in cut.poll()}
    peers = [s for s in peers if s.fileno() not in gone]
"""
READ_SLOWLY = """
import json, socket, sys, time
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(sys.argv[2].encode() + b"\\0")
reply = b""
while not reply.endswith(b"\\0"):
    time.sleep(0.01)
    part = s.recv(1 << 16)
    if not part: sys.exit("cut off")
    reply += part
print(len(json.loads(reply[:-1])["parameters"][sys.argv[3]]), flush=True)
"""


class BigDaemon(FakeDaemon):
    """A daemon with many vifs, all in error, and a long policy. As the real one, it makes all values anew."""

    def vifs(self) -> Iterator[VifStatus]:
        for number in range(VIFS):
            error = f"there is no bridge xenbr{number}; make it, or correct the domain's vif= line"
            yield row(number, vm=f"customer-{number}.example.com", network="lab", state="error", error=error)

    def debug(self, vif: VifId) -> Iterator[str]:
        return (f"{number:1024}" for number in range(2000))


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let other users have all the time they want: what they can do in hours, they do now."""
    monkeypatch.setattr(turns, "REST", 0)
    yield
    gc.enable()


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `run` serve a BigDaemon."""
    monkeypatch.setattr("tests.unit.control.peer.FakeDaemon", BigDaemon)


def rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def now() -> float:
    """Return seconds, without those in which this process waited for a processor of the machine."""
    return time.perf_counter() - int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def call(method: str, **parameters: str) -> str:
    return json.dumps({"method": f"org.xennetd.Control.{method}", "parameters": parameters})


LIST, STATUS = call("List"), call("Status")
SHOW, DEBUG = call("Show", vif="vif7.0"), call("Debug", vif="vif7.0")


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("asked", [LIST, STATUS, DEBUG], ids=["List", "Status", "Debug"])
def test_whoever_does_not_read_costs_less_than_64_mib_and_no_time_of_roots(path: str, asked: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        os.chmod(path, 0o666)
        daemon.rows = [row(7), *(row(number, state="error", error="x" * 200) for number in range(VIFS))]
        root = await Peer.connect(path)
        gc.collect()
        gc.disable()  # In the daemon it runs rarely.
        before, most, waits = rss(), 0, list[float]()
        async with contextlib.AsyncExitStack() as users:
            for uid in range(NOBODY - 4, NOBODY):
                asking = as_user(uid, NOBODY, *PYTHON, ASK_ONLY, path, asked, str(USER_PEERS))
                assert await users.enter_async_context(beside(*asking)) == "asked\n"
            until = time.perf_counter() + (6 if asked == LIST else 3)  # as long as it takes to begin a reply to each
            while time.perf_counter() < until:
                began = now()
                root.send("Retry", parameters={"vif": "vif7.0"})
                await root.receive()
                waits.append(now() - began)
                most = max(most, rss() - before)
                await asyncio.sleep(0.005)
        p99 = sorted(waits)[len(waits) * 99 // 100]
        print(f"{most / MIB:.1f} MiB; root waits p99 {p99 * 1e3:.0f} ms, at most {max(waits) * 1e3:.0f} ms")
        assert most < 64 * MIB
        assert p99 < 0.1

    run(scenario, path)


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    ("asked", "name", "length"), [(LIST, "vifs", VIFS), (DEBUG, "dump", 2000 * 1024)], ids=["List", "Debug"]
)
def test_who_reads_slowly_gets_all_of_it_also_beside_those_who_do_not_read(
    path: str, asked: str, name: str, length: int
) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        os.chmod(path, 0o666)
        daemon.rows = [row(7), *(row(number, state="error", error="x" * 200) for number in range(VIFS))]
        async with contextlib.AsyncExitStack() as users:
            for uid in range(NOBODY - 3, NOBODY):
                asking = as_user(uid, NOBODY, *PYTHON, ASK_ONLY, path, LIST, str(USER_PEERS))
                await users.enter_async_context(beside(*asking))
            reading = as_user(NOBODY - 4, NOBODY, *PYTHON, READ_SLOWLY, path, asked, name)
            assert await users.enter_async_context(beside(*reading)) == f"{length}\n"

    run(scenario, path)


def test_of_all_that_is_unread_the_user_with_most_of_it_loses_some(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, end = set[int](), peers.Peer.end

    def note_and_end(peer: peers.Peer) -> None:
        ended.add(peer.uid)
        end(peer)

    monkeypatch.setattr(peers.Peer, "end", note_and_end)

    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        os.chmod(path, 0o666)
        daemon.rows = [row(7, state="error", error="x" * 5_000_000)]
        root, modest = await Peer.connect(path), NOBODY - 1
        reading = asyncio.create_task(first_line(as_user(modest, NOBODY, *PYTHON, READ_SLOWLY, path, SHOW, "vif")))
        async with beside(*as_user(NOBODY, NOBODY, *PYTHON, ASK_ONLY, path, SHOW, str(USER_PEERS))):
            async with asyncio.timeout(10):
                assert int(await reading) > 10, "who has less unread than another gets all"
            assert "parameters" in await root.call("Retry", vif="vif7.0")
            assert ended == {NOBODY}

    run(scenario, path)


def test_who_takes_no_bytes_for_long_is_disconnected_but_no_monitor_and_none_who_waits(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "STALLED", 0.3)

    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        daemon.rows = [row(number, state="error", error="x" * 1000) for number in range(1000)]

        async def reload() -> list[str]:
            await asyncio.sleep(0.7)
            return []

        daemon.reload = reload  # type: ignore[method-assign] # this test plays it
        waiting, deaf, watching = [await Peer.connect(path) for _ in range(3)]
        waiting.send("Reload")
        for peer, asked in ((deaf, "List"), (watching, "Monitor")):
            peer.transport.pause_reading()
            peer.send(asked, more=asked == "Monitor")
        await until(lambda: bool(audit._subscriptions))
        for number in range(BACKLOG):
            audit.record(Event(EventKind.WARNING, f"{number} " + "x" * 5000))
        assert await waiting.receive() == {"parameters": {}}
        deaf.transport.resume_reading()
        assert not (await asyncio.wait_for(deaf.reader.read(), 5)).endswith(b"\0"), "it was disconnected amid its reply"
        watching.transport.resume_reading()
        for _ in range(BACKLOG):
            await watching.receive()

    run(scenario, path)


async def first_line(command: list[str]) -> str:
    async with beside(*command) as line:
        return line


def test_a_reply_that_fails_after_its_beginning_ends_the_connection(path: str) -> None:
    def failing() -> Iterator[VifStatus]:
        yield from (row(number) for number in range(500))
        raise ValueError

    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        daemon.vifs = failing  # type: ignore[method-assign] # this test plays it
        peer = await Peer.connect(path)
        peer.send("List")
        received = await asyncio.wait_for(peer.reader.read(), 5)
        assert received.startswith(b'{"parameters":{"vifs":[{"vif":"vif0.0"')
        assert not received.endswith(b"\0")

    run(scenario, path)


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 200, 4000])
def test_a_list_of_any_length_arrives_whole(path: str, count: int) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        daemon.rows = [row(number) for number in range(count)]
        reply = await (await Peer.connect(path)).call("List")
        assert [each["domid"] for each in reply["parameters"]["vifs"]] == list(range(count))

    run(scenario, path)


def test_problems_and_notes_are_made_while_they_are_sent(path: str) -> None:
    asked = list[str]()

    def many(what: str) -> Iterator[str]:
        for number in range(VIFS):
            asked.append(what)
            yield f"{what} {number} " + "x" * 200

    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        daemon.status_problems = lambda: many("problem")  # type: ignore[method-assign] # this test plays it
        daemon.status_notes = lambda: many("note")  # type: ignore[method-assign] # this test plays it
        peer = await Peer.connect(path)
        peer.transport.pause_reading()
        peer.send("Status")
        await until(lambda: bool(asked))
        await asyncio.sleep(0.2)
        assert len(asked) < VIFS, "the rest waits until the peer has read"
        peer.transport.resume_reading()
        status = (await peer.receive())["parameters"]["status"]
        assert [line.split()[0] for line in status["problems"] + status["notes"]] == asked
        assert len(asked) == 2 * VIFS
        assert status["counts"]["connected"] == 2

    run(scenario, path)

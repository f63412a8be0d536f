"""Users other than root: how many connections each has, who makes room for whom, and their share of the time."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from tests.unit.control.bed import FakeDaemon, serving
from tests.unit.control.peer import NOBODY, PYTHON, Peer, as_user, ask_as, beside, needs_root, run, until
from xennetd.daemon.control import peers
from xennetd.daemon.control.peers import MAX_PEERS, USER_PEERS
from xennetd.daemon.control.turns import Shared
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.journal import Journal

T = TypeVar("T")

pytestmark = needs_root

CONNECT = """
import socket, sys
peers, answers = [], []
for _ in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); peers.append(s)
    try: s.sendall(b'{"method":"org.xennetd.Control.Status"}\\0')
    except BrokenPipeError: pass
    answer = s.recv(1 << 20)
    while answer and not answer.endswith(b'\\0') and (more := s.recv(1 << 20)): answer += more
    answers.append(answer)
print(sum(b'"problems"' in answer for answer in answers), answers[-1].decode(), flush=True)
sys.stdin.read()
"""


def connecting(uid: int, path: str, times: int) -> contextlib.AbstractAsyncContextManager[str]:
    """A user with connections, each of which has asked once. Gives how many were served, and the last answer."""
    return beside(*as_user(uid, NOBODY, *PYTHON, CONNECT, path, str(times)))


def test_a_user_has_a_limited_number_of_connections_and_is_told_so(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        os.chmod(path, 0o666)
        async with connecting(NOBODY, path, USER_PEERS + 5) as said:
            served, _, last = said.partition(" ")
            assert int(served) == USER_PEERS
            assert "this user has 16 connections to xennetd already" in last
            assert "org.xennetd.Control.Refused" in last
        async with connecting(NOBODY, path, 1) as said:
            assert said.startswith("1 "), "there is room again"

    run(scenario, path)


def test_a_users_silent_connections_make_room_for_its_new_ones(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_SILENT", 0.0)

    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        os.chmod(path, 0o666)
        async with connecting(NOBODY, path, USER_PEERS * 3) as said:
            assert int(said.partition(" ")[0]) == USER_PEERS * 3

    run(scenario, path)


def test_other_users_make_room_for_root_and_root_never_for_them(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        os.chmod(path, 0o666)
        roots = [await Peer.connect(path) for _ in range(20)]
        for peer in roots:
            await peer.call("Status")
        async with contextlib.AsyncExitStack() as users:
            for uid in range(NOBODY - 10, NOBODY - 5):
                await users.enter_async_context(connecting(uid, path, USER_PEERS))
            for _ in range(MAX_PEERS - 20):
                roots.append(await Peer.connect(path))
                assert "parameters" in await roots[-1].call("Status")
            for peer in roots:
                assert "parameters" in await peer.call("Status")

    run(scenario, path)


async def hang(begun: list[int], go: asyncio.Event) -> tuple[list[str], list[str]]:
    begun.append(1)
    await go.wait()
    return [], []


def test_a_peer_that_waits_for_the_daemon_never_makes_room(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        begun, go = list[int](), asyncio.Event()

        async def reload() -> list[str]:
            return (await hang(begun, go))[0]

        daemon.reload = reload  # type: ignore[method-assign] # this test plays it
        waiting = [await Peer.connect(path) for _ in range(3)]
        for peer in waiting:
            peer.send("Reload")
        await until(lambda: len(begun) == 3)
        others = [await Peer.connect(path) for _ in range(MAX_PEERS)]
        assert [await peer.is_cut_off() for peer in others[:3]] == [True] * 3
        for peer in others[3:]:
            peer.send("Reload")
        await until(lambda: len(begun) == MAX_PEERS)
        assert "parameters" in await (await Peer.connect(path)).call("Status"), "there is room for root all the same"
        go.set()
        for peer in waiting + others[3:]:
            assert await peer.receive() == {"parameters": {}}

    run(scenario, path)


ASK_AND_WAIT = """
import socket, sys
peers = []
for _ in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); peers.append(s)
    s.sendall(b'{"method":"org.xennetd.Control.Check"}\\0')
print(sum(b'"notes"' in s.recv(4096) for s in peers), flush=True)
sys.stdin.read()
"""


def test_where_all_wait_root_comes_in_and_no_other_newcomer(path: str) -> None:
    async def scenario(go: asyncio.Event, waiting: Callable[[], int]) -> None:
        os.chmod(path, 0o666)
        async with contextlib.AsyncExitStack() as users:
            commands = [
                as_user(uid, NOBODY, *PYTHON, ASK_AND_WAIT, path, str(USER_PEERS)) for uid in range(NOBODY - 4, NOBODY)
            ]
            asking = [asyncio.create_task(users.enter_async_context(beside(*command))) for command in commands]
            await until(lambda: waiting() == MAX_PEERS)
            assert "parameters" in await (await Peer.connect(path)).call("Status")
            assert await ask_as(NOBODY, NOBODY, path, [("Status", {})]) != {"Status": None}
            assert waiting() == MAX_PEERS
            go.set()
            assert await asyncio.gather(*asking) == [f"{USER_PEERS}\n"] * 4

    async def main() -> None:
        daemon, go = FakeDaemon(), asyncio.Event()
        daemon.check = lambda: hang([], go)  # type: ignore[method-assign] # this test plays it
        async with serving(daemon, Audit(Journal("/nonexistent")), path) as server:
            await scenario(go, lambda: sum(peer.waits for peer in server._crowd._heard))

    asyncio.run(main())


def shared(scenario: Callable[[Shared[int], list[int]], Awaitable[T]], *, rest: int, takes: float = 0.05) -> T:
    """Run `scenario` with work that counts, and returns how often it was done, or fails if that is a round number."""

    async def main() -> T:
        done: list[int] = []

        async def work() -> int:
            await asyncio.sleep(takes)
            done.append(len(done) + 1)
            if done[-1] % 10 == 0:
                raise ValueError
            return done[-1]

        return await scenario(Shared(work, rest=rest), done)

    return asyncio.run(main())


def test_work_is_done_once_for_all_who_ask_before_it_begins() -> None:
    async def scenario(work: Shared[int], done: list[int]) -> None:
        first = asyncio.create_task(work.result())
        await asyncio.sleep(0.02)
        others = [asyncio.create_task(work.result()) for _ in range(60)]
        assert await first == 1
        assert set(await asyncio.gather(*others)) == {2}, "none of them gets what began before it asked"
        assert done == [1, 2]

    shared(scenario, rest=0)


def test_work_rests_in_proportion() -> None:
    async def scenario(work: Shared[int], done: list[int]) -> None:
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            await work.result()
        assert asyncio.get_running_loop().time() - began > 3 * 0.02 + 2 * 9 * 0.02

    shared(scenario, rest=9, takes=0.02)


def test_work_that_fails_fails_for_all_and_is_done_anew() -> None:
    async def scenario(work: Shared[int], done: list[int]) -> None:
        done.extend(range(1, 10))
        ends = await asyncio.gather(*(work.result() for _ in range(5)), return_exceptions=True)
        assert [type(end) for end in ends] == [ValueError] * 5
        assert await work.result() == 11

    shared(scenario, rest=0)


def test_work_goes_on_when_all_who_asked_have_gone() -> None:
    async def scenario(work: Shared[int], done: list[int]) -> None:
        gone = [asyncio.create_task(work.result()) for _ in range(3)]
        await asyncio.sleep(0.01)
        for task in gone:
            task.cancel()
        await asyncio.sleep(0.1)
        assert done == [1]
        assert await work.result() == 2

    shared(scenario, rest=0)

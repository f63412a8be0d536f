"""What takes long lets others have the loop: the reconciliation of all vifs, and what is computed aside."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from xennetd.daemon.aside import aside
from xennetd.daemon.reconcile.queue import WorkQueue
from xennetd.model.errors import HostError
from xennetd.model.vif import VifId

VIFS = [VifId(number, 0) for number in range(200)]


def compute(seconds: float) -> int:
    """Use the processor for some seconds of its time, without a long call of C code."""
    rounds, until = 0, time.thread_time() + seconds
    while time.thread_time() < until:
        rounds += 1
    return rounds


def test_calls_for_all_vifs_begin_in_order_and_a_few_at_a_time() -> None:
    looked: list[VifId] = []
    together: list[int] = []

    async def look_after(vif: VifId, _: float) -> None:
        compute(0.001)
        looked.append(vif)

    async def watch() -> None:
        while True:
            before = len(looked)
            await asyncio.sleep(0)
            together.append(len(looked) - before)

    async def main() -> None:
        queue = WorkQueue()
        others = [asyncio.create_task(queue.run(look_after)), asyncio.create_task(watch())]
        await queue.look_at(VIFS)
        for task in others:
            task.cancel()

    asyncio.run(main())
    assert looked == VIFS
    assert max(together) <= 4


def test_many_short_calls_are_not_slowed_down() -> None:
    rounds, looked = 0, 0

    async def look_after(vif: VifId, _: float) -> None:
        nonlocal looked
        looked += 1

    async def main() -> None:
        nonlocal rounds
        queue = WorkQueue()
        task = asyncio.create_task(queue.run(look_after))
        looking = asyncio.create_task(queue.look_at([VifId(number, 0) for number in range(4000)]))
        while not looking.done():
            rounds += 1
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(main())
    assert looked == 4000
    assert rounds < 1000


def test_a_hint_that_is_dropped_while_others_begin_leads_to_no_call() -> None:
    looked: list[VifId] = []
    queue = WorkQueue()

    async def look_after(vif: VifId, _: float) -> None:
        looked.append(vif)
        queue.served(VIFS[-1])

    async def main() -> None:
        task = asyncio.create_task(queue.run(look_after))
        for vif in VIFS:
            queue.hint(vif)
        await asyncio.sleep(0.1)
        task.cancel()

    asyncio.run(main())
    assert looked == VIFS[:-1]


def test_the_loop_goes_on_beside_a_computation() -> None:
    async def main() -> tuple[int, int]:
        rounds = 0
        computing = asyncio.create_task(aside(lambda: compute(0.3)))
        while not computing.done():
            rounds += 1
            await asyncio.sleep(0.001)
        return rounds, await computing

    rounds, result = asyncio.run(main())
    assert result > 100
    assert rounds > 30


def test_what_a_computation_raises_is_raised() -> None:
    def fail() -> None:
        raise KeyError(7)

    with pytest.raises(KeyError):
        asyncio.run(aside(fail))


def test_where_no_thread_can_start_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(HostError, match="TasksMax="):
        asyncio.run(aside(lambda: 1))


@pytest.mark.parametrize("stopped", [True, False])
def test_nobody_need_wait_for_a_computation(stopped: bool) -> None:
    go, gone = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(5)
        gone.set()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(aside(work), 0.01)
        if not stopped:
            go.set()
            await asyncio.sleep(0.05)

    asyncio.run(main())
    go.set()
    assert gone.wait(5)

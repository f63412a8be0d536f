"""The daemon's tasks: one that fails is started again, and ends neither the daemon nor another task."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

import pytest

from xennetd.daemon import tasks as module
from xennetd.daemon.reconcile.queue import WorkQueue
from xennetd.daemon.tasks import Tasks, cause_of, heed_callbacks, place_of
from xennetd.model.errors import EventsLost, HostError
from xennetd.model.vif import VifId


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)


def run(task: Callable[[int], Awaitable[None]], *, starts: int) -> Tasks:
    """Keep a task running, until its last of so many starts. `task` gets the number of its start."""
    tasks = Tasks()
    started = 0

    async def main() -> None:
        reached = asyncio.Event()

        async def counted() -> None:
            nonlocal started
            started += 1
            if started == starts:
                reached.set()
                await asyncio.sleep(3600)
            await task(started)

        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            other = group.create_task(asyncio.sleep(3600))
            tasks.keep(group, "DHCP", counted)
            await reached.wait()
            assert not other.done()
            raise _Done

    with pytest.raises(ExceptionGroup) as ended:
        asyncio.run(main())
    assert ended.group_contains(_Done)
    return tasks


class _Done(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), MemoryError(), RuntimeError("can't start new thread"), KeyError(7)],
)
def test_a_task_that_fails_is_started_again_and_is_a_problem(error: Exception) -> None:
    async def task(_: int) -> None:
        raise error

    tasks = run(task, starts=3)
    assert tasks.problems() == [f"DHCP failed and was started again: {cause_of(error)}; the journal has the details"]


def test_the_problem_is_over_once_the_task_is_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEADY", -1.0)

    async def task(_: int) -> None:
        raise OSError

    assert run(task, starts=2).problems() == []


def test_the_loss_of_the_kernels_events_ends_all() -> None:
    async def task() -> None:
        raise EventsLost("gone")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            Tasks().keep(group, "the view of the kernel", task)
            await asyncio.sleep(3600)

    with pytest.raises(ExceptionGroup) as ended:
        asyncio.run(main())
    assert cause_of(ended.value) == "gone"


def test_an_error_of_xennetd_tells_its_detail() -> None:
    error = HostError("short", detail="long")
    assert cause_of(ExceptionGroup("", [ExceptionGroup("", [error])])) == "long"


def test_a_queue_that_fails_forgets_no_hint() -> None:
    looked: list[VifId] = []

    async def look_after(vif: VifId, _: float) -> None:
        if vif not in looked:
            looked.append(vif)
            raise MemoryError
        looked.append(vif)

    async def main() -> None:
        queue, tasks = WorkQueue(), Tasks()
        vifs = [VifId(number, 0) for number in range(3)]
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            tasks.keep(group, "the care of the guests", lambda: queue.run(look_after))
            await queue.look_at(vifs)
            raise _Done

    with pytest.raises(ExceptionGroup) as ended:
        asyncio.run(main())
    assert ended.group_contains(_Done)
    assert all(looked.count(VifId(number, 0)) == 2 for number in range(3))


def test_a_connection_that_can_not_be_watched_is_ended() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        heed_callbacks(loop)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.settimeout(2)
            add, loop._add_reader = loop._add_reader, _refuse  # type: ignore[attr-defined] # asyncio's own
            await loop.connect_accepted_socket(asyncio.Protocol, ours)
            await asyncio.sleep(0)
            loop._add_reader = add  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
            return theirs.recv(1)

    assert asyncio.run(main()) == b""


def _refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_who_waits_for_vifs_does_not_wait_for_those_of_others() -> None:
    async def scenario() -> None:
        queue, slow, fast = WorkQueue(), VifId(1, 0), VifId(2, 0)
        held = asyncio.Event()

        async def look_after(vif: VifId, hinted_at: float) -> None:
            if vif == slow:
                await held.wait()

        running = asyncio.ensure_future(queue.run(look_after))
        sweep = asyncio.ensure_future(queue.look_at([slow, fast]))
        await asyncio.sleep(0)
        await asyncio.wait_for(queue.look_at([fast]), 1.0)
        assert not sweep.done()
        held.set()
        await asyncio.wait_for(sweep, 1.0)
        running.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("in_a_group", [False, True])
def test_a_task_whose_clean_up_fails_ends_all_the_same(in_a_group: bool) -> None:
    """Its own, or that of a task in its group. Whoever stops the daemon would wait for ever."""
    runs = 0

    async def fails_once() -> None:
        nonlocal runs
        runs += 1
        try:
            await asyncio.sleep(3600)
        finally:
            if runs == 1:
                raise OSError("the clean-up has failed")

    async def run() -> None:
        if in_a_group:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails_once())
        else:
            await fails_once()

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            Tasks().keep(group, "the care of the guests", run)
            await asyncio.sleep(0.01)
            raise _Done

    async def main() -> bool:
        serving = asyncio.create_task(serve())
        done, _ = await asyncio.wait({serving}, timeout=1.0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait({serving})
        return serving in done

    assert asyncio.run(main())
    assert runs == 1


def test_the_place_where_a_task_waits_is_the_innermost() -> None:
    async def inner() -> None:
        await asyncio.Event().wait()

    async def outer() -> None:
        await inner()

    async def main() -> None:
        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        assert place_of(task).startswith("Event.wait:")
        task.cancel()

    asyncio.run(main())

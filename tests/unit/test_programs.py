"""Programs that are run within a time limit: whatever they do and leave running, the caller goes on in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xennetd.programs import Ended, NotEnded, NotRun, run

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def bash(text: str) -> tuple[str, ...]:
    return "/bin/bash", "-c", text


class Family:
    """Processes that write their pids down."""

    def __init__(self, file: Path) -> None:
        self.note = f"echo $BASHPID >> {file}"
        self._file = file

    def pids(self) -> list[int]:
        return [int(pid) for pid in self._file.read_text().split()] if self._file.exists() else []

    def alive(self) -> list[int]:
        """Those that run. A zombie that nobody has reaped yet does not."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(pid)
        return found


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    family = Family(tmp_path / "pids")
    yield family
    for pid in family.alive():
        os.kill(pid, signal.SIGKILL)


def test_one_that_hangs_and_has_left_a_child_in_another_session_takes_no_longer(family: Family) -> None:
    leaves = f"echo 'the last words'; setsid bash -c '{family.note}; exec sleep 30' & sleep 30"
    began = time.monotonic()
    with pytest.raises(NotEnded, match=r"has not ended within 0\.5 s") as raised:
        asyncio.run(run(bash(leaves), 0.5, ENVIRONMENT))
    assert time.monotonic() - began < 5
    assert raised.value.output == b"the last words\n"
    assert len(family.alive()) == 1, "which goes on"


def test_one_that_ends_and_leaves_a_child_behind_is_not_waited_for_any_longer(family: Family) -> None:
    began = time.monotonic()
    leaves = f"bash -c '{family.note}; exec sleep 30' & echo out; echo error >&2; exit 3"
    assert asyncio.run(run(bash(leaves), 20, ENVIRONMENT)) == Ended(3, b"out\n", b"error\n")
    assert time.monotonic() - began < 5
    assert len(family.alive()) == 1, "which goes on"


def test_one_that_hangs_is_killed_with_its_children(family: Family) -> None:
    hangs = f"{family.note}; (trap '' TERM HUP; {family.note}; sleep 30) & wait"
    with pytest.raises(NotRun):
        asyncio.run(run(bash(hangs), 0.5, ENVIRONMENT))
    assert len(family.pids()) == 2
    assert until_none_is_alive(family) == []


def test_one_whose_task_is_cancelled_is_killed_with_its_children(family: Family) -> None:
    async def scenario() -> None:
        running = asyncio.create_task(run(bash(f"({family.note}; sleep 30) & {family.note}; wait"), 20, ENVIRONMENT))
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if len(family.pids()) == 2:
                break
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
    assert len(family.pids()) == 2
    assert until_none_is_alive(family) == []


def until_none_is_alive(family: Family) -> list[int]:
    deadline = time.monotonic() + 5
    while (alive := family.alive()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return alive


def test_of_a_long_output_the_end_is_kept() -> None:
    chatty = bash("head -c 1000000 /dev/zero; echo out; echo error >&2")
    assert asyncio.run(run(chatty, 20, ENVIRONMENT, together=True, keep=10)) == Ended(0, b"out\nerror\n", b"")
    ended = asyncio.run(run(chatty, 20, ENVIRONMENT))
    assert (len(ended.output), ended.errors) == (1_000_004, b"error\n")


def test_one_that_is_not_there_is_named() -> None:
    with pytest.raises(NotRun, match=r"can't be run: No such file or directory \(/nonexistent/bash\)$"):
        asyncio.run(run(("/nonexistent/bash",), 1, ENVIRONMENT))


def test_no_descriptor_stays_open(family: Family) -> None:
    async def scenario() -> None:
        before = len(os.listdir("/proc/self/fd"))
        for leaves in (f"setsid bash -c '{family.note}; exec sleep 30' & sleep 30", f"({family.note}; sleep 30) &"):
            with contextlib.suppress(NotRun):
                await run(bash(leaves), 0.3, ENVIRONMENT)
        await asyncio.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(scenario())
    assert len(family.alive()) == 2

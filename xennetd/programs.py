"""Runs a program to its end, within a time limit. There is no shell: a command is a list of words.

Rule 1: the program gets a session of its own. One that takes too long is killed with all processes of its process
group. A process that has left the group, as by setsid(1), is not ended.
Rule 2: whatever the program leaves running, nobody waits for it. A process that outlives the program may hold the pipe
of its output open for ever, so the pipe is closed soon after the program's end.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from subprocess import DEVNULL, PIPE, STDOUT
from typing import NamedTuple

_GRACE = 0.5
"""Seconds after the end of a program in which its output is still read, and after a SIGKILL in which it must end."""

_MOST = 16 << 20
"""Bytes that are kept of an output unless the caller says otherwise: the last ones."""


class NotRun(Exception):
    """A program can't be started, or has not ended in time. The message is the rest of a sentence about the program."""


class NotStarted(NotRun):
    """A program can't be started. `why` is the reason."""

    def __init__(self, why: str) -> None:
        super().__init__(f"can't be run: {why}")
        self.why = why


class NotEnded(NotRun):
    """A program has not ended in time. `output` is what it has written to its standard output until it was killed."""

    def __init__(self, seconds: float, output: bytes) -> None:
        super().__init__(f"has not ended within {seconds:g} s")
        self.output = output


class Ended(NamedTuple):
    """The end of a program: its exit status, and what it has written to its standard output and error.

    `status` is negative for a program that a signal has ended: the signal's number.
    """

    status: int
    output: bytes
    errors: bytes


async def run(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str],
    *,
    together: bool = False,
    keep: int = _MOST,
) -> Ended:
    """Run a program with exactly this environment, in a session of its own. Raises NotStarted, and NotEnded.

    With `together`, `output` is what it writes to its standard output and error. Of each the last `keep` bytes count.
    A program that has not ended after `seconds`, or whose task is cancelled, is killed with its process group. What
    other processes write to its output later than a moment after its end is not read, and they get a SIGPIPE.
    """
    loop = asyncio.get_running_loop()
    try:
        transport, program = await loop.subprocess_exec(
            lambda: _Program(keep),
            *command,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT if together else PIPE,
            env=environment,
            start_new_session=True,
        )
    except (OSError, RuntimeError, MemoryError) as error:
        raise NotStarted(_why(error)) from error
    try:
        try:
            async with asyncio.timeout(seconds):
                await program.ended.wait()
        except TimeoutError:
            _kill(transport.get_pid())
            await _within_grace(program.finished)
            raise NotEnded(seconds, program.text(1)) from None
        await _within_grace(program.finished)
        return Ended(transport.get_returncode() or 0, program.text(1), program.text(2))
    finally:
        try:
            if transport.get_returncode() is None:
                _kill(transport.get_pid())
                await _within_grace(program.ended)
        finally:
            transport.close()


def cause_of_end(status: int) -> str:
    """Return the exit status of a program that failed, or the signal that ended it, in words to follow "with"."""
    if status >= 0:
        return f"status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    if -status == signal.SIGKILL:
        limit = "the kernel sends it where memory runs out: see journalctl -k, and MemoryMax= of xennetd.service"
        return f"signal {name} ({limit})"
    return f"signal {name}"


class _Program(asyncio.SubprocessProtocol):
    """A running program. `ended` is set at its end, `finished` when nobody can write to its output any more, too.

    asyncio's own `Process.wait()` returns at different moments in different versions of Python, in some only when all
    pipes are closed.
    """

    def __init__(self, keep: int) -> None:
        self.ended = asyncio.Event()
        self.finished = asyncio.Event()
        self._keep = keep
        self._outputs: dict[int, bytearray] = {}

    def text(self, descriptor: int) -> bytes:
        """Return the kept output: 1 is standard output, 2 standard error."""
        return bytes(self._outputs.get(descriptor, b""))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        kept = self._outputs.setdefault(fd, bytearray())
        kept += data
        del kept[: -self._keep]

    def process_exited(self) -> None:
        self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.finished.set()


async def _within_grace(event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(_GRACE):
            await event.wait()


def _kill(pid: int) -> None:
    """Kill a program and the processes of its group."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _why(error: Exception) -> str:
    """Return why a program can't be started. RuntimeError: no thread can be started."""
    if isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno == errno.EAGAIN):
        return "the host can't start another process or thread: see TasksMax= of xennetd.service"
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    return "memory is short: see MemoryMax= of xennetd.service"

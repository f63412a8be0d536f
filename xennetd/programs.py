"""Runs a program to its end, within a time limit. There is no shell: a command is a list of words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from subprocess import DEVNULL, PIPE
from typing import NamedTuple


class NotRun(Exception):
    """A program can't be started, or has not ended in time. The message is the rest of a sentence about the program."""


class Ended(NamedTuple):
    """The end of a program: its exit status, and what it has written to its standard output and error."""

    status: int
    output: bytes
    errors: bytes


async def run(command: Sequence[str], seconds: float, environment: Mapping[str, str]) -> Ended:
    """Run a program with exactly this environment, in a session of its own. Raises NotRun.

    A program that has not ended after `seconds`, or whose task is cancelled, is killed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment, start_new_session=True
        )
    except (OSError, RuntimeError, MemoryError) as error:  # RuntimeError: no thread can be started.
        why = error.strerror if isinstance(error, OSError) else str(error) or "the host is short of memory"
        raise NotRun(f"can't be run: {why}") from error
    try:
        async with asyncio.timeout(seconds):
            output, errors = await process.communicate()
    except TimeoutError:
        raise NotRun(f"has not ended within {seconds:.0f} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return Ended(process.returncode or 0, output, errors)

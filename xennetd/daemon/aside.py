"""Runs a computation in a thread, so that the daemon serves guests and requests meanwhile.

The thread and the loop take turns at Python's interpreter. Where the loop wants to go on, the thread gives way after
_SWITCH. So it costs an attach some 2 ms: the loop gives the interpreter away at each of its system calls. What stays in
one call of C code for long does not give way; there must be no such call in the computation.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from xennetd.model.errors import HostError

T = TypeVar("T")

_SWITCH = 0.0001
"""Seconds (sys.setswitchinterval()). With Python's default, 0.005, an attach would take up to 70 ms longer."""


async def aside(work: Callable[[], T]) -> T:
    """Return the result of `work`, which must use nothing that the loop changes. Raises what `work` raises.

    Raises HostError when no thread can be started.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():  # Whoever waited was cancelled.
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # The daemon has stopped meanwhile, and the loop is closed.
            loop.call_soon_threadsafe(settle, result, failure)

    sys.setswitchinterval(_SWITCH)
    try:
        threading.Thread(target=run, name="aside", daemon=True).start()
    except RuntimeError as error:
        raise HostError(f"xennetd can't start a thread: see TasksMax= of xennetd.service ({error})") from error
    return await future

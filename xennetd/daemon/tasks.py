"""The daemon's tasks. A task that fails is started again after a pause, and the failure is a problem in `status`.

Rule 1: no task ends the daemon, except one that raises `EventsLost`: without events the daemon would serve guests from
a view of yesterday, and a new process begins with a new view.
Rule 2: a task can be started again at any moment. It keeps what it must not forget in its object, not in the task.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from xennetd.cancellation import heed_cancellation
from xennetd.model.errors import EventsLost, XennetdError
from xennetd.model.text import visible

_log = structlog.get_logger(__name__)

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
"""Seconds before a task that has failed is started again. The pause doubles with each failure in a row."""

_STEADY = 10.0
"""Seconds after which a task that was started again counts as healthy."""


@dataclass(slots=True)
class _Failure:
    cause: str
    at: float
    pause: float


class Tasks:
    """Keeps tasks running. `purpose` is what people miss while a task does not run ("DHCP", "the control socket")."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}

    def keep(self, group: asyncio.TaskGroup, purpose: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a task in `group`, and run it again whenever it fails. A task that returns is done."""
        group.create_task(self._keep(purpose, run), name=purpose)

    def problems(self) -> list[str]:
        """Return a sentence for each task that has failed and has not been healthy since."""
        now = time.monotonic()
        for purpose, failure in tuple(self._failures.items()):
            if now > failure.at + failure.pause + _STEADY:
                del self._failures[purpose]
        return [
            f"{purpose} failed and was started again: {failure.cause}; the journal has the details"
            for purpose, failure in self._failures.items()
        ]

    async def _keep(self, purpose: str, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await run()
            except EventsLost:
                raise
            except Exception as error:
                heed_cancellation()
                pause = self._failed(purpose, error)
            await asyncio.sleep(pause)

    def _failed(self, purpose: str, error: Exception) -> float:
        """Note a failure, and return the pause before the next start."""
        now, before = time.monotonic(), self._failures.get(purpose)
        again = before is not None and now < before.at + before.pause + _STEADY
        pause = min(2 * before.pause, _LONGEST_PAUSE) if before is not None and again else _FIRST_PAUSE
        cause = cause_of(error)
        self._failures[purpose] = _Failure(cause, now, pause)
        _log.exception(f"{purpose} failed and is started again", why=cause, pause=pause)
        return pause


def tell_unended() -> None:
    """Log each task that has not ended, with the place where it waits. The journal then says why a stop takes long."""
    for task in asyncio.all_tasks():
        _log.warning("a task has not ended although xennetd stops", task=task.get_name(), waits_in=place_of(task))


def place_of(task: asyncio.Task[Any]) -> str:
    """Return the innermost place at which a task waits, `function:line`; empty if it can't be told."""
    place = ""
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None:
            break
        place = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return place


def cause_of(error: BaseException) -> str:
    """Return the cause of an exception in one line: of the first one in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, XennetdError):
        return error.detail
    text = " ".join(str(error).split())
    return visible(text if isinstance(error, OSError) and text else f"{type(error).__name__} {text}".strip(), 200)


def heed_callbacks(loop: asyncio.AbstractEventLoop) -> None:
    """Log exceptions in callbacks of the event loop, and end the connection that one belongs to.

    Where the kernel refuses to watch an accepted connection (epoll_ctl(2): ENOMEM, ENOSPC), asyncio raises in a
    callback, and the peer would wait for ever.
    """

    def heed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        _log.error(
            "an exception in a callback",
            what=context["message"],
            why=cause_of(error) if error is not None else "",
            exc_info=error,
        )
        owner = getattr(getattr(context.get("handle"), "_callback", None), "__self__", None)
        if isinstance(owner, asyncio.Transport):
            owner.abort()

    loop.set_exception_handler(heed)

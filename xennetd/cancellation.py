"""For tasks that live on after any exception: they must not live on after their cancellation."""

from __future__ import annotations

import asyncio


def heed_cancellation() -> None:
    """Raise CancelledError if the current task was cancelled, and an exception came in the place of CancelledError.

    A TaskGroup raises the exceptions of its tasks, and a clean-up may fail. Whoever has cancelled the task, to stop the
    daemon, would wait for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError

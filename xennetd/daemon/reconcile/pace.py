"""Slows down what has to be done to the same thing again and again: another program, or a defect, undoes it.

Work that is needed again, on the same subject, within a second of when it was done waits: twice as long each time. Work
that stays done for longer than that is forgotten.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

_WINDOW = 1.0
_FIRST = 0.1
_LONGEST = 60.0
_TOLD_FROM = 1.0
"""Seconds: a fight that waits as long as this is worth telling of."""


@dataclass(slots=True)
class _Work:
    """What was done to a subject last, and when it was needed again first."""

    what: tuple[str, ...]
    done_at: float
    pause: float = 0.0
    times: int = 1
    needed_at: float | None = None

    @property
    def next_pause(self) -> float:
        return min(max(_FIRST, 2 * self.pause), _LONGEST)


class Pace:
    """When which work was last done to which subject, on a monotonic clock in seconds."""

    def __init__(self) -> None:
        self._works: dict[Hashable, _Work] = {}

    def wait(self, subject: Hashable, what: tuple[str, ...], now: float) -> float:
        """Return how long to wait before doing this to a subject; 0 if it may be done now, and is then taken as done.

        `what` names the work, line by line.
        """
        work = self._works.get(subject)
        if work is None or work.what != what:
            self._works[subject] = _Work(what, now)
            return 0.0
        if work.needed_at is None:
            work.needed_at = now
        if work.needed_at - work.done_at > _WINDOW:
            self._works[subject] = _Work(what, now)
            return 0.0
        left = work.done_at + work.next_pause - now
        if left > 0:
            return left
        self._works[subject] = _Work(what, now, work.next_pause, work.times + 1)
        return 0.0

    def forget(self, subject: Hashable) -> None:
        """Forget a subject that is gone."""
        self._works.pop(subject, None)

    def problem(self, subject: Hashable, now: float) -> str | None:
        """Return in words that the same work is done to a subject again and again, None if that is not so."""
        work = self._works.get(subject)
        if work is None or work.pause < _TOLD_FROM or now - work.done_at > max(_WINDOW, 2 * work.next_pause):
            return None
        return (
            f"put right {work.times} times and undone each time, so it is tried less and less often: "
            f"{'; '.join(work.what)}; which other program configures this?"
        )

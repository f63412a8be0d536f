"""Slows down work that another program, or a defect, undoes again and again.

Work on a subject (a vif or a network) that is needed again within a second of its completion waits, twice as long each
time. Work that stays done for more than a second is forgotten.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

_WINDOW = 1.0
"""Seconds after its completion in which work that is needed again counts as undone by somebody."""

_FIRST = 0.1
_LONGEST = 60.0
"""Seconds of the first pause and of the longest."""

_TOLD_FROM = 1.0
"""Seconds of the shortest pause that is reported as a problem."""


@dataclass(slots=True)
class _Work:
    """The last work on a subject: its hash, since the words of a thousand works would take a megabyte.

    `needed_at` is when the same work was first needed again, None until then.
    """

    what: int
    done_at: float
    pause: float = 0.0
    times: int = 1
    needed_at: float | None = None
    words: tuple[str, ...] = ()

    @property
    def next_pause(self) -> float:
        return min(max(_FIRST, 2 * self.pause), _LONGEST)


class Pace:
    """The last work on every subject. All times are in seconds on a monotonic clock."""

    def __init__(self) -> None:
        self._works: dict[Hashable, _Work] = {}

    def wait(self, subject: Hashable, what: tuple[str, ...], now: float, links: Hashable = None) -> float:
        """Return the seconds to wait before this work on a subject, 0 if it may be done now.

        After a 0 the work counts as done at `now`. `what` describes the work, one line for each Step. `links` names
        the links that the work is on: the same work on other links undoes nothing.
        """
        work, same = self._works.get(subject), hash((what, links))
        if work is None or work.what != same:
            self._works[subject] = _Work(same, now)
            return 0.0
        if work.needed_at is None:
            work.needed_at = now
        if work.needed_at - work.done_at > _WINDOW:
            self._works[subject] = _Work(same, now)
            return 0.0
        left = work.done_at + work.next_pause - now
        if left > 0:
            return left
        self._works[subject] = _Work(same, now, work.next_pause, work.times + 1, words=what)
        return 0.0

    def forget(self, subject: Hashable) -> None:
        """Forget a subject that is gone."""
        self._works.pop(subject, None)

    def problem(self, subject: Hashable, now: float) -> str | None:
        """Return the rest of a sentence that begins with `SUBJECT is`, on work that is undone again and again.

        Returns None if there is no such work.
        """
        work = self._works.get(subject)
        if work is None or work.pause < _TOLD_FROM or now - work.done_at > max(_WINDOW, 2 * work.next_pause):
            return None
        return (
            f"changed back after each repair ({work.times} times: {'; '.join(work.words)}), so xennetd repairs it less "
            "and less often; find the program that changes it"
        )

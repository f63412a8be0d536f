"""Slows down work that another program, or a defect, undoes again and again.

Work on a subject (a vif or a network) that is needed again within a second of its completion waits, twice as long each
time. Work that stays done for more than a second is forgotten. Several works on one subject that alternate are slowed
down each.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import islice

from xennetd.plan.steps import Step

_WINDOW = 1.0
"""Seconds after its completion in which work that is needed again counts as undone by somebody."""

_FIRST = 0.1
_LONGEST = 60.0
"""Seconds of the first pause and of the longest."""

_REMEMBERED = 4
"""The number of works on one subject, besides the last, that may alternate with it."""

_TOLD_FROM = 1.0
"""Seconds of the shortest pause that is reported as a problem."""


@dataclass(slots=True)
class _Work:
    """A work on a subject: the hash of its Steps, since the Steps of a thousand works would take a megabyte.

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

    def is_over(self, now: float) -> bool:
        """Return whether nobody undid the work in time. Work that waits is needed: it is not over yet."""
        return now - self.done_at > max(_WINDOW, 2 * self.next_pause)


class Pace:
    """The latest works on every subject. All times are in seconds on a monotonic clock."""

    def __init__(self) -> None:
        self._works: dict[Hashable, tuple[_Work, ...]] = {}

    def wait(
        self, subject: Hashable, what: Sequence[Step], now: float, links: Hashable = None, *, free: int = 1
    ) -> float:
        """Return the seconds to wait before this work on a subject, 0 if it may be done now.

        After a 0 the work counts as done at `now`. `links` names the links that the work is on: the same work on other
        links undoes nothing. The work is done `free` times before the first pause.
        """
        known, same = self._works.get(subject), hash((what, links))
        if known is None:
            self._works[subject] = (_Work(same, now),)
            return 0.0
        work = next((work for work in known if work.what == same), None)
        if work is not None and work.needed_at is None:
            work.needed_at = now
        if work is None or work.needed_at is None or work.needed_at - work.done_at > _WINDOW:
            done = _Work(same, now)
        elif work.times < free:
            done = _Work(same, now, times=work.times + 1)
        elif (left := work.done_at + work.next_pause - now) > 0:
            return left
        else:
            words = tuple(step.describe() for step in what)
            done = _Work(same, now, work.next_pause, work.times + 1, words=words)
        others = (other for other in known if other is not work and not other.is_over(now))
        self._works[subject] = (*islice(others, _REMEMBERED), done)
        return 0.0

    def forget(self, subject: Hashable) -> None:
        """Forget a subject that is gone."""
        self._works.pop(subject, None)

    def problem(self, subject: Hashable, now: float) -> str | None:
        """Return the rest of a sentence that begins with `SUBJECT is`, on work that is undone again and again.

        Returns None if there is no such work.
        """
        works = [work for work in self._works.get(subject, ()) if work.pause >= _TOLD_FROM and not work.is_over(now)]
        if not works:
            return None
        work = works[-1]
        return (
            f"changed back after each repair ({work.times} times: {'; '.join(work.words)}), so xennetd repairs it less "
            "and less often; find the program that changes it"
        )

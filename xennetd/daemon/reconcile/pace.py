"""Slows down work that another program, or a defect, undoes again and again.

The subject of work is a vif, the filter, or a host object that several owners may need. Work that is needed again
within a second of its completion waits, twice as long each time. Work that stays done for more than a second is
forgotten. Several works on one subject that alternate are slowed down each.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import islice

from msgspec import Struct

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


class _Work(Struct):
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

    @property
    def is_undone(self) -> bool:
        """Whether the work was needed again so soon that somebody must have undone it."""
        return self.needed_at is not None and self.needed_at - self.done_at <= _WINDOW

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
        same = hash((what, links))
        if subject not in self._works:
            self._works[subject] = (_Work(same, now),)
            return 0.0
        if (left := self._left(subject, same, now, free)) > 0:
            return left
        self._done(subject, same, what, now, free)
        return 0.0

    def wait_for_all(self, works: Sequence[tuple[Hashable, Sequence[Step]]], now: float, *, free: int = 1) -> float:
        """Return the seconds to wait before all of these works, each on its subject: the longest time of any of them.

        After a 0 all of them count as done at `now`, else none.
        """
        hashes = [hash((what, None)) for _, what in works]
        left = max((self._left(works[n][0], same, now, free) for n, same in enumerate(hashes)), default=0.0)
        if left > 0:
            return left
        for (subject, what), same in zip(works, hashes, strict=True):
            self._done(subject, same, what, now, free)
        return 0.0

    def _find(self, subject: Hashable, same: int) -> _Work | None:
        return next((work for work in self._works.get(subject, ()) if work.what == same), None)

    def _left(self, subject: Hashable, same: int, now: float, free: int) -> float:
        """Return the seconds to wait before a work, 0 or less if it may be done now."""
        work = self._find(subject, same)
        if work is None:
            return 0.0
        if work.needed_at is None:
            work.needed_at = now
        return work.done_at + work.next_pause - now if work.is_undone and work.times >= free else 0.0

    def _done(self, subject: Hashable, same: int, what: Sequence[Step], now: float, free: int) -> None:
        work, done = self._find(subject, same), _Work(same, now)
        if work is not None and work.is_undone:
            done.times = work.times + 1
            if work.times >= free:
                done.pause, done.words = work.next_pause, tuple(step.describe() for step in what)
        known = self._works.get(subject, ())
        others = (other for other in known if other is not work and not other.is_over(now))
        self._works[subject] = (*islice(others, _REMEMBERED), done)

    def forget(self, subject: Hashable) -> None:
        """Forget a subject that is gone."""
        self._works.pop(subject, None)

    def subjects(self) -> list[Hashable]:
        """Return all subjects with a latest work."""
        return list(self._works)

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

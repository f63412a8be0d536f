"""Limits the records of repairs: one for each vif or network, and kind of repair, a minute. No repair goes uncounted.

The first repair is recorded at once. Those of the next minute are counted, and one record at its end gives their
number and the last of them. So a fight with another program over a setting does not fill the journal.
Rule: what one repair costs does not grow with the number of vifs. What is counted is in the order of its last record.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from xennetd.model.event import Event
from xennetd.model.value import replace

MINUTE = 60.0
"""Seconds between two records of one kind about one subject."""

SLICE = 100
"""Counts that are looked at in one go. Thousands come due at once, a minute after a repair of all vifs."""


@dataclass(slots=True)
class _Counted:
    """The repairs since the last record at the time `since`: their number, and the event of the last."""

    since: float
    count: int = 0
    last: Event | None = None


class DriftLimit:
    """The records of the last minute. All times are in seconds on a monotonic clock, and none is before the last."""

    def __init__(self) -> None:
        self._counted: OrderedDict[tuple[Hashable, str], _Counted] = OrderedDict()

    def repaired(self, event: Event, what: str, now: float) -> Event | None:
        """Return the event of a repair if it is to be recorded now, else None. `what` is the kind of repair."""
        key = (event.vif or event.network, what)
        counted = self._counted.get(key)
        if counted is None:
            self._counted[key] = _Counted(now)
            return replace(event, repairs=1)
        counted.count += 1
        counted.last = event
        return None

    @property
    def due_at(self) -> float | None:
        """When the next record may be due, None if there is none to come."""
        first = next(iter(self._counted.values()), None)
        return first.since + MINUTE if first is not None else None

    def due(self, now: float) -> list[Event]:
        """Return the records of the minutes that are over. What had no repair for a minute is forgotten.

        At most SLICE counts are looked at. `due_at` tells whether there are more.
        """
        records: list[Event] = []
        for _ in range(SLICE):
            if (due_at := self.due_at) is None or now < due_at:
                break
            key, counted = self._counted.popitem(last=False)
            records += _record(counted)
            if counted.count:
                self._counted[key] = _Counted(now)
        return records

    def flush(self, subject: Hashable = None) -> list[Event]:
        """Return the records of all repairs of a subject that are only counted so far, of all subjects for None."""
        keys = [key for key in self._counted if subject is None or key[0] == subject]
        return [record for key in keys for record in _record(self._counted.pop(key))]


def _record(counted: _Counted) -> list[Event]:
    last = counted.last
    if last is None:
        return []
    times = "once more" if counted.count == 1 else f"{counted.count} times more"
    message = f"{last.message} ({times} since the last record; this is the last of them)"
    return [replace(last, message=message, repairs=counted.count)]

"""Links that other programs change all the time: what the daemon spends on them is bounded.

Rule 1: while events come in a flood, the daemon reads them in batches, 100 a second. Of several events about one link
in a batch only the last counts.
Rule 2: a link about which a second brings hundreds of events is in a storm. Its changes are passed on together, four
times a second. A new link and the end of a link are always passed on at once.
Rule 3: the view of the links is never held back. The attach of a guest causes some thirty events about its link.
Rule 4: no name, master or address that a link had or gets is lost. A vif that was decided from the view in between may
wait for that name, or for room in that bridge.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from xennetd.kernel.links import LinkChange
from xennetd.model.link import Link

PAUSE = 0.01
"""Seconds between two reads in a flood."""

HOLD = 0.25
"""Seconds between two reports about a link in a storm."""

_READS = 50
_SHORT = 0.1
"""More reads than this within these seconds begin a flood."""

_BATCH = 5
"""A read of fewer events ends the flood."""

_WINDOW = 1.0
_MANY = 400
_CHANGES = 10
"""The seconds over which events and changes are counted, and the numbers a second from which on a link is in a storm.

Ports that join a bridge cause many events about it, but hardly a change.
"""


class Flood:
    """Tells whether the reader of events should pause. Times are in seconds on a monotonic clock."""

    def __init__(self) -> None:
        self._since = 0.0
        self._reads = 0
        self._flooded = False

    def pauses(self, events: int, now: float) -> bool:
        """Return whether to pause after a read of this many events."""
        if self._flooded:
            self._flooded = events >= _BATCH
        elif now - self._since > _SHORT:
            self._since, self._reads = now, 1
        else:
            self._reads += 1
            self._flooded = self._reads > _READS
        return self._flooded


@dataclass(slots=True)
class _Held:
    """The changes of one link that are held back: `before` has the states that it had, `new` is the latest.

    Of states that differ in nothing that others wait for, `before` has the first.
    """

    before: dict[Hashable, Link]
    new: Link

    def changes(self) -> list[LinkChange]:
        """Return a change to the latest state from each state before. At least one is returned."""
        return [LinkChange(old, self.new) for old in self.before.values()]


class Storms:
    """The links in a storm, and their changes that are held back."""

    def __init__(self) -> None:
        self._since = 0.0
        self._events: dict[int, int] = {}
        self._changes: dict[int, int] = {}
        self._rates: dict[int, float] = {}
        self._held: dict[int, _Held] = {}
        self._what: dict[int, set[str]] = {}

    def count(self, events: Mapping[int, int], now: float) -> None:
        """Count events by the index of their link."""
        if (seconds := now - self._since) >= _WINDOW:
            rates = {
                index: self._events.get(index, 0) / seconds
                for index, n in self._changes.items()
                if n / seconds >= _CHANGES
            }
            self._rates = {index: rate for index, rate in rates.items() if rate >= _MANY}
            self._what = {index: what for index, what in self._what.items() if index in self._rates}
            self._events, self._changes = {}, {}
            self._since = now
        for index, number in events.items():  # Counter.update() takes five times as long for one link.
            self._events[index] = self._events.get(index, 0) + number

    def hold(self, changes: list[LinkChange]) -> list[LinkChange]:
        """Keep the changes of links in a storm. Returns the others, which are to be passed on at once.

        The end of a link is passed on after all that was kept of it.
        """
        for change in changes:
            if (new := change.new) is not None:
                self._changes[new.index] = self._changes.get(new.index, 0) + 1
        if not (self._rates or self._held):
            return changes
        others = []
        for change in changes:
            old, new = change.old, change.new
            if old is not None and new is not None and new.index in self._rates:
                self._keep(old, new)
                self._what.setdefault(new.index, set()).update(_differences(change))
                continue
            if old is not None and (held := self._held.pop(old.index, None)) is not None:
                others += held.changes()
            others.append(change)
        return others

    def _keep(self, old: Link, new: Link) -> None:
        held = self._held.get(new.index)
        if held is None:
            self._held[new.index] = _Held({_awaited(old): old}, new)
        else:
            held.before.setdefault(_awaited(old), old)
            held.new = new

    @property
    def holds(self) -> bool:
        """Whether changes are held back."""
        return bool(self._held)

    def release(self) -> list[LinkChange]:
        """Return the changes held back: one for each link, and one for each name, master or address in between."""
        changes = [change for held in self._held.values() for change in held.changes()]
        self._held = {}
        return changes

    def problems(self, names: Mapping[int, str], now: float) -> Iterable[str]:
        """Yield a sentence for each link in a storm. `names` are the links' names by index."""
        if now - self._since > 2 * _WINDOW:
            return
        for index, rate in self._rates.items():
            what = ", ".join(sorted(self._what.get(index, ()))) or "state"
            if index in names:
                yield (
                    f"link {names[index]}: other programs change its {what} {rate:.0f} times a second, so xennetd "
                    "looks at it only a few times a second; find the programs that do so"
                )


def _awaited(link: Link) -> Hashable:
    """Return what vifs may wait for of a link."""
    return link.name, link.master, link.addresses


def _differences(change: LinkChange) -> list[str]:
    """Return the names of the properties that differ; a change without any is one of the link's sysctls."""
    fields = [name for name in Link.__struct_fields__ if getattr(change.old, name) != getattr(change.new, name)]
    return fields or ["sysctls"]

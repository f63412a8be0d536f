"""The host's plan: the ordered Steps that turn the observed host objects into the desired ones. Pure.

Rule 1: an object is made or changed after all objects that it requires, and removed before them.
Rule 2: a value that differs is one `Change`, in place; never a removal and a new object.
Rule 3: only objects in `observed` are removed. The caller puts only objects there that somebody wants, that carry
xennetd's mark, or that an owner has just given up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from xennetd.model.objects import DescribesChange, DescribesRemoval, HostObject, Key


@dataclass(frozen=True, slots=True)
class Make:
    """Make an object that the host does not have."""

    object: HostObject

    def describe(self) -> str:
        """Return the line that plan, log, audit and tests show."""
        return self.object.describe()


@dataclass(frozen=True, slots=True)
class Change:
    """Give an object, whose value is `was` now, its desired value.

    The hash leaves out `was`: the same Step against another program is the same work, whatever that program has set.
    """

    object: HostObject
    was: HostObject = field(hash=False)

    def describe(self) -> str:
        """Return the line that plan, log, audit and tests show."""
        if isinstance(self.object, DescribesChange):
            return self.object.describe_change(self.was)
        return f"change to {self.object.describe()}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove an object that has no owner."""

    object: HostObject

    def describe(self) -> str:
        """Return the line that plan, log, audit and tests show."""
        if isinstance(self.object, DescribesRemoval):
            return self.object.describe_removal()
        return f"remove {self.object.key}"


HostStep = Make | Change | Remove

Desired = Mapping[Key, HostObject]
Observed = Mapping[Key, HostObject]
"""The objects that the host has: those with a desired key, and those that may be removed."""


def difference(desired: Desired, observed: Observed) -> tuple[HostStep, ...]:
    """Return the Steps that turn `observed` into `desired`: first every `Make` and `Change`, then every `Remove`."""
    steps: list[HostStep] = []
    wrong = {key: wanted for key, wanted in desired.items() if observed.get(key) != wanted}
    for wanted in in_order(wrong):
        was = observed.get(wanted.key)
        steps.append(Make(wanted) if was is None else Change(wanted, was))
    surplus = {key: unwanted for key, unwanted in observed.items() if key not in desired}
    if surplus:
        steps += [Remove(unwanted) for unwanted in reversed(in_order(surplus))]
    return tuple(steps)


def in_order(objects: Mapping[Key, HostObject]) -> list[HostObject]:
    """Return the objects so that an object follows the objects it requires, grouped by kind where that allows it.

    Consecutive objects of one kind become one transaction, for kinds that have transactions. Objects that require each
    other in a circle (a defect of the code that made them) keep the order in which they are given.
    """
    if len(objects) < 2:
        return list(objects.values())
    depths: dict[Key, int] = {}

    def depth(key: Key, above: frozenset[Key]) -> int:
        known = depths.get(key)
        if known is None:
            required = objects[key].requires & objects.keys()
            known = 1 + max((depth(other, above | {key}) for other in required if other not in above), default=0)
            depths[key] = known
        return known

    for key in objects:
        depth(key, frozenset({key}))
    # sorted() is stable: among equals the order is that of `objects`.
    return [objects[key] for key in sorted(objects, key=lambda key: (depths[key], key.kind))]


def batches(steps: Iterable[HostStep]) -> list[tuple[type[HostStep], str, list[HostObject]]]:
    """Return the Steps in runs that one call of one adapter carries out.

    A run is (type, kind, objects): type is `Make` for objects to apply (`Make` and `Change`), `Remove` for objects to
    remove. The order of the Steps is kept.
    """
    runs: list[tuple[type[HostStep], str, list[HostObject]]] = []
    for step in steps:
        does: type[HostStep] = Remove if isinstance(step, Remove) else Make
        kind = step.object.key.kind
        if not runs or runs[-1][:2] != (does, kind):
            runs.append((does, kind, []))
        runs[-1][2].append(step.object)
    return runs


def by_key(objects: Collection[HostObject]) -> dict[Key, HostObject]:
    """Return a map from the objects' keys to the objects."""
    return {item.key: item for item in objects}

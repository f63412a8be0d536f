"""The host's plan: what the host must have, minus what it has, as ordered Steps. Pure.

Rule 1: an object is made or changed after everything that it requires, and removed before it.
Rule 2: a value that differs is one `Change`, in place; never a removal and a new object.
Rule 3: nothing is removed but what the caller has put into `observed`: what carries our mark, or what we gave up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from xennetd.model.objects import HostObject, Key


@dataclass(frozen=True, slots=True)
class Make:
    """Make an object that is not there."""

    object: HostObject

    def describe(self) -> str:
        return self.object.describe()


@dataclass(frozen=True, slots=True)
class Change:
    """Give an object that is there as `was` the value that it must have."""

    object: HostObject
    was: HostObject

    def describe(self) -> str:
        return f"change to {self.object.describe()}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove an object that nobody wants."""

    object: HostObject

    def describe(self) -> str:
        return f"remove {self.object.key}"


HostStep = Make | Change | Remove

Desired = Mapping[Key, HostObject]
Observed = Mapping[Key, HostObject]
"""What there is: an object for each key that somebody wants and that is there, and for what may be removed."""


def difference(desired: Desired, observed: Observed) -> tuple[HostStep, ...]:
    """Return the Steps that make `observed` into `desired`: first what is missing or wrong, then what is too much."""
    steps: list[HostStep] = []
    wrong = {key: wanted for key, wanted in desired.items() if observed.get(key) != wanted}
    for wanted in in_order(wrong):
        was = observed.get(wanted.key)
        steps.append(Make(wanted) if was is None else Change(wanted, was))
    surplus = {key: there for key, there in observed.items() if key not in desired}
    if surplus:
        steps += [Remove(there) for there in reversed(in_order(surplus))]
    return tuple(steps)


def in_order(objects: Mapping[Key, HostObject]) -> list[HostObject]:
    """Return the objects, each after those of them that it requires, and those of one kind together where they can be.

    One kind's objects that follow each other are one transaction where the kernel has such. Objects that require each
    other in a circle, which is a defect of whoever made them, come in the order in which they are given.
    """
    if len(objects) < 2:
        return list(objects.values())
    depths: dict[Key, int] = {}

    def depth(key: Key, above: frozenset[Key]) -> int:
        found = depths.get(key)
        if found is None:
            below = objects[key].requires & objects.keys()
            found = 1 + max((depth(each, above | {key}) for each in below if each not in above), default=0)
            depths[key] = found
        return found

    for key in objects:
        depth(key, frozenset({key}))
    # sorted() is stable: among equals the order is that of `objects`.
    return [objects[key] for key in sorted(objects, key=lambda key: (depths[key], key.kind))]


def batches(steps: Iterable[HostStep]) -> list[tuple[type[HostStep], str, list[HostObject]]]:
    """Return the Steps in runs that one adapter does at once: of one kind, to be applied (Make, Change) or removed."""
    found: list[tuple[type[HostStep], str, list[HostObject]]] = []
    for step in steps:
        does: type[HostStep] = Remove if isinstance(step, Remove) else Make
        kind = step.object.key.kind
        if not found or found[-1][:2] != (does, kind):
            found.append((does, kind, []))
        found[-1][2].append(step.object)
    return found


def by_key(objects: Collection[HostObject]) -> dict[Key, HostObject]:
    """Return objects by their keys."""
    return {each.key: each for each in objects}

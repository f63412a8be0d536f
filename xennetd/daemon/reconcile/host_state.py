"""Keeps what the host itself must have for its guests and networks: made for its first owner, gone with its last.

Rule 1: what is wanted is in `plan.desired`; what there is, the adapters ask the kernel; `plan.host` is the difference.
Rule 2: what carries our mark is removed only when every owner has been heard (`prune`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import structlog

from xennetd.model.adapter import Adapters
from xennetd.model.errors import HostError
from xennetd.model.objects import HostObject, Key
from xennetd.plan.desired import Conflict, DesiredState, Owner
from xennetd.plan.difference import Change, HostStep, Make, Remove, batches, by_key, difference

_log = structlog.get_logger(__name__)


def released(key: Key) -> str:
    """Return what waits for a host object that somebody else wants in another way, as in an error's `waits_on`."""
    return f"host object {key}"


class HostState:
    """Who wants what of the host, and the way there. An object is wanted until `settle` says that its owner is not."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters
        self._desired = DesiredState()

    def supersede(self) -> None:
        """Begin a new policy."""
        self._desired.supersede()

    def owners(self) -> list[Owner]:
        """Return who wants anything."""
        return self._desired.owners()

    def wants(self, owner: Owner, wanted: HostObject) -> bool:
        """Return whether an owner has this object already, as far as we know."""
        return self._desired.of(owner).get(wanted.key) == wanted

    def difference(self, owner: Owner, objects: Collection[HostObject]) -> tuple[HostStep, ...]:
        """Return the Steps to what an owner wants, but for what it has given to a successor."""
        if not objects:
            return ()
        desired = {each.key: each for each in objects if not self._desired.gave_way(owner, each)}
        return difference(desired, self._observed(desired.values()))

    def conflict(self, owner: Owner, objects: Collection[HostObject], domain: str | None = None) -> HostError | None:
        """Return why an owner can't have these objects beside others' of the same keys, None if it can.

        The sentence is for the guest as well, and names no other guest.
        """
        found = self._desired.conflict(owner, objects, domain)
        return _refusal(owner, found) if found is not None else None

    async def ensure(self, owner: Owner, steps: Collection[HostStep], domain: str | None = None) -> None:
        """Carry out Steps for an owner, who wants what they make from now on.

        Raises HostError for what the host refuses; what was made until then stays, and goes with its owner.
        """
        self._desired.add(owner, [step.object for step in steps], domain)
        for does, kind, objects in batches(steps):
            adapter = self._adapters[kind]
            later = adapter.remove(objects) if does is Remove else adapter.apply(objects)
            if later is not None:
                await later

    async def settle(self, owner: Owner, objects: Collection[HostObject], domain: str | None = None) -> frozenset[str]:
        """Settle that an owner wants exactly these objects, which are there; remove what nobody wants any more.

        Returns what others may wait for who wanted one of its objects in another way (an error's `waits_on`).
        """
        if not objects and not self._desired.of(owner):
            return frozenset()
        given_up = self._desired.replace(owner, objects, domain)
        if not given_up:
            return frozenset()
        left = (self._desired.get(each.key) for each in given_up)
        desired = by_key([each for each in left if each is not None])
        await self._withdraw(difference(desired, {**by_key(given_up), **self._observed(desired.values())}))
        return frozenset(released(each.key) for each in given_up)

    def leftovers(self) -> tuple[HostStep, ...]:
        """Return the Steps that remove what carries our mark and what nobody wants."""
        owned = [each for adapter in dict.fromkeys(self._adapters.values()) for each in adapter.list_owned()]
        surplus = {each.key: each for each in owned if self._desired.get(each.key) is None}
        return difference({}, surplus)

    async def prune(self) -> None:
        """Remove what carries our mark and what nobody wants: what an earlier daemon has left."""
        await self._withdraw(self.leftovers())

    def _observed(self, objects: Iterable[HostObject]) -> dict[Key, HostObject]:
        found = ((each.key, self._adapters[each.key.kind].present(each)) for each in objects)
        return {key: there for key, there in found if there is not None}

    async def _withdraw(self, steps: Collection[HostStep]) -> None:
        """Carry out Steps that no owner waits for. What is refused is logged, and the others are done all the same."""
        for does, kind, objects in batches(steps):
            adapter = self._adapters[kind]
            try:
                later = adapter.remove(objects) if does is Remove else adapter.apply(objects)
                if later is not None:
                    await later
            except HostError as error:
                _log.error("a host object that is not wanted any more could not be removed", why=error.detail)


def _refusal(owner: Owner, conflict: Conflict) -> HostError:
    key, other = conflict.wanted.key, conflict.owner
    mine, theirs = f"{_value(conflict.wanted)} for {_title(owner)}", f"{_value(conflict.has)} for {_title(other)}"
    public = theirs if isinstance(other, str) else f"{_value(conflict.has)} for another guest"
    return HostError(
        f"{key} can't be both {mine} and {public}",
        detail=f"{key} can't be both {mine} and {theirs}: one of the two must be configured otherwise",
        waits_on=frozenset({released(key)}),
    )


def _title(owner: Owner) -> str:
    return f'network "{owner}"' if isinstance(owner, str) else str(owner)


def _value(wanted: HostObject) -> str:
    """Return the value as one word where it is one, else the whole object's line."""
    value = getattr(wanted, "value", None)
    return str(value) if isinstance(value, int) else f"`{wanted.describe()}`"


__all__ = ["Change", "HostState", "Make", "Remove", "released"]

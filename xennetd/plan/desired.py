"""Who wants which host objects: the desired state of the host, and the conflicts between those who want it.

Rule 1: the desired state is a map from keys to values with their owners. Who still needs an object follows from it.
Rule 2: of two owners that want different values for one key, the earlier keeps what it has, and the later is refused.
Rule 3: an owner gives way to its successor: to whoever has been decided by a newer policy, and to a later vif of the
same domain, as in a reboot or a migration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from xennetd.model.objects import HostObject, Key
from xennetd.model.vif import VifId

Owner = VifId | str
"""A vif, or the name of a network."""

_NOTHING: Mapping[Key, HostObject] = {}


@dataclass(frozen=True, slots=True)
class Conflict:
    """An object that one owner wants and that another has in another way."""

    wanted: HostObject
    owner: Owner
    has: HostObject


@dataclass(frozen=True, slots=True)
class _Claim:
    """What one owner wants. `domain` is the UUID of a vif's domain; `policy` counts the policies."""

    objects: Mapping[Key, HostObject]
    domain: str | None
    policy: int


class DesiredState:
    """All that is wanted of the host."""

    def __init__(self) -> None:
        self._claims: dict[Owner, _Claim] = {}
        self._owners: dict[Key, dict[Owner, HostObject]] = {}
        self._policy = 0

    def supersede(self) -> None:
        """Begin a new policy: what is wanted from now on goes before what was wanted until now."""
        self._policy += 1

    def owners(self) -> list[Owner]:
        """Return who wants anything."""
        return list(self._claims)

    def of(self, owner: Owner) -> Mapping[Key, HostObject]:
        """Return what an owner wants."""
        claim = self._claims.get(owner)
        return claim.objects if claim is not None else _NOTHING

    def get(self, key: Key) -> HostObject | None:
        """Return the value that holds for a key: the latest, since a conflict was never let in."""
        owners = self._owners.get(key)
        return next(reversed(owners.values())) if owners else None

    def wanted(self) -> dict[Key, HostObject]:
        """Return the whole desired state."""
        return {key: next(reversed(owners.values())) for key, owners in self._owners.items()}

    def gave_way(self, owner: Owner, wanted: HostObject) -> bool:
        """Return whether an owner wants something already that a successor has in another way now."""
        if self.of(owner).get(wanted.key) != wanted:
            return False
        other, has = next(reversed(self._owners[wanted.key].items()))
        return has != wanted and self._claims[other].policy == self._policy

    def conflict(self, owner: Owner, objects: Collection[HostObject], domain: str | None = None) -> Conflict | None:
        """Return what keeps an owner from having these objects, None if nothing does."""
        for wanted in objects:
            for other, has in self._owners.get(wanted.key, _NOBODY).items():
                if has == wanted or other == owner:
                    continue
                claim = self._claims[other]
                if claim.policy == self._policy and (domain is None or claim.domain != domain):
                    return Conflict(wanted, other, has)
        return None

    def add(self, owner: Owner, objects: Collection[HostObject], domain: str | None = None) -> None:
        """Have an owner want these objects besides what it wants already. The caller has asked for a `conflict`."""
        before = self.of(owner)
        self._put(owner, {**before, **{each.key: each for each in objects}}, domain)

    def replace(self, owner: Owner, objects: Collection[HostObject], domain: str | None = None) -> list[HostObject]:
        """Have an owner want exactly these objects. Returns what it wanted before and does not want so any more."""
        before = self.of(owner)
        after = {each.key: each for each in objects}
        self._put(owner, after, domain)
        return [each for key, each in before.items() if after.get(key) != each]

    def _put(self, owner: Owner, objects: Mapping[Key, HostObject], domain: str | None) -> None:
        claim = self._claims.get(owner)
        before = self.of(owner)
        newer = claim is not None and claim.policy != self._policy
        if objects:
            self._claims[owner] = _Claim(objects, domain, self._policy)
        else:
            self._claims.pop(owner, None)
        if before == objects and not newer:
            return
        for key in before.keys() - objects.keys():
            owners = self._owners[key]
            del owners[owner]
            if not owners:
                del self._owners[key]
        for key, wanted in objects.items():
            owners = self._owners.setdefault(key, {})
            if newer or owners.get(owner) != wanted:
                owners.pop(owner, None)  # so that the latest value is the last
                owners[owner] = wanted


_NOBODY: Mapping[Owner, HostObject] = {}

"""The desired state of the host: which owner wants which host objects, and the conflicts between owners.

Rule 1: the desired state maps each key to its values with their owners. An object without an owner is not needed.
Rule 2: when two owners want different values for one key, the earlier owner keeps its value and the later is refused.
Rule 3: an owner gives way to its successor. A successor is an owner that was evaluated under a newer policy, or a later
vif of the same domain, as in a reboot or a migration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from xennetd.model.objects import HostObject, Key
from xennetd.model.vif import VifId

Owner = VifId | str
"""A vif, or the name of a network."""

_NOTHING: Mapping[Key, HostObject] = {}
_NO_POLICIES: Mapping[Key, int] = {}
_EARLIER = -1
"""The number of an unknown earlier policy."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two values for one key: `owner` already has the object `has`, and another owner asks for the object `wanted`."""

    wanted: HostObject
    owner: Owner
    has: HostObject


@dataclass(frozen=True, slots=True)
class _Claim:
    """The objects that one owner wants. `domain` is the UUID of a vif's domain.

    `policies` gives for each object the number of the last policy under which the owner wanted it.
    """

    objects: Mapping[Key, HostObject]
    policies: Mapping[Key, int]
    domain: str | None


class DesiredState:
    """All host objects that vifs and networks want."""

    def __init__(self) -> None:
        self._claims: dict[Owner, _Claim] = {}
        self._owners: dict[Key, dict[Owner, HostObject]] = {}
        self._policy = 0

    def supersede(self) -> None:
        """Begin a new policy: what owners want from now on takes precedence over what they wanted before."""
        self._policy += 1

    def owners(self) -> list[Owner]:
        """Return the owners that want at least one object."""
        return list(self._claims)

    def of(self, owner: Owner) -> Mapping[Key, HostObject]:
        """Return the objects that an owner wants, by key."""
        claim = self._claims.get(owner)
        return claim.objects if claim is not None else _NOTHING

    def get(self, key: Key) -> HostObject | None:
        """Return the desired value for a key: the latest one, since a later value is added only without a conflict."""
        owners = self._owners.get(key)
        return next(reversed(owners.values())) if owners else None

    def wanted(self) -> dict[Key, HostObject]:
        """Return the whole desired state: one value for each key that has an owner."""
        return {key: next(reversed(owners.values())) for key, owners in self._owners.items()}

    def gave_way(self, owner: Owner, wanted: HostObject) -> bool:
        """Return whether an owner already wants `wanted`, but a successor's different value holds for that key now."""
        if self.of(owner).get(wanted.key) != wanted:
            return False
        other, has = next(reversed(self._owners[wanted.key].items()))
        return has != wanted and self._claims[other].policies[wanted.key] == self._policy

    def conflict(self, owner: Owner, objects: Collection[HostObject], domain: str | None = None) -> Conflict | None:
        """Return the conflict that keeps an owner from having these objects, None if there is none."""
        for wanted in objects:
            for other, has in self._owners.get(wanted.key, _NO_OWNERS).items():
                if has == wanted or other == owner:
                    continue
                claim = self._claims[other]
                if claim.policies[wanted.key] == self._policy and (domain is None or claim.domain != domain):
                    return Conflict(wanted, other, has)
        return None

    def add(self, owner: Owner, objects: Collection[HostObject], domain: str | None = None) -> None:
        """Let an owner want these objects in addition. The caller must have found no `conflict`."""
        before = self.of(owner)
        added = {wanted.key: wanted for wanted in objects}
        self._put(owner, {**before, **added}, added.keys(), domain)

    def replace(
        self, owner: Owner, objects: Collection[HostObject], domain: str | None = None, *, confirmed: bool = True
    ) -> list[HostObject]:
        """Let an owner want exactly these objects. Returns the objects (key and value) that it no longer wants.

        With `confirmed` the current policy wants them, and the caller must have found no `conflict`. Else the owner
        keeps them from an earlier policy, and gives way to owners under the current one.
        """
        before = self.of(owner)
        after = {wanted.key: wanted for wanted in objects}
        self._put(owner, after, after.keys() if confirmed else (), domain)
        return [wanted for key, wanted in before.items() if after.get(key) != wanted]

    def _put(
        self, owner: Owner, objects: Mapping[Key, HostObject], confirmed: Collection[Key], domain: str | None
    ) -> None:
        """Let an owner want exactly these objects. Of these, the current policy wants the `confirmed` ones."""
        claim = self._claims.get(owner)
        before, policies = (claim.objects, claim.policies) if claim is not None else (_NOTHING, _NO_POLICIES)
        newer = {key for key in confirmed if policies.get(key) != self._policy}
        if objects:
            numbers = {key: self._policy if key in newer else policies.get(key, _EARLIER) for key in objects}
            self._claims[owner] = _Claim(objects, numbers, domain)
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
            if key in newer or owners.get(owner) != wanted:
                owners.pop(owner, None)  # so that the latest value comes last
                owners[owner] = wanted


_NO_OWNERS: Mapping[Owner, HostObject] = {}

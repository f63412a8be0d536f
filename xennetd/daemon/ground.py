"""Keeps what the host itself must have for its guests and networks: made for its first user, gone with its last.

Rule 1: users are counted here; what there is, the hands ask the kernel.
Rule 2: nothing is taken away on the ground of a mark before every user there is has been heard (`prune`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import structlog

from xennetd.kernel.hand import Hand
from xennetd.model.errors import HostError
from xennetd.model.ground import GroundObject, rank
from xennetd.model.vif import VifId

_log = structlog.get_logger(__name__)

Owner = VifId | str
"""A vif, or the name of a network."""

Hands = Mapping[type[GroundObject], Hand[Any]]
"""Who makes and takes away the objects of each type, and knows which there are."""

_NOTHING: frozenset[GroundObject] = frozenset()


class Ground:
    """Who needs what. A need is held until `claim` says that its owner has it no more."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._needs: dict[Owner, frozenset[GroundObject]] = {}
        self._users: dict[GroundObject, int] = {}

    def missing(self, needs: Collection[GroundObject]) -> tuple[GroundObject, ...]:
        """Return what of `needs` the host does not have, in the order of making."""
        if not needs:
            return ()
        return tuple(sorted((each for each in needs if not self._hands[type(each)].holds(each)), key=rank))

    def ensure(self, owner: Owner, objects: Iterable[GroundObject]) -> None:
        """Make what an owner needs. Raises HostError for what the host refuses; what was made until then stays."""
        objects = sorted(objects, key=rank)
        self._count(owner, self._needs.get(owner, _NOTHING).union(objects))
        for kind, group in _by_type(objects):
            self._hands[kind].ensure(group)

    def claim(self, owner: Owner, needs: frozenset[GroundObject]) -> None:
        """Settle that an owner needs exactly this, which it has, and take away what nobody needs any more."""
        if needs or owner in self._needs:
            self._release(self._count(owner, needs))

    def needs(self, owner: Owner) -> frozenset[GroundObject]:
        """Return what an owner needs."""
        return self._needs.get(owner, _NOTHING)

    def owners(self) -> list[Owner]:
        """Return who needs anything."""
        return list(self._needs)

    def prune(self) -> None:
        """Take away all that carries our mark and that nobody needs: what an earlier daemon has left."""
        marked = (each for hand in dict.fromkeys(self._hands.values()) for each in hand.ours())
        self._release([each for each in marked if each not in self._users])

    def _count(self, owner: Owner, needs: frozenset[GroundObject]) -> list[GroundObject]:
        """Note the needs of an owner. Returns what has lost its last user by that."""
        before = self._needs.pop(owner, _NOTHING)
        if needs:
            self._needs[owner] = needs
        for each in needs - before:
            self._users[each] = self._users.get(each, 0) + 1
        unused = []
        for each in before - needs:
            self._users[each] -= 1
            if not self._users[each]:
                del self._users[each]
                unused.append(each)
        return unused

    def _release(self, objects: Iterable[GroundObject]) -> None:
        for kind, group in _by_type(sorted(objects, key=rank, reverse=True)):
            try:
                self._hands[kind].release(group)
            except HostError as error:
                _log.error("something that nobody needs any more could not be taken away", why=error.detail)


def _by_type(objects: Iterable[GroundObject]) -> list[tuple[type[GroundObject], list[GroundObject]]]:
    """Return the objects in runs of one type, in their order."""
    runs: list[tuple[type[GroundObject], list[GroundObject]]] = []
    for each in objects:
        if not runs or runs[-1][0] is not type(each):
            runs.append((type(each), []))
        runs[-1][1].append(each)
    return runs

"""Keeps the host objects that guests and networks need: made for their first owner, removed after their last.

Rule 1: `plan.desired` holds the desired objects, adapters observe the existing ones, and `plan.difference` compares.
Rule 2: what somebody may still need is not removed. While the needs of any guest are unknown, objects that guests share
stay; while guests move to a new policy, what one guest gives up may be what another guest needs.
Rule 3: marked objects without an owner are pruned only after every owner has been evaluated (`prune`). A mark says that
xennetd, this run or an earlier one, made the object.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from xennetd.daemon.reconcile.pace import Pace
from xennetd.daemon.shortage import Shortage, shortage
from xennetd.model.adapter import Adapters
from xennetd.model.errors import HostError
from xennetd.model.objects import HostObject, Key
from xennetd.plan.desired import Conflict, DesiredState, Owner
from xennetd.plan.difference import Change, HostStep, Make, Remove, batches, by_key, difference
from xennetd.plan.leftovers import leftovers
from xennetd.plan.steps import Step

_log = structlog.get_logger(__name__)


_OF_ONE_GUEST = frozenset({"element", "proxy", "dhcp host", "offload"})
"""The kinds of objects that belong to the address or the link of one guest, so that no other guest needs them."""


def released(key: Key) -> str:
    """Return the name under which an error's `waits_on` waits for another owner to give up a host object."""
    return f"host object {key}"


class HostState:
    """The desired host objects of all owners, and the way to them.

    An owner is a vif or the name of a network. It wants an object from `ensure` on, until a `settle` without the
    object. `domain` is the UUID of a vif's domain: of two vifs of one domain, the later takes over the objects of the
    earlier.
    """

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters
        self._desired = DesiredState()
        self._unknown: set[Owner] = set()
        self._guests_move = False
        self._withheld: dict[Key, HostObject] = {}
        self._refusals: dict[Key, str] = {}
        self._pace = Pace()

    def supersede(self) -> None:
        """Begin a new policy: an owner decided by it takes precedence over owners decided by the old policy."""
        self._desired.supersede()

    def know(self, owner: Owner, *, known: bool) -> None:
        """Record whether it is known what an owner needs.

        It is unknown of a guest that an earlier daemon connected, and that this daemon could not connect anew.
        """
        if known:
            self._unknown.discard(owner)
        else:
            self._unknown.add(owner)

    @property
    def knows_all(self) -> bool:
        """Whether the needs of all owners are known."""
        return not self._unknown

    def knows(self, owner: Owner) -> bool:
        """Return whether the needs of an owner are known."""
        return owner not in self._unknown

    @property
    def withholds(self) -> bool:
        """Whether objects without an owner wait for their removal."""
        return bool(self._withheld)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep what owners give up meanwhile: guests move to a new policy, in which others may need it."""
        self._guests_move = True
        try:
            yield
        finally:
            self._guests_move = False

    async def release(self) -> None:
        """Remove what owners have given up, and nobody needs or may need."""
        await self._remove({})

    def owners(self) -> list[Owner]:
        """Return all owners of at least one object."""
        return self._desired.owners()

    def wants_any(self, owner: Owner) -> bool:
        """Return whether an owner is recorded as wanting any object."""
        return bool(self._desired.of(owner))

    def wants(self, owner: Owner, wanted: HostObject) -> bool:
        """Return whether an owner is recorded as wanting exactly this object. The host is not read."""
        return self._desired.of(owner).get(wanted.key) == wanted

    def difference(self, owner: Owner, objects: Collection[HostObject]) -> tuple[HostStep, ...]:
        """Return the Steps that make these objects of an owner, except objects that a successor has taken over."""
        if not objects:
            return ()
        desired = by_key([wanted for wanted in objects if not self._desired.gave_way(owner, wanted)])
        return difference(desired, self._observed(desired.values()))

    def repairs(self, owner: Owner, steps: Iterable[Step]) -> list[HostStep]:
        """Return the Steps that repair objects which this owner wants already, and which other owners may want, too."""
        return [
            step
            for step in steps
            if isinstance(step, Make | Change)
            and step.object.key.kind not in _OF_ONE_GUEST
            and self.wants(owner, step.object)
        ]

    def pause(self, repairs: Collection[HostStep], now: float) -> float:
        """Return the seconds to wait before these repairs, 0 if they may be done now; they count as done then.

        All owners of an object wait together: another program that fights for it has one opponent, not one per guest.
        """
        return self._pace.wait_for_all([(step.object.key, (step,)) for step in repairs], now)

    def problems(self, now: float) -> list[str]:
        """Return a sentence for each object that must be repaired again and again."""
        fights = ((key, self._pace.problem(key, now)) for key in self._pace.subjects())
        return [f"{key} is {problem}" for key, problem in fights if problem is not None]

    def conflict(self, owner: Owner, objects: Collection[HostObject], domain: str | None = None) -> HostError | None:
        """Return why an owner can't have these objects: another owner wants another value for one of their keys.

        Returns None without a conflict. The guest may read the error's sentence, which therefore names no other guest.
        """
        conflict = self._desired.conflict(owner, objects, domain)
        return _refusal(owner, conflict) if conflict is not None else None

    async def ensure(
        self,
        owner: Owner,
        steps: Collection[HostStep],
        domain: str | None = None,
        wanted: Collection[HostObject] = (),
    ) -> None:
        """Execute Steps for an owner, which wants the objects of the Steps from now on.

        The owner also wants the objects `wanted`, which need no Step. A new policy may change an object of which the
        host already has the new value, because another owner has made it.
        Raises HostError for the first Step that the host refuses. Objects made before stay until the owner gives them
        up.
        """
        self._desired.add(owner, [*wanted, *(step.object for step in steps)], domain)
        for does, _kind, objects in batches(steps):
            await self._act(does, objects)

    async def settle(
        self, owner: Owner, objects: Collection[HostObject], domain: str | None = None, *, confirmed: bool = True
    ) -> frozenset[str]:
        """Record that an owner wants exactly these objects, which exist; remove objects that lost their last owner.

        Without `confirmed` the owner keeps the objects from an earlier policy (`DesiredState.replace`).
        Returns the names (see `released`) under which other owners may wait for the objects that this owner gave up.
        """
        if not objects and not self._desired.of(owner):
            return frozenset()
        given_up = self._desired.replace(owner, objects, domain, confirmed=confirmed)
        if not given_up:
            return frozenset()
        for old in given_up:
            self._pace.forget(old.key)
        still_wanted = (self._desired.get(old.key) for old in given_up)
        desired = by_key([wanted for wanted in still_wanted if wanted is not None])
        await self._withdraw(difference(desired, self._observed(desired.values())))
        await self._remove(by_key(given_up))
        return frozenset(released(old.key) for old in given_up)

    async def _remove(self, surplus: Mapping[Key, HostObject]) -> None:
        """Remove objects that lost an owner, and those withheld before, as far as nobody needs them."""
        self._withheld.update(surplus)
        due = {key: item for key, item in self._withheld.items() if not self._stays(key)}
        for key in due:
            del self._withheld[key]
        await self._withdraw(difference({}, {key: item for key, item in due.items() if self._desired.get(key) is None}))

    def _stays(self, key: Key) -> bool:
        """Return whether an object without an owner must not be removed yet.

        Addresses are assigned to MACs one by one (`DhcpHost`). An entry that stays would keep its address from others.
        """
        if self._guests_move:
            return key.kind != "dhcp host"
        return bool(self._unknown) and key.kind not in _OF_ONE_GUEST

    async def leftovers(self) -> tuple[HostStep, ...]:
        """Return the Steps that remove marked objects without an owner, except those that must stay yet.

        Raises HostError where the host is short.
        """
        try:
            marked: list[HostObject] = []
            for adapter in dict.fromkeys(self._adapters.values()):
                listed = adapter.list_owned()
                marked += await listed if isinstance(listed, Awaitable) else listed
        except Shortage as error:
            raise shortage(error) from error
        surplus = leftovers(marked, self._desired.wanted())
        return difference({}, {key: owned for key, owned in surplus.items() if key not in self._withheld})

    async def prune(self) -> None:
        """Remove marked objects without an owner. An earlier run of the daemon, or an earlier policy, left them.

        The needs of all owners must be known (`knows_all`). While guests move, nothing is removed.
        """
        if self._guests_move:
            return
        await self._remove({})
        await self._withdraw(await self.leftovers())

    def _observed(self, objects: Iterable[HostObject]) -> dict[Key, HostObject]:
        observed = ((wanted.key, self._adapters[wanted.key.kind].present(wanted)) for wanted in objects)
        try:
            return {key: present for key, present in observed if present is not None}
        except Shortage as error:
            raise shortage(error) from error

    async def _act(self, does: type[HostStep], objects: Sequence[HostObject]) -> None:
        """Let an adapter apply or remove objects of one kind. Raises HostError, also where the host is short."""
        adapter = self._adapters[objects[0].key.kind]
        try:
            later = adapter.remove(objects) if does is Remove else adapter.apply(objects)
            if later is not None:
                await later
        except Shortage as error:
            raise shortage(error) from error

    async def _withdraw(self, steps: Collection[HostStep]) -> None:
        """Execute Steps that no owner waits for. A refusal is logged and does not stop the other Steps.

        What could not be removed waits for the next removal. So does what it requires: a link that still forwards keeps
        its filter.
        """
        required: set[Key] = set()
        for does, _kind, batch in batches(steps):
            if does is not Remove:
                await self._try(does, batch)
                continue
            objects = [item for item in batch if item.key not in required]
            stay = [item for item in batch if item.key in required]
            if objects and not await self._try(does, objects):
                stay += [item for item in objects if not await self._try(does, [item])]
            for item in stay:
                required |= item.requires
                self._withheld[item.key] = item

    async def _try(self, does: type[HostStep], objects: Sequence[HostObject]) -> bool:
        """Execute Steps for objects of one kind. Returns whether the host has accepted them; logs a new refusal."""
        try:
            await self._act(does, objects)
        except HostError as error:
            told = self._refusals.get(objects[0].key) == error.detail
            if not told and (len(objects) == 1 or does is not Remove):
                self._refusals[objects[0].key] = error.detail
                _log.error("xennetd could not put back or remove a host object that nothing needs", why=error.detail)
            return False
        for item in objects:
            self._refusals.pop(item.key, None)
        return True


def _refusal(owner: Owner, conflict: Conflict) -> HostError:
    key, other = conflict.wanted.key, conflict.owner
    wanted, present = f"{_value(conflict.wanted)} for {_title(owner)}", f"{_value(conflict.has)} for {_title(other)}"
    public = present if isinstance(other, str) else f"{_value(conflict.has)} for another guest"
    return HostError(
        f"{key} can't be both {wanted} and {public}",
        detail=f"{key} can't be both {wanted} and {present}: one of the two must be configured otherwise",
        waits_on=frozenset({released(key)}),
    )


def _title(owner: Owner) -> str:
    return f'network "{owner}"' if isinstance(owner, str) else str(owner)


def _value(wanted: HostObject) -> str:
    """Return an integer value as a word, any other value as the description of the whole object."""
    value = getattr(wanted, "value", None)
    return str(value) if isinstance(value, int) else f"`{wanted.describe()}`"


__all__ = ["Change", "HostState", "Make", "Remove", "released"]

"""Keeps the host's own topology as it was applied last: its links, their ports and their addresses.

Rule 1: only `apply` puts another topology into force. What the configuration says meanwhile waits.
Rule 2: what can't be made waits, and all else is made. A NIC that is missing keeps nothing from the rest.
Rule 3: only an apply removes anything: what the topology before it had, and links that carry xennetd's mark. A start
removes nothing, since the file that says what is in force may be lost.
Rule 4: while an apply is not confirmed, its checkpoint exists, and the file with the topology says what was before. A
process of its own (`daemon.rollback`) rolls back in time if the daemon does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from xennetd.daemon.checkpoint import Checkpoint, CheckpointFile, now
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.reconcile.care import take_care
from xennetd.daemon.reconcile.dry_run import PlannedLinks, planned_links
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.pace import Pace
from xennetd.daemon.reconcile.roll_back import restore, roll_back
from xennetd.daemon.reconcile.topology_engine import Brought, TopologyChange, TopologyEngine
from xennetd.daemon.reconcile.topology_view import TopologyView
from xennetd.daemon.topology_file import TopologyFile
from xennetd.kernel.kernel import Kernel
from xennetd.kernel.links import LinkChange, is_guest_port
from xennetd.model.configuration import Policy
from xennetd.model.errors import HostError
from xennetd.model.event import Event, EventKind
from xennetd.model.manager_claim import ManagerClaims
from xennetd.model.objects import Key
from xennetd.model.status import LinkStatus
from xennetd.model.topology import Topology
from xennetd.plan.difference import HostStep
from xennetd.plan.steps import kind_of
from xennetd.plan.topology_plan import TopologyPlan

_log = structlog.get_logger(__name__)

_UNATTENDED = 30.0
"""Seconds within which an apply without a confirmation must be through. Else it counts as stuck, and is rolled back."""

_WAIT = 0.2
"""Seconds between two looks at whether another process is through with its roll-back."""

_TOO_LATE = "the apply took too long, and was rolled back: nothing of it is left"
_TAKEN_BACK = "so everything was taken back, since the host would have lost addresses or routes that it had"

_WHOLE = Key("topology", "")
"""Stands for everything, where the host can't even be looked at."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply has done, and what it could not do, in sentences. With `refused` it has done nothing."""

    done: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    refused: bool = False


class HostTopology:
    """The topology in force."""

    def __init__(self, in_force: InForce, kernel: Kernel, audit: Audit) -> None:
        self._in_force = in_force
        self._audit = audit
        self._links = kernel.links
        self._file = TopologyFile()
        self._checkpoint_file = CheckpointFile()
        self._engine = TopologyEngine(kernel)
        self._view = TopologyView(kernel)
        self._confirmed: Topology | None = None
        self._pending: Checkpoint | None = None
        self._unreadable = ""
        self._failed: dict[Key, str] = {}
        self._would: tuple[str, ...] = ()
        self._not_given_back: tuple[str, ...] = ()
        self._owed = TopologyChange()
        self._refused: tuple[str, ...] = ()
        self._asked: tuple[Policy, Topology] | None = None
        self._ports_down: dict[tuple[str, str], str] = {}
        self._pace = Pace()
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Read which topology is in force, and make what is missing of it. A NIC or a carrier is not waited for."""
        self._read()
        await self.look()

    def _read(self) -> None:
        """Read what is in force: the topology that was confirmed last, or one that waits for its confirmation."""
        try:
            self._confirmed = self._file.read()
            checkpoint = self._checkpoint_file.read()
        except HostError as error:
            if self._unreadable != error.detail:
                _log.error("the host's topology is not known", why=error.detail)
            self._unreadable = error.detail
            return
        self._pending, self._unreadable, self._in_force.unconfirmed = None, "", frozenset()
        if checkpoint is not None:
            self._await_confirmation(checkpoint)
        elif self._checkpoint_file.exists() and not self._in_force.observes:
            self._checkpoint_file.delete()  # of another boot: the kernel has nothing of that apply

    def _await_confirmation(self, checkpoint: Checkpoint) -> None:
        self._pending = checkpoint
        before = checkpoint.before if checkpoint.before is not None else Topology()
        if checkpoint.confirmable:
            made = {link.name for link in checkpoint.after} - {link.name for link in before}
            self._in_force.unconfirmed = frozenset(made)
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(max(0.0, checkpoint.left), self._wake.set)

    @property
    def _topology(self) -> Topology:
        if self._pending is not None:
            return self._pending.after
        return self._confirmed if self._confirmed is not None else Topology()

    @property
    def _wanted(self) -> Topology:
        """What the configuration said last: at a start or a reload, or at an apply after that."""
        policy = self._in_force.policy
        return self._asked[1] if self._asked is not None and self._asked[0] is policy else policy.topology

    def problems(self) -> list[str]:
        """Return a sentence for each thing that can't be made, and one if the configuration says something else."""
        found = [self._unreadable] if self._unreadable else []
        found += self._failed.values()
        found += self._ports_down.values()
        found += [f"the roll-back could not give this back: {sentence}" for sentence in self._not_given_back]
        fights = [key for key in self._pace.subjects() if key not in self._failed]
        sentences = ((key, self._pace.problem(key, time.monotonic())) for key in fights)
        found += [f"{key} is {problem}" for key, problem in sentences if problem is not None]
        if self.waits:
            found += self._refused
            found.append(
                "the host's topology in the configuration is not in force: see xennetctl plan, then run xennetctl apply"
            )
        return found

    @property
    def waits(self) -> bool:
        """Whether the configuration wants another topology than the one in force."""
        return not self._unreadable and set(self._wanted) != set(self._topology)

    def notes(self) -> list[str]:
        """Return whether a confirmation is waited for, and what would be repaired without observe mode."""
        found = [f"host topology: in enforce mode xennetd would do this: {words}" for words in self._would]
        if self._pending is not None and self._pending.confirmable:
            left = max(0, round(self._pending.left))
            found.append(f"the host's topology is rolled back in {left} s: to keep it, run xennetctl confirm")
        return found

    def links_changed(self, changes: Iterable[LinkChange]) -> None:
        """Take changed links as a hint. Guests' links are none of the topology's."""
        if self._topology and any(
            link is not None and not is_guest_port(link) for change in changes for link in (change.old, change.new)
        ):
            self._wake.set()

    def hint(self) -> None:
        """Ask for a look: anything may have changed."""
        self._wake.set()

    def as_configured(self, claims: ManagerClaims) -> str:
        """Return the configuration that says what the host's own links are already, and what others claim of them."""
        return self._view.as_configured(claims)

    def picture(self) -> Iterator[LinkStatus]:
        """Yield the host's own links, for the picture of the topology."""
        return self._view.picture()

    async def plan(self, wanted: Topology) -> tuple[TopologyPlan, PlannedLinks]:
        """Return what an apply of this topology would do now, and the links that the host would have then."""
        async with self._lock:
            change = self._engine.change(self._topology, wanted)
            planned = planned_links(self._links, change.desired.values(), change.surplus.values(), change.moves)
            return change.plan, planned

    async def apply(self, wanted: Topology, confirm: float | None = None) -> Applied:
        """Put a topology into force, now and over reboots. A refused plan changes nothing. Raises HostError.

        With `confirm` it is rolled back unless `confirm` is called within so many seconds.
        """
        async with self._lock:
            if self._pending is not None:
                raise HostError("an apply waits for its confirmation: run xennetctl confirm first, or wait")
            change = self._engine.change(self._topology, wanted)
            self._refused = ()
            refusals = (*change.plan.refusals.values(), *(change.plan.cautions if confirm is None else ()))
            if refusals:
                return Applied(problems=refusals, refused=True)
            captured = self._engine.capture(change)
            checkpoint = Checkpoint(
                now() + (_UNATTENDED if confirm is None else confirm),
                confirm is not None,
                self._confirmed,
                wanted,
                captured,
                self._engine.indexes(captured),
                change.desired,
            )
            self._checkpoint_file.write(checkpoint)
            self._await_confirmation(checkpoint)
            self._unreadable = ""
            self._asked = (self._in_force.policy, wanted)
            brought = await self._engine.bring(change, goes_on=lambda: self._is_due(checkpoint))
            self._failed = dict(brought.failed)
            if brought.stopped or not self._is_due(checkpoint):
                return await self._overtaken(checkpoint)
            if confirm is None and change.vital & (brought.failed.keys() | brought.waiting):
                return await self._take_back(brought)
            if confirm is None:
                self._keep(wanted)
        problems = tuple(self._failed.values())
        message = f"the host's topology was applied: {'; '.join(brought.done) or 'it was as it must be'}"
        self._audit.record(Event(EventKind.APPLY, message, error=problems[0] if problems else None))
        self._wake.set()  # `run` waits without a time limit while there is no problem; now it may have to try again.
        return Applied(brought.done, problems)

    async def follow(self, wanted: Topology) -> None:
        """Put a topology into force that differs from what the configuration said last.

        So a reload never applies what was rolled back, and what an earlier one could not apply. Why it is refused is a
        problem from then on.
        """
        if set(wanted) in (set(self._topology), set(self._wanted)):
            return
        try:
            applied = await self.apply(wanted)
        except HostError as error:
            applied = Applied(problems=(error.detail,), refused=True)
        if applied.refused:
            self._refused = applied.problems
            self._audit.record(Event(EventKind.APPLY, "the host's topology was not applied", error=self._refused[0]))

    def _is_due(self, checkpoint: Checkpoint) -> bool:
        """Return whether an apply may go on: its time is not over, and nobody has rolled it back."""
        return checkpoint.left > 0 and self._checkpoint_file.exists()

    async def _overtaken(self, checkpoint: Checkpoint) -> Applied:
        """Undo an apply that took longer than it may, and that another process may have rolled back in the middle."""
        await self._roll_back()
        while self._pending is not None and self._checkpoint_file.exists():
            await asyncio.sleep(_WAIT)  # for the other process, which may not wait for this one
            await self._roll_back()
        if self._pending is not None:
            await restore(self._engine, checkpoint)
            self._read()
        return Applied(problems=(_TOO_LATE, *self._not_given_back), refused=True)

    async def _take_back(self, brought: Brought) -> Applied:
        """Undo an apply that would leave the host without what it had before."""
        reasons = tuple(brought.failed.values())
        await self._roll_back()
        return Applied(problems=(*reasons, _TAKEN_BACK, *self._not_given_back), refused=True)

    def _keep(self, topology: Topology) -> None:
        """Let a topology be the one that was confirmed last. A crash in between rolls it back."""
        self._file.write(topology)
        self._checkpoint_file.delete()
        self._confirmed, self._pending, self._in_force.unconfirmed = topology, None, frozenset()
        self._not_given_back, self._owed = (), TopologyChange()  # Another topology is wanted by now.

    async def confirm(self) -> str | None:
        """Keep what was applied. Returns why that can't be, None if it is kept."""
        async with self._lock:
            pending = self._pending
            if pending is None:
                return "no apply waits for a confirmation"
            with self._checkpoint_file.held(wait=False) as held:
                if not held or pending.left <= 0:
                    return "it is too late: the apply is being rolled back"
                self._keep(pending.after)
        self._audit.record(Event(EventKind.APPLY, "the host's topology was confirmed"))
        return None

    async def look(self) -> None:
        """Make what is missing of the topology in force or, in observe mode, note what is."""
        async with self._lock:
            if self._unreadable or (self._pending is not None and not self._checkpoint_file.exists()):
                self._read()  # Another process may have rolled back.
            if self._pending is not None and self._pending.left <= 0 and not self._in_force.observes:
                await self._roll_back()
                if self._pending is not None and self._checkpoint_file.exists():
                    return  # Another process rolls back. What it takes away must not be made again.
            if (self._owed.desired or self._owed.surplus) and not self._in_force.observes:
                await self._give_back()
            await self._repair()
            self._watch_bonds()

    def _watch_bonds(self) -> None:
        """Record which ports of bonds have lost their carrier, and which have it again."""
        before, self._ports_down = self._ports_down, self._view.failed_ports(self._topology)
        for key, sentence in self._ports_down.items():
            if key not in before:
                self._audit.record(Event(EventKind.WARNING, sentence))
        for bond, port in before.keys() - self._ports_down.keys():
            self._audit.record(Event(EventKind.WARNING, f"{port}, a port of {bond}, works again"))

    async def _roll_back(self) -> None:
        try:
            brought = await roll_back(self._engine, self._checkpoint_file, self._file, wait=False)
        except HostError as error:
            self._unreadable = error.detail
            return
        if brought is None:
            return  # Another process is about it.
        self._not_given_back, self._owed = brought.failures, brought.owed
        self._read()
        message = f"the host's topology was rolled back: {'; '.join(brought.done)}"
        self._audit.record(Event(EventKind.APPLY, message, error=next(iter(self._not_given_back), None)))

    async def _give_back(self) -> None:
        """Try again to give back what a roll-back could not. What was given back once is owed no more."""
        brought = await self._engine.bring(self._owed)
        self._not_given_back = tuple(brought.failed.values())
        self._owed = self._owed.part(brought.failed.keys() | brought.waiting)
        if brought.done:
            message = f"the host was given back what a roll-back could not: {'; '.join(brought.done)}"
            self._audit.record(Event(EventKind.APPLY, message, error=next(iter(self._not_given_back), None)))

    async def _repair(self) -> None:
        try:
            change = self._engine.change(self._topology, self._topology, removes=False)
        except HostError as error:
            self._failed = {_WHOLE: error.detail}
            return
        steps = change.plan.steps
        if self._in_force.observes:
            self._would, self._failed = tuple(step.describe() for step in steps), {}
            return
        self._would = ()
        held = self._paced([step for step in steps if step.object.key not in change.plan.refusals])
        withheld = {key: self._failed.get(key, "") for key in held}
        brought = await self._engine.bring(change, {**withheld, **change.plan.refusals})
        self._failed = {key: sentence for key, sentence in brought.failed.items() if sentence}
        if brought.done:
            message = f"host topology repaired: {'; '.join(brought.done)}"
            self._audit.repaired(Event(EventKind.DRIFT, message), kind_of(steps[0]))

    def _paced(self, steps: Sequence[HostStep]) -> frozenset[Key]:
        """Return the keys of what must wait, since another program undoes it again and again; all else goes on."""
        waits = {
            step.object.key: self._pace.wait(step.object.key, (step,), time.monotonic())
            for step in steps
            if step.object.requires.isdisjoint(self._failed)
        }
        held = {key: wait for key, wait in waits.items() if wait > 0}
        if held:
            self._again(min(held.values()))
        return frozenset(held)

    def _again(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)

    async def run(self) -> None:
        """Look after every hint. While something can't be made, look again after a growing pause."""
        await take_care(self._wake, self.look, self._is_troubled)

    def _is_troubled(self) -> bool:
        owed = self._owed.desired or self._owed.surplus
        return bool(self._failed or self._unreadable or self._pending or self._ports_down or owed)

"""Reconciles vifs: observes a vif, decides, executes the Steps, and repeats this until no Steps are left.

Rule 1: a hint names the vif to reconcile and nothing else. The observation alone leads to the decision.
Rule 2: the code here knows nothing of bridges or filters; `plan.decide` does.
Rule 3: whatever goes wrong while a vif is reconciled stays with that vif (`failures`).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable, Iterator

import structlog

from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.reconcile.dry_run import would_do
from xennetd.daemon.reconcile.eviction import Eviction
from xennetd.daemon.reconcile.executor import Executor
from xennetd.daemon.reconcile.failures import Failures
from xennetd.daemon.reconcile.foresight import Foresight
from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.observe import Observer
from xennetd.daemon.reconcile.pace import Pace
from xennetd.daemon.reconcile.queue import WorkQueue
from xennetd.daemon.reconcile.registry import GuestRegistry
from xennetd.daemon.reconcile.taps import tap_of
from xennetd.daemon.reconcile.triggers import Triggers
from xennetd.daemon.reconcile.waiters import LinkWaiters
from xennetd.daemon.record import Record
from xennetd.daemon.toolstack.audit_events import AuditEvents
from xennetd.daemon.toolstack.hooks import Hooks
from xennetd.daemon.toolstack.hotplug_files import HotplugFiles
from xennetd.daemon.toolstack.reporter import ToolstackReporter
from xennetd.kernel.kernel import Kernel
from xennetd.kernel.links import is_guest_port
from xennetd.model.attachment import Attachment
from xennetd.model.configuration import Policy
from xennetd.model.link import Link
from xennetd.model.objects import HostObject
from xennetd.model.status import VifState
from xennetd.model.value import replace
from xennetd.model.vif import Vif, VifId
from xennetd.plan.decide import Decision, decide, without_effect
from xennetd.plan.observation import CONNECTED, as_found, incarnation
from xennetd.plan.refusal import not_taken
from xennetd.plan.steps import Step
from xennetd.policy.facts import RecordedAnswers
from xennetd.xenstore import backend
from xennetd.xenstore.client import XenstoreClient
from xennetd.xenstore.directory import Directory

_log = structlog.get_logger(__name__)

_ROUNDS = 8
"""Observations in one reconciliation, after which another program counts as changing the vif's link all the time."""


class Reconciler:
    """Brings every vif to the state that the policy wants, and keeps the record of every vif.

    `prepare` is called before each observation of a vif, so that networks are repaired before their guests. `triggers`
    takes what has changed, and says which vifs must be reconciled. `foresight` says what another policy would change.
    """

    def __init__(  # noqa: PLR0913, PLR0917 # it is the one place where the daemon's parts meet
        self,
        in_force: InForce,
        kernel: Kernel,
        directory: Directory,
        client: XenstoreClient,
        audit: Audit,
        hooks: Hooks,
        hotplug_files: HotplugFiles,
        host: HostState,
        registry: GuestRegistry,
        prepare: Callable[[], Awaitable[None]],
    ) -> None:
        self._in_force = in_force
        self._kernel = kernel
        self._directory = directory
        self._client = client
        self._audit_events = AuditEvents(audit, hooks)
        self._hotplug_files = hotplug_files
        self._host = host
        self._registry = registry
        self._prepare = prepare
        self._queue = WorkQueue()
        self._reporter = ToolstackReporter(
            kernel, directory, client, self._audit_events, hotplug_files, self._tap_of, self._queue.hint_later
        )
        self._waiters = LinkWaiters()
        self._observer = Observer(in_force, kernel.links, host, registry)
        self._executor = Executor(in_force, kernel, host, self._audit_events)
        self._pace = Pace()
        self._records: dict[VifId, Record] = {}
        self._failures = Failures(
            in_force, kernel.links, self._records, self._queue, self._executor, self._reporter, self._audit_events
        )
        self.foresight = Foresight(in_force, self._records, kernel.links, self._observer, self._tap_of, self._leaving)
        self.triggers = Triggers(self._queue, self._waiters, registry, directory, kernel.links, self._records)

    @property
    def records(self) -> dict[VifId, Record]:
        """The record of every vif."""
        return self._records

    @property
    def adopted(self) -> int:
        """The number of vifs that were connected rightly when xennetd first observed them."""
        return self._audit_events.adopted

    def answers_of(self, record: Record) -> RecordedAnswers:
        """Return what policy was told of the host and the other guests for a vif's last decision.

        For a connected vif policy asks again.
        """
        return self._observer.answers(record, self._in_force.policy)

    def problems(self) -> Iterator[str]:
        """Yield a sentence for each vif that must be repaired again and again."""
        now = time.monotonic()
        for vif, record in tuple(self._records.items()):
            if (problem := self._pace.problem(vif, now)) is not None:
                yield f"{record.title} is {problem}"

    def notes(self) -> Iterator[str]:
        """Yield a sentence for each vif whose needs of the host are unknown."""
        for vif, record in tuple(self._records.items()):
            if not self._host.knows(vif):
                yield (
                    f"{record.title}: what it needs of the host is unknown, so xennetd removes nothing that guests "
                    "share until it is connected anew or gone"
                )

    async def look_at_all(self) -> None:
        """Reconcile all vifs and return when that is done.

        Connected vifs come first, since what they have is not free for vifs that still wait.
        """

        def waits(vif: VifId) -> bool:
            known, link = self._directory.get(vif), self._kernel.links.of(vif)
            return known is None or known.hotplug_status != CONNECTED or link is None or not link.up

        vifs = sorted({*self._directory, *self._records})
        for vif in vifs:
            self._registry.came(vif)  # in this order, whatever the order of the reconciliations
        await self._queue.look_at(sorted(vifs, key=waits))

    async def probe(self) -> None:
        """Return once a probe has gone through the queue of hints (see `WorkQueue.probe`)."""
        await self._queue.probe()

    async def follow_policy(self) -> None:
        """Reconcile all vifs under a new policy. A vif whose attachment does not change is not touched."""
        await self.look_at_all()
        if not self._in_force.observes:
            for owner in self._host.owners():
                if isinstance(owner, VifId) and owner not in self._records:
                    await self._settle(owner)  # The vif went in observe mode, when nothing could be removed.

    def eviction(self, policy: Policy) -> Eviction:
        """Return who must leave the networks before they change to those of a policy (`Eviction`)."""

        def known_tap(vif: VifId) -> Link | None:
            record = self._records.get(vif)
            return self._tap_of(record) if record is not None else None

        return Eviction(policy, self._directory, self._kernel, known_tap)

    async def pin(self, vif: Vif, on: bool) -> bool:
        """Stop managing a vif if `on`, else manage it again. Returns False if the vif is gone.

        Raises ToolstackError when xenstore does not take the change.
        """
        written = await backend.write_pin(self._client, vif, on)
        if written:
            self._directory.note(vif.id, "xennetd-pin", "1" if on else None)
            self.triggers.hint(vif.id)
        return written

    def retry(self, vif: VifId) -> None:
        """Forget a vif's failures and pauses, and reconcile it at once, as an administrator asks for."""
        self._pace.forget(vif)
        self.triggers.try_again(vif)

    async def run(self) -> None:
        """Reconcile vifs as hints come, until cancelled."""
        await self._queue.run(self._look_after)

    async def _look_after(self, vif: VifId, hinted_at: float) -> None:
        record = self._records.get(vif)
        if record is not None and self._directory.get(vif) is not None:
            pause = record.broken_until - time.monotonic()
            if pause > 0:
                # Hints during this time are most likely effects of the defect. This may be the last of them: the queue
                # keeps only the earliest of several timers, and that may have been an earlier one than the defect's.
                self._queue.hint_later(vif, pause)
                return
        try:
            await self._reconcile(vif, hinted_at)
        except Exception as error:
            await self._failures.take(vif, error)

    async def _reconcile(self, vif_id: VifId, hinted_at: float) -> None:
        done: list[Step] = []
        before: Decision | None = None
        replaced = False
        for _ in range(_ROUNDS):
            await self._prepare()
            self._queue.served(vif_id)
            if self._is_replaced(vif_id):
                # xenstore's events about the new vif's directory may still be on their way. Nothing may be decided from
                # the nodes of the old vif, so the directory is read again.
                await self._directory.refresh(vif_id)
                await self._gone(vif_id)
                done, before, replaced = [], None, True
            vif = self._directory.get(vif_id)
            if vif is None:
                await self._gone(vif_id)
                return
            record = self._record(vif, hinted_at)
            link, tap = self._kernel.links.of(vif_id), self._tap_of(record)
            if link is not None:
                record.seen = incarnation(link)
            if replaced:
                record.memory = replace(record.memory, fresh=True)
            decision = self._decide(record, link, tap)
            if not decision.has_steps or self._in_force.observes:
                await self._tell(record, decision, link, done)
                return
            if before is not None and before.steps == decision.steps:
                if decision.error is not None and record.observed is not None:
                    # The Steps that take the port down had no effect. The error is reported all the same.
                    await self._tell(record, without_effect(record.observed, decision), link, done)
                    return
                self._executor.verify(record, decision, link, tap)
                before = None
                continue
            links = (link and incarnation(link), tap and incarnation(tap))
            if before is None and (wait := self._pause(record, decision.steps, links)) > 0:
                self._audit_events.undone(record, done)
                self._queue.hint_later(vif_id, wait)
                return
            before, policy = decision, self._in_force.policy
            done += await self._executor.execute(record, link, decision.port, tap=False)
            if self._in_force.policy is not policy:
                before = None  # What was decided for the tap may be forbidden now.
                continue
            done += await self._executor.execute(record, tap, decision.tap, tap=True)
        _log.warning("another program keeps changing this vif; xennetd tries again in a second", vif=str(vif_id))
        self._audit_events.undone(record, done)
        if before is not None and link is not None and before.port.all_steps:
            self._executor.fail(record, link, not_taken(record.vif, before.port.all_steps), tap=False)
        self._queue.hint_later(vif_id, 1.0)

    def _pause(self, record: Record, steps: tuple[Step, ...], links: Hashable) -> float:
        """Return the seconds to wait before these Steps for a vif.

        What connected vifs share is repaired at one pace. A new vif does not wait with them.
        """
        now, vif = time.monotonic(), record.vif.id
        if not record.connected:
            return self._pace.wait(vif, steps, now, links)
        shared = self._host.repairs(vif, steps)
        if (wait := self._host.pause(shared, now)) > 0:
            return wait
        own = tuple(step for step in steps if step not in shared)
        return self._pace.wait(vif, own, now, links) if own else 0.0

    async def _tell(self, record: Record, decision: Decision, link: Link | None, done: list[Step]) -> None:
        """Report a decision without Steps, and remove host objects that the vif does not need any more."""
        if self._in_force.observes:
            record.settle(would_do(decision, record.attachment), link)
            return
        seen = record.observed
        if decision.attachment is not None or seen is None or not seen.stays_in_service:
            # What a vif keeps in spite of an error, a conflict or a pin gives way to what others are entitled to.
            kept = seen is not None and seen.stays_in_service and (decision.error is not None or record.vif.pinned)
            confirmed = not kept
            needs = _needs(decision, link)
            self.triggers.wake(await self._host.settle(record.vif.id, needs, record.vif.uuid, confirmed=confirmed))
        await self._reporter.tell(record, decision, link, done)
        record.shortages = 0
        if record.state is VifState.CONNECTED:
            record.resolved = None

    def _decide(self, record: Record, link: Link | None, tap: Link | None) -> Decision:
        vif = record.vif
        self._registry.meet(vif.id, connected=record.connected, in_service=link is not None and link.up)
        seen, resolved = self._observer.observe(
            record, link, tap, self._in_force.policy, lambda holder: self._leaving(holder, vif.id)
        )
        decision = decide(seen)
        at_rest = decision.state is VifState.CONNECTED and not decision.has_steps
        record.observed, record.decided, record.resolved = seen, decision, None if at_rest else resolved
        self._host.know(vif.id, known=decision.attachment is not None or not seen.stays_in_service)
        if seen.assignment is not None:
            record.assignment = seen.assignment
        memory = record.memory
        if memory.port.name_awaited_since != (since := decision.port.name_awaited_since):
            record.remember(replace(memory.port, name_awaited_since=since), tap=False)
        if memory.tap.name_awaited_since != (since := decision.tap.name_awaited_since):
            record.remember(replace(memory.tap, name_awaited_since=since), tap=True)
        # This comes before anything is awaited: decisions about other vifs depend on these claims, and what this vif
        # waits for may come meanwhile.
        self._claim(record, decision)
        waits_on, look_at = decision.waits_on, decision.look_at
        self._waiters.wait(vif.id, record.waits_on, waits_on)
        record.waits_on = waits_on
        if look_at is not None:
            self._queue.hint_later(vif.id, max(0.0, look_at - time.monotonic()))
        return decision

    def _claim(self, record: Record, decision: Decision) -> None:
        """Register the vif's claims, and hint at the vifs that these concern.

        A vif counts as connected from the decision that says so. Other vifs are decided while its verdict is on the way
        to xenstore, and no other domain may take an address or a name in that time that this vif was just granted.
        """
        vif, attachment, verdict = record.vif, decision.attachment, decision.verdict
        if attachment is None and (seen := record.observed) is not None and seen.stays_in_service:
            # Whether its host objects are known or not, no other guest gets what a guest has that stays in service.
            attachment = seen.outcome if isinstance(seen.outcome, Attachment) else as_found(seen)
        connected = record.connected or (verdict is not None and verdict.error is None)
        if attachment is not None:
            self.triggers.claims_changed(self._registry.set(vif, record.title, attachment, connected=connected))
        else:
            self.triggers.claims_changed(self._registry.drop(vif.id))

    def _record(self, vif: Vif, hinted_at: float) -> Record:
        record = self._records.get(vif.id)
        if record is None:
            record = self._records[vif.id] = Record(vif)
            self._waiters.rename(vif.id, None, vif)
        elif record.vif.vifname != vif.vifname:
            self._waiters.rename(vif.id, record.vif, vif)
        old = record.follow(vif, hinted_at, observing=self._in_force.observes)
        if old.vm != vif.vm and not self._in_force.observes:
            self._audit_events.renamed(record, old)
        return record

    def _is_replaced(self, vif_id: VifId) -> bool:
        """Return whether the link is not the one observed last. Then it most likely is a new vif's of the same name."""
        record, link = self._records.get(vif_id), self._kernel.links.of(vif_id)
        if record is None or link is None or record.state is VifState.DETACHING:
            return False
        return record.seen is not None and record.seen != incarnation(link)

    async def _gone(self, vif_id: VifId) -> None:
        """Forget a vif that does not exist any more, and remove the host objects that only it needed."""
        self.triggers.claims_changed(self._registry.drop(vif_id, gone=True))
        record = self._records.pop(vif_id, None)
        if record is None:
            return
        self._hotplug_files.forget(vif_id)
        self._pace.forget(vif_id)
        self._host.know(vif_id, known=True)
        self._waiters.rename(vif_id, record.vif, None)
        self._waiters.wait(vif_id, record.waits_on, ())
        if not self._in_force.observes:
            await self._settle(vif_id)
        if record.memory.connected is not None and not self._in_force.observes:
            self._audit_events.detached(record)

    async def _settle(self, vif_id: VifId) -> None:
        self.triggers.wake(await self._host.settle(vif_id, ()))

    def _tap_of(self, record: Record) -> Link | None:
        return tap_of(record, self._kernel.links, self._namesakes)

    def _namesakes(self, name: str) -> list[Record]:
        """Return the records of the vifs with this name as their `vifname` or as their tap's name."""
        return [self._records[vif] for vif in self._waiters.named(name)]

    def _leaving(self, holder: Link, asking: VifId) -> bool:
        """Return whether all vifs of a guest's link, except `asking`, are gone or being removed."""
        if not is_guest_port(holder):
            return False
        owners = (self._directory.get(vif) for vif in self._waiters.vifs_of(holder) if vif != asking)
        return all(owner is None or owner.removing for owner in owners)


def _needs(decision: Decision, link: Link | None) -> tuple[HostObject, ...]:
    """Return the host objects that a vif needs. A vif in error needs none once its link is down."""
    attachment = decision.attachment
    if attachment is None or (decision.state is VifState.ERROR and not (link is not None and link.up)):
        return ()
    return attachment.needs

"""The middle of the daemon on a simulated host: networks, reconciler and host state are the daemon's own.

What it does there is recorded as it is done, in the order in which it is done.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

from structlog.testing import capture_logs

from tests.golden.host import SimulatedHost
from tests.unit.test_host_state import KINDS
from xennetd.daemon.reconcile import networks, observe
from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.networks import Networks
from xennetd.daemon.reconcile.reconciler import Reconciler
from xennetd.daemon.reconcile.registry import GuestRegistry
from xennetd.daemon.reconcile.reload import follow
from xennetd.daemon.record import Record
from xennetd.daemon.toolstack import reporter
from xennetd.daemon.toolstack.hotplug_files import HotplugFiles
from xennetd.kernel.links import LinkChange
from xennetd.model.configuration import Policy
from xennetd.model.event import Event, EventKind
from xennetd.model.link import Link
from xennetd.model.marks import BRIDGE_GROUP, GUEST_GROUP
from xennetd.model.objects import HostObject, Key
from xennetd.model.value import replace
from xennetd.model.vif import Vif, VifId, XenbusState
from xennetd.plan.decide import decide
from xennetd.plan.desired import Owner
from xennetd.plan.difference import Change, HostStep, Make, Remove
from xennetd.plan.observation import CONNECTED
from xennetd.plan.steps import Step
from xennetd.policy.check import Notes, check
from xennetd.policy.host_notes import HostNotes
from xennetd.policy.network_needs import needs

_ROUNDS = 3
"""Probes through the queue of hints: one look may hint at another."""

LEFT_OVER = "left over"
"""Whom a Step is for that removes what nobody wants."""

GIVEN_UP = "given up by guests"
"""Whom a Step is for that removes what no guest wants any more, once all guests follow the new policy."""


@dataclass(frozen=True, slots=True)
class Done:
    """A Step, or what the toolstack or the journal was told.

    `owner` says whom it is for: a network, a vif, GIVEN_UP or LEFT_OVER.
    """

    owner: Owner
    what: Step | str


class RecordingHostState(HostState):
    """Notes for whom the host's objects are made, changed and removed."""

    def __init__(self, host: SimulatedHost) -> None:
        adapters: Any = dict.fromkeys(KINDS, host)
        super().__init__(adapters)
        self.owner: Owner = LEFT_OVER
        self._planned: dict[Key, HostStep] = {}

    def as_planned(self, step: HostStep) -> HostStep:
        """Return the Step that was planned, of one that is being done."""
        return self._planned.get(step.object.key, step)

    async def ensure(
        self,
        owner: Owner,
        steps: Collection[HostStep],
        domain: str | None = None,
        wanted: Collection[HostObject] = (),
    ) -> None:
        self.owner = owner
        self._planned = {step.object.key: step for step in steps}
        await super().ensure(owner, steps, domain, wanted)
        self._planned = {}

    async def settle(
        self, owner: Owner, objects: Collection[HostObject], domain: str | None = None, *, confirmed: bool = True
    ) -> frozenset[str]:
        self.owner = owner
        return await super().settle(owner, objects, domain, confirmed=confirmed)

    async def release(self) -> None:
        self.owner = GIVEN_UP
        await super().release()

    async def prune(self) -> None:
        self.owner = LEFT_OVER
        await super().prune()


class Toolstack:
    """xenstore and netback, in the place of `xenstore.directory` and `xenstore.backend`. `told` hears of verdicts."""

    own_domid = 0

    def __init__(self, told: Callable[[VifId, str], None]) -> None:
        self.vifs: dict[VifId, Vif] = {}
        self._told = told

    def __iter__(self) -> Iterator[VifId]:
        return iter(tuple(self.vifs))

    def get(self, vif: VifId) -> Vif | None:
        return self.vifs.get(vif)

    def note(self, vif: VifId, node: str, value: str | None) -> None:
        """Follow a node that was written, as netback does."""
        known: dict[str, Any] = {node.replace("-", "_"): value}
        after = replace(self.vifs[vif], **known)
        connected = after.hotplug_status == CONNECTED and after.state is XenbusState.INIT_WAIT
        self.vifs[vif] = replace(after, state=XenbusState.CONNECTED) if connected else after

    async def write_verdict(
        self,
        client: object,
        vif: Vif,
        *,
        error: str | None = None,
        frontend_mtu: int | None = None,
        mac: str | None = None,
    ) -> bool:
        news = [f"MTU {frontend_mtu}"] if frontend_mtu is not None else []
        news += [f"MAC {mac}"] if mac is not None else []
        self._told(vif.id, f"error: {error}" if error is not None else ", ".join([CONNECTED, *news]))
        return True


class Serving:
    """A daemon that serves a host by a policy. `done` is all that it has done.

    `errors` are the errors that it has told of, in the order in which it did: of a vif, or of a network.
    """

    def __init__(self, host: SimulatedHost, policy: Policy) -> None:
        self.host = host
        self.done: list[Done] = []
        self.errors: list[tuple[Owner, str]] = []
        self.toolstack = Toolstack(lambda vif, said: self.done.append(Done(vif, f"the toolstack is told: {said}")))
        self.state = RecordingHostState(host)
        self._in_force = InForce(policy)
        audit: Any = SimpleNamespace(
            record=self._record, repaired=lambda event, what: self._record(event), flush=lambda vif: None
        )
        hooks: Any = SimpleNamespace(run=lambda *about: None)
        kernel: Any = host
        links: Any = host.links
        directory: Any = self.toolstack
        no_client: Any = None
        self.networks = Networks(self._in_force, host.links, self.state, audit, self._wake)
        registry = GuestRegistry(host.lease, lambda instance, address: False, self.networks.problem)
        self.reconciler = Reconciler(
            self._in_force,
            kernel,
            directory,
            no_client,
            audit,
            hooks,
            HotplugFiles(),
            self.state,
            registry,
            self.networks.catch_up,
        )
        self._observer = observe.Observer(self._in_force, links, self.state, registry)
        host.told, host.changed = self._told, self._links_changed

    @property
    def policy(self) -> Policy:
        """The policy that is in force."""
        return self._in_force.policy

    @property
    def observes(self) -> bool:
        """Whether it only observes."""
        return self._in_force.observes

    @property
    def records(self) -> dict[VifId, Record]:
        """Where each vif stands."""
        return self.reconciler.records

    async def come(self, vif: Vif) -> None:
        """Have a guest's interface come: netback has made its link, and is in state 2."""
        self.host.put(Link(self.host.index(), vif.id.netdev, address="fe:ff:ff:ff:ff:ff", parent=vif.id))
        self.toolstack.vifs[vif.id] = vif
        self.reconciler.triggers.vif_changed(vif.id)
        await self.rest()

    def check(self, policy: Policy) -> Notes:
        """Return what there is to say of a policy on this host."""
        links = tuple(self.host.links.links)
        theirs = [link for link in links if link.group not in (BRIDGE_GROUP, GUEST_GROUP)]
        notes = HostNotes(
            bridges=frozenset(link.name for link in links if link.kind == "bridge"),
            links=frozenset(link.name for link in links),
            addresses={link.name: link.addresses for link in theirs if link.addresses},
        )
        return check(policy, notes)

    async def reload(self, policy: Policy) -> None:
        """Put a policy into force that `check` has no error of, as `Supervisor.reload` does."""
        await follow(policy, (), self._in_force, self.state, self.networks, self.reconciler)
        if not self.observes and self.state.knows_all:
            await self.state.prune()
        await self.rest()

    async def rest(self) -> None:
        """Let networks and vifs be looked at that something hints at."""
        for _ in range(_ROUNDS):
            await self.reconciler.probe()

    async def left(self) -> list[Step]:
        """Return what is still to be done: for networks that can be had, for vifs, and with what nobody wants."""
        found: list[Step] = []
        for name, network in self.policy.networks.items():
            if self.networks.problem(name) is None:
                found += self.state.difference(name, needs(self.policy, network, self.host.links))
        for record in self.records.values():
            link = self.host.links.of(record.vif.id)
            found += decide(self._observer.observe(record, link, None, self.policy, lambda holder: False)[0]).steps
        return [*found, *await self.state.leftovers()]

    def _told(self, step: Step) -> None:
        owner = self.state.owner
        if isinstance(step, Make | Change | Remove):
            step = self.state.as_planned(step)
        else:
            link = self.host.links.by_index(step.index)
            # A vif's Steps may be about its bridge, too; then they follow one about its own link.
            owner = link.parent if link is not None and link.parent is not None else self.done[-1].owner
        self.done.append(Done(owner, step))

    def error(self, event: str, *, network: str, why: str) -> None:
        """Take what `Networks` logs of a network that can't be had."""
        self.errors.append((network, f"{event}: {why}"))

    def _wake(self, names: Iterable[str]) -> None:
        self.reconciler.triggers.wake(names)

    def _record(self, event: Event) -> None:
        message = re.sub(r" in [\d.]+ ms$", "", event.message)
        if event.kind in (EventKind.CHANGE, EventKind.DRIFT):
            message = message.partition(": ")[0]  # The Steps follow, which have been told of.
        owner = event.vif if event.vif is not None else event.network
        assert owner is not None
        self.done.append(Done(owner, f"journal: {event.kind.label}: {message}"))
        if event.kind is EventKind.ERROR:
            self.errors.append((owner, message))

    def _links_changed(self, changes: list[LinkChange]) -> None:
        self.reconciler.triggers.links_changed(changes)
        self.networks.links_changed(changes)


@asynccontextmanager
async def serving(host: SimulatedHost, policy: Policy) -> AsyncIterator[Serving]:
    """Start a daemon on a host without guests, and end it. A defect that it logs of its own fails.

    Its clock stands still: nothing is done because some time has passed.
    """
    daemon = Serving(host, policy)
    with (
        mock.patch.object(asyncio.get_running_loop(), "time", float),
        mock.patch.object(observe, "read_sysctl", host.read_sysctl),
        mock.patch.object(reporter, "backend", daemon.toolstack),
        mock.patch.object(networks, "_log", daemon),
        capture_logs() as logs,
    ):
        await daemon.networks.look()
        running = [asyncio.ensure_future(each.run()) for each in (daemon.networks, daemon.reconciler)]
        await daemon.reconciler.look_at_all()
        await daemon.state.prune()
        try:
            yield daemon
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    defects = [each for each in logs if each.get("exc_info")]
    assert not defects, defects

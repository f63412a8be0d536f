"""Keeps the host's own topology as it was applied last: its links, their ports and their addresses.

Rule 1: only `apply` puts another topology into force. What the configuration says meanwhile waits.
Rule 2: what can't be made waits, and all else is made. A NIC that is missing keeps nothing from the rest.
Rule 3: only an apply removes anything: what the topology before it had, and links that carry xennetd's mark. A start
removes nothing, since the file that says what is in force may be lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.reconcile.care import take_care
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.pace import Pace
from xennetd.daemon.shortage import Shortage, shortage
from xennetd.daemon.topology_file import TopologyFile
from xennetd.kernel.bridges import HostAddresses
from xennetd.kernel.host_links import HostLinks, HostPorts
from xennetd.kernel.ip_entries import IpEntries
from xennetd.kernel.kernel import Kernel
from xennetd.kernel.links import LinkChange, is_guest_port
from xennetd.model.adapter import Adapter
from xennetd.model.errors import HostError
from xennetd.model.event import Event, EventKind
from xennetd.model.ip_entry import IpEntry
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.objects import HostAddress, HostObject, Key
from xennetd.model.topology import Topology
from xennetd.model.value import replace
from xennetd.plan.difference import HostStep, Remove, by_key, difference
from xennetd.plan.steps import kind_of
from xennetd.plan.topology_plan import TopologyPlan, topology_plan
from xennetd.policy.adoption import Adoption, adoption
from xennetd.policy.topology_objects import TopologyFacts, topology_objects

_log = structlog.get_logger(__name__)

_ROUNDS = 8
"""How often Steps are executed until the host is as wanted. A bond that lost its ports for a change needs two."""

_MACHINE_ID = Path("/etc/machine-id")


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply has done, and what it could not do, in sentences. With `refused` it has done nothing."""

    done: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    refused: bool = False


class HostTopology:
    """The topology in force. `problems` are sentences on what can't be made now."""

    def __init__(self, in_force: InForce, kernel: Kernel, audit: Audit, file: TopologyFile | None = None) -> None:
        self._in_force = in_force
        self._links = kernel.links
        self._audit = audit
        self._file = file if file is not None else TopologyFile()
        self._host_links = HostLinks(kernel.links, kernel.ask, kernel.read_link)
        self._entries = IpEntries(kernel.links, kernel.ask, kernel.dump)
        self._adapters: Mapping[str, Adapter[Any]] = {
            "link": self._host_links,
            "port": HostPorts(kernel.links, kernel.ask),
            "address": HostAddresses(kernel.links, kernel.ask, may_have=lambda _: True),
            **dict.fromkeys(("ip address", "ip route", "ip rule", "ip neighbour"), self._entries),
        }
        self._confirmed: Topology | None = None
        self._unreadable = ""
        self._failed: dict[Key, str] = {}
        self._would: tuple[str, ...] = ()
        self._pace = Pace()
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Read which topology is in force, and make what is missing of it. A NIC or a carrier is not waited for."""
        try:
            self._confirmed = self._file.read()
        except HostError as error:
            self._unreadable = error.detail
            _log.error("the host's topology is not known", why=error.detail)
        await self.look()

    @property
    def _topology(self) -> Topology:
        return self._confirmed if self._confirmed is not None else Topology()

    def problems(self) -> list[str]:
        """Return a sentence for each thing that can't be made, and one if the configuration says something else."""
        found = [self._unreadable] if self._unreadable else []
        found += self._failed.values()
        fights = [key for key in self._pace.subjects() if key not in self._failed]
        sentences = ((key, self._pace.problem(key, time.monotonic())) for key in fights)
        found += [f"{key} is {problem}" for key, problem in sentences if problem is not None]
        if not self._unreadable and set(self._in_force.policy.topology) != set(self._topology):
            found.append(
                "the host's topology in the configuration is not in force: see xennetctl plan, then run xennetctl apply"
            )
        return found

    def notes(self) -> list[str]:
        """Return what would be repaired if the daemon were not in observe mode."""
        return [f"host topology: in enforce mode xennetd would do this: {words}" for words in self._would]

    def links_changed(self, changes: Iterable[LinkChange]) -> None:
        """Take changed links as a hint. Guests' links are none of the topology's."""
        if self._confirmed and any(
            link is not None and not is_guest_port(link) for change in changes for link in (change.old, change.new)
        ):
            self._wake.set()

    def hint(self) -> None:
        """Ask for a look: anything may have changed."""
        self._wake.set()

    async def plan(self, wanted: Topology) -> TopologyPlan:
        """Return what an apply of this topology would do now."""
        async with self._lock:
            return self._plan(wanted)[0]

    def _plan(
        self, wanted: Topology, *, only_adopt: bool = False
    ) -> tuple[TopologyPlan, dict[Key, HostObject], dict[Key, HostObject]]:
        """Return the plan, the desired objects, and the objects that are to be removed.

        With `only_adopt` nothing is removed but what moves to another link.
        """
        try:
            adopted = self._adoption(wanted)
            desired = {**self._desired(wanted), **by_key(adopted.moved)}
            surplus = self._surplus(desired, adopted.former, only_adopt=only_adopt)
            addresses = {link.name: link.addresses for link in self._links if link.addresses}
            plan = topology_plan(desired, self._observed(desired, surplus), addresses)
            return replace(plan, refusals={**plan.refusals, **adopted.refusals}), desired, surplus
        except Shortage as error:
            raise shortage(error) from error

    async def apply(self, wanted: Topology) -> Applied:
        """Put a topology into force, now and over reboots. A refused plan changes nothing. Raises HostError."""
        async with self._lock:
            plan, desired, surplus = self._plan(wanted)
            if plan.refusals:
                return Applied(problems=tuple(plan.refusals.values()), refused=True)
            self._file.write(wanted)
            self._confirmed, self._unreadable = wanted, ""
            done = await self._bring(desired, surplus, {})
        problems = tuple(self._failed.values())
        message = f"the host's topology was applied: {'; '.join(done) or 'it was as it must be'}"
        self._audit.record(Event(EventKind.APPLY, message, error=problems[0] if problems else None))
        if problems:
            self._wake.set()  # `run` waits without a time limit while there is no problem; now it must try again.
        return Applied(tuple(done), problems)

    async def look(self) -> None:
        """Make what is missing of the topology in force or, in observe mode, note what is."""
        async with self._lock:
            try:
                plan, desired, surplus = self._plan(self._topology, only_adopt=True)
            except HostError as error:
                self._failed = {_WHOLE: error.detail}
                return
            steps = plan.steps
            if self._in_force.observes:
                self._would, self._failed = tuple(step.describe() for step in steps), {}
                return
            self._would = ()
            due = [step for step in steps if step.object.requires.isdisjoint(self._failed)]
            wait = self._pace.wait_for_all([(step.object.key, (step,)) for step in due], time.monotonic())
            if wait > 0:
                self._again(wait)
                return
            done = await self._bring(desired, surplus, dict(plan.refusals))
        if done:
            message = f"host topology repaired: {'; '.join(done)}"
            self._audit.repaired(Event(EventKind.DRIFT, message), kind_of(due[0]))

    def _again(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)

    def _desired(self, topology: Topology) -> dict[Key, HostObject]:
        names = self._host_links.find_nics(topology)
        macs = {link.name: link.address for link in self._links if not is_guest_port(link)} if topology else {}
        return by_key(topology_objects(topology, TopologyFacts(names, macs, _machine())))

    def _observed(self, desired: Mapping[Key, HostObject], surplus: Mapping[Key, HostObject]) -> dict[Key, HostObject]:
        if any(isinstance(item, IpEntry) for item in (*desired.values(), *surplus.values())):
            self._entries.read()
        present = {key: self._adapters[key.kind].present(wanted) for key, wanted in desired.items()}
        found = {key: item for key, item in present.items() if item is not None}
        return {**found, **{key: item for key, item in surplus.items() if self._is_there(item)}}

    def _adoption(self, wanted: Topology) -> Adoption:
        """Return which entries of the host move to other links with this topology."""
        if not any(link.adopts for topology in (self._topology, wanted) for link in topology):
            return Adoption()
        names = {**self._host_links.find_nics(self._topology), **self._host_links.find_nics(wanted)}
        return adoption(self._topology, wanted, self._entries.read(), lambda name: names.get(name, name))

    def _surplus(
        self, desired: Mapping[Key, HostObject], former: Collection[HostObject], *, only_adopt: bool
    ) -> dict[Key, HostObject]:
        """Return entries that move from their `former` links and, unless `only_adopt`, what is to be removed besides.

        That is what the topology before had and the desired one has not, and links that carry the mark.
        """
        known: dict[Key, HostObject] = by_key(former)
        if not only_adopt:
            known |= {**by_key(self._host_links.list_owned()), **self._desired(self._topology)}
        return {key: item for key, item in known.items() if key not in desired and self._is_there(item)}

    def _is_there(self, item: HostObject) -> bool:
        """Return whether the host has an object that is to go, and it is xennetd's to remove."""
        match item:
            case HostLink():
                link = self._links.link(item.name)
                return item.kind != "nic" and link is not None and link.is_of_topology
            case HostPort():
                return self._adapters["port"].present(item) == item
            case HostAddress() | IpEntry():
                return self._adapters[item.key.kind].present(item) == item
            case _:
                return False

    async def _bring(
        self, desired: Mapping[Key, HostObject], surplus: Mapping[Key, HostObject], failed: dict[Key, str]
    ) -> list[str]:
        """Execute Steps until the host is as desired, but for those in `failed`. Returns what was done.

        What fails is added to `failed`.
        """
        done: list[str] = []
        for _ in range(_ROUNDS):
            steps = difference(desired, self._observed(desired, surplus))
            due = [step for step in steps if not _is_blocked(step, failed)]
            if not due:
                break
            for step in due:
                if not _is_blocked(step, failed):
                    self._execute(step, failed, done)
                await asyncio.sleep(0)  # Others are served between two Steps.
        else:
            failed.update({step.object.key: f"`{step.describe()}` does not last" for step in due})
        self._failed = failed
        return done

    def _execute(self, step: HostStep, failed: dict[Key, str], done: list[str]) -> None:
        adapter = self._adapters[step.object.key.kind]
        try:
            adapter.remove([step.object]) if isinstance(step, Remove) else adapter.apply([step.object])
        except HostError as error:
            failed[step.object.key] = error.detail
        except Shortage as error:
            failed[step.object.key] = shortage(error).detail
        else:
            done.append(step.describe())

    async def run(self) -> None:
        """Look after every hint. While something can't be made, look again after a growing pause."""
        await take_care(self._wake, self.look, lambda: bool(self._failed))


_WHOLE = Key("topology", "")


def _is_blocked(step: HostStep, failed: Mapping[Key, str]) -> bool:
    """Return whether a Step has failed already, or needs an object that could not be made."""
    return step.object.key in failed or (not isinstance(step, Remove) and not step.object.requires.isdisjoint(failed))


def _machine() -> str:
    with suppress(OSError):
        return _MACHINE_ID.read_text().strip()
    return ""

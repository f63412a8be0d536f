"""Answers the control service's requests from the state of the daemon's parts (control.interface.Daemon)."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain
from typing import Protocol

from xennetd import __version__
from xennetd.config.problem import printable
from xennetd.daemon.aside import aside
from xennetd.daemon.check_process import Checked, check_apart
from xennetd.daemon.host_checks import curable
from xennetd.daemon.loading import Loaded, unchangeable
from xennetd.daemon.managers import read_claims
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.notify import ServiceManager
from xennetd.daemon.reconcile.dry_run import DryRunHost
from xennetd.daemon.reconcile.host_topology import HostTopology
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.networks import Networks
from xennetd.daemon.reconcile.reconciler import Reconciler
from xennetd.daemon.runtime_dir import RuntimeDirectory
from xennetd.daemon.tasks import Tasks
from xennetd.dnsmasq.services import DhcpServices
from xennetd.kernel.kernel import Kernel
from xennetd.kernel.links import is_guest_port
from xennetd.kernel.sysctls import Sysctls
from xennetd.model.configuration import Policy
from xennetd.model.dump import TextOnce, to_json
from xennetd.model.errors import Denied, ToolstackError
from xennetd.model.event import EventKind
from xennetd.model.status import DaemonStatus, LinkStatus, NetworkStatus, Planned, VifState, VifStatus
from xennetd.model.vif import VifId
from xennetd.nft.table import NftTable
from xennetd.policy.check import Notes, errors_of, lacking, remarks_of, unprotected
from xennetd.xenstore.directory import Directory


class Reload(Protocol):
    """`supervisor.Supervisor.reload`."""

    def __call__(self, *, applies: bool = True) -> Awaitable[list[str]]:
        """Read the configuration again, put it into force, and return its problems."""
        ...


class Answers:
    """Implements `control.interface.Daemon`.

    `config` is the configuration file named on the command line, None for the default files. `load` returns what the
    files say now. `reload` reads the
    configuration again, puts it into force and returns its problems. `ready` returns whether the daemon has told
    systemd that it is ready.
    """

    def __init__(  # noqa: PLR0913, PLR0917 # it reads from every part of the daemon
        self,
        in_force: InForce,
        kernel: Kernel,
        table: NftTable,
        sysctls: Sysctls,
        directory: Directory,
        reconciler: Reconciler,
        networks: Networks,
        topology: HostTopology,
        dhcp: DhcpServices,
        audit: Audit,
        manager: ServiceManager,
        tasks: Tasks,
        runtime: RuntimeDirectory,
        *,
        config: str | None,
        load: Callable[[], Awaitable[Loaded]],
        reload: Reload,
        ready: Callable[[], bool],
    ) -> None:
        self._in_force = in_force
        self._kernel = kernel
        self._table = table
        self._sysctls = sysctls
        self._directory = directory
        self._reconciler = reconciler
        self._networks = networks
        self._topology = topology
        self._dhcp = dhcp
        self._audit = audit
        self._manager = manager
        self._tasks = tasks
        self._runtime = runtime
        self._config = config
        self._load = load
        self._reload = reload
        self._ready = ready
        self._started = time.time()
        self._policy_dump: TextOnce | None = None

    def _counts(self) -> Counter[str]:
        return Counter((record.state or VifState.PENDING).value for record in self._reconciler.records.values())

    def summary(self) -> str:
        """Return the number of vifs in each state, in one line."""
        counts = self._counts()
        parts = [f"{counts[state]} {state}" for state in VifState if counts[state]]
        return f"{counts.total()} vifs" + (": " + ", ".join(parts) if parts else "")

    def status(self) -> DaemonStatus:
        """Return the daemon's state, without its problems and its notes."""
        counts = self._counts()
        return DaemonStatus(
            version=__version__,
            pid=os.getpid(),
            mode=self._in_force.policy.daemon.mode,
            ready=self._ready(),
            since=self._started,
            domid=self._directory.own_domid,
            config=list(map(printable, self._in_force.policy.files)),
            networks=self._network_rows(),
            counts={state.value: counts[state] for state in VifState},
            pinned=self._pinned(),
            xenstore=self._directory.state,
            audit_dropped=self._audit.lost,
            netlink_resyncs=self._kernel.resyncs,
            xenstore_reconnects=self._directory.reconnects,
            problems=[],
            notes=[],
        )

    def _network_rows(self) -> list[NetworkStatus]:
        attachments = (record.attachment for record in self._reconciler.records.values())
        vifs = Counter(attachment.network for attachment in attachments if attachment is not None)
        return [
            NetworkStatus(
                name=network.name,
                mode=network.mode.name,
                bridge=network.bridge or None,
                subnets=[str(subnet) for subnet in network.subnets],
                uplink=network.uplink,
                dhcp=network.dhcp,
                vifs=vifs[network.name],
                problem=problem.detail if (problem := self._networks.problem(network.name)) is not None else None,
            )
            for network in self._in_force.policy.networks.values()
        ]

    def status_problems(self) -> Iterator[str]:
        """Yield sentences about conditions that an administrator should correct. Vifs may come and go meanwhile."""
        if (silent := self._directory.problem()) is not None:
            yield f"xenstore: {silent}"
        for record in tuple(self._reconciler.records.values()):
            if record.error is not None and not isinstance(record.error, Denied):
                yield f"{record.title}: {record.error.detail}"
        yield from (note.sentence for note in errors_of(self.notes()))
        if (refusal := self._manager.problem()) is not None:
            yield refusal
        yield from self._tasks.problems()
        if self._runtime.problem:
            yield self._runtime.problem
        yield from self._kernel.problems()
        yield from self._table.problems()
        yield from self._reconciler.problems()
        yield from self._topology.problems()
        yield from self._networks.problems()
        yield from self._dhcp.problems()

    def status_notes(self) -> Iterator[str]:
        """Yield notes: conditions that somebody asked for and that an administrator should not forget.

        Vifs may come and go meanwhile.
        """
        records = tuple(self._reconciler.records.values())
        for record in records:
            if isinstance(record.error, Denied):
                yield f"{record.title}: {record.error.detail}"
        yield from (f"{vif} is pinned: xennetd does not touch it until unpin" for vif in self._pinned())
        for record in records:
            if record.attachment is not None and record.state is not VifState.ERROR:
                yield from (f"{record.title}: {warning}" for warning in record.attachment.warnings)
        yield from self._reconciler.notes()
        yield from self._topology.notes()
        yield from self._networks.remarks()
        yield from self._sysctls.notes()
        yield from (note.sentence for note in remarks_of(self.notes()))

    def notes(self) -> Notes:
        """Return the notes on the policy in force.

        The notes about missing packages and about files that others may write are made anew: a package may have been
        installed meanwhile, or a file's mode changed.
        """
        policy = self._in_force.policy
        host = curable(policy)
        return (*self._in_force.notes, *unprotected(host), *lacking(policy, host))

    def vifs(self) -> Iterator[VifStatus]:
        """Yield the status rows of all vifs, ordered by domid and devid. Vifs may come and go meanwhile."""
        records = self._reconciler.records
        for vif in sorted(records):
            if (record := records.get(vif)) is not None:
                yield record.row()

    def names(self) -> Iterator[tuple[VifId, str | None, str | None]]:
        """Yield each vif with the names of its link and of its domain, ordered by domid and devid."""
        records = self._reconciler.records
        for vif in sorted(records):
            if (record := records.get(vif)) is not None:
                yield vif, record.link.name if record.link is not None else None, record.vif.vm

    def vif(self, vif: VifId) -> VifStatus | None:
        """Return the status row of one vif, None if the daemon does not know the vif."""
        record = self._reconciler.records.get(vif)
        return record.row() if record is not None else None

    def debug(self, vif: VifId) -> Iterator[str]:
        """Return the last observation of a vif, the decision made from it, and the policy, as JSON text in parts.

        Raises KeyError for a vif that the daemon does not know. The policy's text is made once, and part by part: for
        2,000 rules that takes a tenth of a second.
        """
        record = self._reconciler.records[vif]
        links = self._kernel.links
        dump = {
            "version": __version__,
            "has_ipv6": links.has_ipv6,
            "forces_ipv6": links.forces_ipv6,
            "answers": to_json(self._reconciler.answers_of(record)),
            "observation": to_json(record.observed),
            "decision": to_json(record.decided),
        }
        policy = self._in_force.policy
        if self._policy_dump is None or self._policy_dump.value is not policy:
            self._policy_dump = TextOnce(policy)
        return chain([f'{json.dumps(dump)[:-1]}, "policy": '], self._policy_dump.parts(), ["}"])

    async def reload(self) -> list[str]:
        """Read the configuration again and put it into force.

        Returns the problems of the new configuration. With any problem the old policy stays in force.
        """
        return await self._reload()

    def links(self) -> Iterator[LinkStatus]:
        """Yield the host's links, and then those of guests with what they are. Vifs may come and go meanwhile."""
        yield from self._topology.picture()
        records = self._reconciler.records
        for vif in sorted(records):
            record = records.get(vif)
            link = self._kernel.links.of(vif) if record is not None else None
            if record is None or link is None:
                continue
            master, row = self._kernel.links.by_index(link.master), record.row()
            yield LinkStatus(
                name=link.name,
                kind="vif",
                below=[],
                what="",
                addresses=[str(address) for address in link.addresses if not address.is_link_local],
                mtu=link.mtu,
                mac=row.mac or "",
                up=link.up,
                carrier=link.has_carrier,
                ours=True,
                master=master.name if master is not None else None,
                vif=str(vif),
                vm=row.vm,
                state=row.state,
            )

    async def as_configured(self) -> str:
        """Return the configuration that says what the host's own links are already, and who configures them now.

        Raises HostError when no thread can be started.
        """
        names = {link.index: link.name for link in self._kernel.links if not is_guest_port(link)}
        return self._topology.as_configured(await aside(lambda: read_claims(names)))

    async def plan(self) -> Planned:
        """Return what an apply of the topology in the configuration files, as they are on disk now, would do."""
        policy = await self._wanted()
        if isinstance(policy, Planned):
            return policy
        plan, planned = await self._topology.plan(policy.topology)
        guests = await self._reconciler.foresight.changes(policy, DryRunHost(self._kernel.links, policy, planned))
        steps = [step.describe() for step in plan.steps]
        return Planned(steps, [*plan.refusals.values(), *plan.cautions], guests=guests, notes=list(plan.remarks))

    async def apply(self, confirm: int | None) -> Planned:
        """Put the configuration files into force: the topology, then the guests. Returns what was and was not done.

        With `confirm` the topology is rolled back after so many seconds unless somebody confirms it, and the guests
        follow then.
        """
        policy = await self._wanted()
        if isinstance(policy, Planned):
            return policy
        if self._in_force.observes:
            return Planned([], ["xennetd only observes (daemon.mode): it applies nothing"], refused=True)
        applied = await self._topology.apply(policy.topology, confirm)
        done, problems, guests = list(applied.done), list(applied.problems), list[str]()
        if confirm is None and not applied.refused:
            guests = await self._reconciler.foresight.changes(policy, DryRunHost(self._kernel.links, policy))
            problems += await self._guests_follow()
        return Planned(done, problems, refused=applied.refused, guests=guests)

    async def confirm(self) -> Planned:
        """Keep the topology that was applied last, and let the guests follow the configuration files."""
        reason = await self._topology.confirm()
        if reason is not None:
            return Planned([], [reason], refused=True)
        return Planned([], await self._guests_follow())

    async def _guests_follow(self) -> list[str]:
        return [f"the guests keep the old policy: {problem}" for problem in await self._reload(applies=False)]

    async def _wanted(self) -> Policy | Planned:
        """Return the policy of the files or, with problems in them, the refusal of an apply."""
        problems, _notes = await self.check()
        loaded = await self._load()
        if loaded.policy is None or problems or loaded.problems:
            return Planned([], list(problems or loaded.problems), refused=True)
        if fixed := unchangeable(self._in_force.policy, loaded.policy):
            return Planned([], fixed, refused=True)
        return loaded.policy

    async def check(self) -> Checked:
        """Return the problems and the notes of the configuration files as they are on disk now."""
        return await check_apart(self._config)

    def retry(self, vif: VifId) -> str | None:
        """Try at once to attach a vif again that is in error. Returns why it can't be tried, None if it is tried."""
        if vif not in self._reconciler.records:
            return f"there is no {vif}"
        self._reconciler.retry(vif)
        return None

    async def pin(self, vif: VifId) -> str | None:
        """Stop managing a vif until `unpin`. Returns why the vif could not be pinned, None if it is pinned."""
        return await self._pin(vif, True)

    async def unpin(self, vif: VifId) -> str | None:
        """Manage a pinned vif again. Returns why the vif could not be unpinned, None if it is unpinned."""
        return await self._pin(vif, False)

    async def _pin(self, vif: VifId, on: bool) -> str | None:
        record = self._reconciler.records.get(vif)
        if record is None:
            return f"there is no {vif}"
        if record.vif.pinned == on:
            return None
        try:
            if not await self._reconciler.pin(record.vif, on):
                return f"{vif} is going away"
        except ToolstackError as error:
            return error.detail
        pinned = f"{record.title} is pinned: xennetd does not touch it until unpin"
        unpinned = f"{record.title} is unpinned: xennetd manages it again"
        self._audit.record(record.event(EventKind.PIN, pinned if on else unpinned))
        return None

    def _pinned(self) -> list[str]:
        records = self._reconciler.records
        return [str(vif) for vif in sorted(vif for vif, record in records.items() if record.vif.pinned)]

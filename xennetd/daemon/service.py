"""The running daemon: its parts wired together, started in order, supervised as one, and what `xennetctl` asks of it.

Rule 1: nothing is decided before both xenstore and the kernel have been read completely once.
Rule 2: every task is in one TaskGroup; a part that fails takes the daemon down, and systemd starts it again.
Rule 3: stopping leaves the network as it is.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import structlog

from xennetd import __version__
from xennetd.daemon import log, notify
from xennetd.daemon.audit import Audit
from xennetd.daemon.claims import Claims
from xennetd.daemon.control import ControlServer
from xennetd.daemon.dhcp import DhcpHosts, DhcpServices
from xennetd.daemon.hooks import Hooks
from xennetd.daemon.marks import Marks
from xennetd.daemon.networks import Networks
from xennetd.daemon.reconcile.host import HostState
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconciler import Reconciler
from xennetd.daemon.surroundings import RuntimeDirectory, host_notes, not_installed
from xennetd.kernel.adapters import kernel_adapters
from xennetd.kernel.host import Kernel
from xennetd.kernel.links import LinkChange, is_guest_port
from xennetd.model.dump import to_json
from xennetd.model.errors import Denied, HostError, ToolstackError
from xennetd.model.event import Event, EventKind
from xennetd.model.policy import Policy
from xennetd.model.status import DaemonStatus, NetworkStatus, VifState, VifStatus
from xennetd.model.vif import VifId
from xennetd.policy.check import Notes, check, lacking
from xennetd.policy.files import load_files
from xennetd.xenstore.client import XenstoreClient
from xennetd.xenstore.directory import Directory

_log = structlog.get_logger()

_STATUS_INTERVAL = 5.0
_GC_THRESHOLD = 50_000
"""Allocations between two collections, as gc.set_threshold() takes it; 700 costs a burst of attaches 5 %."""


class Service:
    """One daemon. `notes` are what `check` says of `policy`. `config` is the file that was named, None for the default
    ones; `observe` overrides the mode."""

    def __init__(self, policy: Policy, notes: Notes, audit: Audit, *, config: str | None, observe: bool) -> None:
        self._in_force = InForce(policy)
        self._notes = notes
        self._audit = audit
        self._config = config
        self._observe = observe
        self._started = time.time()
        self._ready = False
        self._stop = asyncio.Event()
        self._hangup = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._renamed = asyncio.Event()
        self._prune_due = False
        self._runtime = RuntimeDirectory(policy.daemon.control)
        self._kernel = Kernel(self._links_changed, self._links_lost, stand_in=policy.daemon.stand_in)
        self._client = XenstoreClient()
        self._directory = Directory(self._client, lambda vif: self._reconciler.vif_changed(vif))
        self._hooks = Hooks(audit, enabled=policy.daemon.hooks)
        self._marks = Marks()
        self._dhcp = DhcpServices()
        hosts = DhcpHosts(self._dhcp)
        adapters = {**kernel_adapters(self._kernel), "dnsmasq": self._dhcp, "dhcp host": hosts}
        self._host = HostState(adapters)
        self._networks = Networks(self._in_force, self._kernel.links, self._host, audit, self._cured)
        claims = Claims(hosts.lease, hosts.leases, self._networks.problem)
        self._reconciler = Reconciler(
            self._in_force,
            self._kernel,
            self._directory,
            self._client,
            audit,
            self._hooks,
            self._marks,
            self._host,
            claims,
            self._networks.catch_up,
        )

    async def run(self) -> None:
        """Serve until stopped by SIGTERM or SIGINT. Raises HostError when this host can't be served."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        loop.add_signal_handler(signal.SIGUSR2, log.toggle_debug)
        try:
            self._runtime.make()
            # The socket comes first: who finds that another daemon listens there leaves nothing of that one changed.
            control = ControlServer(self, self._audit, self._in_force.policy.daemon.control, version=__version__)
            try:
                self._runtime.claim(observing=self._in_force.observes)
                await self._serve(control)
            finally:
                control.close()
        finally:
            self._client.close()
            self._kernel.close()
            self._marks.leave()
            self._runtime.leave()

    async def _serve(self, control: ControlServer) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                main = tasks.create_task(self._main(tasks, control))
                await self._stop.wait()
                notify.stopping()
                main.cancel()
                raise _Stopped
        except* _Stopped:
            _log.info("stopped; the network stays as it is")

    async def _main(self, tasks: asyncio.TaskGroup, control: ControlServer) -> None:
        tasks.create_task(control.serve(), name="control")
        tasks.create_task(self._reload_on_hangup(), name="hangup")
        notify.status("reading the host's links")
        self._kernel.start()
        notify.status("waiting for xenstored")
        tasks.create_task(self._directory.run(), name="directory")
        await self._directory.loaded.wait()
        self._marks.start(self._directory)
        await self._networks.look()
        tasks.create_task(self._dhcp.work(), name="dhcp")
        tasks.create_task(self._networks.run(), name="networks")
        tasks.create_task(self._reconciler.run(), name="reconciler")
        tasks.create_task(self._hooks.work(), name="hooks")
        tasks.create_task(self._follow_renames(), name="renames")
        tasks.create_task(notify.watchdog(self._reconciler.probe), name="watchdog")
        await self._reconciler.look_at_all()
        self._prune_due = True
        await self._prune()
        # What lives now lives long, and attaches make no cycles to speak of: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        self._ready = True
        self._announce()
        notify.ready(self._summary())
        shown = self._summary()
        while True:
            await asyncio.sleep(_STATUS_INTERVAL)
            await self._prune()
            if shown != (shown := self._summary()):
                notify.status(shown)

    async def _prune(self) -> None:
        """Remove what carries our mark and what nobody wants, once everything that is wanted is known."""
        if self._prune_due and not self._in_force.observes and self._reconciler.knows_all_needs:
            self._prune_due = False
            await self._host.prune()

    async def _follow_renames(self) -> None:
        """What we have marked of a link stays with it when it gets another name: give back what nobody wants there."""
        while True:
            await self._renamed.wait()
            self._renamed.clear()
            async with self._reloading:
                await self._networks.look()
                await self._reconciler.look_at_all()
                self._prune_due = True
                await self._prune()

    def _announce(self) -> None:
        adopted = self._reconciler.adopted
        message = f"xennetd {__version__} serves: {self._summary()}; {adopted} found connected and left as they were"
        self._audit.record(Event(EventKind.ADOPT, message))
        for note in self._all_notes():
            _log.warning(note.sentence)

    def _links_changed(self, changes: list[LinkChange]) -> None:
        self._reconciler.links_changed(changes)
        self._networks.links_changed(changes)
        if self._ready and any(map(_renames, changes)):
            self._renamed.set()

    def _cured(self, awaited: Iterable[str]) -> None:
        self._reconciler.wake(awaited)

    def _links_lost(self) -> None:
        self._networks.hint()
        for vif in {*self._directory, *self._reconciler.records}:
            self._reconciler.retry(vif)  # What a vif in error waits for may have come.

    async def _reload_on_hangup(self) -> None:
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            try:
                problems = await self.reload()
            except Exception:
                _log.exception("a reload has failed, which is a defect in xennetd, please report it")
            else:
                for problem in problems:
                    _log.error("the old policy stays", why=problem)

    def _counts(self) -> Counter[str]:
        return Counter((record.state or VifState.PENDING).value for record in self._reconciler.records.values())

    def _summary(self) -> str:
        counts = self._counts()
        parts = [f"{counts[state]} {state}" for state in VifState if counts[state]]
        return f"{counts.total()} vifs" + (": " + ", ".join(parts) if parts else "")

    def status(self) -> DaemonStatus:
        """Return the daemon's own state."""
        counts = self._counts()
        return DaemonStatus(
            version=__version__,
            pid=os.getpid(),
            mode=self._in_force.policy.daemon.mode,
            ready=self._ready,
            since=self._started,
            domid=self._directory.own_domid,
            config=list(self._in_force.policy.files),
            networks=self._network_rows(),
            counts={state.value: counts[state] for state in VifState},
            pinned=self._pinned(),
            xenstore=self._directory.state,
            audit_dropped=self._audit.lost,
            netlink_resyncs=self._kernel.resyncs,
            xenstore_reconnects=self._directory.reconnects,
            problems=self._problems(),
            notes=self._remarks(),
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

    def _problems(self) -> list[str]:
        records = self._reconciler.records.values()
        problems = [
            f"{record.title}: {record.error.detail}"
            for record in records
            if record.error is not None and not isinstance(record.error, Denied)
        ]
        if not self._client.connected:
            problems.insert(0, f"xenstore: {self._directory.state}")
        problems += [note.sentence for note in self._all_notes() if note.error]
        return problems + self._reconciler.problems() + self._networks.problems() + self._dhcp.problems()

    def _remarks(self) -> list[str]:
        """Return what is as somebody wanted it, and still worth remembering."""
        records = self._reconciler.records.values()
        notes = [f"{record.title}: {record.error.detail}" for record in records if isinstance(record.error, Denied)]
        notes += [f"{vif} is pinned: hands off until unpin" for vif in self._pinned()]
        notes += [
            f"{record.title}: {warning}"
            for record in records
            if record.attachment is not None and record.state is not VifState.ERROR
            for warning in record.attachment.warnings
        ]
        notes += self._networks.remarks()
        return notes + [note.sentence for note in self._all_notes() if not note.error]

    def _all_notes(self) -> Notes:
        """Return what was found when the policy came, and what the host lacks now: it may have been installed since."""
        return (*self._notes, *lacking(self._in_force.policy, not_installed()))

    def vifs(self) -> list[VifStatus]:
        """Return a row for every vif, in the order of domid and devid."""
        records = self._reconciler.records
        return [records[vif].row() for vif in sorted(records)]

    def vif(self, vif: VifId) -> VifStatus | None:
        """Return the row of one vif."""
        record = self._reconciler.records.get(vif)
        return record.row() if record is not None else None

    def debug(self, vif: VifId) -> str:
        """Return the last observation of a vif, what was decided from it and by which policy, as JSON."""
        record = self._reconciler.records[vif]
        links = self._kernel.links
        dump = {
            "version": __version__,
            "has_ipv6": links.has_ipv6,
            "forces_ipv6": links.forces_ipv6,
            "observation": to_json(record.observed),
            "decision": to_json(record.decided),
            "policy": to_json(self._in_force.policy),
        }
        return json.dumps(dump)

    async def reload(self) -> list[str]:
        """Read the configuration anew. Returns what is wrong with it; the old policy then stays."""
        async with self._reloading:
            if self._ready:
                notify.reloading()
            try:
                problems = await self._reload()
            finally:
                if self._ready:
                    notify.ready(self._summary())
            outcome = "the old policy stays: " + "; ".join(problems) if problems else "policy reloaded"
            self._audit.record(Event(EventKind.RELOAD, outcome, error=problems[0] if problems else None))
            return problems

    async def _reload(self) -> list[str]:
        policy = load_files(self._config)
        if not isinstance(policy, Policy):
            return [problem.describe() for problem in policy]
        if self._observe:
            policy = observing(policy)
        notes = check(policy, host_notes(policy, self._kernel.links))
        errors = [note.sentence for note in notes if note.error]
        for name in ("control", "stand_in"):
            if getattr(policy.daemon, name) != getattr(self._in_force.policy.daemon, name):
                errors.append(f"daemon.{name} can't change while the daemon runs: restart it")
        if errors:
            return errors
        try:
            self._runtime.claim(observing=policy.daemon.mode == "observe")
        except HostError as error:
            return [error.detail]
        self._in_force.policy = policy
        self._notes = notes
        self._hooks.enabled = policy.daemon.hooks
        self._host.supersede()
        await self._networks.follow_policy()
        await self._reconciler.follow_policy()
        await self._networks.retire()
        self._prune_due = True
        await self._prune()
        return []

    def check(self) -> tuple[list[str], list[str]]:
        """Return what is wrong with the configuration as it lies on disk now, and what is worth knowing of it."""
        policy = load_files(self._config)
        if not isinstance(policy, Policy):
            return [problem.describe() for problem in policy], []
        notes = check(policy, host_notes(policy, self._kernel.links))
        return [note.sentence for note in notes if note.error], [note.sentence for note in notes if not note.error]

    def retry(self, vif: VifId) -> str | None:
        """Try a vif in error again. Returns why not."""
        if vif not in self._reconciler.records:
            return f"there is no {vif}"
        self._reconciler.retry(vif)
        return None

    async def pin(self, vif: VifId) -> str | None:
        """Take our hands off a vif. Returns why not."""
        return await self._pin(vif, True)

    async def unpin(self, vif: VifId) -> str | None:
        """Take a vif back into care. Returns why not."""
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
        message = f"{record.title} is pinned: hands off until unpin" if on else f"{record.title} is in our care again"
        self._audit.record(record.event(EventKind.PIN, message))
        return None

    def _pinned(self) -> list[str]:
        records = self._reconciler.records
        return [str(vif) for vif in sorted(records) if records[vif].vif.pinned]


def observing(policy: Policy) -> Policy:
    """Return `policy` in observe mode."""
    return replace(policy, daemon=replace(policy.daemon, mode="observe"))


def _renames(change: LinkChange) -> bool:
    """Whether a link that is no guest's has another name now."""
    old, new = change.old, change.new
    return old is not None and new is not None and old.name != new.name and not is_guest_port(new)


class _Stopped(Exception):
    """The daemon was asked to stop."""

"""Wires the daemon's parts together, starts them in order, and supervises them as one.

Rule 1: xennetd decides nothing before it has read both xenstore and the kernel completely once.
Rule 2: a task that fails is started again (`daemon.tasks`). Only a start that fails and the loss of the kernel's events
end the daemon, and systemd starts the daemon again.
Rule 3: stopping leaves the network as it is.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

import structlog

from xennetd import __version__
from xennetd.cancellation import heed_cancellation
from xennetd.daemon.adapters import kernel_adapters
from xennetd.daemon.answers import Answers
from xennetd.daemon.aside import aside
from xennetd.daemon.control.server import ControlServer
from xennetd.daemon.loading import Loaded, load_files, unchangeable
from xennetd.daemon.observability import log
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.notify import ServiceManager
from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.host_topology import HostTopology
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.networks import Networks
from xennetd.daemon.reconcile.reconciler import Reconciler
from xennetd.daemon.reconcile.registry import GuestRegistry
from xennetd.daemon.reconcile.reload import begin, follow
from xennetd.daemon.runtime_dir import RuntimeDirectory
from xennetd.daemon.tasks import Tasks, heed_callbacks, tell_unended
from xennetd.daemon.toolstack.hooks import Hooks
from xennetd.daemon.toolstack.hotplug_files import HotplugFiles
from xennetd.dnsmasq.services import DhcpHosts, DhcpServices
from xennetd.kernel.kernel import Kernel
from xennetd.kernel.links import LinkChange, is_guest_port
from xennetd.kernel.sysctls import Sysctls
from xennetd.model.configuration import Policy
from xennetd.model.errors import HostError
from xennetd.model.event import Event, EventKind
from xennetd.model.vif import VifId
from xennetd.nft.table import NftTable
from xennetd.policy.check import Notes
from xennetd.xenstore.client import XenstoreClient
from xennetd.xenstore.directory import Directory

_log = structlog.get_logger()

_STATUS_INTERVAL = 5.0
"""Seconds between two updates of systemd's status line."""

_LONG_STOP = 2.0
"""Seconds after which a stop takes long. It takes a tenth of one; the unit's TimeoutStopSec= is 5 s."""

SIGNALS_FOR_LATER = frozenset({signal.SIGHUP, signal.SIGUSR2})
"""Signals that would end the process before it has handlers for them. They are blocked until then, and wait."""

_GC_THRESHOLD = 50_000
"""Allocations between two garbage collections (gc.set_threshold()). Python's default, 700, slows a burst by 5 %."""


class Supervisor:
    """One daemon.

    `notes` are the notes of `policy.check.check` on `policy`. `config` is the configuration file named on the command
    line, None for the default files. `observe` forces observe mode, whatever the configuration says.
    """

    def __init__(self, policy: Policy, notes: Notes, audit: Audit, *, config: str | None, observe: bool) -> None:
        self._in_force = InForce(policy, notes)
        self._audit = audit
        self._manager = ServiceManager()
        self._config = config
        self._observe = observe
        self._ready = False
        self._stop = asyncio.Event()
        self._hangup = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._renamed = asyncio.Event()
        self._looked_at_all = asyncio.Event()
        self._prune_due = False
        self._unpruned = ""
        self._tasks = Tasks()
        self._runtime = RuntimeDirectory(policy.daemon.control)
        self._kernel = Kernel(self._links_changed, self._links_lost, stand_in=policy.daemon.stand_in)
        self._client = XenstoreClient()
        self._directory = Directory(self._client, self._vif_changed)
        self._hooks = Hooks(audit, enabled=policy.daemon.hooks)
        self._hotplug_files = HotplugFiles()
        self._dhcp = DhcpServices(files_changed=self._links_lost)
        hosts = DhcpHosts(self._dhcp)
        self._table = NftTable(self._links_lost)
        self._sysctls = Sysctls(self._kernel.links, self._table)
        adapters = kernel_adapters(self._kernel, self._table, self._sysctls)
        self._host = HostState({**adapters, "dnsmasq": self._dhcp, "dhcp host": hosts})
        self._topology = HostTopology(self._in_force, self._kernel, audit)
        self._networks = Networks(self._in_force, self._kernel.links, self._host, audit, self._cured)
        registry = GuestRegistry(hosts.lease, hosts.leased, self._networks.problem)
        self._reconciler = Reconciler(
            self._in_force,
            self._kernel,
            self._directory,
            self._client,
            audit,
            self._hooks,
            self._hotplug_files,
            self._host,
            registry,
            self._networks.catch_up,
        )
        self._answers = Answers(
            self._in_force,
            self._kernel,
            self._table,
            self._sysctls,
            self._directory,
            self._reconciler,
            self._networks,
            self._topology,
            self._dhcp,
            audit,
            self._manager,
            self._tasks,
            self._runtime,
            config=config,
            load=self._load,
            reload=self.reload,
            ready=lambda: self._ready,
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises HostError when the daemon can't serve this host."""
        loop = asyncio.get_running_loop()
        heed_callbacks(loop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        loop.add_signal_handler(signal.SIGUSR2, log.toggle_debug)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_FOR_LATER)
        try:
            self._runtime.make()
            # The socket comes first: a daemon that finds another one listening there has changed nothing of it yet.
            control = ControlServer(
                self._answers, self._audit, self._in_force.policy.daemon.control, version=__version__
            )
            try:
                self._runtime.claim(observing=self._in_force.observes)
                await self._serve(control)
            finally:
                control.close()
        finally:
            self._audit.flush()
            self._client.close()
            self._kernel.close()
            self._table.close()
            self._hotplug_files.leave()
            self._runtime.leave()
            self._manager.close()

    async def _serve(self, control: ControlServer) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                main = tasks.create_task(self._main(tasks, control))
                await self._stop.wait()
                self._manager.stopping()
                asyncio.get_running_loop().call_later(_LONG_STOP, tell_unended)
                main.cancel()
                raise _Stopped
        except* _Stopped:
            _log.info("stopped; the network stays as it is")

    async def _main(self, tasks: asyncio.TaskGroup, control: ControlServer) -> None:
        keep = partial(self._tasks.keep, tasks)
        keep("the control socket", control.serve)
        keep("the reload by SIGHUP", self._reload_on_hangup)
        self._manager.status("reading the host's links")
        self._kernel.start()
        self._table.start()
        self._sysctls.start()
        keep("the view of the kernel", self._kernel.watch)
        await self._topology.start()
        keep("the care of the host's topology", self._topology.run)
        self._manager.status("waiting for xenstored")
        keep("the view of xenstore", self._directory.run)
        await self._directory.loaded.wait()
        self._hotplug_files.start(self._directory)
        await begin(self._in_force, self._networks, self._reconciler)
        keep("DHCP", self._dhcp.work)
        keep("the care of the networks", self._networks.run)
        keep("the care of the guests", self._reconciler.run)
        keep("the hooks", self._hooks.work)
        keep("the watchdog", partial(self._manager.watchdog, self._reconciler.probe))
        await self._reconciler.look_at_all()
        self._looked_at_all.set()
        keep("the care of renamed links", self._follow_renames)
        self._prune_due = True
        await self._prune()
        # Objects that exist now live long, and an attach makes hardly any reference cycles. So the garbage collector
        # need not examine these objects again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        self._ready = True
        self._announce()
        self._manager.ready(self._answers.summary())
        keep("the clean-up", self._housekeep)

    async def _housekeep(self) -> None:
        """Remove what nobody needs, and keep files and systemd's status line current, every few seconds."""
        shown = self._answers.summary()
        while True:
            await asyncio.sleep(_STATUS_INTERVAL)
            self._restore_files()
            async with self._reloading:
                await self._prune()
            if shown != (shown := self._answers.summary()):
                self._manager.status(shown)

    async def _prune(self) -> None:
        """Remove marked host objects without an owner, once the needs of every vif are known."""
        due = self._looked_at_all.is_set() and (self._prune_due or self._host.withholds)
        if due and not self._in_force.observes and self._host.knows_all:
            self._prune_due = False
            try:
                await self._host.prune()
            except HostError as error:
                self._prune_due = True
                if self._unpruned != error.detail:
                    _log.error("xennetd could not find out what nothing needs any more", why=error.detail)
                self._unpruned = error.detail
            else:
                self._unpruned = ""

    def _restore_files(self) -> None:
        """Make again what somebody has removed of the run-time directory. The control socket restores itself."""
        self._runtime.restore(observing=self._in_force.observes)
        if self._hotplug_files.restore(self._directory):
            for vif in self._directory:
                self._reconciler.triggers.hint(vif)

    async def _follow_renames(self) -> None:
        """Restore the settings of links that were renamed.

        A sysctl that xennetd has marked stays with the link under its new name, where no owner may want it.
        """
        while True:
            await self._renamed.wait()
            try:
                async with self._reloading:
                    self._renamed.clear()
                    await self._networks.look()
                    await self._reconciler.look_at_all()
                    self._prune_due = True
                    await self._prune()
            except Exception:
                self._renamed.set()
                raise

    def _announce(self) -> None:
        adopted = self._reconciler.adopted
        adoption = f"{adopted} were connected already and stay as they are"
        message = f"xennetd {__version__} serves: {self._answers.summary()}; {adoption}"
        self._audit.record(Event(EventKind.ADOPT, message))
        for note in self._answers.notes():
            _log.warning(note.sentence)

    def _vif_changed(self, vif: VifId, heard_at: float) -> None:
        self._reconciler.triggers.vif_changed(vif, heard_at)

    def _links_changed(self, changes: list[LinkChange]) -> None:
        with suppress(HostError):  # The next change tries again, or the next prune.
            self._sysctls.forget_deleted(observes=self._in_force.observes)
        self._reconciler.triggers.links_changed(changes)
        self._topology.links_changed(changes)
        self._networks.links_changed(changes)
        if any(map(_renames, changes)):
            self._renamed.set()

    def _cured(self, awaited: Iterable[str]) -> None:
        self._reconciler.triggers.wake(awaited)

    def _links_lost(self) -> None:
        self._topology.hint()
        self._networks.hint()
        for vif in {*self._directory, *self._reconciler.records}:
            self._reconciler.triggers.try_again(vif)  # The lost events may have been what a vif in error waits for.

    async def _reload_on_hangup(self) -> None:
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            try:
                problems = await self.reload()
            except Exception:
                heed_cancellation()
                _log.exception("a reload failed because of a defect in xennetd; please report it")
            else:
                for problem in problems:
                    _log.error("the old policy stays", why=problem)

    async def reload(self, *, applies: bool = True) -> list[str]:
        """Read the configuration again and put it into force.

        Returns the problems of the new configuration. With any problem the old policy stays in force. Without `applies`
        the host's own links stay as they are, whatever `daemon.apply` says.
        """
        async with self._reloading:
            if self._ready:
                self._manager.reloading()
            try:
                problems = await self._reload(applies=applies)
            finally:
                if self._ready:
                    self._manager.ready(self._answers.summary())
            outcome = "the old policy stays: " + "; ".join(problems) if problems else "policy reloaded"
            if not problems and self._topology.waits:
                outcome += "; the host's own links wait for xennetctl apply"
            self._audit.record(Event(EventKind.RELOAD, outcome, error=problems[0] if problems else None))
            return problems

    async def _load(self) -> Loaded:
        """Return what the configuration files say now. Raises HostError."""
        links = tuple(self._kernel.links)
        return await aside(partial(load_files, self._config, links, observe=self._observe))

    async def _reload(self, *, applies: bool) -> list[str]:
        try:
            loaded = await self._load()
        except HostError as error:
            return [error.detail]
        policy, errors = loaded.policy, list(loaded.problems)
        if policy is None:
            return errors
        errors += unchangeable(self._in_force.policy, policy)
        if errors:
            return errors
        if self._directory.loaded.is_set():
            await self._looked_at_all.wait()  # What the start has done to guests is told to all by then.
        try:
            self._runtime.claim(observing=policy.daemon.mode == "observe")
        except HostError as error:
            return [error.detail]
        self._hooks.enabled = policy.daemon.hooks
        self._prune_due = True
        with suppress(OSError):  # The view stays as it is.
            self._kernel.proxies.load()  # The kernel has no events for them, and a reload looks at everything.
        if not self._directory.loaded.is_set():
            self._in_force.enforced = None
            self._in_force.put(policy, loaded.notes)  # The start goes on with it.
            self._networks.read_policy()
            return []
        if applies and policy.daemon.apply == "on-reload" and policy.daemon.mode != "observe":
            await self._topology.follow(policy.topology)
        await follow(policy, loaded.notes, self._in_force, self._host, self._networks, self._reconciler)
        await self._prune()
        return []


def _renames(change: LinkChange) -> bool:
    """Return whether a link got a new name. Links of guests do not count."""
    old, new = change.old, change.new
    return old is not None and new is not None and old.name != new.name and not is_guest_port(new)


class _Stopped(Exception):
    """The daemon was asked to stop."""

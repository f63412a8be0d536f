"""The adapters for `DhcpService` and `DhcpHost`: dnsmasq's files below /var/lib/xennetd, and its signals.

Rule 1: a new guest needs no signal, since dnsmasq watches its directories. A changed or removed guest needs SIGHUP,
because dnsmasq keeps what it has read from dhcp-hostsdir.
Rule 2: neither a failing dnsmasq nor a disk that is full or read-only keeps a guest from its network. `xennetctl
status` reports the problem. Files that can't be written wait (`dnsmasq.upkeep`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import structlog

from xennetd.dnsmasq.access import protect
from xennetd.dnsmasq.instance_files import (
    NAMES,
    PARTS,
    configuration_of,
    configuration_text,
    directory_of,
    guest_file,
    instances,
    macs_of,
    make_directory,
    named,
    part_of,
    put,
    read,
    read_host,
    read_service,
    set_aside,
    set_aside_earlier,
    stamp_of,
)
from xennetd.dnsmasq.keeper import Keeper
from xennetd.dnsmasq.lease_file import LeaseFile, lease_file, strike_out, try_to_write
from xennetd.dnsmasq.process import Runner, runner
from xennetd.dnsmasq.slices import delete, in_slices
from xennetd.dnsmasq.upkeep import Stamps, Unwritten, remedy
from xennetd.model.errors import HostError
from xennetd.model.ip import IPAddress
from xennetd.model.objects import DhcpHost, DhcpService, Key
from xennetd.model.places import STATE
from xennetd.render.dnsmasq_files import both_instances

_log = structlog.get_logger()

_READS = 32
"""How many guests' files are read in one slice: they take about a millisecond."""

_TEND_INTERVAL = 2.0
"""Seconds between two looks at whether files wait, or have been changed by somebody else."""


class DhcpServices:
    """The adapter for `DhcpService`: a dnsmasq for each network that has `dhcp`.

    The methods only order changes. `work`, which must run as a task, starts and stops dnsmasq. `run_by` is a runner
    other than the host's own. `files_changed` is called after somebody else has changed or removed files: every object
    must be looked at then.
    """

    def __init__(self, run_by: Runner | None = None, files_changed: Callable[[], None] = lambda: None) -> None:
        self._runner = run_by if run_by is not None else runner()
        self._files_changed = files_changed
        self._unwritten = Unwritten()
        self._stamps = Stamps(stamp_of)
        self._keepers: dict[str, Keeper] = {}
        self._new: asyncio.Queue[str] = asyncio.Queue()
        self._open = ""
        """Why local users can read what is below STATE, empty if they can't."""

    def present(self, wanted: DhcpService) -> DhcpService | None:
        """Return the service in the configuration file, None if there is none.

        Also None if it is not kept running, or if the file was written for a link that is deleted by now. A service
        whose file can't be written counts as present. While the kernel can't be asked, no link counts as deleted.
        """
        if self._unwritten.holds(wanted):
            return wanted
        keeper = self._keepers.get(wanted.instance)
        if keeper is None or not keeper.wanted:
            return None
        configured = read_service(wanted.instance)
        if configured is None:
            return None
        service, text = configured
        with contextlib.suppress(OSError):
            return service if text == configuration_text(service) else None
        return service

    def apply(self, wanted: Sequence[DhcpService]) -> None:
        """Write configuration files, and let the services run with them. Leases and guests stay as they are.

        Raises HostError if the link to serve does not exist.
        """
        for service in wanted:
            if self.present(service) == service:
                continue
            self._write(service)

    def _write(self, service: DhcpService) -> None:
        with self.writing(service, lambda: self._write_again(service)) as written:
            text = configuration_text(service)
            if text is None:
                raise HostError(
                    f"the DHCP service of network {service.network} can't be configured: the link that it is to serve "
                    "does not exist"
                )
            make_directory(directory_of(service.instance))
            self._close()
            for part in PARTS:
                make_directory(directory_of(service.instance.partition(":")[0]) / part)
            put(configuration_of(service.instance), text)
        if written:
            self._keeper(service.instance).look()

    def _write_again(self, service: DhcpService) -> None:
        with contextlib.suppress(HostError):  # Its link does not exist. Its network asks again when there is one.
            self._write(service)

    @contextlib.contextmanager
    def writing(self, wanted: DhcpService | DhcpHost, again: Callable[[], None]) -> Iterator[list[bool]]:
        """Let an object wait, for `again` to be called, if the block, which writes its files, meets an OSError.

        The list that is yielded holds True after the block if all files are written, and is empty otherwise.
        """
        written: list[bool] = []
        with self.changing(wanted.instance):
            try:
                yield written
            except OSError as error:
                self._unwritten.add(wanted.key, f"DHCP on {wanted.instance}", error, again, wanted)
            else:
                self._unwritten.written(wanted.key)
                written.append(True)

    @contextlib.contextmanager
    def changing(self, instance: str) -> Iterator[None]:
        """Mark the changes in the block as the daemon's own. Earlier changes by somebody else are still noticed."""
        ours = self._stamps.holds(instance)
        try:
            yield
        finally:
            if ours:
                self._stamps.take(instance)

    def waits(self, wanted: DhcpHost) -> bool:
        """Return whether the files of this guest can't be written now."""
        return self._unwritten.holds(wanted)

    def forget(self, host: DhcpHost) -> None:
        """Let the files of a guest that is gone wait no longer."""
        self._unwritten.drop(host.key)

    def remove(self, objects: Sequence[DhcpService]) -> None:
        """Let services be stopped, and their directories with leases and guests be deleted."""
        for service in objects:
            self._unwritten.drop(service.key)
            self._keeper(service.instance).look(wanted=False)

    def list_owned(self) -> Collection[DhcpService]:
        """Return the services that have a configuration file, running or not."""
        configured = (read_service(instance) for instance in instances())
        return [pair[0] for pair in configured if pair is not None]

    async def work(self) -> None:
        """Keep the services running until cancelled. After that dnsmasq runs on by itself. It can be called again."""
        self._close()
        self._new = asyncio.Queue()
        for instance in self._keepers:
            self._new.put_nowait(instance)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tend(), name="dnsmasq's files")
            tasks.create_task(_delete_set_aside(), name="dnsmasq's former files")
            while True:
                instance = await self._new.get()
                tasks.create_task(self._keep(instance), name=f"dnsmasq {instance}")

    async def _tend(self) -> None:
        """Write files that wait, and report files that somebody else has changed, until cancelled."""
        while True:
            await asyncio.sleep(_TEND_INTERVAL)
            if self._open:
                self._close()
            await self._unwritten.try_again()
            disturbed = self._stamps.disturbed(name for name, keeper in self._keepers.items() if keeper.wanted)
            for instance, lost_sight in disturbed.items():
                _log.warning("somebody has changed dnsmasq's files; they are put right", instance=instance)
                if lost_sight:
                    self._keepers[instance].renew()
            if disturbed:
                self._files_changed()

    def problems(self) -> list[str]:
        """Return a sentence for each service that has a problem."""
        running = [keeper.problem for keeper in self._keepers.values() if keeper.problem]
        return [*filter(None, [self._open]), *self._unwritten.problems(), *running]

    def _close(self) -> None:
        """Keep local users out of STATE. Where that is refused, dnsmasq serves all the same."""
        try:
            protect(Path(STATE))
        except OSError as error:
            problem = f"local users can't be kept out of {STATE}: {error.strerror}: {remedy(error)}"
            if problem != self._open:
                _log.warning(problem)
            self._open = problem
        else:
            self._open = ""

    def reread(self, instance: str) -> None:
        """Let dnsmasq read the guests' files again, in both processes of a network (`both_instances`)."""
        for name in both_instances(instance):
            if name in self._keepers:
                self._keepers[name].reread()

    def renew(self, instance: str) -> None:
        """Restart dnsmasq, without the leases of addresses that belong to another guest now."""
        if instance in self._keepers:
            self._keepers[instance].renew()

    def _keeper(self, instance: str) -> Keeper:
        if instance not in self._keepers:
            self._keepers[instance] = Keeper(directory_of(instance), self._runner, lambda: self._strike_out(instance))
            self._new.put_nowait(instance)
        return self._keepers[instance]

    async def _keep(self, instance: str) -> None:
        keeper = self._keepers[instance]
        await keeper.keep()
        if keeper.wanted:
            self._new.put_nowait(instance)  # The service was wanted again before the keeper returned.
        else:
            del self._keepers[instance]
            self._stamps.forget(instance)
            self._unwritten.drop(_leases_key(instance))
            set_aside(instance)
            await _delete_set_aside()
            if instance not in self._keepers:
                await delete(directory_of(instance))  # It could not be set aside.

    async def _strike_out(self, instance: str) -> None:
        """Remove the leases of addresses that belong to another guest. dnsmasq starts with them if that fails."""
        key = _leases_key(instance)
        try:
            await strike_out(instance)
        except OSError as error:
            self._unwritten.add(key, f"DHCP on {instance}", error, lambda: self._strike_again(instance))
        else:
            self._unwritten.drop(key)

    def _strike_again(self, instance: str) -> None:
        """Restart dnsmasq, to remove those leases, once the lease file can be written."""
        key = _leases_key(instance)
        try:
            try_to_write(instance)
        except OSError as error:
            self._unwritten.add(key, f"DHCP on {instance}", error, lambda: self._strike_again(instance))
        else:
            self._unwritten.written(key)
            self.renew(instance)


def _leases_key(instance: str) -> Key:
    return Key("leases", instance)


async def _delete_set_aside() -> None:
    for directory in set_aside_earlier():
        await delete(directory)


class DhcpHosts:
    """The adapter for `DhcpHost`: a guest has a file, named after its MAC, in each of an instance's directories."""

    def __init__(self, services: DhcpServices) -> None:
        self._services = services
        self._leases: dict[str, tuple[tuple[int, int], LeaseFile]] = {}

    def present(self, wanted: DhcpHost) -> DhcpHost | None:
        """Return the guest that the file of names describes, None if one of the guest's files is missing or differs.

        A guest whose files can't be written counts as present.
        """
        if self._services.waits(wanted) or all(
            read(guest_file(wanted, part)) == write(wanted) for part, write in PARTS.items()
        ):
            return wanted
        host = read_host(wanted.instance, wanted.mac)
        return host if host != wanted else None  # The file of names is right, and another one is not.

    def apply(self, wanted: Sequence[DhcpHost]) -> None:
        """Write guests' files, and end leases of their addresses to other MACs."""
        for host in wanted:
            if self.present(host) != host:
                self._write(host)

    def _write(self, host: DhcpHost) -> None:
        with self._services.writing(host, lambda: self._write(host)) as written:
            for part in PARTS:
                make_directory(part_of(host.instance, part))
            changed = {part for part, write in PARTS.items() if put(guest_file(host, part), write(host))}
        if not written:
            return
        if changed - {NAMES}:
            self._services.reread(host.instance)
        leases = self._leases_of(host.instance)
        found = [lease for address in host.addresses if (lease := leases.of_address(address)) is not None]
        if any(lease.mac not in (host.mac, None) for lease in found):
            self._services.renew(host.instance)

    def remove(self, objects: Sequence[DhcpHost]) -> None:
        """Delete guests' files. A guest with the same MAC and other values stays. Raises HostError if that fails."""
        for host in objects:
            if self._services.waits(host):
                self._services.forget(host)
            if read_host(host.instance, host.mac) not in (host, None):
                continue
            files = [guest_file(host, part) for part in PARTS]
            known = any(file.exists() for file in files)
            failure = f"{host.mac} can't be removed from dnsmasq {host.instance}"
            with named(failure), self._services.changing(host.instance):
                for file in files:
                    file.unlink(missing_ok=True)
            if known:
                self._services.reread(host.instance)

    async def list_owned(self) -> Collection[DhcpHost]:
        """Return the guests of all instances. A guest without a usable file of names has no addresses and no name.

        The event loop serves others in between, since there may be thousands of files.
        """
        keys = [(instance, mac) for instance in instances() for mac in macs_of(instance)]
        return [
            read_host(instance, mac) or DhcpHost(instance, mac, (), None)
            async for instance, mac in in_slices(keys, _READS)
        ]

    def lease(self, instance: str, mac: str) -> tuple[IPAddress, ...]:
        """Return the addresses of this MAC in an instance's network: those in its files, else those it had leased."""
        host = read_host(instance, mac)
        if host is not None:
            return host.addresses
        return self._leases_of(instance).of_mac(mac)

    def leased(self, instance: str, address: IPAddress) -> bool:
        """Return whether an address is leased in an instance's network."""
        return self._leases_of(instance).has(address)

    def _leases_of(self, instance: str) -> LeaseFile:
        """Return dnsmasq's lease file, empty if it can't be read."""
        file = lease_file(instance)
        try:
            state = file.stat()
            stamp = state.st_mtime_ns, state.st_size
            if instance not in self._leases or self._leases[instance][0] != stamp:
                self._leases[instance] = stamp, LeaseFile(file.read_bytes())
        except OSError:
            return LeaseFile(b"")
        return self._leases[instance][1]

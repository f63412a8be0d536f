"""The adapters for `DhcpService` and `DhcpHost`: what dnsmasq reads below /var/lib/xennetd, and when it is to be told.

Rule 1: a file is replaced as a whole, and only when it differs; who reads a directory sees the old file or the new.
Rule 2: a guest that is added costs dnsmasq no signal (it watches its directories); one that is changed or taken away
does, since dnsmasq keeps what it has read of dhcp-hostsdir until then.
Rule 3: no guest is refused its network because dnsmasq is ill: that is a problem for `xennetctl status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from xennetd.dnsmasq.process import CONFIGURATION, Keeper, Runner, runner, written
from xennetd.model.errors import HostError
from xennetd.model.ip import IPAddress
from xennetd.model.objects import DhcpHost, DhcpService
from xennetd.model.places import STATE
from xennetd.render.dnsmasq_files import (
    Lease,
    both_instances,
    directory,
    host_file,
    host_of,
    leases,
    names_file,
    served_link,
    without,
)

_HOSTS = "hosts"
_NAMES = "names"
_PARTS = {_NAMES: names_file, _HOSTS: host_file}
"""Directories that dnsmasq watches, and what a guest's file in each says; in the order in which they are written."""

_LEASES = "leases"

_INDEX = "# The index of its link: "
"""dnsmasq's sockets are bound to the link that it found. One made anew by the same name has another index."""

_MAC = re.compile(r"[0-9a-f]{12}")


class DhcpServices:
    """The adapter for `DhcpService`: a dnsmasq for each network that has `dhcp`. Nothing is started but by `work`."""

    def __init__(self, run_by: Runner | None = None) -> None:
        self._runner = run_by if run_by is not None else runner()
        self._keepers: dict[str, Keeper] = {}
        self._new: asyncio.Queue[str] = asyncio.Queue()

    def present(self, wanted: DhcpService) -> DhcpService | None:
        """Return the service whose configuration lies there, for the link that there is now, if it is kept running."""
        keeper = self._keepers.get(wanted.instance)
        if keeper is None or not keeper.wanted:
            return None
        configured = _configured(wanted.instance)
        if configured is None:
            return None
        found, text = configured
        return found if text == _text(found) else None  # Else it was written for a link that has gone since.

    def apply(self, wanted: Sequence[DhcpService]) -> None:
        """Write the configurations, and have each service run with its own. Leases and guests stay as they are."""
        for service in wanted:
            if self.present(service) == service:
                continue
            failure = f"the DHCP service of network {service.network} can't be configured"
            text = _text(service)
            if text is None:
                raise HostError(f"{failure}: the link that it is to serve does not exist")
            with _named(failure):
                _make(_directory(service.instance))
                for part in _PARTS:
                    _make(_directory(service.instance.partition(":")[0]) / part)
                _put(_file(service.instance), text)
            keeper = self._keeper(service.instance)
            keeper.title = f"network {service.network}"
            keeper.look()

    def remove(self, objects: Sequence[DhcpService]) -> None:
        """Have the services stopped, and all that was theirs removed."""
        for service in objects:
            self._keeper(service.instance).look(wanted=False)

    def list_owned(self) -> Collection[DhcpService]:
        """Return the services that are configured, whether they run or not."""
        found = (_configured(instance) for instance in _instances())
        return [each[0] for each in found if each is not None]

    async def work(self) -> None:
        """Keep the services, until cancelled: they then go on by themselves."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                instance = await self._new.get()
                tasks.create_task(self._keep(instance), name=f"dnsmasq {instance}")

    def problems(self) -> list[str]:
        """Return why services do not run, in a sentence each."""
        return [keeper.problem for keeper in self._keepers.values() if keeper.problem]

    def reread(self, instance: str) -> None:
        """Have the guests' files read anew."""
        for each in both_instances(instance):
            if each in self._keepers:
                self._keepers[each].reread()

    def renew(self, instance: str) -> None:
        """Have the service started anew without the leases of addresses that are now another guest's."""
        if instance in self._keepers:
            self._keepers[instance].renew()

    def _keeper(self, instance: str) -> Keeper:
        if instance not in self._keepers:
            self._keepers[instance] = Keeper(_directory(instance), self._runner, lambda: _strike_out(instance))
            self._new.put_nowait(instance)
        return self._keepers[instance]

    async def _keep(self, instance: str) -> None:
        keeper = self._keepers[instance]
        await keeper.keep()
        if keeper.wanted:
            self._new.put_nowait(instance)  # It was wanted again in the meantime.
        else:
            del self._keepers[instance]
            shutil.rmtree(_directory(instance), ignore_errors=True)


class DhcpHosts:
    """The adapter for `DhcpHost`: a guest is a file in each of an instance's directories, named after its MAC."""

    def __init__(self, services: DhcpServices) -> None:
        self._services = services
        self._leases: dict[str, tuple[tuple[int, int], Mapping[IPAddress, Lease]]] = {}

    def present(self, wanted: DhcpHost) -> DhcpHost | None:
        """Return the guest as dnsmasq finds it in its directories."""
        if all(_read(_guest(wanted, part)) == write(wanted) for part, write in _PARTS.items()):
            return wanted
        told = _told(wanted.instance, wanted.mac)
        return told if told != wanted else None  # One of its files is missing or wrong.

    def apply(self, wanted: Sequence[DhcpHost]) -> None:
        """Tell dnsmasq of guests, and free the addresses that are theirs now and leased to another MAC still."""
        for host in wanted:
            if self.present(host) == host:
                continue
            with _named(f"dnsmasq {host.instance} can't be told of {host.mac}"):
                for part in _PARTS:
                    _make(_directory(host.instance) / part)
                changed = {part for part, write in _PARTS.items() if _put(_guest(host, part), write(host))}
            if changed - {_NAMES}:
                self._services.reread(host.instance)
            leased = self.leases(host.instance)
            if any(leased[each].mac not in (host.mac, None) for each in host.addresses if each in leased):
                self._services.renew(host.instance)

    def remove(self, objects: Sequence[DhcpHost]) -> None:
        """Have dnsmasq forget guests. A guest of the same MAC that is told something else stays."""
        for host in objects:
            if _told(host.instance, host.mac) not in (host, None):
                continue
            files = [_guest(host, part) for part in _PARTS]
            known = any(file.exists() for file in files)
            with _named(f"dnsmasq {host.instance} can't be made to forget {host.mac}"):
                for file in files:
                    file.unlink(missing_ok=True)
            if known:
                self._services.reread(host.instance)

    def list_owned(self) -> Collection[DhcpHost]:
        """Return all guests that dnsmasq is told of, by every instance."""
        marked = [(instance, mac) for instance in _instances() for mac in _macs(instance)]
        return [_told(*each) or DhcpHost(*each, (), None) for each in marked]

    def lease(self, instance: str, mac: str) -> tuple[IPAddress, ...]:
        """Return the addresses that this MAC has in the network that an instance serves, or had last."""
        told = _told(instance, mac)
        if told is not None:
            return told.addresses
        return tuple(each.address for each in self.leases(instance).values() if each.mac == mac)

    def leases(self, instance: str) -> Mapping[IPAddress, Lease]:
        """Return the leases that dnsmasq has written down, by address."""
        file = _directory(instance) / _LEASES
        try:
            state = file.stat()
        except OSError:
            return {}
        stamp = state.st_mtime_ns, state.st_size
        if instance not in self._leases or self._leases[instance][0] != stamp:
            self._leases[instance] = stamp, leases(_read(file) or "")
        return self._leases[instance][1]


def _directory(instance: str) -> Path:
    return Path(directory(instance))


def _file(instance: str) -> Path:
    return _directory(instance) / CONFIGURATION


def _guest(host: DhcpHost, part: str) -> Path:
    return _directory(host.instance) / part / host.mac.replace(":", "")


def _instances() -> list[str]:
    return sorted(file.parent.name for file in Path(STATE).glob(f"*/{CONFIGURATION}"))


def _macs(instance: str) -> list[str]:
    files = {file.name for part in _PARTS for file in _directory(instance).glob(f"{part}/*")}
    return sorted(":".join(re.findall("..", name)) for name in files if _MAC.fullmatch(name))


def _told(instance: str, mac: str) -> DhcpHost | None:
    text = _read(_guest(DhcpHost(instance, mac, (), None), _NAMES))
    return host_of(instance, mac, text) if text is not None else None


def _text(service: DhcpService) -> str | None:
    """Return the file for a service, None while the link that it serves is not there."""
    try:
        index = socket.if_nametoindex(served_link(service.configuration))
    except OSError:
        return None
    return written(_directory(service.instance), f"{service.configuration}{_INDEX}{index}\n")


def _configured(instance: str) -> tuple[DhcpService, str] | None:
    """Return the service whose configuration lies there, and that file's text; None if there is none of ours."""
    text = _read(_file(instance))
    if not text:
        return None
    configuration = text.partition(_INDEX)[0]
    try:
        return DhcpService(instance, configuration, link=served_link(configuration)), text
    except ValueError:
        return None


def _strike_out(instance: str) -> None:
    """Take the leases of addresses that are another guest's now out of the lease file. dnsmasq must not run."""
    file = _directory(instance) / _LEASES
    text = _read(file)
    if text is None:
        return
    hosts = [host for mac in _macs(instance) if (host := _told(instance, mac)) is not None]
    owners = {address: host.mac for host in hosts for address in host.addresses}
    wrong = {lease.address for lease in leases(text).values() if lease.mac not in (None, owners.get(lease.address))}
    _put(file, without(text, wrong & owners.keys()))


def _make(path: Path) -> None:
    """Make a directory and those above it, which dnsmasq, no longer root, can read."""
    if not path.is_dir():
        if not path.parent.is_dir():
            _make(path.parent)
        path.mkdir()
        path.chmod(0o755)


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "surrogateescape")
    except OSError:
        return None


def _put(path: Path, text: str) -> bool:
    """Give a file this text, unless it has it. Returns whether there was such a file with another."""
    before = _read(path)
    if before == text:
        return False
    new = path.with_name(f".{path.name}.new")  # dnsmasq passes over names that begin with a dot.
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "w", errors="surrogateescape") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
    new.rename(path)
    return before is not None


@contextlib.contextmanager
def _named(failure: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"{failure}: {error.strerror}", errno=error.errno or 0, detail=f"{failure}: {error}") from error

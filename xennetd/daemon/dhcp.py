"""The hands for `DhcpService` and `DhcpHost`: what dnsmasq reads below /var/lib/xennetd, and when it is to be told.

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

from xennetd.daemon.dnsmasq import CONFIGURATION, Keeper, Runner, runner, written
from xennetd.model.errors import HostError
from xennetd.model.ground import DhcpHost, DhcpService, IPAddress
from xennetd.model.places import STATE
from xennetd.plan.dnsmasq import (
    Lease,
    directory,
    host_file,
    host_of,
    instances,
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
    """The hand for `DhcpService`: one dnsmasq for each network that has `dhcp`. Nothing is started but by `work`."""

    def __init__(self, run_by: Runner | None = None) -> None:
        self._runner = run_by if run_by is not None else runner()
        self._keepers: dict[str, Keeper] = {}
        self._new: asyncio.Queue[str] = asyncio.Queue()

    def holds(self, needed: DhcpService) -> bool:
        """Whether its configuration lies there, for the link that there is now, and is seen to."""
        keeper = self._keepers.get(needed.network)
        if keeper is None or not keeper.wanted:
            return False
        text = _text(needed)
        return text is not None and _read(_file(needed.network)) == text

    def ensure(self, needed: Sequence[DhcpService]) -> None:
        """Write the configurations, and have each service run with its own."""
        for service in needed:
            if self.holds(service):
                continue
            failure = f"the DHCP service of network {service.network} can't be configured"
            text = _text(service)
            if text is None:
                raise HostError(f"{failure}: the link that it is to serve does not exist")
            with _named(failure):
                _make(_directory(service.network))
                for part in _PARTS:
                    _make(_directory(service.network.partition(":")[0]) / part)
                _put(_file(service.network), text)
            self._keeper(service.network).look()

    def release(self, objects: Sequence[DhcpService]) -> None:
        """Have the services stopped, and all that was theirs removed."""
        for service in objects:
            self._keeper(service.network).look(wanted=False)

    def ours(self) -> Collection[DhcpService]:
        """Return the services that are configured, whether they run or not."""
        texts = {network: _read(_file(network)) for network in _networks()}
        return [DhcpService(network, text.partition(_INDEX)[0]) for network, text in texts.items() if text]

    async def work(self) -> None:
        """Keep the services, until cancelled: they then go on by themselves."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                network = await self._new.get()
                tasks.create_task(self._keep(network), name=f"dnsmasq for {network}")

    def problems(self) -> list[str]:
        """Return why services do not run, in a sentence each."""
        return [keeper.problem for keeper in self._keepers.values() if keeper.problem]

    def reread(self, network: str) -> None:
        """Have the guests' files read anew."""
        for instance in instances(network):
            if instance in self._keepers:
                self._keepers[instance].reread()

    def renew(self, network: str) -> None:
        """Have the service started anew without the leases of addresses that are now another guest's."""
        if network in self._keepers:
            self._keepers[network].renew()

    def _keeper(self, network: str) -> Keeper:
        if network not in self._keepers:
            self._keepers[network] = Keeper(_directory(network), self._runner, lambda: _strike_out(network))
            self._new.put_nowait(network)
        return self._keepers[network]

    async def _keep(self, network: str) -> None:
        keeper = self._keepers[network]
        await keeper.keep()
        if keeper.wanted:
            self._new.put_nowait(network)  # It was wanted again in the meantime.
        else:
            del self._keepers[network]
            shutil.rmtree(_directory(network), ignore_errors=True)


class DhcpHosts:
    """The hand for `DhcpHost`: a guest is a file in each of a network's directories, named after its MAC."""

    def __init__(self, services: DhcpServices) -> None:
        self._services = services
        self._leases: dict[str, tuple[tuple[int, int], Mapping[IPAddress, Lease]]] = {}

    def holds(self, needed: DhcpHost) -> bool:
        """Whether dnsmasq finds the guest in its directories."""
        return all(_read(_guest(needed, part)) == write(needed) for part, write in _PARTS.items())

    def ensure(self, needed: Sequence[DhcpHost]) -> None:
        """Tell dnsmasq of guests, and free the addresses that are theirs now and leased to another MAC still."""
        for host in needed:
            if self.holds(host):
                continue
            with _named(f"dnsmasq for network {host.network} can't be told of {host.mac}"):
                for part in _PARTS:
                    _make(_directory(host.network) / part)
                changed = {part for part, write in _PARTS.items() if _put(_guest(host, part), write(host))}
            if changed - {_NAMES}:
                self._services.reread(host.network)
            leased = self.leases(host.network)
            if any(leased[each].mac not in (host.mac, None) for each in host.addresses if each in leased):
                self._services.renew(host.network)

    def release(self, objects: Sequence[DhcpHost]) -> None:
        """Have dnsmasq forget guests. A guest of the same MAC that is told something else stays."""
        for host in objects:
            if _told(host.network, host.mac) not in (host, None):
                continue
            files = [_guest(host, part) for part in _PARTS]
            known = any(file.exists() for file in files)
            with _named(f"dnsmasq for network {host.network} can't be made to forget {host.mac}"):
                for file in files:
                    file.unlink(missing_ok=True)
            if known:
                self._services.reread(host.network)

    def ours(self) -> Collection[DhcpHost]:
        """Return all guests that dnsmasq is told of, in every network."""
        return [
            _told(network, mac) or DhcpHost(network, mac, (), None) for network in _networks() for mac in _macs(network)
        ]

    def lease(self, network: str, mac: str) -> tuple[IPAddress, ...]:
        """Return the addresses that this MAC has in the network, or had last."""
        told = _told(network, mac)
        if told is not None:
            return told.addresses
        return tuple(each.address for each in self.leases(network).values() if each.mac == mac)

    def leases(self, network: str) -> Mapping[IPAddress, Lease]:
        """Return the leases that dnsmasq has written down, by address."""
        file = _directory(network) / _LEASES
        try:
            state = file.stat()
        except OSError:
            return {}
        stamp = state.st_mtime_ns, state.st_size
        if network not in self._leases or self._leases[network][0] != stamp:
            self._leases[network] = stamp, leases(_read(file) or "")
        return self._leases[network][1]


def _directory(network: str) -> Path:
    return Path(directory(network))


def _file(network: str) -> Path:
    return _directory(network) / CONFIGURATION


def _guest(host: DhcpHost, part: str) -> Path:
    return _directory(host.network) / part / host.mac.replace(":", "")


def _networks() -> list[str]:
    return sorted(file.parent.name for file in Path(STATE).glob(f"*/{CONFIGURATION}"))


def _macs(network: str) -> list[str]:
    files = {file.name for part in _PARTS for file in _directory(network).glob(f"{part}/*")}
    return sorted(":".join(re.findall("..", name)) for name in files if _MAC.fullmatch(name))


def _told(network: str, mac: str) -> DhcpHost | None:
    text = _read(_guest(DhcpHost(network, mac, (), None), _NAMES))
    return host_of(network, mac, text) if text is not None else None


def _text(service: DhcpService) -> str | None:
    """Return the file for a service, None while the link that it serves is not there."""
    try:
        index = socket.if_nametoindex(served_link(service.configuration))
    except OSError:
        return None
    return written(_directory(service.network), f"{service.configuration}{_INDEX}{index}\n")


def _strike_out(network: str) -> None:
    """Take the leases of addresses that are another guest's now out of the lease file. dnsmasq must not run."""
    file = _directory(network) / _LEASES
    text = _read(file)
    if text is None:
        return
    hosts = [host for mac in _macs(network) if (host := _told(network, mac)) is not None]
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

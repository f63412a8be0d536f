"""DHCP and DNS as guests see them, and `Care`: the hands for dnsmasq at work in the namespaces of a `Host`.

The clients are real ones (busybox udhcpc, ISC dhclient); what they are given is taken from the environment of their
script, so that nothing in the test's own mount namespace is changed by them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest import mock

from tests.bed.netns import Host, NetNs
from xennetd.dnsmasq.process import pid_of
from xennetd.dnsmasq.services import DhcpHosts, DhcpServices
from xennetd.model.configuration import Mode, Network
from xennetd.model.objects import DhcpHost
from xennetd.model.places import STATE
from xennetd.policy.modes import NAT, ROUTE
from xennetd.render.dnsmasq_files import services, unported_addresses

T = TypeVar("T")

NOERROR, NXDOMAIN, REFUSED = 0, 3, 5
TYPES = {"A": 1, "PTR": 12, "AAAA": 28}


def network(name: str = "lab", mode: Mode = NAT, subnets: tuple[str, ...] = ("10.77.0.0/24",), **more: Any) -> Network:
    """A network with `dhcp`, its bridge named after it."""
    found = [ipaddress.ip_network(each) for each in subnets]
    ipv4 = next((each for each in found if isinstance(each, ipaddress.IPv4Network)), None)
    ipv6 = next((each for each in found if isinstance(each, ipaddress.IPv6Network)), None)
    settings: dict[str, Any] = {
        "bridge": "" if mode is ROUTE else f"xn-{name}",
        "domain": f"{name}.internal",
        "ra": "slaac" if ipv6 is not None else "off",
        **more,
    }
    return Network(name, mode, subnet4=ipv4, subnet6=ipv6, dhcp=True, **settings)


def told(network: str, mac: str, *addresses: str, name: str | None = None) -> DhcpHost:
    return DhcpHost(f"xn-{network}", mac, tuple(map(ipaddress.ip_address, addresses)), name)


class Care:
    """The two adapters, and their work in a thread of its own, until `stop`. What it started then goes on."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="care", daemon=True)
        self._thread.start()
        self.services = self.call(DhcpServices)
        self.hosts = DhcpHosts(self.services)
        self._work = self.call(lambda: self._loop.create_task(self.services.work()))

    def call(self, what: Callable[..., T], *arguments: object) -> T:
        """Call a function where the work is done."""

        async def call() -> T:
            return what(*arguments)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10.0)

    def owned_hosts(self) -> Collection[DhcpHost]:
        """Return what `DhcpHosts.list_owned` returns."""
        return asyncio.run_coroutine_threadsafe(self.hosts.list_owned(), self._loop).result(10.0)

    def serve(self, network: Network) -> None:
        self.call(self.services.apply, services(network))

    def tell(self, *hosts: DhcpHost) -> None:
        self.call(self.hosts.apply, hosts)

    def forget(self, *hosts: DhcpHost) -> None:
        self.call(self.hosts.remove, hosts)

    def problems(self) -> list[str]:
        return self.call(self.services.problems)

    @contextlib.contextmanager
    def pieces(self) -> Iterator[list[float]]:
        """The processor time of each piece of work that nothing else is done between, in milliseconds."""
        found: list[float] = []
        run = asyncio.Handle._run

        def measured(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            if threading.current_thread() is self._thread:
                found.append((time.thread_time() - began) * 1e3)

        with mock.patch.object(asyncio.Handle, "_run", measured):
            yield found

    def stop(self) -> None:
        if self._loop.is_closed():
            return

        async def end() -> None:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def make_link(host: Host, network: Network) -> None:
    """Make what the network's dnsmasq serves, as the other adapters do."""
    link = network.served_link
    host.rtnl.add_bridge(link)
    host.rtnl.set(link, up=True)
    routed = network.mode is ROUTE
    for address in unported_addresses(network) if routed else (network.gateway4, network.gateway6):
        if address is not None:
            add_address(host, link, str(address))


def add_address(host: Host, link: str, address: str, *flags: str) -> None:
    nodad = ("nodad",) if ":" in address else ()
    host.run("ip", "address", "add", address, "dev", link, *nodad, *flags)


def pid(network: str = "lab") -> int | None:
    return pid_of(Path(STATE, f"xn-{network}"))


def kill_all() -> None:
    """End every dnsmasq that has its files in this mount namespace."""
    for directory in Path(STATE).iterdir():
        running = pid_of(directory)
        if running is not None:
            process = os.pidfd_open(running)
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], 10.0)
            os.close(process)


# What a guest does


def add_guest(host: Host, bridge: str, mac: str, name: str) -> NetNs:
    """A guest whose eth0 is wired to a port of `bridge`."""
    guest = host.guest(name)
    host.rtnl.add_veth(f"v-{name}", "eth0", guest.fd)
    guest.rtnl.set("eth0", address=mac, up=True)
    host.rtnl.set(f"v-{name}", master=bridge, up=True)
    return guest


SCRIPT = """#!/bin/sh
case "$1$reason" in bound|BOUND|BOUND6) exec env >"$OUTPUT" ;; esac
"""


def udhcpc(guest: NetNs, *options: str, tries: int = 10) -> Mapping[str, str]:
    """What busybox's client gets for eth0 (`ip`, `router`, ...), nothing where it gets no lease."""
    command = ("busybox", "udhcpc", "-f", "-n", "-q", "-i", "eth0", "-t", str(tries), "-T", "1", *options)
    return _client(guest, lambda script, _: [*command, "-s", script])


def dhclient(guest: NetNs, version: int = 4, timeout: int = 20) -> Mapping[str, str]:
    """What ISC's client gets for eth0 (`new_ip_address`, `new_ip6_address`, ...)."""

    def command(script: str, scratch: str) -> list[str]:
        files = ["-lf", f"{scratch}/leases", "-pf", f"{scratch}/pid", "-sf", script]
        return ["timeout", str(timeout), "dhclient", f"-{version}", "-1", "-d", *files, "eth0"]

    while version == 6 and not _link_local(guest):
        _pause()
    return _client(guest, command)


def _link_local(guest: NetNs) -> str:
    """The guest's link-local address, once it is known to be nobody else's: DHCPv6 needs it."""
    return guest.run("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link", "-tentative").stdout


def _client(guest: NetNs, command: Callable[[str, str], list[str]]) -> Mapping[str, str]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:  # systemd lets no script run that lies in /run
        script, output = Path(scratch, "script"), Path(scratch, "environment")
        script.write_text(SCRIPT.replace("$OUTPUT", str(output)))
        script.chmod(0o755)
        with guest:
            client = subprocess.Popen(
                command(str(script), scratch), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        try:
            while client.poll() is None and not (output.exists() and output.read_text().endswith("\n")):
                _pause()
        finally:
            client.terminate()
            client.wait()
        lines = output.read_text().splitlines() if output.exists() else []
        return dict(line.split("=", 1) for line in lines if "=" in line)


def _pause() -> None:
    threading.Event().wait(0.01)


class Answer(NamedTuple):
    code: int
    values: list[str]


def ask(guest: NetNs, server: str, name: str, kind: str = "A", timeout: float = 2.0) -> Answer | None:
    """Ask a DNS server from within a guest; None where it does not answer."""
    if kind == "PTR":
        name = ipaddress.ip_address(name).reverse_pointer
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    query = struct.pack(">6H", 0x4242, 0x0100, 1, 0, 0, 0) + question + struct.pack(">2H", TYPES[kind], 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with guest:
        asking = socket.socket(family, socket.SOCK_DGRAM)
    with asking:
        asking.settimeout(timeout)
        try:
            asking.connect((server, 53))
            asking.send(query)
            answer = asking.recv(4096)
        except (TimeoutError, OSError):
            return None
    count = struct.unpack_from(">H", answer, 6)[0]
    return Answer(answer[3] & 0xF, _values(answer, len(query), count))


def _values(answer: bytes, offset: int, count: int) -> list[str]:
    values = []
    for _ in range(count):
        _, offset = _name(answer, offset)
        kind, _, _, length = struct.unpack_from(">2HIH", answer, offset)
        offset += 10
        data = answer[offset : offset + length]
        values.append(_name(answer, offset)[0] if kind == TYPES["PTR"] else str(ipaddress.ip_address(data)))
        offset += length
    return values


def _name(answer: bytes, offset: int) -> tuple[str, int]:
    labels: list[str] = []
    end = 0
    while length := answer[offset]:
        if length >= 0xC0:
            end = end or offset + 2
            offset = struct.unpack_from(">H", answer, offset)[0] & 0x3FFF
        else:
            labels.append(answer[offset + 1 : offset + 1 + length].decode())
            offset += 1 + length
    return ".".join(labels), end or offset + 1

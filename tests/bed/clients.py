"""What guests configure their `eth0` with: busybox's udhcpc for DHCP, ISC's dhclient for DHCPv6, and a DNS resolver."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from tests.bed import xen
from tests.bed.netns import NetNs

UDHCPC = """#!/bin/sh
# udhcpc's script: $1 is what has happened, the rest is in the environment; `mask` is the prefix length.
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip -4 address flush dev "$interface"
ip address add "$ip/$mask" dev "$interface"
[ -z "$router" ] || ip route add default via "$router" dev "$interface" onlink
env >"$LEASE"
"""
DHCLIENT6 = """#!/bin/sh
# dhclient's script: $reason is what has happened (dhclient-script(8)).
case $reason in
PREINIT6) ip link set dev "$interface" up ;;
BOUND6) ip -6 address add "$new_ip6_address/${new_ip6_prefixlen:-128}" dev "$interface" nodad; env >"$LEASE" ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a client was given, by the names that the client itself uses."""

    values: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def get(self, name: str) -> str:
        return self.values.get(name, "")


def udhcpc(guest: NetNs, directory: Path, *, tries: int = 4) -> Lease | None:
    """Ask for an IPv4 address as busybox does and configure eth0 with it; None where nobody answers.

    eth0 must be up.
    """
    script, lease = _script(directory, "udhcpc", UDHCPC)
    busybox = xen.program("busybox", "busybox")
    command = [busybox, "udhcpc", "-f", "-q", "-n", "-i", "eth0", "-t", str(tries), "-T", "1", "-O", "staticroutes"]
    guest.run("env", f"LEASE={lease}", *command, "-s", str(script), check=False)
    return _read(lease)


def dhclient6(guest: NetNs, directory: Path, *, timeout: float = 10.0) -> Lease | None:
    """Ask for an IPv6 address as ISC's dhclient does and configure eth0 with it; None where nobody answers.

    eth0 must be up and have its link-local address.
    """
    script, lease = _script(directory, "dhclient", DHCLIENT6)
    dhclient = xen.program("dhclient", "isc-dhcp-client")
    pid, leases = directory / "dhclient.pid", directory / "dhclient.leases"
    command = [dhclient, "-6", "-1", "-lf", str(leases), "-pf", str(pid), "-cf", "/dev/null", "-sf", str(script)]
    try:
        guest.run("env", f"LEASE={lease}", "timeout", str(timeout), *command, "eth0", check=False)
    finally:
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)  # It would stay, to renew its lease.
    return _read(lease)


def _script(directory: Path, name: str, text: str) -> tuple[Path, Path]:
    """Put a client's script in place. Returns it, and the file that it writes the lease to."""
    script, lease = directory / name, directory / f"{name}.lease"
    script.write_text(text)
    script.chmod(0o755)
    lease.unlink(missing_ok=True)
    return script, lease


def _read(lease: Path) -> Lease | None:
    if not lease.exists():
        return None
    return Lease(dict(line.split("=", 1) for line in lease.read_text().splitlines() if "=" in line))


def resolve(guest: NetNs, server: str, name: str, *, kind: str = "A", timeout: float = 2.0) -> list[str] | None:
    """Ask a DNS server for a name's addresses; None where nobody answers, empty where the answer is no."""
    kinds = {"A": 1, "AAAA": 28}
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    question += struct.pack("!HH", kinds[kind], 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with guest:
        client = socket.socket(family, socket.SOCK_DGRAM)
    with client:
        client.settimeout(timeout)
        try:
            client.connect((server, 53))
            client.send(struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0) + question)
            answer = client.recv(4096)
        except OSError:
            return None
    count, at, found = struct.unpack_from("!H", answer, 6)[0], 12 + len(question), []
    for _ in range(count):
        at += 2  # dnsmasq writes the name as a pointer to the question's
        record, _, _, length = struct.unpack_from("!HHIH", answer, at)
        at += 10 + length
        if record == kinds[kind]:
            found.append(str(ipaddress.ip_address(answer[at - length : at])))
    return found

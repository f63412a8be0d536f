"""The dnsmasqs of a host as its administrator finds them: which run, and which leases they have written down."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.bed.netns import NetNs

_CONFIGURATION = "--conf-file="
_LEASES = "dhcp-leasefile="


def running(host: NetNs) -> list[int]:
    """The process ids of the dnsmasqs in the host's network namespace."""
    namespace = os.fstat(host.fd).st_ino
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # It has ended meanwhile.
            if _words(process)[0].endswith("dnsmasq") and (process / "ns/net").stat().st_ino == namespace:
                found.append(int(process.name))
    return sorted(found)


def leases(host: NetNs) -> dict[str, str]:
    """The IPv4 leases in the files of the dnsmasqs that run: the address by MAC. A DHCPv6 lease has no MAC."""
    found = {}
    for pid in running(host):
        with contextlib.suppress(OSError):
            for line in _lease_file(pid).read_text().splitlines():
                match line.split():
                    case [_, mac, address, _, _] if "." in address:
                        found[mac] = address
    return found


def _lease_file(pid: int) -> Path:
    (configuration,) = (
        word.removeprefix(_CONFIGURATION) for word in _words(Path(f"/proc/{pid}")) if word.startswith(_CONFIGURATION)
    )
    (file,) = (
        line.removeprefix(_LEASES) for line in Path(configuration).read_text().splitlines() if line.startswith(_LEASES)
    )
    return Path(file)


def _words(process: Path) -> list[str]:
    return (process / "cmdline").read_text(errors="surrogateescape").split("\0")  # any program's

"""The lease file of a dnsmasq, which has a line for every guest.

Rule: an attach asks for a few leases. They are searched for in the file's content, which is not read line by line.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from xennetd.dnsmasq.instance_files import LEASES, directory_of, macs_of, put, read, read_host
from xennetd.dnsmasq.slices import in_slices
from xennetd.model.ip import IPAddress
from xennetd.render.dnsmasq_files import Lease, leases, without

_FEW = 256
"""The number of searches that take about as long as to read the whole file."""

_READ = 16
_PARSED = 128
"""How many guests' files are read, and how many leases are parsed, in one slice: they take about two milliseconds."""


class LeaseFile:
    """The leases in one version of a lease file. `content` may be anything.

    The addresses and MACs are those that dnsmasq writes: in their shortest form, with small letters.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._searches = 0

    def of_address(self, address: IPAddress) -> Lease | None:
        """Return the lease of an address, None without one."""
        return self._with(str(address)).get(address)

    def has(self, address: IPAddress) -> bool:
        """Return whether an address is leased. Who looks for a free one where few are free may ask thousands of times.

        So the whole file is read after some questions.
        """
        self._searches += 1
        return address in self._all if self._searches > _FEW else self.of_address(address) is not None

    def of_mac(self, mac: str) -> tuple[IPAddress, ...]:
        """Return the addresses that a MAC has leased. DHCPv6 leases have no MAC."""
        found = [lease for lease in self._with(mac).values() if lease.mac == mac]
        return tuple(lease.address for lease in found if self.of_address(lease.address) == lease)

    @cached_property
    def _all(self) -> Mapping[IPAddress, Lease]:
        return leases(self._content.decode("utf-8", "surrogateescape"))

    def _with(self, word: str) -> Mapping[IPAddress, Lease]:
        """Return the leases in whose lines this word is."""
        wanted, content = f" {word} ".encode(), self._content
        lines = []
        at = content.find(wanted)
        while at >= 0:
            end = content.find(b"\n", at)
            end = end if end >= 0 else len(content)
            lines.append(content[content.rfind(b"\n", 0, at) + 1 : end])
            at = content.find(wanted, end)
        return leases(b"\n".join(lines).decode("utf-8", "surrogateescape"))


def lease_file(instance: str) -> Path:
    """Return the path of an instance's lease file."""
    return directory_of(instance) / LEASES


async def strike_out(instance: str) -> None:
    """Remove leases from the lease file whose address belongs to another guest now. dnsmasq must not run meanwhile.

    Raises OSError if the file can't be written.
    """
    text = read(lease_file(instance))
    if not text:
        return
    owners: dict[IPAddress, str] = {}
    async for mac in in_slices(macs_of(instance), _READ):
        if (host := read_host(instance, mac)) is not None:
            owners.update(dict.fromkeys(host.addresses, mac))
    lines = text.splitlines(keepends=True)
    left = []
    async for start in in_slices(range(0, len(lines), _PARSED), 1):
        part = "".join(lines[start : start + _PARSED])
        wrong = {lease.address for lease in leases(part).values() if lease.mac not in (None, owners.get(lease.address))}
        left.append(without(part, wrong & owners.keys()))
    put(lease_file(instance), "".join(left))


def try_to_write(instance: str) -> None:
    """Raise OSError if a lease file as large as the present one can't be written. dnsmasq may run."""
    text = read(lease_file(instance))
    if text is not None:
        trial = directory_of(instance) / f"{LEASES}.trial"
        try:
            put(trial, text)
        finally:
            trial.unlink(missing_ok=True)

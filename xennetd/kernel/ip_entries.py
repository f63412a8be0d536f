"""The adapter for `IpEntry`: reads all entries of the host, and makes and deletes single ones."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from xennetd.kernel import netlink
from xennetd.kernel.bridges import Ask
from xennetd.kernel.links import Links, is_guest_port
from xennetd.kernel.refused import refused
from xennetd.kernel.rtnl_entries import delete_entry, dump_requests, is_made_by_an_address, make_entry, parse_entries
from xennetd.model.errors import HostError
from xennetd.model.ip_entry import IpEntry
from xennetd.model.marks import ROUTE_PROTOCOL
from xennetd.model.objects import Key
from xennetd.model.value import replace

Dump = Callable[[Callable[[int], bytes]], Sequence[bytes]]
"""`Kernel.dump`: returns the datagrams of the dump that a request, built from a sequence number, asks for."""

_GONE = frozenset({0, errno.ENODEV, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL})
_PROTOCOL = 5
"""The offset of the protocol in an rtmsg."""


class IpEntries:
    """The entries of the host's own links, as they were at the last `read`. Entries about guests' links are none."""

    def __init__(self, links: Links, ask: Ask, dump: Dump) -> None:
        self._links = links
        self._ask = ask
        self._dump = dump
        self._there: dict[Key, IpEntry] = {}

    def read(self) -> Collection[IpEntry]:
        """Read all entries anew, and return them. Raises OSError."""
        found = self._read(*(kind for _, kind in dump_requests()))
        addresses = [entry for entry in found if entry.kind == "ip address"]
        entries = [entry for entry in found if not is_made_by_an_address(entry, addresses) and not _is_guests(entry)]
        entries = _with_obstacles(entries)
        self._there = {entry.key: entry for entry in entries}
        return entries

    def is_there(self, wanted: IpEntry) -> bool:
        """Return whether the host has exactly this entry now. Only entries of its kind are read. Raises OSError.

        Reading 10,000 routes takes 150 ms, reading the addresses of such a host one.
        """
        return any(entry.key == wanted.key and entry == wanted for entry in self._read(wanted.kind))

    def _read(self, *kinds: str) -> list[IpEntry]:
        found: list[IpEntry] = []
        for request, kind in dump_requests():
            for data in self._dump(request) if kind in kinds else ():
                for message in netlink.headers(data):
                    found += parse_entries(data, message, self._name)
        return found

    def _name(self, index: int) -> str | None:
        link = self._links.by_index(index)
        return link.name if link is not None and not is_guest_port(link) and link.name != "lo" else None

    def _index(self, name: str) -> int:
        link = self._links.link(name)
        if link is None:
            raise HostError(f'there is no link "{name}"', errno=errno.ENODEV, waits_on=frozenset({name}))
        return link.index

    def present(self, wanted: IpEntry) -> IpEntry | None:
        """Return the entry with the key of the wanted one as it was at the last `read`."""
        return self._there.get(wanted.key)

    def apply(self, wanted: Sequence[IpEntry]) -> None:
        """Make entries, or put them in the place of those with their keys. Raises HostError."""
        for entry in wanted:
            ack = self._ask(make_entry, entry, self._index)
            if ack.errno not in (0, errno.EEXIST):
                raise refused(entry, ack)

    def remove(self, objects: Sequence[IpEntry]) -> None:
        """Delete entries. A missing one, or one on a missing link, is no error."""
        for entry in objects:
            if any(self._links.link(name) is None for name in entry.links) and entry.kind != "ip rule":
                continue
            ack = self._ask(delete_entry, entry, self._index)
            if ack.errno not in _GONE:
                raise refused(entry, ack)

    def list_owned(self) -> Collection[IpEntry]:
        """Return none: entries have no mark."""
        return ()


def _with_obstacles(entries: list[IpEntry]) -> list[IpEntry]:
    """Return the entries; those that could not be put back among their equals say so."""
    keys = Counter(entry.key for entry in entries)
    priorities = Counter(_rank(entry) for entry in entries if entry.kind == "ip rule")
    found = []
    for entry in entries:
        obstacle = entry.obstacle
        if entry.kind == "ip rule" and priorities[_rank(entry)] > 1:
            obstacle = "another rule has its priority, and their order would change"
        elif keys[entry.key] > 1:
            obstacle = "another route has its destination and metric"
        found.append(replace(entry, obstacle=obstacle) if obstacle else entry)
    return found


def _rank(entry: IpEntry) -> tuple[int, str]:
    return entry.version, entry.identity.partition(" ")[0]


def _is_guests(entry: IpEntry) -> bool:
    return entry.kind == "ip route" and entry.fixed[_PROTOCOL] == ROUTE_PROTOCOL

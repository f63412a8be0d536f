"""The kept view of the host's links, current from rtnetlink events.

Rule 1: the view changes only through `load` (a whole dump) and `feed` (events); both report what changed, as pairs.
Rule 2: of many events about one link in one read, only the last is parsed: a view is a state, not a history.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from xennetd.kernel import rtnl
from xennetd.kernel.rtnl import AddressChange, Header, NetlinkFormatError
from xennetd.model.link import Link
from xennetd.model.vif import IPInterface, VifId

_AF_BRIDGE = 7
_NONE: frozenset[IPInterface] = frozenset()


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A link before and after. `old` is None for one that appeared, `new` for one that went."""

    old: Link | None
    new: Link | None


def is_guest_port(link: Link) -> bool:
    """Return whether a link is a guest's interface (a vif or the tap of an emulated NIC), whoever looks after it."""
    return (
        link.parent is not None
        or (link.kind == "tun" and link.name.endswith("-emu"))
        or VifId.parse(link.name) is not None
    )


class Links:
    """All links by index, name, master and vif. Implements `model.link.HostView`."""

    def __init__(self, *, stand_in: bool = False) -> None:
        self._stand_in = stand_in
        self._by_index: dict[int, Link] = {}
        self._by_name: dict[str, Link] = {}
        self._by_parent: dict[VifId, int] = {}
        self._bridges: set[int] = set()
        self._uplinks: dict[int, set[int]] = {}
        self._generations = 0

    def __len__(self) -> int:
        return len(self._by_index)

    def link(self, name: str) -> Link | None:
        """Return the link with this name."""
        return self._by_name.get(name)

    def by_index(self, index: int) -> Link | None:
        """Return the link with this index."""
        return self._by_index.get(index)

    def of(self, vif: VifId) -> Link | None:
        """Return the link of a vif: the one whose parent device says so, whatever its name is."""
        index = self._by_parent.get(vif)
        return self._by_index[index] if index is not None else None

    def bridges(self) -> tuple[Link, ...]:
        """Return all bridges, by name."""
        return tuple(sorted((self._by_index[index] for index in self._bridges), key=lambda link: link.name))

    def uplinks(self, bridge: int) -> tuple[Link, ...]:
        """Return the ports of the bridge with this index that are not guests' interfaces."""
        return tuple(self._by_index[index] for index in self._uplinks.get(bridge, ()))

    def load(self, datagrams: Iterable[bytes]) -> list[LinkChange]:
        """Take in a complete dump of links and addresses; links it does not hold are gone."""
        found: dict[int, tuple[bytes, Header]] = {}
        addresses: dict[int, set[IPInterface]] = {}
        for data in datagrams:
            for message in rtnl.headers(data):
                if message.type == rtnl.RTM_NEWLINK:
                    found[rtnl.link_key(data, message)[1]] = (data, message)
                elif message.type == rtnl.RTM_NEWADDR:
                    change = rtnl.parse_address(data, message)
                    if change is not None:
                        addresses.setdefault(change.index, set()).add(change.address)
        changes = [self._remove(index) for index in self._by_index.keys() - found.keys()]
        changes += [
            self._take(index, data, message, frozenset(addresses.get(index, ())))
            for index, (data, message) in found.items()
        ]
        return [change for change in changes if change.old != change.new]

    def feed(self, datagrams: Iterable[bytes]) -> list[LinkChange]:
        """Take in events, in the order in which they came.

        Raises NetlinkFormatError for bytes that are no rtnetlink messages; the view is then to be loaded anew.
        """
        latest: dict[int, tuple[bytes, Header]] = {}
        ports: dict[int, list[tuple[bytes, Header]]] = {}
        moves: list[AddressChange] = []
        changes: list[LinkChange] = []
        for data in datagrams:
            for message in rtnl.headers(data):
                if message.type == rtnl.RTM_NEWLINK:
                    family, index = rtnl.link_key(data, message)
                    if family == _AF_BRIDGE:
                        ports.setdefault(index, []).append((data, message))
                    elif family == 0:
                        latest[index] = (data, message)
                        ports.pop(index, None)
                elif message.type == rtnl.RTM_DELLINK:
                    family, index = rtnl.link_key(data, message)
                    if family == 0:
                        latest.pop(index, None)
                        ports.pop(index, None)
                        changes.append(self._remove(index))
                elif message.type in (rtnl.RTM_NEWADDR, rtnl.RTM_DELADDR):
                    move = rtnl.parse_address(data, message)
                    if move is not None:
                        moves.append(move)
        for index, (data, message) in latest.items():
            known = self._by_index.get(index)
            changes.append(self._take(index, data, message, known.addresses if known else _NONE))
        for index, messages in ports.items():
            known = self._by_index.get(index)
            if known is not None and known.master:
                for data, message in messages:
                    known = rtnl.merge_port(data, message, known)
                changes.append(self._put(known))
        for move in moves:
            known = self._by_index.get(move.index)
            if known is not None:
                now = known.addresses - {move.address} if move.gone else known.addresses | {move.address}
                changes.append(self._put(replace(known, addresses=now)))
        return [change for change in changes if change.old != change.new]

    def _take(self, index: int, data: bytes, message: Header, addresses: frozenset[IPInterface]) -> LinkChange:
        """Parse a link's message and put the link into the view."""
        known = self._by_index.get(index)
        if known is None:
            self._generations += 1
        generation = known.generation if known else self._generations
        link = rtnl.parse_link(data, message, stand_in=self._stand_in, addresses=addresses, generation=generation)
        if not link.name:
            raise NetlinkFormatError(f"link {index} has no name")
        return self._put(link)

    def _put(self, link: Link) -> LinkChange:
        old = self._by_index.get(link.index)
        if old == link:
            return LinkChange(old, old)
        if old is not None:
            self._forget(old)
        self._by_index[link.index] = link
        self._by_name[link.name] = link
        if link.parent is not None:
            self._by_parent[link.parent] = link.index
        if link.kind == "bridge":
            self._bridges.add(link.index)
        if link.master and not is_guest_port(link):
            self._uplinks.setdefault(link.master, set()).add(link.index)
        return LinkChange(old, link)

    def _remove(self, index: int) -> LinkChange:
        old = self._by_index.pop(index, None)
        if old is not None:
            self._forget(old)
        return LinkChange(old, None)

    def _forget(self, old: Link) -> None:
        """Take a link out of the indexes that point at it; one that names another by now stays."""
        named = self._by_name.get(old.name)
        if named is not None and named.index == old.index:
            del self._by_name[old.name]
        if old.parent is not None and self._by_parent.get(old.parent) == old.index:
            del self._by_parent[old.parent]
        self._bridges.discard(old.index)
        ports = self._uplinks.get(old.master)
        if ports is not None:
            ports.discard(old.index)
            if not ports:
                del self._uplinks[old.master]

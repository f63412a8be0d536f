"""The kept view of the host's links, current from rtnetlink events.

Rule 1: the view changes only through `load` (a whole dump), `feed` (events) and `reload_routes` and `reload_addresses`
(a dump of what events have left in doubt); all report what changed, as pairs.
Rule 2: of many events about one link in one read, only the last is parsed: a view is a state, not a history.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_network

from xennetd.kernel import netlink, rtnl, rtnl_ip
from xennetd.kernel.layer3 import Layer3, Stale
from xennetd.kernel.netlink import Header, NetlinkFormatError
from xennetd.kernel.procsys import forces_ipv6, has_ipv6
from xennetd.kernel.rtnl_ip import DefaultRoute
from xennetd.model.ip import IPAddress, IPNetwork
from xennetd.model.link import IFF_UP, Link
from xennetd.model.marks import BRIDGE_GROUP, GUEST_GROUP
from xennetd.model.vif import VifId

_AF_BRIDGE = 7


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A link before and after. `old` is None for one that appeared, `new` for one that went.

    Both are the same link when somebody has set one of its settings below /proc/sys/net. Both are None when the default
    routes have changed.
    """

    old: Link | None
    new: Link | None


DEFAULT_ROUTES = LinkChange(None, None)


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
        self._layer3 = Layer3()
        self.has_ipv6 = has_ipv6()
        self.forces_ipv6 = forces_ipv6()

    def __len__(self) -> int:
        return len(self._by_index)

    def __iter__(self) -> Iterator[Link]:
        return iter(tuple(self._by_index.values()))

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

    def default_uplink(self, version: int) -> Link | None:
        """Return the link that the default route of this IP version leads through (the one with the least metric)."""
        index = self._layer3.default(version)
        return self._by_index.get(index) if index is not None else None

    def owner(self, destination: IPNetwork) -> Link | None:
        """Return a link with an address of the host's in this destination."""
        links = (self._by_index.get(index) for index in self._layer3.having(destination))
        return next((link for link in links if link is not None), None)

    def router(self, destination: IPNetwork) -> IPAddress | None:
        """Return a router in this destination that a default route leads to, if it is no routed guest itself."""
        for default in self._layer3.defaults:
            for router in default.routers:
                link = self._by_index.get(default.index)
                if router in destination and (link is None or not is_guest_port(link)):
                    return router
        return None

    def neighbouring(self, subnet: IPNetwork) -> Link | None:
        """Return a link that is not ours, with an address of the host's in a subnet that overlaps this one."""
        for link in self._by_index.values():
            if link.addresses and link.group not in (BRIDGE_GROUP, GUEST_GROUP):
                for address in link.addresses:
                    if address.version == subnet.version and address.network.overlaps(subnet):
                        return link
        return None

    def routed(self, destination: IPNetwork, metric: int) -> Link | None:
        """Return the link that a route of ours with this destination and metric leads through."""
        index = self._layer3.routed(destination, metric)
        return self._by_index.get(index) if index is not None else None

    @property
    def stale(self) -> Stale:
        """What events have left unclear, to be dumped and reloaded."""
        return self._layer3.stale

    def mark_addresses_stale(self, index: int) -> None:
        """Have a link's addresses read anew: of a new IPv6 address the kernel tells some time after it is there."""
        self._layer3.stale.addresses.add(index)

    def load(self, datagrams: Iterable[bytes]) -> list[LinkChange]:
        """Take in a complete dump of links, addresses, routes and neighbours; links it does not hold are gone."""
        found: dict[int, tuple[bytes, Header]] = {}
        others: list[tuple[bytes, Header]] = []
        for data in datagrams:
            for message in netlink.headers(data):
                if message.type == rtnl.RTM_NEWLINK:
                    found[rtnl.link_key(data, message)[1]] = (data, message)
                else:
                    others.append((data, message))
        before = self._layer3.defaults
        self._layer3.load(others)
        changes = [self._remove(index) for index in self._by_index.keys() - found.keys()]
        changes += [self._take(index, data, message) for index, (data, message) in found.items()]
        return self._complete(changes) + self._rerouted(before)

    def reload_routes(self, datagrams: Iterable[bytes]) -> list[LinkChange]:
        """Take in a dump of the main table's routes."""
        before = self._layer3.defaults
        self._layer3.reload_routes(datagrams)
        return self._complete([]) + self._rerouted(before)

    def reload_addresses(self, index: int, datagrams: Iterable[bytes]) -> list[LinkChange]:
        """Take in a dump of the addresses of the link with this index."""
        if index not in self._by_index:
            self.stale.addresses.discard(index)
            return []
        self._layer3.reload_addresses(index, datagrams)
        return self._complete([])

    def feed(self, datagrams: Iterable[bytes]) -> list[LinkChange]:
        """Take in events, in the order in which they came.

        Raises NetlinkFormatError for bytes that are no rtnetlink messages; the view is then to be loaded anew.
        """
        latest: dict[int, tuple[bytes, Header]] = {}
        flagged: dict[int, int] = {}
        ports: dict[int, list[tuple[bytes, Header]]] = {}
        set_anew: set[int | None] = set()
        changes: list[LinkChange] = []
        for data in datagrams:
            for message in netlink.headers(data):
                if message.type == rtnl.RTM_NEWLINK:
                    family, index, flags = rtnl.link_key(data, message)
                    if family == _AF_BRIDGE:
                        ports.setdefault(index, []).append((data, message))
                    elif family == 0:
                        latest[index] = (data, message)
                        ports.pop(index, None)
                        known = self._by_index.get(index)
                        if flags != flagged.get(index, known.flags if known is not None else flags):
                            self.stale.proxies.add(index)
                        flagged[index] = flags
                        if not flags & IFF_UP:
                            self._layer3.down(index)
                elif message.type == rtnl.RTM_DELLINK:
                    family, index, _ = rtnl.link_key(data, message)
                    if family == 0:
                        latest.pop(index, None)
                        ports.pop(index, None)
                        self._layer3.gone(index)
                        changes.append(self._remove(index))
                elif message.type == rtnl_ip.RTM_NEWNETCONF:
                    set_anew.add(rtnl_ip.settings_index(data, message))
                else:
                    self._layer3.take(data, message)
        changes += [self._take(index, data, message) for index, (data, message) in latest.items()]
        for index, messages in ports.items():
            known = self._by_index.get(index)
            if known is not None and known.master:
                flags_on = known.flags_on
                for data, message in messages:
                    flags_on = rtnl.merge_flags(data, message, flags_on)
                if flags_on != known.flags_on:
                    changes.append(self._put(replace(known, flags_on=flags_on)))
        changes = self._complete(changes)
        links = (self._by_index.get(index) for index in set_anew if index is not None)
        return changes + [LinkChange(link, link) for link in links if link is not None]

    def _complete(self, changes: list[LinkChange]) -> list[LinkChange]:
        """Return changes with what changed on the links, and without what did not."""
        for index in self._layer3.touched:
            known = self._by_index.get(index)
            if known is not None:
                changes.append(self._put(self._layer3.with_layer3(known)))
        self._layer3.touched.clear()
        self._mark_sources_stale()
        return [change for change in changes if change.old != change.new]

    def _rerouted(self, before: frozenset[DefaultRoute]) -> list[LinkChange]:
        """Return the news of default routes, if there is any."""
        return [DEFAULT_ROUTES] if before != self._layer3.defaults else []

    def _mark_sources_stale(self) -> None:
        """A route goes with its preferred source address once no link that is up has that any more."""
        doubts = self._layer3.stale
        for source in doubts.sources:
            having = (self._by_index.get(index) for index in self._layer3.having(ip_network(source)))
            if not any(link is not None and link.up for link in having):
                doubts.routes = True
        doubts.sources.clear()

    def _take(self, index: int, data: bytes, message: Header) -> LinkChange:
        """Parse a link's message and put the link into the view."""
        known = self._by_index.get(index)
        link = rtnl.parse_link(data, message, stand_in=self._stand_in, known=known)
        if not link.name:
            raise NetlinkFormatError(f"link {index} has no name")
        if known is None:
            self._generations += 1
            link = self._layer3.with_layer3(replace(link, generation=self._generations))
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

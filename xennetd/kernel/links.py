"""The view of the host's links, kept current by rtnetlink events.

Rule 1: the view changes only through `load` (a complete dump), `feed` (events), and `reload_routes` and
`reload_addresses` (dumps of stale parts). All of them return the changes.
Rule 2: of several events about one link in one batch, only the last is parsed. The view is a state, not a history.
"Our route" means a route with xennetd's protocol number, ROUTE_PROTOCOL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network

from msgspec import Struct

from xennetd.kernel import netlink, rtnl, rtnl_ip
from xennetd.kernel.layer3 import Layer3, Stale
from xennetd.kernel.netlink import Header, NetlinkFormatError
from xennetd.kernel.procsys import forces_ipv6, has_ipv6
from xennetd.kernel.rtnl_ip import DefaultRoute
from xennetd.model.ip import IPAddress, IPInterface, IPNetwork
from xennetd.model.link import IFF_UP, Link
from xennetd.model.marks import BRIDGE_GROUP, port_of
from xennetd.model.value import replace
from xennetd.model.vif import VifId

_AF_BRIDGE = 7


class LinkChange(Struct, frozen=True):
    """A link before and after a change. `old` is None for a new link, `new` is None for a deleted link.

    Both are equal if a program has set one of the link's sysctls, or may have changed the features of a watched link
    (`Links.watch_features`). Both are None if the default routes have changed, or the sysctls of `all`.
    """

    old: Link | None
    new: Link | None


DEFAULT_ROUTES = LinkChange(None, None)


def is_guest_port(link: Link) -> bool:
    """Return whether a link is a guest's interface: a vif or the tap of an emulated NIC, managed by xennetd or not."""
    return (
        link.parent is not None
        or (link.kind == "tun" and link.name.endswith("-emu"))
        or VifId.parse(link.name) is not None
    )


def _is_new_on_the_host(change: LinkChange) -> bool:
    """Return whether a link has appeared that is neither a guest's nor xennetd's.

    Where net.ipv6.conf.all.forwarding is the only switch, what keeps it on concerns every such link.
    """
    return change.old is None and change.new is not None and not (is_guest_port(change.new) or change.new.is_own)


@dataclass(slots=True)
class _Batch:
    """The link events of one `feed`, not yet parsed.

    `links` holds the last AF_UNSPEC message by index, `flags` its link flags. `ports` holds the AF_BRIDGE messages that
    came after it. `unseen` holds the indexes of links with a change that the view does not have: of a sysctl, or of
    features that are watched. None is there for a message about a sysctl without an index.
    """

    links: dict[int, tuple[bytes, Header]] = field(default_factory=dict)
    flags: dict[int, int] = field(default_factory=dict)
    ports: dict[int, list[tuple[bytes, Header]]] = field(default_factory=dict)
    unseen: set[int | None] = field(default_factory=set)


class Links:
    """All links by index, name, master and vif. Implements `model.link.HostView`.

    `generations` counts the links that have appeared. `news_of_all` counts how often the sysctls of `all` may have
    changed. `heard` counts the events about each link, by index, until somebody clears it. `gone` has the indexes of
    deleted links, except guests', until somebody removes them: another link may have such an index by now. `found_own`
    says whether xennetd's own links were there at the first `load`, so that an earlier daemon has served this host.
    `stand_in` is for tests: see `rtnl.parse_link`.
    """

    def __init__(self, *, stand_in: bool = False) -> None:
        self._stand_in = stand_in
        self._by_index: dict[int, Link] = {}
        self._by_name: dict[str, Link] = {}
        self._by_parent: dict[VifId, int] = {}
        self._bridges: set[int] = set()
        self._uplinks: dict[int, set[int]] = {}
        self.generations = 0
        self._layer3 = Layer3()
        self._watched: set[int] = set()
        self.news_of_all = 0
        self.heard: Counter[int] = Counter()
        self.gone: set[int] = set()
        self.found_own: bool | None = None
        self.has_ipv6 = has_ipv6()
        self.forces_ipv6 = forces_ipv6()

    def __len__(self) -> int:
        return len(self._by_index)

    def __iter__(self) -> Iterator[Link]:
        return iter(tuple(self._by_index.values()))

    def link(self, name: str) -> Link | None:
        """Return the link with this name, None if there is none."""
        return self._by_name.get(name)

    def by_index(self, index: int) -> Link | None:
        """Return the link with this index, None if there is none."""
        return self._by_index.get(index)

    def of(self, vif: VifId) -> Link | None:
        """Return the link whose parent device is this vif's, None if there is none. The link's name does not matter."""
        index = self._by_parent.get(vif)
        return self._by_index[index] if index is not None else None

    def bridges(self) -> tuple[Link, ...]:
        """Return all bridges, sorted by name."""
        return tuple(sorted((self._by_index[index] for index in self._bridges), key=lambda link: link.name))

    def uplinks(self, bridge: int) -> tuple[Link, ...]:
        """Return the ports of the bridge with this index that are not guests' interfaces."""
        return tuple(self._by_index[index] for index in self._uplinks.get(bridge, ()))

    def bridge_of(self, vif: VifId) -> Link | None:
        """Return the bridge that xennetd made this vif's link a port of, else the one that it is a port of now.

        The link's alias says which one that is, also when the bridge has been renamed, or made again with its name.
        """
        link = self.of(vif)
        if link is None:
            return None
        name, index = port_of(link.alias) or ("", 0)
        candidates = (self._by_index.get(index), self._by_name.get(name), self._by_index.get(link.master))
        return next((bridge for bridge in candidates if bridge is not None and bridge.kind == "bridge"), None)

    def default_uplink(self, version: int) -> Link | None:
        """Return the link of this IP version's default route with the least metric, None without such a route."""
        index = self._layer3.default(version)
        return self._by_index.get(index) if index is not None else None

    def owner(self, destination: IPNetwork) -> Link | None:
        """Return a link that has one of the host's addresses in this destination, None if there is none."""
        links = (self._by_index.get(index) for index in self._layer3.having(destination))
        return next((link for link in links if link is not None), None)

    def router(self, destination: IPNetwork) -> IPAddress | None:
        """Return a default route's router in this destination, None if there is none.

        A router behind a guest's interface does not count: it is a routed guest.
        """
        for default in self._layer3.defaults:
            for router in default.routers:
                link = self._by_index.get(default.index)
                if router in destination and (link is None or not is_guest_port(link)):
                    return router
        return None

    def neighbouring(self, subnet: IPNetwork) -> Link | None:
        """Return a link outside xennetd's groups with a host address whose subnet overlaps this one, None without."""
        for link in self._by_index.values():
            if link.addresses and not link.is_own:
                for address in link.addresses:
                    if address.version == subnet.version and address.network.overlaps(subnet):
                        return link
        return None

    def routed(self, destination: IPNetwork, metric: int) -> Link | None:
        """Return the link of our route with this destination and metric, None if there is no such route."""
        index = self._layer3.routed(destination, metric)
        return self._by_index.get(index) if index is not None else None

    def marked_addresses(self, index: int) -> frozenset[IPInterface]:
        """Return the addresses with xennetd's protocol number (ADDRESS_PROTOCOL) on the link with this index."""
        return self._layer3.marked(index)

    @property
    def tells_protocols(self) -> bool:
        """Whether this kernel keeps the protocol numbers of addresses, as far as the addresses so far tell."""
        return self._layer3.tells_protocols

    def watch_features(self, index: int, *, watch: bool = True) -> None:
        """Have changes of a link's features (ethtool(8)) reported from now on, or without `watch` no more."""
        if watch:
            self._watched.add(index)
        else:
            self._watched.discard(index)

    @property
    def stale(self) -> Stale:
        """The parts of the view that must be dumped and reloaded. The caller may change the value."""
        return self._layer3.stale

    def mark_addresses_stale(self, index: int) -> None:
        """Let a link's addresses be read again: the event of a new IPv6 address comes some time after the address."""
        self._layer3.stale.addresses.add(index)

    def load(self, datagrams: Iterable[bytes]) -> list[LinkChange]:
        """Replace the view by a complete dump of links, addresses, routes and neighbours."""
        dumped: dict[int, tuple[bytes, Header]] = {}
        others: list[tuple[bytes, Header]] = []
        for data in datagrams:
            for message in netlink.headers(data):
                if message.type == rtnl.RTM_NEWLINK:
                    dumped[rtnl.link_key(data, message)[1]] = (data, message)
                else:
                    others.append((data, message))
        before = self._layer3.defaults
        self.news_of_all += 1
        self._layer3.load(others)
        changes = [self._remove(index) for index in self._by_index.keys() - dumped.keys()]
        changes += [self._take(index, data, message) for index, (data, message) in dumped.items()]
        if self.found_own is None:
            self.found_own = any(link.is_own for link in self)
        watched = [LinkChange(link, link) for index in self._watched if (link := self._by_index.get(index)) is not None]
        return self._complete(changes) + self._rerouted(before) + watched

    def reload_routes(self, datagrams: Iterable[bytes]) -> list[LinkChange]:
        """Replace all routes by a dump of the main table."""
        before = self._layer3.defaults
        self._layer3.reload_routes(datagrams)
        return self._complete([]) + self._rerouted(before)

    def reload_addresses(self, index: int, datagrams: Iterable[bytes]) -> list[LinkChange]:
        """Replace the addresses of the link with this index by a dump."""
        if index not in self._by_index:
            self.stale.addresses.discard(index)
            return []
        self._layer3.reload_addresses(index, datagrams)
        return self._complete([])

    def feed(self, datagrams: Iterable[bytes]) -> list[LinkChange]:
        """Process events, in the order in which they came.

        Raises NetlinkFormatError for bytes that are no rtnetlink messages. The view must then be loaded again.
        """
        batch = _Batch()
        changes: list[LinkChange] = []
        for data in datagrams:
            for message in netlink.headers(data):
                if message.type == rtnl.RTM_NEWLINK:
                    self._note_link(batch, data, message)
                elif message.type == rtnl.RTM_DELLINK:
                    family, index, _ = rtnl.link_key(data, message)
                    if family == 0:
                        batch.links.pop(index, None)
                        batch.ports.pop(index, None)
                        self._layer3.gone(index)
                        changes.append(self._remove(index))
                elif message.type == rtnl_ip.RTM_NEWNETCONF:
                    index_or_none = rtnl_ip.settings_index(data, message)
                    batch.unseen.add(index_or_none)
                    self.heard[index_or_none or 0] += 1
                else:
                    self._layer3.take(data, message)
        changes += [self._take(index, data, message) for index, (data, message) in batch.links.items()]
        changes += [self._merge_flags(index, messages) for index, messages in batch.ports.items()]
        changes = self._complete(changes)
        appeared = not self.forces_ipv6 and any(map(_is_new_on_the_host, changes))
        links = (self._by_index.get(index) for index in batch.unseen if index is not None)
        changes += [LinkChange(link, link) for link in links if link is not None]
        if rtnl_ip.ALL_LINKS in batch.unseen:
            self.news_of_all += 1
        elif not appeared:
            return changes
        return [*changes, DEFAULT_ROUTES]

    def _note_link(self, batch: _Batch, data: bytes, message: Header) -> None:
        """Add an RTM_NEWLINK to the batch. It is parsed later, if it is still the last about its link by then."""
        family, index, flags = rtnl.link_key(data, message)
        self.heard[index] += 1
        if family == _AF_BRIDGE:
            batch.ports.setdefault(index, []).append((data, message))
        elif family == 0:
            batch.links[index] = (data, message)
            if index in self._watched and rtnl.tells_features(data, message):
                batch.unseen.add(index)
            batch.ports.pop(index, None)  # An AF_UNSPEC message has all flags of the port.
            known = self._by_index.get(index)
            if flags != batch.flags.get(index, known.flags if known is not None else flags):
                self.stale.proxies.add(index)
            batch.flags[index] = flags
            if not flags & IFF_UP:
                self._layer3.down(index)

    def _merge_flags(self, index: int, messages: list[tuple[bytes, Header]]) -> LinkChange:
        """Process the AF_BRIDGE messages about one port. A flag that a message does not have stays as it is."""
        known = self._by_index.get(index)
        if known is None or not known.master:
            return LinkChange(known, known)
        flags_on = known.flags_on
        for data, message in messages:
            flags_on = rtnl.merge_flags(data, message, flags_on)
        if flags_on == known.flags_on:
            return LinkChange(known, known)
        return self._put(replace(known, flags_on=flags_on))

    def _complete(self, changes: list[LinkChange]) -> list[LinkChange]:
        """Return `changes` with the changes of the links' IP layer, and without entries that change nothing."""
        for index in self._layer3.touched:
            known = self._by_index.get(index)
            if known is not None:
                changes.append(self._put(self._layer3.with_layer3(known)))
        self._layer3.touched.clear()
        self._mark_sources_stale()
        return [change for change in changes if change.old != change.new]

    def _rerouted(self, before: frozenset[DefaultRoute]) -> list[LinkChange]:
        """Return DEFAULT_ROUTES if the default routes are not `before` any more."""
        return [DEFAULT_ROUTES] if before != self._layer3.defaults else []

    def _mark_sources_stale(self) -> None:
        """Mark the routes as stale if no link that is up has a preferred source address any more."""
        stale = self._layer3.stale
        for source in stale.sources:
            holders = (self._by_index.get(index) for index in self._layer3.having(ip_network(source)))
            if not any(link is not None and link.up for link in holders):
                stale.routes = True
        stale.sources.clear()

    def _take(self, index: int, data: bytes, message: Header) -> LinkChange:
        """Parse a link's message and put the link into the view."""
        known = self._by_index.get(index)
        link = rtnl.parse_link(data, message, stand_in=self._stand_in, known=known)
        if not link.name:
            raise NetlinkFormatError(f"link {index} has no name")
        if known is None:
            self.generations += 1
            link = self._layer3.with_layer3(replace(link, generation=self.generations))
        elif known.kind == "bridge" and known.is_own_bridge and link.group != BRIDGE_GROUP:
            # The link is the same, whatever its group. Another bridge of its name has another index or generation. A
            # bridge that has lost its name as well has been taken from xennetd.
            link = replace(link, unmarked=link.name == known.name)
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
        self._watched.discard(index)
        if old is not None:
            self._forget(old)
            if not is_guest_port(old):
                self.gone.add(index)
        return LinkChange(old, None)

    def _forget(self, old: Link) -> None:
        """Take a link out of the dictionaries. An entry stays if it belongs to another link by now."""
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

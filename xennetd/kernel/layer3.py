"""The IP layer of the links: addresses, marked routes and permanent neighbours by link, and the default routes.

This is a part of the view of the links, kept current from the same events. "Our route" means a route with the protocol
number ROUTE_PROTOCOL. Some changes have no event:
- A link that goes down loses its IPv4 routes.
- Before Linux 6.7, routes disappear with the address that is their preferred source.
- A link that goes down, or loses its carrier or its last address, loses its proxy entries (neigh_ifdown(),
  neigh_carrier_down()).
- The event of a new IPv4 address does not tell its place among the link's addresses.
A change that follows from the events is applied here. For any other, `stale` notes what must be dumped again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from xennetd.kernel import netlink, rtnl_ip
from xennetd.kernel.netlink import Header
from xennetd.kernel.rtnl_ip import AddressChange, DefaultRoute, NeighbourChange, RouteChange
from xennetd.model.empty import NONE
from xennetd.model.ip import IPAddress, IPInterface, IPNetwork
from xennetd.model.link import Link, Neighbour, Route
from xennetd.model.marks import ADDRESS_PROTOCOL
from xennetd.model.value import replace


@dataclass(slots=True)
class Stale:
    """The parts of the view that must be dumped again.

    `addresses` holds the indexes of links whose addresses are stale. `routes` says that a route may have disappeared.
    `sources` are addresses that left a link while they are the preferred source of a marked route; the kernel deletes
    the route when no link that is up has the address any more. `proxies` holds the indexes of links that may have lost
    their proxy entries: the kernel drops them at some changes, even if the change lasts only a moment.
    """

    addresses: set[int] = field(default_factory=set)
    routes: bool = False
    sources: set[IPAddress] = field(default_factory=set)
    proxies: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _OnLink:
    addresses: list[IPInterface] = field(default_factory=list)
    marked: set[IPInterface] = field(default_factory=set)
    routes: dict[tuple[IPNetwork, int], Route] = field(default_factory=dict)
    neighbours: dict[IPAddress, str] = field(default_factory=dict)


class Layer3:
    """Addresses, routes and neighbours by link. `touched` collects the indexes of links that may have changed.

    `tells_protocols` says that an address had a protocol number, so that this kernel keeps them (from Linux 5.18 on,
    which gives one to loopback addresses, too).
    """

    def __init__(self) -> None:
        self.tells_protocols = False
        self.stale = Stale()
        self.touched: set[int] = set()
        self._on: dict[int, _OnLink] = {}
        self._holders: dict[IPAddress, set[int]] = {}
        self._routed: dict[tuple[IPNetwork, int], int] = {}
        self._sources: Counter[IPAddress] = Counter()
        self._defaults: list[DefaultRoute] = []

    def with_layer3(self, link: Link) -> Link:
        """Return the link with its addresses, routes and neighbours."""
        on = self._on.get(link.index)
        if on is None:
            return replace(link, addresses=(), routes=NONE, neighbours=NONE) if _has_ip(link) else link
        neighbours = frozenset(Neighbour(address, mac) for address, mac in on.neighbours.items()) or NONE
        routes = frozenset(on.routes.values()) or NONE
        addresses = tuple(sorted(on.addresses, key=lambda address: address.version))  # the order of a dump
        return replace(link, addresses=addresses, routes=routes, neighbours=neighbours)

    def routed(self, destination: IPNetwork, metric: int) -> int | None:
        """Return the index of the link of our route with this destination and metric, None if there is none."""
        return self._routed.get((destination, metric))

    def having(self, destination: IPNetwork) -> set[int]:
        """Return the indexes of the links with an address in `destination`."""
        if destination.num_addresses == 1:
            return self._holders.get(destination.network_address, set())
        return {index for address, indexes in self._holders.items() if address in destination for index in indexes}

    def marked(self, index: int) -> frozenset[IPInterface]:
        """Return the addresses with xennetd's protocol number on the link with this index."""
        on = self._on.get(index)
        return frozenset(on.marked) if on is not None else NONE

    @property
    def defaults(self) -> frozenset[DefaultRoute]:
        """All default routes of the main table, marked or not."""
        return frozenset(self._defaults)

    def default(self, version: int) -> int | None:
        """Return the index of the link of this IP version's default route with the least metric, None without one."""
        candidates = [default for default in self._defaults if default.version == version]
        return min(candidates, key=lambda default: default.metric).index if candidates else None

    def load(self, dump: Iterable[tuple[bytes, Header]]) -> None:
        """Replace the whole view by a complete dump."""
        self.touched.update(self._on)
        self._on.clear()
        self._holders.clear()
        self.stale = Stale()
        routes = []
        for data, message in dump:
            if message.type == rtnl_ip.RTM_NEWADDR:
                address = rtnl_ip.parse_address(data, message)
                if address is not None:
                    self._add_address(address)
            elif message.type == rtnl_ip.RTM_NEWROUTE:
                routes.append((data, message))
            elif message.type == rtnl_ip.RTM_NEWNEIGH:
                self._take_neighbour(data, message)
        self._load_routes(routes)

    def reload_routes(self, datagrams: Iterable[bytes]) -> None:
        """Replace all routes by a dump of the main table."""
        self._load_routes((data, message) for data in datagrams for message in netlink.headers(data))
        self.stale.routes = False
        self.stale.sources.clear()

    def _load_routes(self, dump: Iterable[tuple[bytes, Header]]) -> None:
        """Replace all routes. Of two routes with one destination and metric the first counts, as in the kernel."""
        for index, on in self._on.items():
            if on.routes:
                on.routes.clear()
                self.touched.add(index)
        self._routed.clear()
        self._sources.clear()
        self._defaults.clear()
        for data, message in dump:
            if message.type == rtnl_ip.RTM_NEWROUTE:
                match rtnl_ip.parse_route(data, message):
                    case DefaultRoute() as default:
                        self._defaults.append(default)
                    case RouteChange(index, route) if (route.destination, route.metric) not in self._routed:
                        self._add_route(index, route)

    def reload_addresses(self, index: int, datagrams: Iterable[bytes]) -> None:
        """Replace the addresses of one link by a dump."""
        self.stale.addresses.discard(index)
        for address in tuple(self._entry(index).addresses):
            self._delete_address(index, address)
        for data in datagrams:
            for message in netlink.headers(data):
                if message.type == rtnl_ip.RTM_NEWADDR:
                    change = rtnl_ip.parse_address(data, message)
                    if change is not None and change.index == index:
                        self._add_address(change)

    def take(self, data: bytes, message: Header) -> None:
        """Process an event about an address, a route or a neighbour. Any other message is ignored."""
        match message.type:
            case rtnl_ip.RTM_NEWADDR | rtnl_ip.RTM_DELADDR:
                change = rtnl_ip.parse_address(data, message)
                if change is not None:
                    self._take_address(change)
            case rtnl_ip.RTM_NEWROUTE | rtnl_ip.RTM_DELROUTE:
                match rtnl_ip.parse_route(data, message):
                    case DefaultRoute():
                        self.stale.routes = True
                    case RouteChange(index, route, gone=False):
                        self._add_route(index, route)
                    case RouteChange(index, route, gone=True):
                        self._delete_route(index, route)
            case rtnl_ip.RTM_NEWNEIGH | rtnl_ip.RTM_DELNEIGH:
                self._take_neighbour(data, message)

    def down(self, index: int) -> None:
        """Process the news that a link is down: the kernel has deleted all routes through it."""
        on = self._on.get(index)
        if on is not None:
            for route in list(on.routes.values()):
                self._delete_route(index, route)
        if self._defaults and any(default.index == index for default in self._defaults):
            self.stale.routes = True

    def gone(self, index: int) -> None:
        """Process the news that a link was deleted, with all its addresses, routes and neighbours."""
        self.down(index)
        self.stale.proxies.add(index)
        if index in self._on:
            for address in tuple(self._on[index].addresses):
                self._delete_address(index, address)
            del self._on[index]
        self.stale.addresses.discard(index)

    def _entry(self, index: int) -> _OnLink:
        on = self._on.get(index)
        if on is None:
            on = self._on[index] = _OnLink()
        self.touched.add(index)
        return on

    def _take_address(self, change: AddressChange) -> None:
        on = self._entry(change.index)
        address = change.address
        if change.gone == (address not in on.addresses):
            if not change.gone:
                self._mark(on, change)
            return
        self.stale.proxies.add(change.index)
        if not change.gone:
            if any(other.version == address.version for other in on.addresses):
                self.stale.addresses.add(change.index)
            self._add_address(change)
            return
        self._delete_address(change.index, address)
        left = sum(other.version == 4 for other in on.addresses)
        if left > 1:
            self.stale.addresses.add(change.index)  # A secondary address may have become primary.
        if address.version == 4 and not left:
            # The kernel deletes a link's IPv4 routes with its last IPv4 address (fib_inetaddr_event()), without events.
            for route in [route for route in on.routes.values() if route.destination.version == 4]:
                self._delete_route(change.index, route)
        if address.ip in self._sources:
            self.stale.sources.add(address.ip)
        if any(default.index == change.index for default in self._defaults):
            self.stale.routes = True

    def _add_address(self, change: AddressChange) -> None:
        on = self._entry(change.index)
        on.addresses.append(change.address)
        self._holders.setdefault(change.address.ip, set()).add(change.index)
        self._mark(on, change)

    def _mark(self, on: _OnLink, change: AddressChange) -> None:
        self.tells_protocols = self.tells_protocols or bool(change.protocol)
        if change.protocol == ADDRESS_PROTOCOL:
            on.marked.add(change.address)
        else:
            on.marked.discard(change.address)

    def _delete_address(self, index: int, address: IPInterface) -> None:
        on = self._entry(index)
        on.addresses.remove(address)
        on.marked.discard(address)
        if not any(other.ip == address.ip for other in on.addresses):
            holders = self._holders[address.ip]
            holders.discard(index)
            if not holders:
                del self._holders[address.ip]

    def _take_neighbour(self, data: bytes, message: Header) -> None:
        on = self._on.get(rtnl_ip.neighbour_index(data, message))
        known = on.neighbours if on is not None else {}
        match rtnl_ip.parse_neighbour(data, message, permanent_only=not known):
            case NeighbourChange(index, address, None) if address in known:
                del self._entry(index).neighbours[address]
            case NeighbourChange(index, address, str(mac)):
                self._entry(index).neighbours[address] = mac

    def _add_route(self, index: int, route: Route) -> None:
        key = (route.destination, route.metric)
        holder = self._routed.get(key)
        if holder is not None:
            self._delete_route(holder, self._on[holder].routes[key])
        self._entry(index).routes[key] = route
        self._routed[key] = index
        if route.source is not None:
            self._sources[route.source] += 1

    def _delete_route(self, index: int, route: Route) -> None:
        key = (route.destination, route.metric)
        if self._routed.get(key) != index:
            return
        del self._routed[key]
        source = self._entry(index).routes.pop(key).source
        if source is not None:
            self._sources[source] -= 1
            if not self._sources[source]:
                del self._sources[source]


def _has_ip(link: Link) -> bool:
    return bool(link.addresses or link.routes or link.neighbours)

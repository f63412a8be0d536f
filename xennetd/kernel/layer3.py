"""What IP has on each link: its addresses, our routes, permanent neighbours; and where the default routes lead.

Kept from the same events as the view of the links, which it is a part of. The kernel does not tell of everything:
a link that goes down loses its IPv4 routes without an event, and so does one whose routes prefer a source address that
goes (before Linux 6.7); a link that goes down, or loses its carrier or its last address, no longer answers for others
(neigh_ifdown(), neigh_carrier_down()); a new IPv4 address is put before or after others without saying where. What
follows from the events alone is done here; what does not is noted in `stale`, to be dumped anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from xennetd.kernel import netlink, rtnl_ip
from xennetd.kernel.netlink import Header
from xennetd.kernel.rtnl_ip import AddressChange, DefaultRoute, NeighbourChange, RouteChange
from xennetd.model.ip import IPAddress, IPInterface, IPNetwork
from xennetd.model.link import Link, Neighbour, Route


@dataclass(slots=True)
class Stale:
    """What is to be dumped anew: the addresses of these links, and the routes if one of ours may have gone.

    `sources` are addresses that went from a link while routes of ours prefer them; these go with the last link, that is
    up, to have it. `proxies` are links that may answer for others no longer: something of theirs has changed with which
    that goes, if only for a moment.
    """

    addresses: set[int] = field(default_factory=set)
    routes: bool = False
    sources: set[IPAddress] = field(default_factory=set)
    proxies: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _OnLink:
    addresses: list[IPInterface] = field(default_factory=list)
    routes: dict[tuple[IPNetwork, int], Route] = field(default_factory=dict)
    neighbours: dict[IPAddress, str] = field(default_factory=dict)


class Layer3:
    """Addresses, routes and neighbours by link. `touched` collects the links on which something has changed."""

    def __init__(self) -> None:
        self.stale = Stale()
        self.touched: set[int] = set()
        self._on: dict[int, _OnLink] = {}
        self._having: dict[IPAddress, set[int]] = {}
        self._routed: dict[tuple[IPNetwork, int], int] = {}
        self._sources: Counter[IPAddress] = Counter()
        self._defaults: list[DefaultRoute] = []

    def with_layer3(self, link: Link) -> Link:
        """Return the link with what is on it."""
        on = self._on.get(link.index)
        if on is None:
            return replace(link, addresses=(), routes=frozenset(), neighbours=frozenset()) if _dressed(link) else link
        neighbours = frozenset(Neighbour(address, mac) for address, mac in on.neighbours.items())
        routes = frozenset(on.routes.values())
        addresses = tuple(sorted(on.addresses, key=lambda address: address.version))  # as a dump has them
        return replace(link, addresses=addresses, routes=routes, neighbours=neighbours)

    def routed(self, destination: IPNetwork, metric: int) -> int | None:
        """Return the index of the link that a route of ours leads through."""
        return self._routed.get((destination, metric))

    def having(self, destination: IPNetwork) -> set[int]:
        """Return the indexes of the links with an address in `destination`."""
        if destination.num_addresses == 1:
            return self._having.get(destination.network_address, set())
        return {index for address, indexes in self._having.items() if address in destination for index in indexes}

    @property
    def defaults(self) -> frozenset[DefaultRoute]:
        """All default routes."""
        return frozenset(self._defaults)

    def default(self, version: int) -> int | None:
        """Return the index of the link that the default route with the least metric leads through."""
        found = [(default.metric, default.index) for default in self._defaults if default.version == version]
        return min(found, key=lambda each: each[0])[1] if found else None

    def load(self, dump: Iterable[tuple[bytes, Header]]) -> None:
        """Take in a complete dump."""
        self.touched.update(self._on)
        self._on.clear()
        self._having.clear()
        self.stale = Stale()
        routes = []
        for data, message in dump:
            if message.type == rtnl_ip.RTM_NEWADDR:
                address = rtnl_ip.parse_address(data, message)
                if address is not None:
                    self._add_address(address.index, address.address)
            elif message.type == rtnl_ip.RTM_NEWROUTE:
                routes.append((data, message))
            elif message.type == rtnl_ip.RTM_NEWNEIGH:
                self._take_neighbour(data, message)
        self._load_routes(routes)

    def reload_routes(self, datagrams: Iterable[bytes]) -> None:
        """Take in a dump of the main table's routes."""
        self._load_routes((data, message) for data in datagrams for message in netlink.headers(data))
        self.stale.routes = False
        self.stale.sources.clear()

    def _load_routes(self, dump: Iterable[tuple[bytes, Header]]) -> None:
        """Of two routes to the same destination with the same metric the first one counts, in the kernel as here."""
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
        """Take in a dump of one link's addresses."""
        self.stale.addresses.discard(index)
        for address in tuple(self._entry(index).addresses):
            self._delete_address(index, address)
        for data in datagrams:
            for message in netlink.headers(data):
                if message.type == rtnl_ip.RTM_NEWADDR:
                    change = rtnl_ip.parse_address(data, message)
                    if change is not None and change.index == index:
                        self._add_address(index, change.address)

    def take(self, data: bytes, message: Header) -> None:
        """Take in an event of an address, a route or a neighbour; any other is none of ours."""
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
        """A link is down: there are no routes through it."""
        on = self._on.get(index)
        if on is not None:
            for route in list(on.routes.values()):
                self._delete_route(index, route)
        if self._defaults and any(default.index == index for default in self._defaults):
            self.stale.routes = True

    def gone(self, index: int) -> None:
        """A link has gone, and with it all that was on it."""
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
            return
        self.stale.proxies.add(change.index)
        if not change.gone:
            if any(other.version == address.version for other in on.addresses):
                self.stale.addresses.add(change.index)
            self._add_address(change.index, address)
            return
        self._delete_address(change.index, address)
        left = sum(other.version == 4 for other in on.addresses)
        if left > 1:
            self.stale.addresses.add(change.index)  # one of them may have become a primary one
        if address.version == 4 and not left:
            # The kernel takes all IPv4 routes off a link with its last address (fib_inetaddr_event()), without events.
            for route in [route for route in on.routes.values() if route.destination.version == 4]:
                self._delete_route(change.index, route)
        if address.ip in self._sources:
            self.stale.sources.add(address.ip)
        if any(default.index == change.index for default in self._defaults):
            self.stale.routes = True

    def _add_address(self, index: int, address: IPInterface) -> None:
        self._entry(index).addresses.append(address)
        self._having.setdefault(address.ip, set()).add(index)

    def _delete_address(self, index: int, address: IPInterface) -> None:
        on = self._entry(index)
        on.addresses.remove(address)
        if not any(other.ip == address.ip for other in on.addresses):
            having = self._having[address.ip]
            having.discard(index)
            if not having:
                del self._having[address.ip]

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


def _dressed(link: Link) -> bool:
    return bool(link.addresses or link.routes or link.neighbours)

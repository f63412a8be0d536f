"""Targets: the events and dumps of rtnetlink, and the kernel's answers to requests."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from tests.unit.fuzz.mutation import BODIES, netlinkwise
from tests.unit.fuzz.target import Broken, Target, recorded
from xennetd.kernel import netlink, rtnl, rtnl_ip, rtnl_topology
from xennetd.kernel.ethtool import parse_family, parse_features, parse_names
from xennetd.kernel.links import Links
from xennetd.kernel.netlink import NLMSG_DONE, NLMSG_ERROR, NetlinkFormatError
from xennetd.kernel.rtnl_entries import delete_entry, make_entry, parse_entries
from xennetd.kernel.rtnl_ip import RTM_NEWNEIGH
from xennetd.kernel.rtnl_topology import add_link
from xennetd.kernel.sock_diag import parse_sockets
from xennetd.model.ip_entry import IpEntry
from xennetd.model.link import Link
from xennetd.model.link_settings import SETTINGS, setting_words
from xennetd.model.value import replace
from xennetd.model.vif import VifId


@cache
def base() -> tuple[bytes, ...]:
    """The dump that a view begins with: the first messages of each kind."""
    found: dict[int, list[bytes]] = {}
    for data in recorded("netlink_messages"):
        for header in netlink.headers(data):
            found.setdefault(header.type, []).append(data)
    kinds = (rtnl.RTM_NEWLINK, rtnl_ip.RTM_NEWADDR, rtnl_ip.RTM_NEWROUTE, rtnl_ip.RTM_NEWNEIGH)
    return tuple(data for kind in kinds for data in found[kind][:3])


def seeds() -> list[bytes]:
    """Single messages, and batches of those that come together."""
    single = recorded("netlink_messages")
    return [*single, *(b"".join(single[at : at + 6]) for at in range(0, len(single), 6))]


def contents(links: Links) -> set[Link]:
    """The links of a view, without the order in which they came."""
    return {replace(link, generation=0) for link in links}


@cache
def expected() -> set[Link]:
    links = Links(stand_in=True)
    links.load(base())
    return contents(links)


def run_events(data: bytes) -> None:
    """Feed events to a view. Whatever they are, a dump makes the view right again."""
    links = Links(stand_in=True)
    links.load(base())
    try:
        for change in links.feed([data]):
            if change.new is not None and links.by_index(change.new.index) is None:
                raise Broken(f"link {change.new.index} is told of and is not there")
        look_around(links)
        for index in tuple(links.stale.addresses)[:4]:
            links.reload_addresses(index, [data])
        links.reload_routes([data])
        look_around(links)
        links.load([data])
        look_around(links)
    finally:
        links.load(base())
        look_around(links)
        if contents(links) != expected():
            raise Broken("after a dump the view is another one than a new view")


def look_around(links: Links) -> None:
    """Ask all that policy asks about the host; the indexes of the view agree with each other."""
    for link in links:
        if links.by_index(link.index) is not link:
            raise Broken(f"link {link.index} is not where its index is")
        if link.parent is not None and links.of(link.parent) is None:
            raise Broken(f"no link of {link.parent}")
        links.uplinks(link.index)
        for address in link.addresses:
            links.owner(address.network)
            links.router(address.network)
            links.neighbouring(address.network)
            if links.owner(type(address.network)(address.ip)) is None:
                raise Broken(f"{address} is on {link.name}, and nobody has it")
        for route in link.routes:
            if links.routed(route.destination, route.metric) is not link:
                raise Broken(f"the route to {route.destination} is on {link.name}, and not there")
    links.bridges()
    links.of(VifId(3, 0))
    for version in (4, 6):
        links.default_uplink(version)


def run_answers(data: bytes) -> None:
    """Read the acknowledgements, proxy entries, routes and details of links in the kernel's answers."""
    for message in netlink.headers(data):
        if message.type in (NLMSG_ERROR, NLMSG_DONE):
            netlink.parse_ack(data, message).text.encode()
        elif message.type == RTM_NEWNEIGH:
            rtnl_ip.parse_proxy(data, message)
        elif message.type == rtnl_ip.RTM_NEWROUTE:
            rtnl_ip.parse_way(data, message)
        elif message.type == rtnl.RTM_NEWLINK:
            details = rtnl_topology.parse_details(data, message)
            add_link(0, details.kind if details.kind in SETTINGS else "dummy", "x", 1, {})
            for name, value in details.settings.items():
                setting_words(details.kind, name, value)
        else:
            netlink.attributes(data, message.start + BODIES.get(message.type, 4), message.end)


def run_entries(data: bytes) -> None:
    """Read addresses, routes, rules and neighbour entries, and make them again."""
    for message in netlink.headers(data):
        check_entries(parse_entries(data, message, "link{}".format))


def check_entries(entries: list[IpEntry]) -> None:
    """An entry that is made again is read as it was."""
    for entry in entries:
        if not entry.describe().isprintable():
            raise Broken(f"an entry that is not printable: {entry.describe()!a}")
        made = make_entry(0, entry, lambda name: int(name.removeprefix("link")) if name.startswith("link") else 1)
        (message,) = netlink.headers(made)
        if parse_entries(made, message, "link{}".format) != [entry] and not _named_by_nobody(entry):
            raise Broken(f"{entry} is made as {parse_entries(made, message, 'link{}'.format)}")
        delete_entry(0, entry, lambda _: 1)


def run_sockets(data: bytes) -> None:
    """Read sockets, and the addresses that they have."""
    for each in parse_sockets([data]):
        if not (0 <= each.port < 1 << 16 and 0 <= each.remote_port < 1 << 16):
            raise Broken(f"no port: {each}")
        if "None" in (str(each.local), str(each.remote)):
            raise Broken(f"no address: {each}")


def _named_by_nobody(entry: IpEntry) -> bool:
    return any(not name.startswith("link") for name in entry.links)


def run_ethtool(data: bytes) -> None:
    """Read the answers of ethtool netlink, each by the parser of every request."""
    for message in netlink.headers(data):
        for parse in (parse_family, parse_names, parse_features):
            with suppress(NetlinkFormatError):
                parse(data, message)


NETLINK = (
    Target("rtnetlink-events", run_events, (NetlinkFormatError,), seeds, netlinkwise, 0.06, largest=8192),
    Target("rtnetlink-answers", run_answers, (NetlinkFormatError,),
           lambda: [*recorded("netlink_answers"), *recorded("nft_events"), *recorded("netlink_messages")[-20:],
                    *base()],
           netlinkwise, 0.08),
    Target("ip-entries", run_entries, (NetlinkFormatError,), lambda: recorded("ip_entries"), netlinkwise, 0.05),
    Target("sockets", run_sockets, (NetlinkFormatError,), lambda: recorded("sock_diag"), netlinkwise, 0.02),
    Target("ethtool-answers", run_ethtool, (NetlinkFormatError,), lambda: recorded("ethtool_answers"), netlinkwise,
           0.02),
)  # fmt: skip

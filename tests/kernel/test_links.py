"""The codec and the kept view of links against the real kernel and against pyroute2, which knows nothing of them.

Hypothesis makes up sequences of commands for `ip` and `bridge`, with Steps of ours among them; names and indices come
from small sets, so that they are used again.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address, ip_interface, ip_network
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from tests.bed.guest import Bed
from tests.bed.netns import NetNs
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, make_or_skip
from tests.kernel.verdict import connected
from xennetd.kernel import execute, rtnl, rtnl_ip
from xennetd.kernel.kernel import reread
from xennetd.kernel.links import Links
from xennetd.kernel.sockets import EventSocket, RequestSocket
from xennetd.model.ip import IPInterface
from xennetd.model.link import IN6_ADDR_GEN_MODE_NONE, Link, Neighbour, Route
from xennetd.model.value import replace
from xennetd.model.vif import VifId
from xennetd.plan.properties import PORT_FLAGS
from xennetd.plan.steps import DeleteAddress, LinkStep, SetLink

NAMES = ("eth9", "web0", "br0", "br1", "vif7.0", "vif7.0-emu")
ALTNAMES = ("vif-7-0", "other")
INDEXES = range(50, 56)
ADDRESSES = ("192.0.2.1/24", "192.0.2.2/24", "192.0.2.3/24", "198.51.100.1/32", "2001:db8::1/64", "fe80::7/64")
ROUTES = ("203.0.113.5/32", "203.0.113.64/26", "203.0.113.5/32 src 192.0.2.2", "203.0.113.6/32 src 198.51.100.1")
ROUTES6 = ("2001:db8:5::5/128", "2001:db8:6::/64", "2001:db8:5::6/128 src 2001:db8::1")
NEIGHBOURS = ("203.0.113.5", "203.0.113.6", "2001:db8:5::5")
FLAGS = ("isolated", "isolated", "learning", "flood", "locked", "hairpin")
FLAG_ATTRIBUTES = {"isolated": "IFLA_BRPORT_ISOLATED"}
"""How pyroute2 calls the flags of a bridge's port that we know."""

names = st.sampled_from(NAMES)


def command(text: str, **values: Iterable[Any]) -> st.SearchStrategy[str]:
    """A command with a value of each set in its place: for `ip`, unless another program is named."""
    drawn = {key: st.sampled_from(list(choice)) for key, choice in values.items()}
    return st.fixed_dictionaries(drawn).map(lambda chosen: text.format(**chosen))


# Of some changes the kernel tells only while the link is up.
COMMANDS = st.one_of(
    command("link add name {name} index {index} type bridge", name=NAMES, index=INDEXES),
    command("link add name {name} index {index} type veth peer name {name}p", name=NAMES, index=INDEXES),
    command("tuntap add dev {name} mode tap", name=NAMES),
    command("link del dev {name}", name=NAMES),
    command("link del dev {name}\nlink add name {to} index {index} type bridge", name=NAMES, to=NAMES, index=INDEXES),
    command("link set dev {name} down\nlink set dev {name} name {to}", name=NAMES, to=NAMES),
    command(
        "link set dev {to} down\nlink set dev {name} down\n"
        "link set dev {name} name {name}x\nlink set dev {to} name {name}",
        name=NAMES,
        to=NAMES,
    ),
    command("link set dev {name} name {to}", name=NAMES, to=NAMES),
    command("link set dev {name} master {to}", name=NAMES, to=("br0", "br1")),
    command("link set dev {name} nomaster", name=NAMES),
    command("link set dev {name} up", name=NAMES),
    command("link set dev {name}p up", name=NAMES),
    command("link set dev {name} down", name=NAMES),
    command("link set dev {name} mtu {mtu}", name=NAMES, mtu=(68, 1279, 1280, 1500, 9000)),
    command("link set dev {name} address {mac}", name=NAMES, mac=("fe:ff:ff:ff:ff:ff", "02:00:00:00:00:07")),
    command("link set dev {name} up group {group}", name=NAMES, group=(0, 7, 4_000_000_000)),
    command("link set dev {name} up addrgenmode {mode}", name=NAMES, mode=("none", "eui64", "random")),
    command("link set dev {name} up\nlink property add dev {name} altname {altname}", name=NAMES, altname=ALTNAMES),
    command("link set dev {name} up\nlink property del dev {name} altname {altname}", name=NAMES, altname=ALTNAMES),
    command("link set dev {name} up type bridge_slave {flag} {to}", name=NAMES, flag=FLAGS, to=("on", "off")),
    command("bridge: link set dev {name} {flag} {to}", name=NAMES, flag=FLAGS, to=("on", "off")),
    command("ours: {name} {flag} {to}", name=NAMES, flag=PORT_FLAGS, to=("on", "off")),
    command("link set dev {name} up type bridge_slave state {state}", name=NAMES, state=range(5)),
    command("addr add {address} dev {name}", name=NAMES, address=ADDRESSES),
    command("addr del {address} dev {name}", name=NAMES, address=ADDRESSES),
    command("addr flush dev {name}", name=NAMES),
    command("link set dev {name} up\naddr add {address} dev {name}", name=NAMES, address=ADDRESSES),
    command("link set dev {name} down\nlink set dev {name} up", name=NAMES),
    command(
        "link set dev {name} up\nroute {verb} {route} dev {name} metric {metric} proto 120",
        name=NAMES,
        verb=("add", "replace"),
        route=ROUTES,
        metric=(1, 2),
    ),
    command(
        "link set dev {name} up\n-6 route {verb} {route} dev {name} metric {metric} proto 120",
        name=NAMES,
        verb=("add", "replace"),
        route=ROUTES6,
        metric=(1, 2),
    ),
    command("route del {route} dev {name} metric {metric}", name=NAMES, route=ROUTES, metric=(1, 2)),
    command("-6 route del {route} dev {name} metric {metric}", name=NAMES, route=ROUTES6, metric=(1, 2)),
    command("route {verb} {route} dev {name}", name=NAMES, verb=("add", "del"), route=ROUTES),
    command(
        "link set dev {name} up\nroute {verb} default dev {name} metric {metric}",
        name=NAMES,
        verb=("add", "replace", "del"),
        metric=range(3),
    ),
    command(
        "link set dev {name} up\n-6 route {verb} default dev {name} metric {metric}",
        name=NAMES,
        verb=("add", "replace", "del"),
        metric=(1, 2),
    ),
    command(
        "neigh replace {address} lladdr {mac} dev {name} nud {state}",
        name=NAMES,
        address=NEIGHBOURS,
        mac=("02:00:00:00:00:07", "02:00:00:00:00:08"),
        state=("permanent", "permanent", "stale"),
    ),
    command("neigh del {address} dev {name}", name=NAMES, address=NEIGHBOURS),
    command("neigh add proxy {address} dev {name}", name=NAMES, address=NEIGHBOURS),
    command("neigh flush dev {name} nud permanent", name=NAMES),
)
READS = st.lists(st.lists(COMMANDS, min_size=3, max_size=12), min_size=2, max_size=8)
"""Commands in groups, with a look at the events after each."""

FIRST = (
    "link add name br0 index 50 type bridge",
    "link add name br1 index 51 type bridge",
    "link add name eth9 index 52 type veth peer name eth9p",
    "link add name vif7.0 index 53 type veth peer name vif7.0p",
    "tuntap add dev vif7.0-emu mode tap",
    *(f"link set dev {port} master br0 up" for port in ("eth9", "vif7.0", "vif7.0-emu")),
)
"""So that most of what is made up has something to act on."""

THEN = ("bridge: link set dev eth9 isolated on", "ours: vif7.0 isolated on")
OFF = tuple(each.replace(" on", " off") for each in THEN)
"""Flags of ports that are up and that nothing else happens to."""


class Seen:
    """A namespace of its own, with the view that follows it."""

    def __init__(self) -> None:
        # Without duplicate address detection an address is there when it is told.
        for which in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{which}/accept_dad").write_text("0")
        self._events = EventSocket()
        self._requests = RequestSocket()
        self.view = Links(stand_in=True)
        self.view.load(self._requests.dump())

    def close(self) -> None:
        self._events.close()
        self._requests.close()

    def run(self, commands: Iterable[str]) -> None:
        """Have these done as far as can be, in their order; most of what hypothesis makes up is refused."""
        for program, lines in groupby(map(_program, commands), key=lambda each: each[0]):
            if program == "ours":
                for _, words in lines:
                    self.set_flag(*words.split())
            else:
                batch = "\n".join(words for _, words in lines)
                subprocess.run((program, "-force", "-batch", "-"), input=batch, text=True, capture_output=True)

    def set_flag(self, name: str, flag: str, to: str) -> None:
        """Have a Step of ours set a flag of a bridge's port, if there is such a port."""
        with suppress(OSError, execute.StepRefused):
            index = socket.if_nametoindex(name)
            self.execute(SetLink(index, name, flag, to == "on", f"{flag} {to}", bridge_flag=PORT_FLAGS[flag]))

    def follow(self) -> None:
        self.view.feed(self._events.drain())
        reread(self.view, self._requests)

    def dump(self) -> list[bytes]:
        return self._requests.dump()

    def ask(self, *requests: bytes) -> list[int]:
        return [ack.errno for ack in self._requests.ask(requests)[0]]

    def execute(self, step: LinkStep) -> None:
        execute.execute(self._requests, (step,))


def _program(command: str) -> tuple[str, str]:
    program, colon, words = command.partition(": ")
    return (program, words) if colon else ("ip", command)


@contextmanager
def namespace() -> Iterator[Seen]:
    netns = make_or_skip(NetNs)
    with netns:
        seen = Seen()
        try:
            yield seen
        finally:
            seen.close()
    netns.close()


def content(view: Links, indexes: Iterable[int]) -> dict[str, Any]:
    """All that a view tells, but for generations, which a dump does not have, and for the addrgenmode: the kernel does
    not tell when IPv6 leaves or joins a link for its MTU."""
    links = [link for index in indexes if (link := view.by_index(index)) is not None]
    return {
        "number": len(view),
        "links": [replace(link, generation=0, addr_gen_mode=0) for link in links],
        "names": {name: link.index for name in NAMES if (link := view.link(name))},
        "bridges": [link.index for link in view.bridges()],
        "uplinks": {link.index: {port.index for port in view.uplinks(link.index)} for link in view.bridges()},
        "vifs": {vif: link.index for vif in (VifId(7, 0), VifId(8, 1)) if (link := view.of(vif))},
        "default": [link.index if (link := view.default_uplink(version)) else None for version in (4, 6)],
        "routed": {
            (route.destination, route.metric): through.index
            for link in links
            for route in link.routes
            if (through := view.routed(route.destination, route.metric))
        },
        "owners": {address: bool(view.owner(ip_network(address, strict=False))) for address in ADDRESSES},
    }


def by_pyroute2(dump: Iterable[bytes]) -> dict[int, Link]:
    """The links of a dump, read by pyroute2."""
    marshal = MarshalRtnl()
    links: dict[int, Link] = {}
    addresses: dict[int, list[IPInterface]] = {}
    routes: dict[int, set[Route]] = {}
    neighbours: dict[int, set[Neighbour]] = {}
    for message in (message for data in dump for message in marshal.parse(data)):
        match message.get("event"):
            case "RTM_NEWLINK":
                link = _link(message)
                links[link.index] = link
            case "RTM_NEWADDR":
                address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                addresses.setdefault(message["index"], []).append(ip_interface(f"{address}/{message['prefixlen']}"))
            case "RTM_NEWROUTE" if message["table"] == 254 and message["proto"] == 120 and message["dst_len"]:
                source = message.get_attr("RTA_PREFSRC")
                destination = ip_network(f"{message.get_attr('RTA_DST')}/{message['dst_len']}")
                route = Route(destination, message.get_attr("RTA_PRIORITY"), ip_address(source) if source else None)
                routes.setdefault(message.get_attr("RTA_OIF"), set()).add(route)
            case "RTM_NEWNEIGH" if message["state"] & 0x80 and not message["flags"] & 0x08:
                neighbour = Neighbour(ip_address(message.get_attr("NDA_DST")), message.get_attr("NDA_LLADDR"))
                neighbours.setdefault(message["ifindex"], set()).add(neighbour)
    return {
        index: replace(
            link,
            addresses=tuple(addresses.get(index, ())),
            routes=frozenset(routes.get(index, ())),
            neighbours=frozenset(neighbours.get(index, ())),
        )
        for index, link in links.items()
    }


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") or "") if info else ""
    flags_on = frozenset[str]()
    if info and info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge":
        data = info.get_attr("IFLA_INFO_SLAVE_DATA")
        flags_on = frozenset(flag for flag, name in FLAG_ATTRIBUTES.items() if data.get_attr(name))
    ipv6 = message.get_attr("IFLA_AF_SPEC").get_attr("AF_INET6")
    properties = message.get_attr("IFLA_PROP_LIST")
    parents = [
        VifId.parse("vif" + name.removeprefix("vif-").replace("-", "."))
        for name in (properties.get_attrs("IFLA_ALT_IFNAME") if properties else ())
        if name.startswith("vif-")
    ]
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=kind,
        master=message.get_attr("IFLA_MASTER") or 0,
        flags=message["flags"],
        mtu=message.get_attr("IFLA_MTU"),
        address=message.get_attr("IFLA_ADDRESS") or "",
        group=message.get_attr("IFLA_GROUP"),
        addr_gen_mode=ipv6.get_attr("IFLA_INET6_ADDR_GEN_MODE") if ipv6 else IN6_ADDR_GEN_MODE_NONE,
        parent=parents[-1] if parents else None,
        flags_on=flags_on,
    )


def flat(view: Links, indexes: Iterable[int]) -> dict[int, Link]:
    return {index: replace(link, generation=0) for index in indexes if (link := view.by_index(index))}


def check_sequence(reads: list[list[str]]) -> None:
    with namespace() as seen:
        for commands in (FIRST, THEN, OFF, THEN, *reads):
            seen.run(commands)
            deadline = time.monotonic() + 5
            while True:
                seen.follow()
                dump = seen.dump()
                fresh = Links(stand_in=True)
                fresh.load(dump)
                reference = by_pyroute2(dump)
                assert flat(fresh, reference) == reference
                followed, expected = content(seen.view, reference), content(fresh, reference)
                # The kernel tells of a carrier that is gone up to a second after (net/core/link_watch.c).
                if followed == expected or time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            assert followed == expected


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(READS)
def test_the_view_that_follows_events_is_what_a_dump_says(reads: list[list[str]]) -> None:
    check_sequence(reads)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(READS)
def test_the_view_that_follows_events_is_what_a_dump_says_at_length(reads: list[list[str]]) -> None:
    check_sequence(reads)


def test_an_index_that_is_used_again_at_once_is_another_link() -> None:
    with namespace() as seen:
        seen.run(["link add name vif7.0 index 50 type bridge", "addr add 192.0.2.1/24 dev vif7.0"])
        seen.follow()
        first = seen.view.by_index(50)
        seen.run(["link del dev vif7.0", "link add name vif7.0 index 50 type bridge"])
        seen.follow()
        second = seen.view.by_index(50)
        assert first is not None
        assert second is not None
        assert second.generation != first.generation
        assert second.addresses == ()


maybe_names = st.none() | st.sampled_from(("web0", "x", "vif32751.65535", "fifteen-letters"))
maybe_macs = st.none() | st.binary(min_size=6, max_size=6).map(lambda mac: mac.hex(":"))


@given(
    index=st.integers(1, 2**31 - 1),
    seq=st.integers(1, 2**32 - 1),
    up=st.none() | st.booleans(),
    name=maybe_names,
    address=maybe_macs,
    mtu=st.none() | st.integers(0, 2**32 - 1),
    master=st.none() | st.integers(0, 2**31 - 1),
    group=st.none() | st.integers(0, 2**32 - 1),
    addr_gen_mode=st.none() | st.integers(0, 3),
)
def test_a_request_to_change_a_link_says_what_is_meant(
    index: int,
    seq: int,
    up: bool | None,
    name: str | None,
    address: str | None,
    mtu: int | None,
    master: int | None,
    group: int | None,
    addr_gen_mode: int | None,
) -> None:
    request = rtnl.set_link(
        seq, index, up=up, name=name, address=address, mtu=mtu, master=master, group=group, addr_gen_mode=addr_gen_mode
    )
    (message,) = MarshalRtnl().parse(request)
    assert message["event"] == "RTM_SETLINK"
    assert (message["header"]["sequence_number"], message["header"]["flags"]) == (seq, NLM_F_REQUEST | NLM_F_ACK)
    assert (message["index"], message["family"], message["change"]) == (index, 0, 0 if up is None else 1)
    assert message["flags"] == (1 if up else 0)
    wanted: dict[str, str | int | None] = {"IFLA_IFNAME": name, "IFLA_ADDRESS": address}
    wanted |= {"IFLA_MTU": mtu, "IFLA_MASTER": master, "IFLA_GROUP": group}
    said = dict(message["attrs"])
    ipv6 = said.pop("IFLA_AF_SPEC", None)
    assert said == {attribute: value for attribute, value in wanted.items() if value is not None}
    if addr_gen_mode is None:
        assert ipv6 is None
    else:
        assert ipv6.get_attr("AF_INET6").get_attr("IFLA_INET6_ADDR_GEN_MODE") == addr_gen_mode


@given(st.integers(1, 2**31 - 1), st.ip_addresses(), st.integers(0, 32))
def test_a_request_to_delete_an_address_says_what_is_meant(index: int, address: Any, prefix: int) -> None:
    request = rtnl_ip.delete_address(9, index, ip_interface(f"{address}/{prefix}"))
    (message,) = MarshalRtnl().parse(request)
    assert message["event"] == "RTM_DELADDR"
    assert (message["index"], message["prefixlen"]) == (index, prefix)
    assert message["family"] == (socket.AF_INET if address.version == 4 else socket.AF_INET6)
    assert ip_interface(message.get_attr("IFA_LOCAL")).ip == address


macs = st.binary(min_size=6, max_size=6).map(lambda mac: mac.hex(":"))
indexes = st.integers(1, 2**31 - 1)


def said(request: bytes) -> tuple[str, int, Any, dict[str, Any]]:
    """What pyroute2 takes a request for: its name, flags, fixed part and attributes."""
    (message,) = MarshalRtnl().parse(request)
    flags = message["header"]["flags"]
    assert flags & (NLM_F_REQUEST | NLM_F_ACK) == NLM_F_REQUEST | NLM_F_ACK
    return message["event"], flags & ~(NLM_F_REQUEST | NLM_F_ACK), message, dict(message["attrs"])


def _text(address: Any) -> str:
    """An address as inet_ntop(3) writes it, and so pyroute2."""
    return socket.inet_ntop(family(address), address.packed)


def family(address: Any) -> int:
    return int(socket.AF_INET if address.version == 4 else socket.AF_INET6)


@given(indexes, st.ip_addresses(), st.integers(0, 32), st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_requests_about_routes_say_what_is_meant(
    index: int, address: Any, prefix: int, metric: int, replaces: bool, prefers: bool
) -> None:
    destination = ip_network(f"{address}/{prefix}", strict=False)
    route = Route(destination, metric, address if prefers else None)
    key = {"RTA_DST": _text(destination.network_address), "RTA_OIF": index, "RTA_PRIORITY": metric}
    fixed = {"family": family(address), "dst_len": prefix, "tos": 0, "table": 254, "proto": 120, "type": 1}
    event, flags, message, attributes = said(rtnl_ip.add_route(9, index, route, replace=replaces))
    assert (event, flags) == ("RTM_NEWROUTE", NLM_F_CREATE | (NLM_F_REPLACE if replaces else NLM_F_EXCL))
    assert {name: message[name] for name in fixed} == fixed
    assert message["scope"] == 253
    assert attributes == key | ({"RTA_PREFSRC": _text(address)} if prefers else {})
    event, flags, message, attributes = said(rtnl_ip.delete_route(9, index, route))
    assert (event, flags) == ("RTM_DELROUTE", 0)
    assert {name: message[name] for name in fixed} == fixed
    assert attributes == key


@given(indexes, st.ip_addresses(), st.integers(0, 32), macs)
def test_requests_about_addresses_and_neighbours_say_what_is_meant(
    index: int, address: Any, prefix: int, mac: str
) -> None:
    event, flags, message, attributes = said(rtnl_ip.add_address(9, index, ip_interface(f"{address}/{prefix}")))
    assert (event, flags) == ("RTM_NEWADDR", NLM_F_CREATE | NLM_F_EXCL)
    assert (message["family"], message["prefixlen"], message["index"]) == (family(address), prefix, index)
    assert message["flags"] == (2 if address.version == 6 else 0)  # IFA_F_NODAD
    assert attributes == {"IFA_LOCAL": _text(address), "IFA_ADDRESS": _text(address)}
    neighbour = {"NDA_DST": _text(address)}
    requests = {
        rtnl_ip.set_neighbour(9, index, Neighbour(address, mac)): (
            ("RTM_NEWNEIGH", NLM_F_CREATE | NLM_F_REPLACE, 0x80, 0),
            neighbour | {"NDA_LLADDR": mac, "NDA_PROTOCOL": 120},
        ),
        rtnl_ip.delete_neighbour(9, index, address): (("RTM_DELNEIGH", 0, 0, 0), neighbour),
        rtnl_ip.add_proxy(9, index, address): (
            ("RTM_NEWNEIGH", NLM_F_CREATE | NLM_F_REPLACE, 0x80, 8),
            neighbour | {"NDA_PROTOCOL": 120},
        ),
        rtnl_ip.delete_proxy(9, index, address): (("RTM_DELNEIGH", 0, 0, 8), neighbour),
    }
    for request, (fixed, wanted) in requests.items():
        event, flags, message, attributes = said(request)
        assert (event, flags, message["state"], message["flags"]) == fixed
        assert (message["family"], message["ifindex"]) == (family(address), index)
        assert attributes == wanted


@given(indexes, macs)
def test_requests_about_bridges_say_what_is_meant(index: int, mac: str) -> None:
    event, flags, message, attributes = said(rtnl.add_bridge(9, "xn-lab", mac, 0x786E))
    assert (event, flags, message["index"]) == ("RTM_NEWLINK", NLM_F_CREATE | NLM_F_EXCL, 0)
    assert (message["flags"], message["change"]) == (1, 1)
    assert attributes.pop("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "bridge"
    assert attributes == {"IFLA_IFNAME": "xn-lab", "IFLA_ADDRESS": mac, "IFLA_GROUP": 0x786E}
    event, flags, message, attributes = said(rtnl.delete_link(9, index))
    assert (event, flags, message["index"], attributes) == ("RTM_DELLINK", 0, index, {})


@given(indexes, st.sampled_from(sorted(PORT_FLAGS)), st.booleans())
def test_a_request_to_set_a_ports_flag_says_what_is_meant(index: int, flag: str, on: bool) -> None:
    event, flags, message, attributes = said(rtnl.set_port_flag(9, index, PORT_FLAGS[flag], on))
    assert (event, flags, message["family"], message["index"]) == ("RTM_SETLINK", 0, socket.AF_BRIDGE, index)
    assert (message["flags"], message["change"]) == (0, 0)
    assert dict(attributes.pop("IFLA_PROTINFO")["attrs"]) == {FLAG_ATTRIBUTES[flag]: on}
    assert attributes == {}


def test_requests_to_read_say_what_is_meant() -> None:
    links, addresses, one = (
        next(iter(MarshalRtnl().parse(request)))
        for request in (rtnl.dump_links(7), rtnl_ip.dump_addresses(8), rtnl.get_link(9, 5))
    )
    assert (links["event"], links["header"]["flags"]) == ("RTM_GETLINK", NLM_F_REQUEST | NLM_F_DUMP)
    assert links.get_attr("IFLA_EXT_MASK") == 8
    assert (addresses["event"], addresses["header"]["flags"]) == ("RTM_GETADDR", NLM_F_REQUEST | NLM_F_DUMP)
    assert (one["event"], one["index"]) == ("RTM_GETLINK", 5)


ANY_ADDRESS = ("192.0.2.1/24", "192.0.2.1/32", "192.0.2.1 peer 198.51.100.1/32", "2001:db8::1/64", "fe80::1/64")


@pytest.mark.parametrize("address", [*ANY_ADDRESS, "2001:db8::1 peer 2001:db8::2/128"])
def test_every_kind_of_address_can_be_taken_off_a_link(address: str) -> None:
    with namespace() as seen:
        seen.run(["link add name web0 index 50 type bridge", f"addr add {address} dev web0"])
        seen.follow()
        link = seen.view.by_index(50)
        assert link is not None
        assert len(link.addresses) == 1
        for each in link.addresses:
            seen.execute(DeleteAddress(50, "web0", each))
        seen.follow()
        assert seen.view.by_index(50) == replace(link, addresses=())
        assert flat(seen.view, [50]) == {50: by_pyroute2(seen.dump())[50]}


def test_a_guest_whose_link_has_no_ipv6_is_attached(bed: Bed, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    vif = bed.toolstack.add_vif(bed.toolstack.create_domain("web"), VifSpec(mtu=1000))
    bed.netback.create(vif, bed.host.guest("web"))
    # For an MTU below 1280 IPv6 leaves a link, and the kernel does not say so.
    bed.host.rtnl.set(vif.netdev, mtu=1000)
    bed.netback.probe(vif)
    connected(bed, vif)

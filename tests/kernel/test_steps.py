"""Steps on a guest's link, done and undone on the real kernel, and what the kernel tells of them.

What there is, `ip` and /proc tell, which know nothing of what carries the Steps out.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.bed.netns import Host
from xennetd.kernel.execute import StepRefused, execute
from xennetd.kernel.kernel import reread
from xennetd.kernel.link_names import index_of
from xennetd.kernel.links import DEFAULT_ROUTES, LinkChange, Links
from xennetd.kernel.procsys import read_sysctl
from xennetd.kernel.sockets import EventSocket, RequestSocket
from xennetd.model.link import IFF_UP, IN6_ADDR_GEN_MODE_EUI64, Link, Neighbour, Route
from xennetd.model.marks import GUEST_GROUP
from xennetd.model.objects import Sysctl
from xennetd.model.value import replace
from xennetd.plan.port import apply
from xennetd.plan.steps import (
    AddAddress,
    AddRoute,
    DeleteAddress,
    DeleteNeighbour,
    DeleteRoute,
    LinkStep,
    ResetSysctls,
    SetLink,
    SetNeighbour,
    SetSysctl,
    set_down,
    set_master,
    set_up,
    set_value,
)

ROUTE = Route(ip_network("10.9.0.5/32"), 2, ip_address("192.0.2.2"))
ROUTE6 = Route(ip_network("2001:db8:9::5/128"), 2)
MAC = "00:16:3e:00:00:01"


def ip(*words: str) -> Any:
    shown = subprocess.run(("ip", "-json", *words), check=True, capture_output=True, text=True).stdout
    return json.loads(shown or "[]")


def port(name: str) -> dict[str, Any]:
    """What `bridge` tells of a bridge's port."""
    command = ("bridge", "-json", "-details", "link", "show", "dev", name)
    (found,) = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {key: value for key, value in found.items() if key not in ("flags", "state")}


class Lane:
    """Two links such as netback's, `vif1.0` and `vif2.0`, with the view that follows them."""

    def __init__(self) -> None:
        self._events = EventSocket()
        self._requests = RequestSocket()
        self.view = Links()
        self.view.load(self._requests.dump())

    def close(self) -> None:
        self._events.close()
        self._requests.close()

    def index(self, name: str = "vif1.0") -> int:
        return self.link(name).index

    def link(self, name: str = "vif1.0") -> Link:
        link = self.view.link(name)
        assert link is not None
        return link

    def news(self) -> list[LinkChange]:
        changes = self.view.feed(self._events.drain())
        return changes + reread(self.view, self._requests)

    def do(self, *steps: LinkStep) -> list[StepRefused]:
        try:
            return execute(self._requests, steps)
        finally:
            for step in steps:
                if isinstance(step, AddAddress):
                    self.view.mark_addresses_stale(step.index)
            self.news()

    def dumped(self) -> Links:
        fresh = Links()
        fresh.load(self._requests.dump())
        return fresh

    def dumped_link(self, index: int) -> Link:
        link = self.dumped().by_index(index)
        assert link is not None
        return link


@pytest.fixture
def lane(host: Host) -> Iterator[Lane]:
    guests = host.guest("guests")
    for each in ("all", "default"):  # the end of duplicate address detection is news too, a second later
        Path(f"/proc/sys/net/ipv6/conf/{each}/accept_dad").write_text("0")
    for name in ("vif1.0", "vif2.0"):
        host.rtnl.add_veth(name, f"eth-{name}", guests.fd)
        guests.rtnl.set(f"eth-{name}", up=True)
        ip("link", "set", name, "addrgenmode", "none")
    host.uplink(_bridge(host), "eth0")
    host.rtnl.add_address("xenbr0", "192.0.2.2/24")
    lane = Lane()
    yield lane
    lane.close()


def _bridge(host: Host) -> str:
    host.bridge("xenbr0")
    return "xenbr0"


def steps_of(link: Link) -> tuple[LinkStep, ...]:
    """What makes a link a routed guest's."""
    index, name = link.index, link.name
    return (
        set_value(index, name, "group", GUEST_GROUP),
        AddAddress(index, name, ip_interface("192.0.2.2/32")),
        AddAddress(index, name, ip_interface("fe80::1/64")),
        SetSysctl(index, name, Sysctl(4, name, "forwarding", 1)),
        SetSysctl(index, name, Sysctl(4, name, "rp_filter", 1)),
        SetSysctl(index, name, Sysctl(6, name, "accept_ra", 0)),
        set_up(link, name),
        AddRoute(index, name, ROUTE),
        AddRoute(index, name, ROUTE6),
        SetNeighbour(index, name, Neighbour(ip_address("10.9.0.5"), MAC)),
        SetNeighbour(index, name, Neighbour(ip_address("2001:db8:9::5"), MAC)),
    )


def test_a_routed_link_is_made_in_one_go_and_again_without_harm(lane: Lane) -> None:
    steps = steps_of(lane.link())
    for _ in range(2):
        assert lane.do(*steps) == []
        link = lane.link()
        assert (link.group, link.up) == (GUEST_GROUP, True)
        assert set(link.addresses) >= {ip_interface("192.0.2.2/32"), ip_interface("fe80::1/64")}
        assert link.routes == {ROUTE, ROUTE6}
        assert {(each.address, each.mac) for each in link.neighbours} == {
            (ip_address("10.9.0.5"), MAC),
            (ip_address("2001:db8:9::5"), MAC),
        }
        assert read_sysctl(4, "vif1.0", "forwarding") == 1
    (route,) = ip("route", "show", "10.9.0.5")
    assert {key: route[key] for key in ("dev", "protocol", "scope", "prefsrc", "metric")} == {
        "dev": "vif1.0",
        "protocol": "120",
        "scope": "link",
        "prefsrc": "192.0.2.2",
        "metric": 2,
    }
    (route6,) = ip("-6", "route", "show", "2001:db8:9::5")
    assert (route6["dev"], route6["protocol"], route6["metric"]) == ("vif1.0", "120", 2)
    (neighbour,) = ip("neigh", "show", "10.9.0.5")
    assert (neighbour["dev"], neighbour["lladdr"], neighbour["state"]) == ("vif1.0", MAC, ["PERMANENT"])
    assert not any(address.get("tentative") for link in ip("addr", "show", "vif1.0") for address in link["addr_info"])


def test_what_was_done_is_undone_and_again_without_harm(lane: Lane) -> None:
    index = lane.index()
    lane.do(*steps_of(lane.link()))
    undo: tuple[LinkStep, ...] = (
        DeleteRoute(index, "vif1.0", ROUTE),
        DeleteRoute(index, "vif1.0", ROUTE6),
        DeleteNeighbour(index, "vif1.0", Neighbour(ip_address("10.9.0.5"), MAC)),
        DeleteNeighbour(index, "vif1.0", Neighbour(ip_address("2001:db8:9::5"), MAC)),
        DeleteAddress(index, "vif1.0", ip_interface("192.0.2.2/32")),
        DeleteAddress(index, "vif1.0", ip_interface("fe80::1/64")),
        set_value(index, "vif1.0", "group", 0),
    )
    for _ in range(2):
        assert lane.do(*undo) == []
        link = lane.link()
        assert (link.group, link.routes, link.neighbours) == (0, frozenset(), frozenset())
        assert not {ip_interface("192.0.2.2/32"), ip_interface("fe80::1/64")} & set(link.addresses)
    assert ip("route", "show", "proto", "120") == ip("-6", "route", "show", "proto", "120") == []
    assert ip("neigh", "show", "nud", "permanent") == []


@pytest.mark.parametrize("route", [Route(ROUTE.destination, 2), ROUTE6], ids=["ipv4", "ipv6"])
def test_a_route_moves_to_another_link_at_once_and_only_when_asked(lane: Lane, route: Route) -> None:
    one, two = lane.index("vif1.0"), lane.index("vif2.0")
    lane.do(*(set_up(lane.link(name), name) for name in ("vif1.0", "vif2.0")), AddRoute(one, "vif1.0", route))
    with pytest.raises(StepRefused) as refused:
        lane.do(AddRoute(two, "vif2.0", route))
    assert refused.value.errno == errno.EEXIST
    assert lane.link("vif1.0").routes == {route}
    lane.do(AddRoute(two, "vif2.0", route, replace=True))
    assert [lane.link(name).routes for name in ("vif1.0", "vif2.0")] == [set(), {route}]
    assert lane.view.routed(route.destination, 2) == lane.link("vif2.0")
    lane.do(DeleteRoute(one, "vif1.0", route))  # the older generation's late removal
    assert lane.link("vif2.0").routes == {route}
    assert flat(lane.view) == flat(lane.dumped())


def flat(view: Links) -> dict[str, tuple[Any, ...]]:
    links = [link for name in ("vif1.0", "vif2.0") if (link := view.link(name))]
    return {link.name: (link.addresses, link.routes, link.neighbours) for link in links}


def test_a_route_of_somebody_else_is_in_the_way_and_stays(lane: Lane) -> None:
    index = lane.index()
    lane.do(set_up(lane.link(), "vif1.0"))
    ip("route", "add", "10.9.0.5/32", "dev", "xenbr0", "metric", "2")
    with pytest.raises(StepRefused) as refused:
        lane.do(AddRoute(index, "vif1.0", Route(ROUTE.destination, 2)))
    assert refused.value.errno == errno.EEXIST
    lane.do(DeleteRoute(index, "vif1.0", Route(ROUTE.destination, 2)))
    (route,) = ip("route", "show", "10.9.0.5")
    assert route["dev"] == "xenbr0"


def test_a_route_with_another_source_address_is_not_the_same(lane: Lane) -> None:
    index = lane.index()
    lane.do(*steps_of(lane.link()))
    with pytest.raises(StepRefused):
        lane.do(AddRoute(index, "vif1.0", Route(ROUTE.destination, 2)))
    lane.do(AddRoute(index, "vif1.0", Route(ROUTE.destination, 2), replace=True))
    assert Route(ROUTE.destination, 2) in lane.link().routes
    assert ROUTE not in lane.link().routes


@pytest.mark.parametrize(
    ("destination", "old", "new"),
    [
        ("10.9.0.5/32", "198.51.100.1/32", "203.0.113.9/32"),
        ("2001:db8:9::5/128", "2001:db8:1::1/128", "2001:db8:2::2/128"),
    ],
    ids=["ipv4", "ipv6"],
)
def test_a_route_gets_another_source_and_outlives_its_former_one(
    lane: Lane, destination: str, old: str, new: str
) -> None:
    index, name = lane.index(), "vif1.0"
    one, two = ip_interface(old), ip_interface(new)
    route = Route(ip_network(destination), 2, one.ip)
    moved = replace(route, source=two.ip)
    lane.do(set_up(lane.link(), name), AddAddress(index, name, one), AddRoute(index, name, route))
    assert lane.link().routes == {route}
    lane.do(AddAddress(index, name, two), AddRoute(index, name, moved, replace=True), DeleteAddress(index, name, one))
    assert lane.link().routes == {moved}
    assert flat(lane.view) == flat(lane.dumped())


def test_a_link_stays_down_when_a_step_before_is_refused(lane: Lane) -> None:
    index = lane.index()
    for wrong in (
        AddAddress(index, "vif1.0", ip_interface("ff02::1/64")),
        SetSysctl(index, "vif1.0", Sysctl(4, "vif1.0", "no_such_setting", 1)),
        SetSysctl(index, "vif1.0", Sysctl(4, "vif1.0", "forwarding", 1 << 40)),
    ):
        with pytest.raises(StepRefused) as refused:
            lane.do(wrong, set_up(lane.link(), "vif1.0"), AddRoute(index, "vif1.0", ROUTE6))
        assert refused.value.step == wrong
        assert not lane.link().up
        assert lane.link().routes == frozenset()


def test_a_setting_of_a_link_without_ipv6_is_not_missed(lane: Lane) -> None:
    index = lane.index()
    ip("link", "set", "vif1.0", "mtu", "1279")  # IPv6 leaves the link
    assert read_sysctl(6, "vif1.0", "forwarding") is None
    missing = SetSysctl(index, "vif1.0", Sysctl(6, "vif1.0", "forwarding", 1))
    assert lane.do(missing, set_up(lane.link(), "vif1.0")) == []
    assert lane.link().up


def test_a_setting_of_a_link_that_goes_while_it_is_read_is_none(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    lane.index()

    def open_and_lose(path: str, flags: int) -> int:
        monkeypatch.undo()
        file = os.open(path, flags)
        ip("link", "del", "vif1.0")
        return file

    monkeypatch.setattr(os, "open", open_and_lose)
    assert read_sysctl(4, "vif1.0", "forwarding") is None


def test_a_setting_of_a_link_that_is_gone_says_so(lane: Lane) -> None:
    index = lane.index()
    ip("link", "del", "vif1.0")
    with pytest.raises(StepRefused) as refused:
        lane.do(SetSysctl(index, "vif1.0", Sysctl(4, "vif1.0", "forwarding", 1)))
    assert refused.value.link_gone


def test_a_link_that_has_taken_the_name_meanwhile_keeps_its_settings(lane: Lane) -> None:
    index = lane.index()
    ip("link", "set", "vif1.0", "name", "former")
    ip("link", "add", "vif1.0", "type", "bridge")
    before = [read_sysctl(4, "vif1.0", setting) for setting in ("proxy_arp", "rp_filter")]
    for step in (
        SetSysctl(index, "vif1.0", Sysctl(4, "vif1.0", "proxy_arp", 1)),
        ResetSysctls(index, "vif1.0", ((4, "rp_filter"),)),
    ):
        with pytest.raises(StepRefused) as refused:
            lane.do(step)
        assert refused.value.link_gone
    assert [read_sysctl(4, "vif1.0", setting) for setting in ("proxy_arp", "rp_filter")] == before


def test_a_name_is_nobodys_only_if_the_kernel_says_so(lane: Lane) -> None:
    step = SetSysctl(lane.index(), "vif1.0", Sysctl(4, "vif1.0", "proxy_arp", 1))
    assert index_of("vif1.0") == lane.index()
    for nobodys in ("vif9.9", "vif1.0\0of-text", ""):
        assert index_of(nobodys) is None
    ip("link", "set", "vif2.0", "name", "a" * 15)
    assert index_of("a" * 15) is not None
    assert index_of("a" * 16) is None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(StepRefused) as refused:
            lane.do(step)
        with pytest.raises(OSError, match="Too many open files"):
            index_of("vif1.0")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert refused.value.errno == errno.EMFILE


@pytest.mark.parametrize("route", [Route(ROUTE.destination, 2), ROUTE6], ids=["ipv4", "ipv6"])
def test_a_route_through_a_link_that_was_taken_down_meanwhile_says_so(lane: Lane, route: Route) -> None:
    index = lane.index()
    lane.do(set_up(lane.link(), "vif1.0"))
    ip("link", "set", "vif1.0", "down")
    assert lane.link().up
    with pytest.raises(StepRefused) as refused:
        lane.do(AddRoute(index, "vif1.0", route))
    assert refused.value.overtaken
    assert not lane.link().up


def test_routes_that_go_without_an_event_are_missed(lane: Lane) -> None:
    lane.do(*steps_of(lane.link()))
    ip("link", "set", "vif1.0", "down")
    ip("link", "set", "vif1.0", "up")
    changes = lane.news()
    assert any(change.old and change.old.routes and change.new and not change.new.routes for change in changes)
    assert flat(lane.view) == flat(lane.dumped())
    assert lane.view.routed(ROUTE.destination, 2) is None


def test_a_route_goes_with_the_last_link_that_has_its_source_address(lane: Lane) -> None:
    lane.do(*steps_of(lane.link()))
    ip("addr", "del", "192.0.2.2/24", "dev", "xenbr0")
    lane.news()
    assert ROUTE in lane.link().routes
    ip("addr", "del", "192.0.2.2/32", "dev", "vif1.0")
    lane.news()
    assert ROUTE not in lane.link().routes
    assert flat(lane.view) == flat(lane.dumped())


@pytest.mark.parametrize("promote", ["0", "1"])
def test_the_main_address_is_the_kernels(lane: Lane, promote: str) -> None:
    Path("/proc/sys/net/ipv4/conf/xenbr0/promote_secondaries").write_text(promote)
    for words in (
        ("add", "192.0.2.3/24"),
        ("add", "192.0.2.4/32"),
        ("add", "10.1.0.1/16", "scope", "link"),
        ("add", "192.0.2.5/24"),
        ("del", "192.0.2.2/24"),
        ("add", "192.0.2.2/24"),
        ("del", "192.0.2.4/32"),
        ("add", "10.2.0.1/16"),
        ("add", "192.0.2.6/24"),
        ("add", "10.2.0.2/16"),
        ("del", "10.2.0.1/16"),  # the second one may take its place
    ):
        ip("addr", *words, "dev", "xenbr0")
        lane.news()
        shown = [f"{each['local']}/{each['prefixlen']}" for each in ip("-4", "addr", "show", "xenbr0")[0]["addr_info"]]
        assert [str(address) for address in lane.link("xenbr0").addresses if address.version == 4] == shown


@pytest.mark.parametrize("version", [4, 6])
def test_the_default_uplink_is_the_one_with_the_least_metric(lane: Lane, version: int) -> None:
    option = f"-{version}"

    def uplink() -> str | None:
        link = lane.view.default_uplink(version)
        return link.name if link is not None else None

    def is_told(*command: str) -> bool:
        ip(*command)
        return DEFAULT_ROUTES in lane.news()

    route = (option, "route", "add", "default")
    lane.do(set_up(lane.link(), "vif1.0"))
    assert uplink() is None
    assert is_told(*route, "dev", "xenbr0", "metric", "20")
    assert uplink() == "xenbr0"
    assert is_told(*route, "dev", "vif1.0", "metric", "10")
    assert uplink() == "vif1.0"
    assert is_told("link", "set", "vif1.0", "down")  # of which the kernel says nothing for IPv4
    assert uplink() == "xenbr0"
    assert is_told(option, "route", "del", "default", "dev", "xenbr0")
    assert uplink() is None
    router = "192.0.2.7" if version == 4 else "fe80::7"
    hops = [word for via in (router, router[:-1] + "8") for word in ("nexthop", "via", via, "dev", "xenbr0")]
    assert is_told(*route, *hops)
    assert uplink() == "xenbr0"


def test_whose_an_address_is(lane: Lane) -> None:
    view = lane.view
    owner = view.owner(ip_network("192.0.2.2/32"))
    assert owner == view.owner(ip_network("192.0.2.0/24")) == lane.link("xenbr0")
    assert view.neighbouring(ip_network("192.0.0.0/16")) == view.neighbouring(ip_network("192.0.2.9/32")) == owner
    assert view.neighbouring(ip_network("192.0.3.0/24")) is None
    assert view.owner(ip_network("192.0.2.3/32")) is None
    ip("addr", "del", "192.0.2.2/24", "dev", "xenbr0")
    lane.news()
    assert view.owner(ip_network("192.0.2.2/32")) is None


def test_what_nobody_wants_to_know_does_not_wake_us(lane: Lane, host: Host) -> None:
    ip("route", "add", "default", "dev", "xenbr0")
    ip("neigh", "replace", "192.0.2.9", "lladdr", MAC, "dev", "xenbr0", "nud", "permanent")
    lane.news()
    for address in range(20):
        ip("route", "add", f"198.51.100.{address}/32", "dev", "xenbr0", "proto", "bird")
        ip("route", "add", f"198.51.100.{address}/32", "dev", "xenbr0", "proto", "120", "table", "77")
        ip("-6", "route", "add", f"2001:db8:77::{address}/128", "dev", "xenbr0")
        subprocess.run(("bridge", "fdb", "add", f"02:00:00:00:01:{address:02}", "dev", "eth0", "master"), check=True)
    assert lane._events.drain() == []
    ip("neigh", "replace", "192.0.2.9", "lladdr", MAC, "dev", "xenbr0", "nud", "stale")
    lane.news()
    assert lane.link("xenbr0").neighbours == frozenset()


def test_a_neighbour_entry_that_another_takes_the_place_of_is_seen(lane: Lane) -> None:
    index = lane.index()
    lane.do(*steps_of(lane.link()))
    ip("neigh", "replace", "10.9.0.5", "lladdr", "02:00:00:00:00:66", "dev", "vif1.0", "nud", "permanent")
    lane.news()
    assert Neighbour(ip_address("10.9.0.5"), "02:00:00:00:00:66") in lane.link().neighbours
    lane.do(SetNeighbour(index, "vif1.0", Neighbour(ip_address("10.9.0.5"), MAC)), set_down(lane.link()))
    assert lane.link().neighbours == frozenset()  # as it is down
    assert flat(lane.view) == flat(lane.dumped())


# Properties of a link, and flags of a bridge's port


def isolated(link: Link, *, on: bool) -> SetLink:
    return SetLink(link.index, link.name, "isolated", on, f"isolated {'on' if on else 'off'}", bridge_flag=33)


def as_decided_on(link: Link) -> Link:
    """A link without what no Step is about, and without its sysctls, which no dump has."""
    addresses = tuple(sorted(link.addresses, key=str))
    return replace(link, flags=link.flags & IFF_UP, addresses=addresses, sysctls=frozenset(), generation=0)


@pytest.mark.parametrize(
    "made",
    [
        lambda link, bridge: set_value(link.index, link.name, "name", "web0"),
        lambda link, bridge: set_value(link.index, link.name, "address", "fe:ff:ff:ff:ff:ff"),
        lambda link, bridge: set_value(link.index, link.name, "mtu", 1400),
        lambda link, bridge: set_value(link.index, link.name, "group", GUEST_GROUP),
        lambda link, bridge: SetLink(link.index, link.name, "addr_gen_mode", IN6_ADDR_GEN_MODE_EUI64, "addrgenmode"),
        lambda link, bridge: set_master(link.index, link.name, bridge),
        lambda link, bridge: set_up(link, link.name),
    ],
    ids=["name", "address", "mtu", "group", "addr_gen_mode", "master", "up"],
)
def test_a_property_is_set_and_nothing_else(lane: Lane, made: Callable[[Link, int], SetLink]) -> None:
    before = lane.link()
    step = made(before, lane.index("xenbr0"))
    for _ in range(2):
        assert lane.do(step) == []
        after = as_decided_on(lane.dumped_link(before.index))
        assert after == as_decided_on(apply((step,), before)) != as_decided_on(before)


def test_a_link_that_goes_down_or_into_a_bridge_is_what_the_steps_say(lane: Lane, host: Host) -> None:
    host.bridge("xenbr1")
    lane.news()
    link = lane.link()
    one, two = lane.index("xenbr0"), lane.index("xenbr1")
    for step in (
        *steps_of(link),
        set_down(link),
        set_master(link.index, link.name, one, "xenbr0"),
        isolated(link, on=True),
        set_up(link, link.name),
        set_master(link.index, link.name, two, "xenbr1"),  # a port that moves has no flags there
        isolated(link, on=True),
        isolated(link, on=False),
        isolated(link, on=True),
        set_master(link.index, link.name, 0),
    ):
        before = lane.dumped_link(link.index)
        lane.do(step)
        assert as_decided_on(lane.dumped_link(link.index)) == as_decided_on(apply((step,), before))


def test_a_port_is_isolated_and_no_longer_and_again_without_harm(lane: Lane) -> None:
    lane.do(set_master(lane.index(), "vif1.0", lane.index("xenbr0"), "xenbr0"))
    before, there = lane.link(), port("vif1.0")
    assert there["isolated"] is False
    for on in (True, True, False, False, True):
        assert lane.do(isolated(before, on=on)) == []
        assert port("vif1.0") == {**there, "isolated": on}
        assert lane.link() == replace(before, flags_on=frozenset({"isolated"} if on else ()))
        assert lane.dumped_link(before.index).flags_on == lane.link().flags_on
    assert port("eth0")["isolated"] is False


def test_a_flag_that_somebody_else_sets_is_news(lane: Lane) -> None:
    lane.do(set_master(lane.index(), "vif1.0", lane.index("xenbr0"), "xenbr0"), isolated(lane.link(), on=True))
    for words, flags_on in (("off", frozenset[str]()), ("on", frozenset({"isolated"}))):
        before = lane.link()
        subprocess.run(("bridge", "link", "set", "dev", "vif1.0", "isolated", words), check=True)
        assert LinkChange(before, replace(before, flags_on=flags_on)) in lane.news()
        assert lane.link().flags_on == flags_on


def test_a_link_that_is_no_port_has_no_flags_and_stays_down(lane: Lane) -> None:
    link = lane.link()
    with pytest.raises(StepRefused) as refused:
        lane.do(isolated(link, on=True), set_up(link, link.name))
    assert (refused.value.errno, refused.value.link_gone) == (errno.EOPNOTSUPP, False)
    assert refused.value.step == isolated(link, on=True)
    assert not lane.link().up

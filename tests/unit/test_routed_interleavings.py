"""Routed guests in the simulated world: whatever comes in which order, each address is one live guest's, or nobody's.

Several vifs want the same few addresses: those of one domain, which follow each other, and those of others.
"""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.schedules import Life, Moment, Op, schedules
from tests.unit.test_host_state import KINDS, Heap
from tests.unit.test_interleavings import NO_POLICY, SimulatedDirectory, SimulatedKernel, World, check_replays, run
from tests.unit.test_rtnl import address_message, attribute, route_message
from xennetd.daemon.reconcile import observe
from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.reconciler import Reconciler
from xennetd.kernel import rtnl_ip
from xennetd.kernel.execute import StepRefused
from xennetd.kernel.links import Links
from xennetd.model.configuration import Forward, Match, Network, Policy, Rule
from xennetd.model.link import IFF_UP, Link, Neighbour, Route
from xennetd.model.objects import ProxyNeighbour, SetElement
from xennetd.model.status import VifState
from xennetd.model.value import replace
from xennetd.model.vif import VifId
from xennetd.plan import port
from xennetd.plan.steps import AddRoute, LinkStep, SetSysctl
from xennetd.policy.modes import ROUTE
from xennetd.render.nft_ruleset import forward_element
from xennetd.xenstore.parse import NODES, parse_vif

UPLINK = 1
HOST = IPv4Interface("192.0.2.2/24")
ADDRESSES = ("192.0.2.17", "192.0.2.18")
GUEST_SETTINGS = ("forwarding", "rp_filter", "proxy_arp")


@dataclass
class RoutedWorld(World):
    """Guests by vif-xennetd-route. `wanted` and `domains` say for each life which address it wants and whose it is."""

    wanted: Sequence[str] = ()
    domains: Sequence[int] = ()
    settings: dict[tuple[str, str], int] = field(default_factory=dict)
    domain_of: dict[VifId, int] = field(default_factory=dict)
    robbed: list[tuple[VifId, VifId]] = field(default_factory=list)
    """Guests that lost a route while they were connected, and the guests of other domains that got it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.put(Link(UPLINK, "eth0", flags=IFF_UP, addresses=(HOST,)))
        self.unheard_links.append(route_message(UPLINK, b"\0\0\0\0", length=0, protocol=16))

    def put(self, link: Link) -> None:
        """As the kernel does: of routes that go with a link that goes down, or give way to others, nothing is told."""
        before = self.links.get(link.index, Link(link.index, ""))
        if link.up and before.up:
            for gone in before.routes - link.routes:
                self.unheard_links.append(route_bytes(link.index, gone, gone=True))
        super().put(link)
        for address in set(before.addresses) - set(link.addresses):
            self.unheard_links.append(address_message(link.index, address.ip.packed, 32, gone=True))
        for each in before.neighbours - link.neighbours:
            self.unheard_links.append(_neighbour(link.index, each, gone=True))
        for address in link.addresses:
            if address not in before.addresses:
                self.unheard_links.append(address_message(link.index, address.ip.packed, address.network.prefixlen))
        for each in link.neighbours - before.neighbours:
            self.unheard_links.append(_neighbour(link.index, each))
        for new in link.routes - before.routes:
            for other in tuple(self.links.values()):
                if other.index != link.index and new in other.routes:
                    self._route_moves(other.parent, link.parent)
                    self.links[other.index] = replace(other, routes=other.routes - {new})
            self.unheard_links.append(route_bytes(link.index, new))

    def _route_moves(self, before: VifId | None, after: VifId | None) -> None:
        assert before is not None
        assert after is not None
        nodes = self.nodes.get(before, {})
        connected = nodes.get("online") == "1" and nodes.get("hotplug-status") == "connected"
        if connected and self.domain_of[before] != self.domain_of[after]:
            self.robbed.append((before, after))

    def happen(self, life: Life, op: Op) -> None:
        super().happen(life, op)
        if op is Op.DIRECTORY:
            self.domain_of[life.vif] = self.domains[life.order]
            mac = f"00:16:3e:00:00:{self.domains[life.order]:02x}"
            script = "/etc/xen/scripts/vif-xennetd-route"
            self.write(life.vif, script=script, ip=self.wanted[life.order], mac=mac, vifname=None)
        if op is Op.MEDDLE:
            link = self.link_of(life.vif)
            assert link is not None
            self.put(replace(link, routes=frozenset(), neighbours=frozenset()))


def route_bytes(index: int, route: Route, *, gone: bool = False) -> bytes:
    source = attribute(7, route.source.packed) if route.source is not None else b""
    return route_message(index, route.destination.network_address.packed, source, gone=gone)


def _neighbour(index: int, neighbour: Neighbour, *, gone: bool = False) -> bytes:
    body = struct.pack("=BxxxiHBB", 2, index, 0x80, 0, 1) + attribute(1, neighbour.address.packed)
    body += attribute(2, bytes.fromhex(neighbour.mac.replace(":", "")))
    kind = rtnl_ip.RTM_DELNEIGH if gone else rtnl_ip.RTM_NEWNEIGH
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


class RoutedKernel(SimulatedKernel):
    def __init__(self, world: RoutedWorld) -> None:
        super().__init__(world)
        self.links = Links()
        self.links.has_ipv6 = False
        self._routed_world = world

    def poll(self) -> None:
        super().poll()
        if self.links.stale.routes:
            links = self._routed_world.links.values()
            dump = [route_bytes(link.index, route) for link in links for route in link.routes]
            self.changed(self.links.reload_routes([route_message(UPLINK, b"\0\0\0\0", length=0, protocol=16), *dump]))
        for index in tuple(self.links.stale.addresses):
            link = self._routed_world.links.get(index, Link(index, ""))
            dump = [address_message(index, each.ip.packed, each.network.prefixlen) for each in link.addresses]
            self.changed(self.links.reload_addresses(index, dump))

    def _execute(self, step: LinkStep) -> None:
        world = self._routed_world
        link = world.links.get(step.index)
        if link is None:
            raise StepRefused(step, errno.ENODEV, "")
        if isinstance(step, SetSysctl):
            world.settings[(step.name, step.sysctl.setting)] = step.sysctl.value
            return
        if isinstance(step, AddRoute):
            if not link.up:
                raise StepRefused(step, errno.ENETDOWN, "")
            others = (other for other in world.links.values() if other.index != link.index)
            if not step.replace and any(step.route in other.routes for other in others):
                raise StepRefused(step, errno.EEXIST, "")
        after = port.apply((step,), link)
        if after != link:
            world.put(after)


class RoutedDirectory(SimulatedDirectory):
    def _look(self, vifs: set[VifId]) -> None:
        world = self._world
        assert isinstance(world, RoutedWorld)
        for vif in vifs:
            nodes, found = world.nodes.get(vif), None
            if nodes is not None:
                untrusted = {node: nodes[node].encode() if node in nodes else None for node in NODES}
                uuid = f"/vm/00000000-0000-0000-0000-{world.domain_of[vif]:012d}"
                found = parse_vif(vif, untrusted, b"guest", uuid.encode())
            if found != self._vifs.get(vif):
                self._vifs.pop(vif, None)
                if found is not None:
                    self._vifs[vif] = found
                self.hint(vif)


async def play(
    lives: tuple[Life, ...],
    moments: tuple[Moment, ...],
    wanted: Sequence[str],
    domains: Sequence[int],
    policy: Policy = NO_POLICY,
) -> tuple[RoutedWorld, Reconciler, Heap]:
    """Let everything happen to a world of routes."""
    world = RoutedWorld(wanted=wanted, domains=domains)
    kernel, directory, heap = RoutedKernel(world), RoutedDirectory(world), Heap()
    adapters: Any = dict.fromkeys(KINDS, heap)

    def read_sysctl(version: int, link: str, setting: str) -> int | None:
        return world.settings.get((link, setting), 0) if version == 4 else None

    settings_of_the_world = mock.patch.object(observe, "read_sysctl", read_sysctl)
    with settings_of_the_world:
        reconciler, _ = await run(world, kernel, directory, HostState(adapters), lives, moments, policy)
    return world, reconciler, heap


def check(world: RoutedWorld, reconciler: Reconciler, heap: Heap) -> None:
    """Each address leads to one guest that is there and wants it, and the host has what that needs and nothing else."""
    assert set(reconciler.records) == set(world.nodes)
    check_replays(reconciler)
    assert world.robbed == []
    proxies = {str(each.address) for each in heap.there if isinstance(each, ProxyNeighbour)}
    for address in ADDRESSES:
        destination = IPv4Network(address)
        holders = [
            link for link in world.links.values() if any(route.destination == destination for route in link.routes)
        ]
        online = {vif for vif, nodes in world.nodes.items() if nodes["online"] == "1" and nodes["ip"] == address}
        assert len(holders) <= 1
        for link in holders:
            vif = link.parent
            assert vif in online, "a route leads to a guest that is going, or that is not there"
            assert link.routes == {Route(destination, 2, HOST.ip)}
            mac = world.nodes[vif]["mac"]
            assert link.neighbours == {Neighbour(IPv4Address(address), mac)}
            assert [world.settings[link.name, key] for key in GUEST_SETTINGS] == [1, 1, 1]
            assert address in proxies
        if online and all(_is_ready(world, vif) for vif in online):
            assert holders, f"nobody has {address}, which {online} want"
        assert (address in proxies) <= bool(online)
    if not world.nodes:
        assert heap.there == []
    for vif, record in reconciler.records.items():
        if record.state is VifState.ERROR:
            left = world.link_of(vif)
            assert left is None or not left.routes
            assert record.error is not None
            assert "in use by another guest" in record.error.sentence


def _is_ready(world: World, vif: VifId) -> bool:
    return world.link_of(vif) is not None and world.nodes[vif]["state"] in ("2", "4")


BIRTH = (Op.DIRECTORY, Op.INIT_WAIT, Op.LINK)


def schedule(*moments: tuple[int, Op, int]) -> tuple[Moment, ...]:
    """Return moments from the number of a life, its step, and how much the daemon gets done before the next one."""
    return tuple(Moment(*moment) for moment in moments)


def test_a_guest_gets_its_address_back_although_its_link_was_taken_down_unheard() -> None:
    # A later vif of the domain takes the address over and goes. The earlier vif's link is down by then: the daemon
    # first hears of that when the kernel refuses the route, and must not take the refusal for a failure of the vif.
    end = (Op.OFFLINE, Op.CLOSED, Op.LINK_GONE, Op.DIRECTORY_GONE)
    lives = (Life(VifId(1, 0), None, (*BIRTH, Op.MEDDLE)), Life(VifId(2, 0), None, (*BIRTH, *end), 1))
    moments = schedule(
        (0, Op.DIRECTORY, 0), (0, Op.INIT_WAIT, 0), (0, Op.LINK, 20),
        (1, Op.DIRECTORY, 20),
        (0, Op.MEDDLE, 0),
        (1, Op.INIT_WAIT, 0), (1, Op.LINK, 0), (1, Op.OFFLINE, 0), (1, Op.CLOSED, 0),
        (1, Op.LINK_GONE, 1), (1, Op.DIRECTORY_GONE, 1),
    )  # fmt: skip
    world, reconciler, heap = asyncio.run(play(lives, moments, [ADDRESSES[0]] * 2, [1, 1]))
    check(world, reconciler, heap)
    assert reconciler.records[VifId(1, 0)].state is VifState.CONNECTED


def test_no_other_domain_takes_the_address_of_a_guest_that_is_still_booting() -> None:
    # The daemon hears nothing of a vif from its verdict until the guest's driver is up. The other domain came earlier,
    # and is given a second vif in that time.
    lives = tuple(Life(vif, None, BIRTH, order) for order, vif in enumerate((VifId(1, 0), VifId(2, 0), VifId(1, 1))))
    moments = schedule(*((life.order, op, 20 if op is Op.LINK else 0) for life in lives for op in life.ops))
    wanted = [ADDRESSES[1], ADDRESSES[0], ADDRESSES[0]]
    world, reconciler, heap = asyncio.run(play(lives, moments, wanted, [1, 2, 1]))
    check(world, reconciler, heap)
    states = [reconciler.records[life.vif].state for life in lives]
    assert states == [VifState.CONNECTED, VifState.CONNECTED, VifState.ERROR]


def test_no_other_domain_takes_the_forwarded_port_of_a_guest_that_is_still_booting() -> None:
    # As above, but the guests share their name, and a port of the host is forwarded to the guest of that name. The
    # first vif asks for the host's own address: it gets nothing, and all it does is to say that its domain came first.
    forward = Forward("tcp", 8080, "guest", 80)
    edge = Network("edge", ROUTE, forwards=(forward,))
    policy = Policy(networks={"edge": edge}, rules=(Rule("all", Match(), network=edge),))
    lives = tuple(Life(vif, None, BIRTH, order) for order, vif in enumerate((VifId(1, 0), VifId(2, 0), VifId(1, 1))))
    moments = schedule(*((life.order, op, 20 if op is Op.LINK else 0) for life in lives for op in life.ops))
    wanted = [str(HOST.ip), *ADDRESSES]
    _, reconciler, heap = asyncio.run(play(lives, moments, wanted, [1, 2, 1], policy))
    states = [reconciler.records[life.vif].state for life in lives]
    assert states == [VifState.ERROR, VifState.CONNECTED, VifState.CONNECTED]
    forwarded = [each for each in heap.there if isinstance(each, SetElement)]
    assert forwarded == [forward_element(forward, IPv4Address(ADDRESSES[0]))]


_plots = st.tuples(
    schedules(),
    st.lists(st.sampled_from(ADDRESSES), min_size=4, max_size=4),
    st.lists(st.sampled_from([1, 1, 2]), min_size=4, max_size=4),
)
_Plot = tuple[tuple[tuple[Life, ...], tuple[Moment, ...]], list[str], list[int]]


@given(_plots)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_order_of_things_leaves_each_address_with_one_guest(plot: _Plot) -> None:
    (lives, moments), wanted, domains = plot
    check(*asyncio.run(play(lives, moments, wanted, domains)))


@pytest.mark.long
@given(_plots)
@settings(max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_order_of_things_leaves_each_address_with_one_guest_five_thousand_times(plot: _Plot) -> None:
    (lives, moments), wanted, domains = plot
    check(*asyncio.run(play(lives, moments, wanted, domains)))

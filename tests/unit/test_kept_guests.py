"""A guest that was connected rightly keeps its host objects when the host gets worse, even through a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from tests.schedules import Life, Op
from tests.unit.hosts import nobody
from tests.unit.test_host_state import KINDS, Heap
from tests.unit.test_interleavings import NO_POLICY, SimulatedBackend
from tests.unit.test_routed_interleavings import (
    ADDRESSES,
    BIRTH,
    UPLINK,
    RoutedDirectory,
    RoutedKernel,
    RoutedWorld,
    route_bytes,
)
from tests.unit.test_rtnl import route_message
from xennetd.daemon.reconcile import observe
from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.reconciler import Reconciler
from xennetd.daemon.toolstack import reporter
from xennetd.daemon.toolstack.hotplug_files import HotplugFiles
from xennetd.model.configuration import DaemonConfig, Match, Network, Policy, Rule
from xennetd.model.objects import RULESET, HostObject, ProxyNeighbour, Sysctl
from xennetd.model.status import VifState
from xennetd.model.value import replace
from xennetd.model.vif import VifId
from xennetd.policy.modes import ROUTE

GUEST, OTHER = VifId(1, 0), VifId(2, 0)
EDGE = Network("edge", ROUTE, proxy=True)
ELSEWHERE = Network("elsewhere", ROUTE, subnet4=IPv4Network("198.51.100.0/24"))
BOOTPROTO = 16
DEFAULT_ROUTE = route_message(UPLINK, b"\0\0\0\0", length=0, protocol=BOOTPROTO)


def rules(name: str) -> Policy:
    """Return a policy whose one rule, of this name, leads every guest to EDGE."""
    return Policy(networks={"edge": EDGE}, rules=(Rule(name, Match(), network=EDGE),))


class Host:
    """A routed guest on a simulated host, and the daemon that serves it."""

    def __init__(self, policy: Policy) -> None:
        self.world = RoutedWorld(wanted=ADDRESSES, domains=[1, 2])
        self.kernel, self.directory, self.heap = RoutedKernel(self.world), RoutedDirectory(self.world), Heap()
        self.policy = policy
        self._start()

    def _start(self) -> None:
        adapters: Any = dict.fromkeys(KINDS, self.heap)
        self.state, self.in_force = HostState(adapters), InForce(self.policy)
        nothing: Any = SimpleNamespace(
            record=lambda event: None, repaired=lambda event, what: None, flush=lambda vif: None
        )
        parts: Any = (self.kernel, self.directory, None, nothing, mock.Mock(), HotplugFiles(), self.state, nobody())
        self.reconciler = Reconciler(*(self.in_force, *parts, _nothing_first))
        triggers = self.reconciler.triggers
        self.kernel.changed, self.directory.hint = triggers.links_changed, triggers.vif_changed
        self._running = asyncio.ensure_future(self.reconciler.run())

    async def stop(self) -> None:
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running

    async def restart(self) -> None:
        await self.stop()
        self._start()
        await self.rest()
        if self.state.knows_all:
            await self.state.prune()

    async def rest(self) -> None:
        for _ in range(4):
            self.kernel.poll()
            self.directory.poll()
            await self.reconciler.look_at_all()

    async def reload(self, policy: Policy) -> None:
        self.in_force.put(policy)
        self.state.supersede()
        await self.reconciler.follow_policy()
        await self.rest()

    def born(self, vif: VifId, number: int = 0) -> None:
        for op in BIRTH:
            self.world.happen(Life(vif, None, BIRTH, number), op)

    async def attach(self, vif: VifId, number: int = 0) -> None:
        self.born(vif, number)
        await self.rest()
        assert self.reconciler.records[vif].state is VifState.CONNECTED

    async def detach(self, vif: VifId, number: int = 0) -> None:
        for op in (Op.OFFLINE, Op.CLOSED, Op.LINK_GONE, Op.DIRECTORY_GONE):
            self.world.happen(Life(vif, None, BIRTH, number), op)
        await self.rest()
        assert vif not in self.reconciler.records

    @property
    def up(self) -> bool:
        link = self.world.link_of(GUEST)
        return link is not None and link.up

    async def default_route(self, *, there: bool) -> None:
        ours = [route_bytes(link.index, route) for link in self.world.links.values() for route in link.routes]
        self.kernel.changed(self.kernel.links.reload_routes([DEFAULT_ROUTE, *ours] if there else ours))
        await self.rest()


async def _nothing_first() -> None:
    """There are no networks to look at before a vif."""


@contextmanager
def simulated(host: Host) -> Iterator[None]:
    world = host.world

    def read_sysctl(version: int, link: str, setting: str) -> int | None:
        return world.settings.get((link, setting), 0) if version == 4 else None

    with (
        mock.patch.object(observe, "read_sysctl", read_sysctl),
        mock.patch.object(reporter, "backend", SimulatedBackend(world)),
    ):
        yield


def play(policy: Policy, scenario: Callable[[Host], Awaitable[None]]) -> None:
    async def scene() -> None:
        host = Host(policy)
        with simulated(host):
            await host.attach(GUEST)
            await scenario(host)
            await host.stop()

    asyncio.run(scene())


async def pin(host: Host) -> None:
    host.world.write(GUEST, xennetd_pin="1")
    await host.rest()


async def nothing(host: Host) -> None:
    await host.rest()


async def restart(host: Host) -> None:
    await host.restart()


async def rename_the_rule(host: Host) -> None:
    await host.reload(rules("everybody"))


async def deny_if_pinned(host: Host) -> None:
    await pin(host)
    await host.reload(Policy(rules=(Rule("nobody", Match(), deny="no more guests"),)))


@pytest.mark.parametrize("then", [nothing, pin, restart, rename_the_rule])
def test_a_guest_keeps_its_host_objects_while_the_default_route_is_away(
    then: Callable[[Host], Awaitable[None]],
) -> None:
    async def scenario(host: Host) -> None:
        before = host.heap.there
        await host.default_route(there=False)
        await then(host)
        assert host.heap.there == before
        assert host.up
        await host.default_route(there=True)
        assert host.heap.there == before
        assert host.reconciler.records[GUEST].state is VifState.CONNECTED

    play(rules("all"), scenario)


def test_a_pinned_guest_keeps_its_host_objects_whatever_a_new_policy_says() -> None:
    async def scenario(host: Host) -> None:
        before = host.heap.there
        await deny_if_pinned(host)
        assert host.heap.there == before

    play(rules("all"), scenario)


@pytest.mark.parametrize("then", [nothing, restart])
def test_one_refused_host_object_takes_no_other_from_a_connected_guest(
    then: Callable[[Host], Awaitable[None]],
) -> None:
    async def scenario(host: Host) -> None:
        before = host.heap.there
        host.heap.refuses = host.heap.objects.pop(RULESET)
        await then(host)
        assert host.heap.there == [each for each in before if each.key != RULESET]
        assert host.up

    play(NO_POLICY, scenario)


def test_a_guest_that_leaves_takes_nothing_from_a_guest_whose_needs_are_unknown() -> None:
    async def scenario(host: Host) -> None:
        await host.attach(OTHER, 1)
        before = host.heap.there
        await host.default_route(there=False)
        await host.restart()
        assert not host.state.knows_all
        await host.detach(OTHER, 1)
        assert shared(host.heap.there) == shared(before)
        await host.default_route(there=True)
        assert host.state.knows_all
        await host.state.prune()
        assert [each for each in before if each not in host.heap.there] == [proxy(ADDRESSES[1], before)]

    play(NO_POLICY, scenario)


def shared(objects: list[HostObject]) -> list[HostObject]:
    return [each for each in objects if not isinstance(each, ProxyNeighbour)]


def proxy(address: str, objects: list[HostObject]) -> HostObject:
    return next(each for each in objects if isinstance(each, ProxyNeighbour) and str(each.address) == address)


def test_what_a_guest_keeps_in_a_conflict_stays_anothers_by_right() -> None:
    async def scenario(host: Host) -> None:
        forwarding = next(each for each in host.heap.there if isinstance(each, Sysctl))
        closed = replace(forwarding, value=0)
        host.state.supersede()  # a new policy, in which a network needs another value of the guest's sysctl
        await host.state.ensure("lab", host.state.difference("lab", (closed,)), wanted=(closed,))
        await host.reconciler.follow_policy()
        await host.rest()
        error = host.reconciler.records[GUEST].error
        assert error is not None
        assert 'for network "lab"' in error.detail
        assert host.state.conflict("lab", (closed,)) is None

    play(NO_POLICY, scenario)


def test_a_pinned_guest_that_is_removed_frees_its_address() -> None:
    async def scenario(host: Host) -> None:
        host.world.wanted = [ADDRESSES[0]] * 2
        await pin(host)
        host.world.happen(Life(GUEST, None, BIRTH, 0), Op.OFFLINE)
        await host.rest()
        await host.attach(OTHER, 1)

    play(NO_POLICY, scenario)


def test_a_pinned_guest_that_policy_wants_elsewhere_keeps_its_host_objects_through_a_restart() -> None:
    async def scenario(host: Host) -> None:
        before = host.heap.there
        await pin(host)
        rule = Rule("all", Match(), network=ELSEWHERE, ips=(IPv4Address("198.51.100.9"),))
        host.policy = Policy(networks={"elsewhere": ELSEWHERE}, rules=(rule,))
        await host.reload(host.policy)
        await host.restart()
        assert host.heap.there == before

    play(rules("all"), scenario)


def test_a_vif_that_goes_while_only_observed_is_not_unknown_for_ever() -> None:
    async def scenario(host: Host) -> None:
        await host.default_route(there=False)
        host.policy = Policy(daemon=DaemonConfig(mode="observe"))
        await host.restart()
        assert not host.state.knows_all
        for op in (Op.LINK_GONE, Op.DIRECTORY_GONE):
            host.world.happen(Life(GUEST, None, BIRTH, 0), op)
        await host.rest()
        assert host.state.knows_all

    play(NO_POLICY, scenario)


def take_out_of_service(host: Host) -> None:
    link = host.world.link_of(GUEST)
    assert link is not None
    host.world.put(replace(link, flags=0, routes=frozenset(), neighbours=frozenset()))


def test_a_pinned_guest_keeps_its_address_through_a_restart_whatever_is_done_to_its_port() -> None:
    async def scenario(host: Host) -> None:
        host.world.wanted = [ADDRESSES[0]] * 2
        await pin(host)
        take_out_of_service(host)
        await host.restart()
        host.born(OTHER, 1)
        await host.rest()
        assert host.reconciler.records[OTHER].state is VifState.ERROR
        host.world.write(GUEST, xennetd_pin=None)
        await host.rest()
        assert host.reconciler.records[GUEST].state is VifState.CONNECTED

    play(NO_POLICY, scenario)


def test_a_denied_guest_that_is_pinned_takes_its_former_address_from_nobody() -> None:
    async def scenario(host: Host) -> None:
        host.world.wanted = [ADDRESSES[0]] * 2
        await host.reload(Policy(rules=(Rule("nobody", Match(domid=GUEST.domid), deny="no more guests"),)))
        take_out_of_service(host)
        await host.rest()
        await host.attach(OTHER, 1)
        await pin(host)
        assert host.reconciler.records[OTHER].state is VifState.CONNECTED

    play(NO_POLICY, scenario)


def test_a_pinned_vif_that_is_not_xennetds_holds_nothing_back() -> None:
    async def scenario(host: Host) -> None:
        host.born(OTHER, 1)
        host.world.write(OTHER, script="/etc/xen/scripts/vif-bridge", hotplug_status="connected", xennetd_pin="1")
        await host.rest()
        await host.detach(GUEST)
        assert host.heap.there == []

    play(NO_POLICY, scenario)


def test_what_a_guest_needs_and_is_unknown_is_noted() -> None:
    async def scenario(host: Host) -> None:
        await host.default_route(there=False)
        await host.restart()
        (note,) = host.reconciler.notes()
        assert str(GUEST) in note
        await host.default_route(there=True)
        assert list(host.reconciler.notes()) == []

    play(NO_POLICY, scenario)

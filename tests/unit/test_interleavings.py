"""The reconciler in a simulated world: whatever order things happen in, and however late it hears of them, all is well.

The world is the truth; the daemon's views of xenstore and of the kernel lag behind it. Only the world is simulated: the
reconciler, the deciding code, the view of the links and the parser of vifs are the daemon's own.
"""

from __future__ import annotations

import asyncio
import errno
import json
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings

from tests import replay
from tests.schedules import Life, Moment, Op, schedules
from tests.unit.hosts import nobody
from tests.unit.test_rtnl import attribute, link_message
from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.reconciler import Reconciler
from xennetd.daemon.toolstack import reporter as teller_module
from xennetd.daemon.toolstack.hotplug_files import HotplugFiles
from xennetd.kernel import rtnl
from xennetd.kernel.execute import StepRefused
from xennetd.kernel.links import LinkChange, Links
from xennetd.model.configuration import Policy
from xennetd.model.dump import to_json
from xennetd.model.event import Event
from xennetd.model.link import IFF_UP, Link
from xennetd.model.status import VifState
from xennetd.model.value import replace
from xennetd.model.vif import Vif, VifId
from xennetd.plan import port
from xennetd.plan.steps import LinkStep, SetLink
from xennetd.xenstore.parse import NODES, parse_vif

BRIDGE = 2
CAPABILITIES = ("has_ipv6", "forces_ipv6")
NO_POLICY = Policy()
ROUNDS = 6
"""Looks at everything, after which a world must be at rest."""


@dataclass
class World:
    """xenstore and the kernel as they are, and what the daemon has not heard yet."""

    nodes: dict[VifId, dict[str, str]] = field(default_factory=dict)
    links: dict[int, Link] = field(default_factory=dict)
    unheard_vifs: set[VifId] = field(default_factory=set)
    unheard_links: list[bytes] = field(default_factory=list)
    next_index: int = 10

    def __post_init__(self) -> None:
        self.put(Link(BRIDGE, "xenbr0", kind="bridge", flags=IFF_UP))

    def put(self, link: Link) -> None:
        self.links[link.index] = link
        self.unheard_links.append(_message(link))

    def drop(self, index: int) -> None:
        link = self.links.pop(index)
        self.unheard_links.append(link_message(index, link.name, kind=rtnl.RTM_DELLINK))

    def link_of(self, vif: VifId) -> Link | None:
        return next((link for link in self.links.values() if link.parent == vif), None)

    def write(self, vif: VifId, **nodes: str | None) -> None:
        for name, value in nodes.items():
            node = name.replace("_", "-")
            if value is None:
                self.nodes[vif].pop(node, None)
            else:
                self.nodes[vif][node] = value
        self.unheard_vifs.add(vif)

    def happen(self, life: Life, op: Op) -> None:
        """Let one step of one life happen, as the program whose step it is does it."""
        vif = life.vif
        match op:
            case Op.DIRECTORY:
                self.nodes[vif] = {}
                name = {"vifname": life.vifname} if life.vifname else {}
                self.write(
                    vif, frontend=f"/local/domain/{vif.domid}/device/vif/{vif.devid}", state="1", online="1",
                    script="/etc/xen/scripts/vif-xennetd", bridge="xenbr0", type="vif", hotplug_status="", **name,
                )  # fmt: skip
            case Op.INIT_WAIT | Op.BACK:
                self.write(vif, state="2")
            case Op.LINK:
                self.put(Link(self.next_index, vif.netdev, parent=vif, address="fe:ff:ff:ff:ff:ff"))
                self.next_index += 1
            case Op.CONNECT:
                if self.nodes[vif].get("hotplug-status") == "connected":
                    self.write(vif, state="4")
            case Op.RECONNECT:
                self.write(vif, state="6")
            case Op.RECONNECT_FORGETTING:
                self.write(vif, state="6", hotplug_status=None)
            case Op.OFFLINE:
                self.write(vif, online="0", state="5")
            case Op.CLOSED:
                self.write(vif, state="6", hotplug_status=None)
            case Op.LINK_GONE:
                link = self.link_of(vif)
                assert link is not None
                self.drop(link.index)
            case Op.DIRECTORY_GONE:
                del self.nodes[vif]
                self.unheard_vifs.add(vif)
            case Op.MEDDLE:
                link = self.link_of(vif)
                assert link is not None
                self.put(replace(link, flags=0, master=0))


def _message(link: Link) -> bytes:
    attributes = [
        attribute(1, bytes.fromhex(link.address.replace(":", ""))),
        attribute(4, struct.pack("=I", link.mtu)),
        attribute(10, struct.pack("=I", link.master)),
        attribute(20, link.alias.encode() + b"\0"),
        attribute(18, attribute(1, link.kind.encode() + b"\0")),
        attribute(26, attribute(10, attribute(8, bytes([link.addr_gen_mode])))),
        attribute(27, struct.pack("=I", link.group)),
    ]
    if link.parent is not None:
        attributes.append(attribute(56, f"vif-{link.parent.domid}-{link.parent.devid}\0".encode()))
        attributes.append(attribute(57, b"xen-backend\0"))
    data = bytearray(link_message(link.index, link.name, *attributes))
    struct.pack_into("=I", data, 16 + 8, link.flags)
    return bytes(data)


class SimulatedKernel:
    """What `kernel.host.Kernel` offers, over the world."""

    def __init__(self, world: World) -> None:
        self.links = Links()
        self.changed: Any = None
        self._world = world

    def poll(self) -> None:
        unheard, self._world.unheard_links = self._world.unheard_links, []
        changes: list[LinkChange] = self.links.feed(unheard)
        if changes:
            self.changed(changes)

    def execute(self, steps: tuple[LinkStep, ...]) -> list[StepRefused]:
        try:
            for step in steps:
                self._execute(step)
            return []
        finally:
            self.poll()

    def _execute(self, step: LinkStep) -> None:
        link = self._world.links.get(step.index)
        if link is None:
            raise StepRefused(step, errno.ENODEV, "")
        if isinstance(step, SetLink) and step.property == "name":
            if any(other.name == step.value for other in self._world.links.values()):
                raise StepRefused(step, errno.EEXIST, "")
            if link.up:
                raise StepRefused(step, errno.EBUSY, "")
        if isinstance(step, SetLink) and (step.property, step.value) == ("up", True):
            assert link.master == BRIDGE, "a port came up outside of its bridge"
        after = port.apply((step,), link)
        if after != link:
            self._world.put(after)

    def look_at(self, index: int) -> None:
        raise AssertionError("everything the daemon did showed at once, there was no reason to doubt it")


class SimulatedDirectory:
    """What `xenstore.directory.Directory` offers, over the world."""

    own_domid = 0

    def __init__(self, world: World) -> None:
        self.hint: Any = None
        self._world = world
        self._vifs: dict[VifId, Vif] = {}

    def __iter__(self) -> Iterator[VifId]:
        return iter(tuple(self._vifs))

    def get(self, vif: VifId) -> Vif | None:
        return self._vifs.get(vif)

    def note(self, vif: VifId, node: str, value: str | None) -> None:
        if vif in self._vifs:
            known: dict[str, Any] = {node.replace("-", "_"): value}
            self._vifs[vif] = replace(self._vifs[vif], **known)

    async def refresh(self, vif: VifId) -> Vif | None:
        await asyncio.sleep(0)
        self._look({vif})
        return self.get(vif)

    def poll(self) -> None:
        unheard, self._world.unheard_vifs = self._world.unheard_vifs, set()
        self._look(unheard)

    def _look(self, vifs: set[VifId]) -> None:
        for vif in vifs:
            nodes = self._world.nodes.get(vif)
            found = None
            if nodes is not None:
                untrusted = {node: nodes[node].encode() if node in nodes else None for node in NODES}
                found = parse_vif(vif, untrusted, b"guest", b"/vm/00000000-0000-0000-0000-000000000001")
            if found != self._vifs.get(vif):
                if found is None:
                    del self._vifs[vif]
                else:
                    self._vifs[vif] = found
                self.hint(vif)


class SimulatedBackend:
    """What `xenstore.backend` offers: guarded writes, some round trips long."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.verdicts: list[tuple[VifId, str]] = []

    async def write_verdict(
        self,
        client: object,
        vif: Vif,
        *,
        error: str | None = None,
        frontend_mtu: int | None = None,
        mac: str | None = None,
    ) -> bool:
        for _ in range(3):
            await asyncio.sleep(0)
        nodes = self._world.nodes.get(vif.id)
        if nodes is None:
            return False
        if error is None and (nodes["online"] != "1" or nodes["state"] not in ("2", "4")):
            return False
        self._world.write(vif.id, hotplug_status="error" if error else "connected", hotplug_error=error)
        self.verdicts.append((vif.id, "error" if error else "connected"))
        return True


def events(audit: list[Event]) -> list[str]:
    return [f"{event.kind.label} {event.vif}" for event in audit]


async def play(lives: tuple[Life, ...], moments: tuple[Moment, ...]) -> tuple[World, Reconciler, list[Event]]:
    """Let everything happen to a world of bridges."""
    world = World()
    kernel, directory = SimulatedKernel(world), SimulatedDirectory(world)
    reconciler, audit = await run(world, kernel, directory, HostState({}), lives, moments)
    return world, reconciler, audit


async def run(
    world: World,
    kernel: SimulatedKernel,
    directory: SimulatedDirectory,
    host: HostState,
    lives: tuple[Life, ...],
    moments: tuple[Moment, ...],
    policy: Policy = NO_POLICY,
) -> tuple[Reconciler, list[Event]]:
    """Let everything happen, then let the daemon hear of everything and come to rest."""
    audit: list[Event] = []
    recorder = SimpleNamespace(
        record=audit.append, repaired=lambda event, what: audit.append(event), flush=lambda vif: None
    )
    parts: Any = (kernel, directory, None, recorder, mock.Mock(), HotplugFiles(), host, nobody(), _nothing_first)
    reconciler = Reconciler(InForce(policy), *parts)
    kernel.changed, directory.hint = reconciler.triggers.links_changed, reconciler.triggers.vif_changed
    with mock.patch.object(teller_module, "backend", SimulatedBackend(world)):
        deadline = asyncio.get_running_loop().time() + 5.0
        running = asyncio.ensure_future(reconciler.run())
        for moment in moments:
            world.happen(lives[moment.life], moment.op)
            for turn in range(moment.pause):
                (kernel if turn % 2 else directory).poll()
                await asyncio.sleep(0)
        for _ in range(ROUNDS):
            kernel.poll()
            directory.poll()
            await reconciler.look_at_all()
        while any(record.decided is not None and record.decided.has_steps for record in reconciler.records.values()):
            # What one vif loses and gets again several times within a second comes back after a pause.
            assert asyncio.get_running_loop().time() < deadline, "xennetd is not done after five seconds"
            await asyncio.sleep(0.02)
            kernel.poll()
            directory.poll()
            await reconciler.look_at_all()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    return reconciler, audit


async def _nothing_first() -> None:
    """There are no networks to look at before a vif."""


def check(world: World, reconciler: Reconciler, lives: tuple[Life, ...], moments: tuple[Moment, ...]) -> None:
    """Everything that is there is as it must be, and nothing is remembered of what is not."""
    check_replays(reconciler)
    assert set(reconciler.records) == set(world.nodes)
    last = {lives[moment.life].vif: lives[moment.life] for moment in moments if moment.op is Op.DIRECTORY}
    for vif, nodes in world.nodes.items():
        record, link = reconciler.records[vif], world.link_of(vif)
        wanted = last[vif].vifname or vif.netdev
        taken = any(link.name == wanted and link.parent != vif for link in world.links.values())
        if nodes["online"] == "0":
            assert record.state is VifState.DETACHING
            assert link is None or (not link.up and not link.master)
        elif link is None or nodes["state"] in ("1", "6"):
            assert record.state in (VifState.PENDING, VifState.CONNECTED)
        elif taken:
            assert record.state in (VifState.ERROR, VifState.PENDING)
            assert not link.up
        else:
            assert record.state is VifState.CONNECTED
            assert nodes["hotplug-status"] == "connected"
            assert (link.name, link.master, link.up) == (wanted, BRIDGE, True)


def check_replays(reconciler: Reconciler) -> None:
    """Each last decision is made again from what `show --debug` would print of it."""
    for record in reconciler.records.values():
        answers, observed = reconciler.answers_of(record), record.observed
        told: dict[str, Any] = {"answers": answers, "observation": observed, "decision": record.decided}
        told["policy"] = reconciler._in_force.policy
        text = json.dumps({name: to_json(value) for name, value in told.items()} | dict.fromkeys(CAPABILITIES, False))
        dump = replay.read(text)
        assert observed is not None
        assert record.decided is not None
        assert replay.same(replay.again(dump), record.decided)
        assert to_json(dump.observation) == to_json(observed)


class HastyKernel(SimulatedKernel):
    """Another program brings a link up, once, just before the daemon renames it."""

    hasty = True

    def _execute(self, step: LinkStep) -> None:
        if self.hasty and isinstance(step, SetLink) and step.property == "name":
            self.hasty = False
            self._world.put(replace(self._world.links[step.index], flags=IFF_UP))
        super()._execute(step)


def test_a_link_that_another_program_brings_up_meanwhile_is_renamed_all_the_same() -> None:
    life = Life(VifId(1, 0), "web0", (Op.DIRECTORY, Op.INIT_WAIT, Op.LINK))
    moments = tuple(Moment(0, op, 0) for op in life.ops)
    world = World()
    kernel, directory = HastyKernel(world), SimulatedDirectory(world)
    reconciler, audit = asyncio.run(run(world, kernel, directory, HostState({}), (life,), moments))
    assert not kernel.hasty
    check(world, reconciler, (life,), moments)
    assert "error vif1.0" not in events(audit)


@given(schedules())
@settings(max_examples=300, deadline=None)
def test_any_order_of_things_ends_well(schedule: tuple[tuple[Life, ...], tuple[Moment, ...]]) -> None:
    lives, moments = schedule
    world, reconciler, _ = asyncio.run(play(lives, moments))
    check(world, reconciler, lives, moments)


@pytest.mark.long
@given(schedules())
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_order_of_things_ends_well_ten_thousand_times(
    schedule: tuple[tuple[Life, ...], tuple[Moment, ...]],
) -> None:
    lives, moments = schedule
    world, reconciler, _ = asyncio.run(play(lives, moments))
    check(world, reconciler, lives, moments)


@given(schedules())
@settings(max_examples=200, deadline=None)
def test_the_audit_trail_pairs_attaches_and_detaches(schedule: tuple[tuple[Life, ...], tuple[Moment, ...]]) -> None:
    lives, moments = schedule
    _, reconciler, audit = asyncio.run(play(lives, moments))
    attached: set[VifId] = set()
    for event in audit:
        assert event.vif is not None
        if event.kind.label == "attach":
            assert event.vif not in attached, events(audit)
            attached.add(event.vif)
        elif event.kind.label == "detach":
            assert event.vif in attached, events(audit)
            attached.discard(event.vif)
    connected = {vif for vif, record in reconciler.records.items() if record.state is VifState.CONNECTED}
    assert connected <= attached

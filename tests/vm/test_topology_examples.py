"""Every drawing of conf/examples: brought up from a bare kernel, with guests, and taken down again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from tests.bed.guest import Bed, Guest
from tests.bed.netns import NetNs
from tests.bed.toolstack import VifSpec
from tests.vm.machine import Machine, do, until
from tests.vm.test_topology import apply
from xennetd.model.configuration import Policy
from xennetd.model.topology import Topology, TopologyLink
from xennetd.policy.files import read_files

INSTALLED = Path("/usr/share/doc/xennetd/examples")
DIRECTORY = INSTALLED if INSTALLED.exists() else Path(__file__).parents[2] / "conf/examples"
"""The machine has the installed ones only."""

EXAMPLES = sorted(path.stem.removeprefix("topology-") for path in DIRECTORY.glob("topology-*.toml"))
SHORT = frozenset({"vlans-two-bonds"})
"""In the lane. All others are long."""


@dataclass(frozen=True)
class Segment:
    """What a bridge of an example leads to: NICs that are one wire, and a VLAN there (None for untagged frames)."""

    bridge: str
    nics: tuple[str, ...]
    vid: int | None


def topology_of(example: str) -> tuple[str, Topology]:
    path = DIRECTORY / f"topology-{example}.toml"
    policy = read_files(str(path)).load()
    assert isinstance(policy, Policy)
    return path.read_text(), policy.topology


def segment(topology: Topology, bridge: TopologyLink) -> Segment:
    lower = [topology.link(name) for name in topology.below(bridge)]
    vids = [dict(link.settings)["id"] for link in lower if link is not None and link.kind == "vlan"]
    nics = tuple(
        name for name, link in zip(topology.below(bridge), lower, strict=True) if link is None or link.kind == "nic"
    )
    vid = vids[0] if vids else None
    assert vid is None or isinstance(vid, int)
    return Segment(bridge.name, nics, vid)


class World:
    """The wires of an example: a switch for each NIC or bond, and a machine in each segment, as 10.66.N.1."""

    def __init__(self, host: Machine, topology: Topology) -> None:
        self.host = host
        self.bridges = [link for link in topology if link.kind == "bridge"]
        self.segments = [segment(topology, link) for link in self.bridges]
        self.switches: dict[str, NetNs] = {}
        for each in self.segments:
            for nic in each.nics:
                self._wire(nic, each.nics[0], topology.link(nic))
        self.machines = [self._machine(number, each) for number, each in enumerate(self.segments)]
        for number, link in enumerate(self.bridges):
            if link.adopts:
                base = self.segments[number].nics[0]
                do("ip", "address", "add", f"10.66.{number}.250/16", "dev", self.kernel(base))
        self.before = {name: self._of(name) for name in host.links()}

    def kernel(self, nic: str) -> str:
        """The kernel's name of a NIC. One that an example finds by its MAC has another name there."""
        return nic if nic.startswith("eth") else "eth9"

    def _wire(self, nic: str, first: str, found: TopologyLink | None) -> None:
        if nic in self.switches:
            return
        switch = self.switches.get(first)
        if switch is None:
            switch = self.host.guest(f"switch-{first}")
            switch.rtnl.add_bridge("wire")
            switch.rtnl.set("wire", up=True)
        self.switches[nic] = switch
        self.host.rtnl.add_veth(self.kernel(nic), f"p-{nic}", switch.fd)
        if found is not None and found.mac is not None:
            self.host.rtnl.set(self.kernel(nic), address=found.mac)
        self.host.rtnl.set(self.kernel(nic), up=True)
        switch.rtnl.set(f"p-{nic}", master="wire", up=True)

    def _machine(self, number: int, each: Segment) -> NetNs | None:
        if not each.nics:
            return None
        switch, machine = self.switches[each.nics[0]], self.host.guest(f"machine{number}")
        if each.vid is None:
            switch.rtnl.add_veth(f"m{number}", "eth0", machine.fd)
            switch.rtnl.set(f"m{number}", master="wire", up=True)
        else:
            link = ("link", "wire", "name", f"v{each.vid}", "type", "vlan", "id", str(each.vid))
            switch.run("ip", "link", "add", *link)
            do("ip", "-n", switch.name, "link", "set", f"v{each.vid}", "netns", machine.name, "name", "eth0")
        machine.rtnl.set("eth0", up=True)
        machine.rtnl.add_address("eth0", f"10.66.{number}.1/16")
        return machine

    def _of(self, name: str) -> tuple[object, ...]:
        link = self.host.link(name)
        assert link is not None
        addresses = [each for each in self.host.addresses(name) if not each.startswith("fe80")]
        return link.get("master"), link["mtu"], link["address"], sorted(addresses)

    def now(self) -> dict[str, tuple[object, ...]]:
        return {name: self._of(name) for name in self.host.links()}


@pytest.fixture
def no_topology(service: None) -> Iterator[None]:
    """No topology is in force afterwards."""
    yield
    apply("")


@pytest.mark.parametrize(
    "example",
    [each if each in SHORT else pytest.param(each, marks=pytest.mark.long) for each in EXAMPLES],
)
def test_a_drawing_works_and_goes_without_a_trace(host: Machine, no_topology: None, bed: Bed, example: str) -> None:
    text, topology = topology_of(example)
    world = World(host, topology)
    assert apply(text)
    guests = [
        [
            Guest(bed, f"{example[:4]}{number}{each}", VifSpec(bridge=link.name), address=f"10.66.{number}.{each}/16")
            for each in (5, 6)
        ]
        for number, link in enumerate(world.bridges)
    ]
    for pair in guests:
        for each in pair:
            each.connect()
    for number, (link, (one, _other)) in enumerate(zip(world.bridges, guests, strict=True)):
        until(partial(one.ping, f"10.66.{number}.6"))
        if world.machines[number] is not None:
            until(partial(one.ping, f"10.66.{number}.1"))
        if link.adopts:
            assert f"10.66.{number}.250/16" in host.addresses(link.name)
            until(partial(one.ping, f"10.66.{number}.250"))
        if link.addresses == ():
            assert host.addresses(link.name) == []
    for (number, (one, _)), (there, _pair) in pairwise(enumerate(guests)):
        assert not one.ping(f"10.66.{there}.5"), f"from {world.bridges[number].name} to {world.bridges[there].name}"
        assert not one.ping(f"10.66.{there}.1"), f"from {world.bridges[number].name} to the wire of the next one"
    for pair in guests:
        for each in pair:
            each.destroy()
    apply("")
    until(lambda: world.now() == world.before)

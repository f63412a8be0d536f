"""The drawings of conf/examples with their wires: what traffic each promises, and what it forbids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from tests.bed.dumps import Dump, differences, dump
from tests.bed.guest import Bed, Guest
from tests.bed.netns import NetNs
from tests.bed.toolstack import VifSpec
from tests.vm.machine import Machine, do, until
from xennetd.model.configuration import Policy
from xennetd.model.topology import Topology, TopologyLink
from xennetd.policy.files import read_files

INSTALLED = Path("/usr/share/doc/xennetd/examples")
DIRECTORY = INSTALLED if INSTALLED.exists() else Path(__file__).parents[2] / "conf/examples"
"""The machine has the installed ones only."""

EXAMPLES = sorted(path.stem.removeprefix("topology-") for path in DIRECTORY.glob("topology-*.toml"))


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


def kernel_name(topology: Topology, name: str) -> str:
    """The kernel's name of a link. A NIC that an example finds by its MAC has another name there."""
    link = topology.link(name)
    return "eth9" if link is not None and link.kind == "nic" and link.mac is not None else name


class Panel:
    """A patch panel beyond the host's NICs: the far end of each, and machines, which are plugged into wires there."""

    def __init__(self, host: Machine) -> None:
        self._host = host
        self._namespace = host.guest("panel")
        self._machines: list[NetNs] = []
        self._wires: set[str] = set()

    def nic(self, name: str, mac: str | None = None) -> None:
        """Give the host a NIC that is up, unless it has it."""
        if self._host.rtnl.exists(name):
            return
        self._host.rtnl.add_veth(name, f"p-{name}", self._namespace.fd, address=mac)
        self._host.rtnl.set(name, up=True)
        self._namespace.rtnl.set(f"p-{name}", up=True)

    def plug(self, nic: str, wire: str) -> None:
        """Put the far end of a NIC on a wire, which has all NICs that are on it."""
        if wire not in self._wires:
            self._namespace.rtnl.add_bridge(wire)
            self._namespace.rtnl.set(wire, up=True)
            self._wires.add(wire)
        self._namespace.rtnl.set(f"p-{nic}", master=wire)

    def machine(self, number: int, wire: str, vid: int | None) -> NetNs:
        """A machine on a wire, in a VLAN or without one: 10.66.NUMBER.1."""
        while len(self._machines) <= number:
            self._machines.append(self._host.guest(f"machine{len(self._machines)}"))
        machine = self._machines[number]
        if vid is None:
            self._namespace.rtnl.add_veth(f"m{number}", "eth0", machine.fd)
            self._namespace.rtnl.set(f"m{number}", master=wire, up=True)
        else:
            link = ("link", wire, "name", f"v{number}", "type", "vlan", "id", str(vid))
            self._namespace.run("ip", "link", "add", *link)
            do("ip", "-n", "panel", "link", "set", f"v{number}", "netns", machine.name, "name", "eth0")
        machine.rtnl.set("eth0", up=True)
        machine.rtnl.add_address("eth0", f"10.66.{number}.1/16")
        return machine

    def clear(self) -> None:
        """Unplug everything."""
        for machine in self._machines:
            if machine.rtnl.exists("eth0"):
                machine.rtnl.delete("eth0")
        for wire in self._wires:
            self._namespace.rtnl.delete(wire)
        self._wires.clear()


class World:
    """The wires of an example on a panel: one for each NIC or bond, and a machine in each segment, as 10.66.N.1."""

    def __init__(self, panel: Panel, topology: Topology) -> None:
        self._topology = topology
        self.bridges = [link for link in topology if link.kind == "bridge"]
        self.segments = [segment(topology, link) for link in self.bridges]
        for each in self.segments:
            for nic in each.nics:
                found = topology.link(nic)
                panel.nic(kernel_name(topology, nic), found.mac if found is not None else None)
                panel.plug(kernel_name(topology, nic), f"wire-{each.nics[0]}")
        self.machines = [
            panel.machine(number, f"wire-{each.nics[0]}", each.vid) if each.nics else None
            for number, each in enumerate(self.segments)
        ]

    def base(self, number: int) -> str:
        """The NIC whose addresses the bridge with this number adopts, if it adopts."""
        return kernel_name(self._topology, self.segments[number].nics[0])


@contextmanager
def guests_on(bed: Bed, world: World, name: str) -> Iterator[list[tuple[Guest, Guest]]]:
    """Two guests on each bridge: 10.66.N.5 and 10.66.N.6."""
    made: list[Guest] = []
    try:
        for number, link in enumerate(world.bridges):
            for each in (5, 6):
                address = f"10.66.{number}.{each}/16"
                made.append(Guest(bed, f"{name}{number}{each}", VifSpec(bridge=link.name), address=address))
        for guest in made:
            guest.connect()
        yield list(zip(made[::2], made[1::2], strict=True))
    finally:
        for guest in made:
            guest.destroy()


def own_address(nic: str) -> str:
    """An address that the host has on a NIC."""
    return f"10.70.{nic.removeprefix('eth')}.250/24"


def keeps_its_promises(host: Machine, world: World, guests: list[tuple[Guest, Guest]]) -> None:
    """What is drawn as connected is, and nothing else. A bridge that adopts has its NIC's `own_address`."""
    for number, (link, (one, _other)) in enumerate(zip(world.bridges, guests, strict=True)):
        until(partial(one.ping, f"10.66.{number}.6"))
        if world.machines[number] is not None:
            until(partial(one.ping, f"10.66.{number}.1"))
        if link.adopts:
            adopted = own_address(world.base(number))
            assert adopted in host.addresses(link.name)
            one.namespace.rtnl.add_address("eth0", adopted.replace(".250", ".5"))
            until(partial(one.ping, adopted.partition("/")[0]))
        if link.addresses == ():
            assert host.addresses(link.name) == []
    for (number, (one, _)), (there, _pair) in pairwise(enumerate(guests)):
        assert not one.ping(f"10.66.{there}.5"), f"from {world.bridges[number].name} to {world.bridges[there].name}"
        assert not one.ping(f"10.66.{there}.1"), f"from {world.bridges[number].name} to the wire of the next one"


def is_as_before(host: Machine, before: Dump) -> None:
    """The host becomes as it was. IPv6 takes a while to know its link-local addresses again."""
    try:
        until(lambda: not differences(before, dump(host)), timeout=15.0)
    except TimeoutError:
        left = differences(before, dump(host))
        assert not left, "\n".join(left)

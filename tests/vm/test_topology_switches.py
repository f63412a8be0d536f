"""From one drawing of conf/examples to another and in the end to nothing, beside what else a host has.

The host has an address, a route and a permanent neighbour entry on some of its NICs, as hosts have them. They go where
a drawing adopts them, and come back. Where a drawing would cut them off, the apply must be refused as a whole; the
test then takes them off, as an administrator would.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from random import Random

import pytest

from tests.bed.dumps import differences, dump
from tests.bed.guest import Bed
from tests.vm.drawings import (
    EXAMPLES,
    Panel,
    World,
    guests_on,
    is_as_before,
    keeps_its_promises,
    kernel_name,
    own_address,
    topology_of,
)
from tests.vm.machine import Machine, do, left_alone, run, until
from tests.vm.test_topology import FILE, apply, ask, plan
from xennetd.cli.connection import call
from xennetd.model.topology import Topology

SWITCHES = 10

MACS = {"eth9": "52:54:00:12:34:56"}
"""The NIC that an example finds by its MAC."""

NICS = ("eth0", "eth1", "eth2", "eth3", "eth9")
WITH_ADDRESSES = ("eth0", "eth2", "eth9")

FOREIGN = (
    "link add foreign up type bridge forward_delay 0",
    "link set other0 master foreign",
    "link add link eth9 name foreign.77 up type vlan id 77",
    "address add 192.0.2.1/24 dev foreign",
    "address add 2001:db8:77::1/64 dev foreign nodad",
    "address add 198.51.100.1/24 dev foreign.77",
    "route add 203.0.113.0/24 via 192.0.2.9",
    "route add 203.0.113.0/24 dev foreign.77 table 77 metric 5",
    "route add blackhole 203.0.114.0/24 table 77",
    "rule add from 192.0.2.0/24 table 77 priority 7700",
    "neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev foreign nud permanent",
)
FOREIGN_LINKS = ("foreign", "other0", "foreign.77", "")
"""The empty name stands for what is on no link."""


@pytest.fixture
def panel(host: Machine, service: None) -> Iterator[Panel]:
    """All NICs of all examples, and foreign objects, which no example names."""
    panel = Panel(host)
    with left_alone("eth* bond* xenbr* xen-br* lan internal service management dummy0 foreign* other0"):
        for name in (*NICS, "other0"):
            panel.nic(name, MACS.get(name))
        for command in FOREIGN:
            do("ip", *command.split())
        for nic in WITH_ADDRESSES:
            furnish(nic)
        yield panel
        apply("")
        do("ip", "rule", "delete", "priority", "7700")
        do("ip", "route", "flush", "table", "77")
        do("ip", "link", "delete", "foreign.77")


def furnish(nic: str) -> None:
    """Give a NIC what hosts have on one."""
    address, number = own_address(nic), nic.removeprefix("eth")
    router = address.replace(".250/24", ".1")
    for command in (
        f"address add {address} dev {nic}",
        f"address add fd70:{number}::250/64 dev {nic} nodad",
        f"route add 10.80.{number}.0/24 via {router} dev {nic} proto static metric 70",
        f"-6 route add fd80:{number}::/64 via fd70:{number}::1 dev {nic}",
        f"neighbour add {router} lladdr 02:00:00:00:00:01 dev {nic} nud permanent",
    ):
        do("ip", *command.split())


def where_it_is(host: Machine, nic: str) -> str | None:
    """The link that has a NIC's own address, None without one."""
    shown = json.loads(host.run("ip", "-json", "address", "show", "to", own_address(nic)).stdout)
    return next((link["ifname"] for link in shown if link), None)


def can_keep_addresses(topology: Topology, nic: str) -> bool:
    """Whether a drawing has a place for a NIC's addresses: the NIC itself if it is no port, else a link that adopts."""
    ports = {kernel_name(topology, name) for link in topology for name in link.ports}
    return nic not in ports or adopting(topology, nic) is not None


def adopting(topology: Topology, nic: str) -> str | None:
    """The link that adopts from a NIC, None without one."""
    for link in topology:
        if link.adopts and nic in {kernel_name(topology, name) for name in topology.below(link)}:
            return link.name
    return None


def problems() -> list[str]:
    found: list[str] = call("/run/xennetd/control", "Status")["status"]["problems"]
    return found


def is_refused(host: Machine, text: str, nic: str) -> None:
    """An apply that would cut off a NIC's addresses says so, and changes nothing."""
    before = dump(host)
    FILE.write_text(text)
    answer = ask("Apply")
    assert any(own_address(nic) in problem for problem in answer["problems"]), answer
    assert differences(before, dump(host)) == []


def switch(host: Machine, panel: Panel, bed: Bed, before: Topology, example: str) -> Topology:
    text, topology = topology_of(example) if example else ("", Topology())
    for nic in WITH_ADDRESSES:
        place = where_it_is(host, nic)
        if place is not None and not can_keep_addresses(topology, nic):
            is_refused(host, text, nic)
            do("ip", "address", "flush", "dev", place, "to", own_address(nic))
            do("ip", "address", "flush", "dev", place, "to", f"fd70:{nic.removeprefix('eth')}::/64")
            run("ip", "neighbour", "delete", own_address(nic).replace(".250/24", ".1"), "dev", place)
            run("ip", "-6", "route", "delete", f"fd80:{nic.removeprefix('eth')}::/64")
        elif place is None and adopting(topology, nic) is not None:
            furnish(nic)
    links = host.links()
    panel.clear()
    world = World(panel, topology)
    foreign = dump(host, FOREIGN_LINKS)
    apply(text)
    until(lambda: problems() == [])
    assert differences(foreign, dump(host, FOREIGN_LINKS)) == []
    now = host.links()
    for link in topology:
        if before.link(link.name) == link and link.kind != "nic":
            assert links[link.name]["ifindex"] == now[link.name]["ifindex"], f"{link.name} was made anew"
    for nic in WITH_ADDRESSES:
        if where_it_is(host, nic) is None and can_keep_addresses(topology, nic):
            furnish(nic)  # A bond that lets a port go has it down for a moment, so not before.
        elif can_keep_addresses(topology, nic):
            assert where_it_is(host, nic) == (adopting(topology, nic) or nic)
    with guests_on(bed, world, example[:4]) as guests:
        keeps_its_promises(host, world, guests)
    assert plan() == []
    return topology


@pytest.mark.parametrize(
    "choose",
    [
        pytest.param(lambda random: ("two-bridges", "two-bonds"), marks=pytest.mark.long),
        pytest.param(lambda random: [random.choice(EXAMPLES) for _ in range(SWITCHES)], marks=pytest.mark.long),
    ],
    ids=["two", "ten"],
)
def test_any_drawing_leads_to_any_other(
    host: Machine, panel: Panel, bed: Bed, choose: Callable[[Random], list[str]]
) -> None:
    """XENNETD_SEED in the environment repeats a sequence."""
    seed = os.environ.get("XENNETD_SEED") or secrets.token_hex(4)
    examples = choose(Random(seed))
    print(f"switches of seed {seed}: {' -> '.join(examples)}")
    until(lambda: problems() == [])
    before, topology = dump(host), Topology()
    for example in (*examples, ""):
        topology = switch(host, panel, bed, topology, example)
    is_as_before(host, before)

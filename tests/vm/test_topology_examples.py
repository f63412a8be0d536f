"""Every drawing of conf/examples: brought up from a bare kernel, with guests, and taken down again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bed.dumps import dump
from tests.bed.guest import Bed
from tests.vm.drawings import (
    EXAMPLES,
    Panel,
    World,
    guests_on,
    is_as_before,
    keeps_its_promises,
    own_address,
    topology_of,
)
from tests.vm.machine import Machine, do, left_alone
from tests.vm.test_topology import apply

SHORT = frozenset({"vlans-two-bonds"})
"""In the lane. All others are long."""


@pytest.fixture
def nobody_else(service: None) -> Iterator[None]:
    """The machine's networkd leaves the links of the examples alone."""
    with left_alone("eth* bond* xenbr* xen-br* lan internal service management dummy0"):
        yield
        apply("")


@pytest.mark.parametrize(
    "example",
    [each if each in SHORT else pytest.param(each, marks=pytest.mark.long) for each in EXAMPLES],
)
def test_a_drawing_works_and_goes_without_a_trace(host: Machine, nobody_else: None, bed: Bed, example: str) -> None:
    text, topology = topology_of(example)
    world = World(Panel(host), topology)
    for number, link in enumerate(world.bridges):
        if link.adopts:
            nic = world.base(number)
            do("ip", "address", "add", own_address(nic), "dev", nic)
    before = dump(host)
    assert apply(text)
    assert apply(text) == []
    with guests_on(bed, world, example[:4]) as guests:
        keeps_its_promises(host, world, guests)
    apply("")
    is_as_before(host, before)

"""From any topology to any other, with bonds and VLANs of all kinds: see tests/kernel/test_any_topology.py."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.bed.any_topology import AnyTopology
from tests.topologies import configuration, host_commands
from tests.vm.machine import UNIT, Machine, do, left_alone


@pytest.fixture
def nobody_else(host: Machine) -> Iterator[None]:
    """Neither xennetd's unit nor networkd changes a link."""
    do("systemctl", "stop", UNIT)
    with left_alone("* !xenbr0 !lo"):
        yield


@pytest.mark.long
@pytest.mark.parametrize("examples", [3, 25])
def test_any_topology_leads_to_any_other(host: Machine, nobody_else: None, examples: int) -> None:
    """XENNETD_SEED in the environment repeats a run that failed, or begins with its seed."""
    beyond = host.guest("beyond")
    seed = os.environ.get("XENNETD_SEED") or secrets.token_hex(4)
    applied = refused = 0
    for number in range(examples):
        random = Random(f"{seed}/{number}")
        commands = host_commands(random)
        texts = [configuration(random, commands) for _ in range(2)]
        with AnyTopology(host, beyond, Path("/var/lib/xennetd")) as anything:
            try:
                anything.leads(commands, texts)
            except AssertionError as error:
                story = "\n\n".join((*commands, *(f"then\n{text}" for text in texts)))
                pytest.fail(f"seed {seed}, example {number}:\n{story}\n\n{error}")
        applied, refused = applied + anything.applied, refused + anything.refused
    print(f"topologies of seed {seed}: {applied} applies, {refused} refused")
    assert applied > examples, "each example ends with an apply of nothing"

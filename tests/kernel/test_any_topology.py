"""From any topology to any other, on a kernel with bridges and NICs: tests/vm does it with bonds and VLANs, too."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.bed.any_topology import AnyTopology
from tests.bed.netns import Host
from tests.topologies import configuration, host_commands

Case = tuple[list[str], list[str]]
"""The commands that give the host what it has, and the configurations that are applied one after the other."""


def drawn(random: Random) -> Case:
    commands = host_commands(random)
    return commands, [configuration(random, commands, {"bridge"}) for _ in range(2)]


_IN_THE_LANE = 15


@pytest.mark.parametrize("examples", [_IN_THE_LANE, pytest.param(300, marks=pytest.mark.long)])
def test_any_topology_leads_to_any_other(host: Host, examples: int) -> None:
    beyond = host.guest("beyond")
    applied = refused = 0

    # The lane has the same examples each time: another person's change must not meet a fault that chance finds.
    everywhere = examples > _IN_THE_LANE

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=not everywhere,
        database=None,
    )
    @given(st.randoms(use_true_random=False).map(drawn))
    def check(case: Case) -> None:
        nonlocal applied, refused
        commands, texts = case
        note("\n".join(commands) + "\n" + "\n# then\n".join(texts))
        with AnyTopology(host, beyond, Path("/var/lib/xennetd")) as anything:
            anything.leads(commands, texts)
        applied, refused = applied + anything.applied, refused + anything.refused

    check()
    print(f"{applied} applies, {refused} refused")
    assert applied > 1.5 * examples, "each example ends with an apply of nothing, and not too many others are refused"

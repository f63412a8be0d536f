"""A soak: guests, administrators, crashes and meddlers at random. In every calm the host is as a fresh daemon makes it.

A round is some seconds of everything at once, then a calm. The state of the host is written down, and all is taken
away: without guests and networks the host must be as it was before the first start. Then the same guests come again,
with the same numbers, to a daemon that has never seen them, and the host must be as it was written down. Two minutes
are in the kernel lane. `packaging/test --long` takes two hours, or XENNETD_SOAK seconds. A failure names its random
numbers; XENNETD_SOAK_SEED in the environment repeats them.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from random import Random

import pytest

from tests.bed.guest import Bed
from tests.bed.site import Site, sysctl
from tests.kernel.conftest import MakeDaemon
from tests.kernel.soak import Readers, World
from tests.kernel.wait import eventually
from tests.kernel.whole_host import different, whole_host, xenstore_lines

CHAOS = 5.0
"""Seconds before every calm."""


@pytest.mark.usefixtures("dnsmasq")
@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(120.0, marks=pytest.mark.slow, id="minutes"),
        pytest.param(float(os.environ.get("XENNETD_SOAK", "7200")), marks=pytest.mark.long, id="hours"),
    ],
)
def test_whatever_happens_the_host_is_as_a_fresh_daemon_makes_it(
    bed: Bed, site: Site, daemon: MakeDaemon, capsys: pytest.CaptureFixture[str], seconds: float
) -> None:
    seed = os.environ.get("XENNETD_SOAK_SEED") or secrets.token_hex(4)
    sysctl(site.host, ipv6__conf__default__accept_dad=0)
    for number, name in enumerate(("xenbr0", "xenbr1")):
        bed.host.bridge(name, mtu=1400)  # A bridge follows its ports until somebody has given it another MTU.
        bed.host.rtnl.set(name, mtu=1500, address=f"02:00:00:00:01:{number:02x}")
    bare = whole_host(bed)
    xennetd = daemon(ready=False)
    xennetd.wait_ready()
    xennetd.terminate()
    world = World(bed, xennetd, Random(seed))
    world.begin()
    rounds = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        rounds += 1
        readers = Readers(xennetd.control)
        readers.start()
        try:
            end = time.monotonic() + CHAOS
            while time.monotonic() < end:
                world.happen()
        finally:
            readers.stop()
        world.forget_addresses()
        found = world.calm()
        nodes = list(xenstore_lines(bed, world.vifs))
        story = [f"seed {seed}, round {rounds}, configuration {world.configuration}", *world.story[-60:]]
        assert not (untold := world.untold()), "\n".join([*story, "the toolstack was told nothing:", *untold])
        same = {name: machine.domain.domid for name, machine in world.machines.items()}
        world.clear()
        left = settled(bed, bare)
        assert not left, "\n".join([*story, "the host is not as before the first start:", *left])
        for name, domid in same.items():
            world.create(name, domid)
        world.begin()
        wanted = world.calm()
        wrong = different(wanted, found)
        log = [f"log {line}" for line in xennetd.stderr().splitlines()]
        about = [line for line in [*found, *nodes, *log] if any(vif in line for vif in _vifs_in(wrong))]
        about = [line for line in about if not line.startswith("sysctl ")]
        assert not wrong, "\n".join([*story, "the host is not as a fresh daemon makes it:", *wrong, "it was:", *about])
        world.story.clear()
    world.clear()
    assert not settled(bed, bare)
    assert "Traceback" not in xennetd.stderr()
    with capsys.disabled():
        happened = ", ".join(f"{count} {name}" for name, count in sorted(world.counts.items()))
        print(f"\nsoak: seed {seed}, {rounds} rounds in {seconds:.0f} s, 0 differences; {happened}")


def _vifs_in(lines: list[str]) -> set[str]:
    """How these lines name vifs, as in `vif7.0` and `vif/7/0/`."""
    found = {match.groups() for line in lines for match in re.finditer(r"vif/?(\d+)[./](\d+)", line)}
    return {name for domid, devid in found for name in (f"vif{domid}.{devid}", f"vif/{domid}/{devid}/")}


def settled(bed: Bed, bare: list[str]) -> list[str]:
    """What differs from before, once everything has ended that ends in its own time."""
    try:
        eventually(lambda: whole_host(bed) == bare, 10.0, 0.2)
    except AssertionError:
        return different(bare, whole_host(bed))
    return []

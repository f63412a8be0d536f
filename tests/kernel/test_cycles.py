"""Guests of all modes that come and go, one after the other: in the end the host is exactly as before."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import RUNTIME, Daemon
from tests.bed.guest import Bed
from tests.bed.netns import NetNs
from tests.bed.site import Site, sysctl
from tests.bed.state import host_state
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import FENCE, MakeDaemon
from tests.kernel.every_mode import EVERY_MODE, SPECS, same, served
from tests.kernel.status import status
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually
from xennetd.model.value import replace

BRIDGES = r"xenbr0|fe80|ff00|: xn-\w+: <|dev xn-.* proto kernel"
"""Whether a bridge has a carrier, and what the kernel makes of that."""


def all_there_is(site: Site, xennetd: Daemon) -> list[str]:
    """The host's network, our files and xennetd's own open ones."""
    found = host_state(site.host, without=f"{FENCE}|{BRIDGES}")
    found += [f"file {path}" for path in sorted(RUNTIME.rglob("*")) if "32000" not in path.name]
    # dnsmasq writes leases down; the guests here take none.
    found += [f"{path}: {path.read_text()}" for path in sorted(Path("/var/lib/xennetd").rglob("leases"))]
    return [*found, f"{len(os.listdir(f'/proc/{xennetd.pid}/fd'))} open files"]


def live(bed: Bed, far_ends: NetNs, name: str, spec: VifSpec, uuid: str | None) -> str:
    """One guest from its domain's beginning to its end. Returns its uuid."""
    domain = bed.toolstack.create_domain(name, uuid_=uuid)
    vif = bed.toolstack.add_vif(domain, spec)
    bed.netback.probe(vif)
    bed.netback.create(vif, far_ends, peer=f"{domain.domid}.0")
    connected(bed, vif)
    bed.netfront.connect(vif)
    bed.netback.connect(vif)
    bed.toolstack.detach_vif(vif)
    bed.netfront.close(vif)
    bed.netback.close(vif)
    bed.netback.destroy(vif)
    bed.toolstack.forget_vif(vif)
    bed.toolstack.destroy_domain(domain)
    return domain.uuid


@pytest.mark.usefixtures("dnsmasq")
@pytest.mark.parametrize("cycles", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_guests_leave_nothing(
    bed: Bed, site: Site, daemon: MakeDaemon, settle: Callable[[], None], cycles: int
) -> None:
    """Some are reboots, with the uuid of one before, and each has an address that another had."""
    bed.host.bridge("xenbr0")
    sysctl(site.host, ipv6__conf__default__accept_dad=0)
    xennetd = daemon(EVERY_MODE)
    dnsmasqs = served("lab", "store")
    far_ends = bed.host.guest("far-ends")
    for name, spec in SPECS.items():
        live(bed, far_ends, name, spec, None)
    settle()
    before = all_there_is(site, xennetd)

    uuids: dict[str, str] = {}
    for number, (name, spec) in enumerate(itertools.islice(itertools.cycle(SPECS.items()), cycles)):
        mac = f"00:16:3e:70:{number % 16:02x}:{number % 7:02x}"
        uuids[name] = live(bed, far_ends, name, replace(spec, mac=mac), uuids.get(name) if number % 3 else None)

    settle()
    assert same(before, lambda: all_there_is(site, xennetd))
    eventually(lambda: {row["vif"] for row in xennetd.ask("list")} == {"vif32000.0"})
    assert status(xennetd)["problems"] == []
    assert served("lab", "store") == dnsmasqs
    assert "Traceback" not in xennetd.stderr()

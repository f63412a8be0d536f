"""A full host: how long a start takes with a thousand vifs, and an answer about them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.bed.daemon import Daemon
from tests.bed.guest import Bed, crowd
from tests.bed.toolstack import VifSpec
from tests.bed.waited import timed, waited
from tests.kernel.conftest import MakeDaemon
from tests.kernel.status import status

VIFS = 1000
TRIES = 10
LIST_SECONDS = 0.3
READY_SECONDS = 1.0


@pytest.fixture
def full(bed: Bed, daemon: MakeDaemon) -> Daemon:
    """xennetd on a host with a thousand vifs on two bridges, all connected."""
    for name in ("xenbr0", "xenbr1"):
        bed.host.bridge(name)
    crowd(bed, [VifSpec(bridge=f"xenbr{number % 2}") for number in range(VIFS)], per_domain=8, introduce=False)
    began = time.monotonic()
    xennetd = daemon(ready=False)
    ready = xennetd.wait_ready(60)
    print(f"start until READY=1, {VIFS} vifs attached: {ready.time - began:.2f} s")
    assert status(xennetd)["counts"]["connected"] == VIFS
    return xennetd


def best(measure: Callable[[], float], limit: float) -> float:
    """The least of some measurements, since what the machine does besides is not what is measured."""
    least = measure()
    for _ in range(1, TRIES):
        if least < limit:
            break
        least = min(least, measure())
    return least


@pytest.mark.slow
def test_a_thousand_vifs_are_adopted_and_listed_in_no_time(full: Daemon) -> None:
    def restart() -> float:
        full.kill9()
        began = time.monotonic()
        full.start(ready=False)
        ready = full.wait_ready(60).time - began
        return ready - waited(full.pid)

    def listing(*arguments: str) -> float:
        command = [*full.command("xennetd.cli.main"), "--control", str(full.control), "list", *arguments]
        shown, took = timed(command, full.environment)
        if "--json" in arguments:
            rows = json.loads(shown)
            assert len(rows) == VIFS
            assert {row["state"] for row in rows} == {"connected"}
        else:
            assert sum("connected" in line for line in shown.splitlines()) >= VIFS
        return took

    took = {
        f"start until READY=1, {VIFS} vifs adopted": (best(restart, READY_SECONDS), READY_SECONDS),
        "xennetctl list --json": (best(lambda: listing("--json"), LIST_SECONDS), LIST_SECONDS),
        "xennetctl list": (best(listing, LIST_SECONDS), LIST_SECONDS),
    }
    for what, (seconds, limit) in took.items():
        print(f"{what}: {seconds:.2f} s, of {limit} s at most")
    print(f"the daemon has taken {full.cpu():.2f} s of processor time, and {full.rss() >> 20} MiB")
    assert {what: seconds for what, (seconds, limit) in took.items() if seconds >= limit} == {}

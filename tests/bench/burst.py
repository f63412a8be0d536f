"""Hundreds of vifs at once: a host on which all guests start, or one whose driver domain comes back."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median

from tests.bed.toolstack import Vif
from tests.bed.xs import Request
from tests.bench.stage import BRIDGES, OURS, STOCK, Stage, Verdicts, run_script
from tests.bench.table import Aim, Row

_AT_ONCE = 2
"""Stock scripts that run side by side."""


def rows(ours: int, stock: int, repeats: int) -> list[Row]:
    """A burst of `ours` vifs; `stock` of the stock script's, one after the other and side by side. All on one host."""
    times, one_by_one, side_by_side = [], [], []
    with Stage() as stage:
        vifs = stage.crowd([OURS] * ours)
        theirs = stage.crowd([replace(STOCK, bridge=BRIDGES[1])] * stock)
        for _ in range(repeats):
            stage.rewind(vifs, state=1)
            stage.start()
            stage.settle()
            times.append(_burst(stage, vifs))
            stage.settle()
            with stage.without_xennetd():
                one_by_one.append(_scripts(stage, theirs, 1))
                side_by_side.append(_scripts(stage, theirs, _AT_ONCE))
            stage.daemon.terminate()
    fastest = min(median(one_by_one), median(side_by_side)) / stock
    note = (
        f"median of {repeats}; stock's measured on {stock}: {median(one_by_one) / stock * 1000:.1f} ms a vif one after "
        f"the other, {median(side_by_side) / stock * 1000:.1f} ms {_AT_ONCE} at a time; the faster counts here"
    )
    return [
        Row(f"a burst of {ours}", median(times), fastest * ours, aim=Aim(ratio=120), note=note),
        Row(f"a burst of {ours}, a vif", median(times) / ours, fastest),
    ]


def _burst(stage: Stage, vifs: list[Vif]) -> float:
    """Write `state=2` for all and return the seconds until the last `connected` is seen."""
    with Verdicts(stage, vifs) as verdicts:
        began = time.perf_counter()
        stage.bed.netback.xs.batch(Request.write(f"{vif.backend}/state", "2") for vif in vifs)
        return verdicts.all_connected() - began


def _scripts(stage: Stage, vifs: list[Vif], at_once: int) -> float:
    """Run the stock script for vifs that are at state 2 and return the seconds until the last is connected."""
    stage.rewind(vifs, state=2)
    with Verdicts(stage, vifs) as verdicts:
        began = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            for done in [pool.submit(run_script, stage, vif, "online") for vif in vifs]:
                done.result()
        ended = time.perf_counter()
        verdicts.all_connected()
        return ended - began

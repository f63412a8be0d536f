"""Hundreds of vifs at once: a host on which all guests start, or one whose driver domain comes back."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from tests.bed.toolstack import Vif
from tests.bed.xs import Request
from tests.bench.stage import BRIDGES, OURS, STOCK, Stage, Verdicts, run_script
from tests.bench.table import Aim, Row
from xennetd.model.value import replace

_AT_ONCE = 2
"""Scripts that run side by side: as many as a small machine has cores."""


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
    note = f"median of {repeats}; the script was run for {stock} vifs, and the time taken {ours / stock:g} times"

    def row(how: str, taken: list[float]) -> Row:
        # xl starts guests one after the other; a busy toolstack keeps every core at it.
        scripts = median(taken) / stock * ours
        return Row(f"a burst of {ours}, scripts {how}", median(times), scripts, aim=Aim(ratio=120), note=note)

    return [
        row("one after the other", one_by_one),
        row(f"{_AT_ONCE} at a time", side_by_side),
        Row(f"a burst of {ours}, for each vif", median(times) / ours),
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

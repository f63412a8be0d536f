"""Many vifs on one host: one more attach, xennetd's start, and what it costs when nothing happens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.bed.netns import FE_FF
from tests.bed.toolstack import Vif
from tests.bench.single import attach_once, parts
from tests.bench.stage import BRIDGES, OURS, Stage
from tests.bench.table import Aim, Row, Unit
from xennetd.kernel import rtnl
from xennetd.model.value import replace

_FLAT = 1.25
"""How much more one attach may cost among the most vifs than among the fewest, without what the kernel takes."""


@dataclass(frozen=True, slots=True)
class _Attach:
    """One attach among `vifs` others, and what of it is not xennetd's: in seconds, each the median.

    `set_master` is the kernel's own call, `verdict` xenstored's transaction.
    """

    vifs: int
    attach: float
    set_master: float
    verdict: float

    def row(self) -> Row:
        show = Unit.SECONDS.show
        note = f"the kernel's set-master alone {show(self.set_master)}, the verdict's transaction {show(self.verdict)}"
        return Row(f"one attach among {self.vifs:,} vifs", self.attach, note=note)


def rows(populations: Sequence[int], rounds: int, repeats: int, idle: float) -> list[Row]:
    """Attach one more vif at each population; then start and rest with the largest. They are on two bridges."""
    attaches, idles = [], []
    vifs: list[Vif] = []
    with Stage() as stage:
        empty = stage.start()
        idles += _at_rest(stage, 0, idle)
        for population in populations:
            stage.daemon.terminate()
            vifs += stage.crowd([replace(OURS, bridge=BRIDGES[i % 2]) for i in range(population - len(vifs))])
            stage.start()
            stage.rest()
            attaches.append(_attach_among(stage, len(vifs), rounds))
        idles += _at_rest(stage, len(vifs), idle)
        stage.daemon.terminate()
        starts = _starts(stage, vifs, empty, repeats)
    fewest, most = attaches[0], attaches[-1]
    compared = f"{most.vifs:,} beside {fewest.vifs:,}"
    flat = [
        _growth(f"the same, {compared}, without set-master", fewest, most, "set_master"),
        _growth(f"the same, {compared}, without both", fewest, most, "set_master", "verdict"),
    ]
    return [*starts, *idles, *(each.row() for each in attaches), *flat]


def _growth(name: str, fewest: _Attach, most: _Attach, *others: str) -> Row:
    """How much more an attach costs among the most vifs, once what `others` take is left out."""
    few, many = (each.attach - sum(getattr(each, other) for other in others) for each in (fewest, most))
    return Row(name, many / few, unit=Unit.TIMES, aim=Aim(below=_FLAT))


def _attach_among(stage: Stage, others: int, rounds: int) -> _Attach:
    attaches, set_masters = [], []
    bridge = stage.host.rtnl.index(BRIDGES[0])
    stage.host.rtnl.add_veth("bare", "bare-peer", stage.host.fd, address=FE_FF)
    bare = stage.host.rtnl.index("bare")
    for _ in range(rounds):
        domain, vif = stage.appear(OURS)
        attaches.append(attach_once(stage, vif))
        stage.settle()
        stage.bed.toolstack.detach_vif(vif)
        stage.vanish(domain, vif)
        set_masters.append(_set_master(stage, bare, bridge))
        _set_master(stage, bare, 0)
        stage.settle()
    stage.host.rtnl.delete("bare")
    verdict, _ = parts(stage, rounds)
    return _Attach(others, median(attaches), median(set_masters), verdict)


def _set_master(stage: Stage, index: int, master: int) -> float:
    """The kernel's own call, by the codec that the daemon uses; nobody else works on the links meanwhile."""
    request = rtnl.set_link(stage.requests.next_seq(), index, master=master)
    began = time.perf_counter()
    ((ack,), _) = stage.requests.ask([request])
    taken = time.perf_counter() - began
    assert ack.errno == 0, ack
    return taken


def _at_rest(stage: Stage, vifs: int, seconds: float) -> list[Row]:
    """Memory and processor time while nothing happens."""
    stage.settle()
    before, began = stage.cpu(), time.monotonic()
    time.sleep(seconds)
    used = (stage.cpu() - before) / (time.monotonic() - began)
    with_vifs = f"with {vifs:,} vifs"
    aim = Aim(below=45 << 20) if vifs else None
    return [
        Row(f"memory (RSS) {with_vifs}", stage.daemon.rss(), unit=Unit.BYTES, aim=aim),
        Row(f"processor at rest {with_vifs}", used * 100, unit=Unit.PERCENT, note=f"of one core, over {seconds:g} s"),
    ]


def _starts(stage: Stage, vifs: list[Vif], empty: float, repeats: int) -> list[Row]:
    """From the program's execution to READY=1."""
    fresh, adopting = [], []
    for _ in range(repeats):
        stage.rewind(vifs, state=2)
        fresh.append(_start_and_stop(stage))
        adopting.append(_start_and_stop(stage))
    domids = sorted({vif.domid for vif in vifs})
    for domid in domids:
        stage.bed.toolstack.xs.introduce(domid)
    introduced = [_start_and_stop(stage) for _ in range(repeats)]
    many = f"{len(vifs):,} vifs"
    slow = (
        f"median of {repeats}; all {len(domids)} domains introduced to xenstored, which then asks each one's ring "
        "before every answer"
    )
    return [
        Row("start until READY with no vif", empty),
        Row(
            f"start until READY with {many}, connected", median(adopting), aim=Aim(below=1), note=f"median of {repeats}"
        ),
        Row("the same, their domains introduced", median(introduced), aim=Aim(below=1), note=slow),
        Row(f"start until READY with {many}, all to attach", median(fresh), note=f"median of {repeats}"),
    ]


def _start_and_stop(stage: Stage) -> float:
    taken = stage.start()
    stage.settle()
    stage.daemon.terminate()
    return taken

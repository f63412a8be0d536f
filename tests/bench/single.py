"""One vif at a time on an idle host: attach, detach, the script, and what an attach is made of."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from statistics import median, quantiles

from tests.bed import hotplug
from tests.bed.news import LinkNews
from tests.bed.toolstack import Vif
from tests.bench.stage import BRIDGES, OURS, STOCK, Stage, Verdicts, run_script
from tests.bench.table import Aim, Row
from xennetd.kernel import execute
from xennetd.kernel.links import Links
from xennetd.model.placement import VIF_METRIC, BridgePort
from xennetd.model.vif import VifId
from xennetd.plan.port import attach
from xennetd.xenstore import backend
from xennetd.xenstore.client import XenstoreClient
from xennetd.xenstore.directory import Directory


@dataclass(slots=True)
class _Times:
    """Seconds, one for each time it was done."""

    attach: list[float] = field(default_factory=list)
    detach: list[float] = field(default_factory=list)
    script: list[float] = field(default_factory=list)


def rows(rounds: int, ours_a_round: int) -> list[Row]:
    """Attach and detach one vif after the other: each round once with the stock script, several times with ours."""
    stock, ours = _Times(), _Times()
    with Stage() as stage:
        stage.start()
        _ours_attached_and_detached(stage, _Times())
        for _ in range(rounds):
            _stock(stage, stock)
            _ours_with_its_script(stage, ours)
            for _ in range(ours_a_round):
                _ours_attached_and_detached(stage, ours)
        told, done = parts(stage, rounds * ours_a_round)
    counts = f"{len(stock.attach)} of stock's, {len(ours.attach)} of ours"
    return [
        Row("one attach, p50", median(ours.attach), median(stock.attach), aim=Aim(ratio=60), note=counts),
        Row("one attach, p99", _p99(ours.attach), _p99(stock.attach)),
        Row("the toolstack waits for the script, p50", median(ours.script), median(stock.script), aim=Aim(ratio=12)),
        Row("the toolstack waits for the script, p99", _p99(ours.script), _p99(stock.script)),
        Row("one detach, p50", median(ours.detach), median(stock.detach), note="until the port is out of the bridge"),
        Row("of an attach: the verdict's guarded transaction", told),
        Row("of an attach: the kernel's work", done, note="address generation off, into the bridge, up"),
    ]


def _p99(times: list[float]) -> float:
    return quantiles(times, n=100, method="inclusive")[98]


def attach_once(stage: Stage, vif: Vif) -> float:
    """Write `state=2` for a vif of ours and return the seconds until `connected` is seen."""
    with Verdicts(stage, [vif]) as verdicts:
        began = time.perf_counter()
        stage.bed.netback.prepare(vif)
        return verdicts.all_connected() - began


def _ours_attached_and_detached(stage: Stage, times: _Times) -> None:
    domain, vif = stage.appear(OURS)
    times.attach.append(attach_once(stage, vif))
    stage.settle()
    times.detach.append(_detach(stage, vif))
    stage.vanish(domain, vif)


def _ours_with_its_script(stage: Stage, times: _Times) -> None:
    domain, vif = stage.appear(OURS)
    stage.bed.netback.prepare(vif)
    times.script.append(run_script(stage, vif, "online"))
    stage.bed.toolstack.detach_vif(vif)
    stage.vanish(domain, vif)


def _stock(stage: Stage, times: _Times) -> None:
    domain, vif = stage.appear(STOCK)
    stage.bed.netback.prepare(vif)
    with stage.without_xennetd(), Verdicts(stage, [vif]) as verdicts:
        began = time.perf_counter()
        process = hotplug.start(stage.xenstored, vif, "online")
        times.attach.append(verdicts.all_connected() - began)
        process.communicate()
        times.script.append(time.perf_counter() - began)
        stage.bed.toolstack.detach_vif(vif)
        stage.bed.netfront.close(vif)
        stage.bed.netback.close(vif)
        with LinkNews(stage.host) as news:
            began = time.perf_counter()
            process = hotplug.start(stage.xenstored, vif, "offline")
            _until_out_of_the_bridge(news, vif)
            times.detach.append(time.perf_counter() - began)
            process.communicate()
    stage.vanish(domain, vif)


def _detach(stage: Stage, vif: Vif) -> float:
    """Begin a removal as libxl does and return the seconds from its commit until the port is out of its bridge."""
    xs = stage.bed.toolstack.xs
    tx = xs.start()
    xs.write_all(vif.backend, {"online": "0", "state": "5"}, tx)
    with LinkNews(stage.host) as news:
        began = time.perf_counter()
        xs.end(tx)
        _until_out_of_the_bridge(news, vif)
        return time.perf_counter() - began


def _until_out_of_the_bridge(news: LinkNews, vif: Vif) -> None:
    news.until(lambda seen: seen.name == vif.netdev and not seen.master)


def parts(stage: Stage, times: int) -> tuple[float, float]:
    """What an attach can't do without, by itself: seconds for the verdict's transaction, and for the kernel's Steps.

    Done by the daemon's own code, while the daemon is stopped.
    """
    domain, vif = stage.appear(OURS)
    stage.bed.netback.prepare(vif)
    stage.settle()
    with stage.without_xennetd():
        told = asyncio.run(_verdicts(stage, vif, times))
        done = _steps(stage, vif, times)
    stage.bed.toolstack.detach_vif(vif)
    stage.vanish(domain, vif)
    return told, done


async def _verdicts(stage: Stage, vif: Vif, times: int) -> float:
    client = XenstoreClient(str(stage.xenstored.socket))
    directory = Directory(client, lambda vif, heard_at: None)
    following = asyncio.create_task(directory.run())
    await directory.loaded.wait()
    found = directory.get(VifId(vif.domid, vif.devid))
    following.cancel()
    client.close()
    assert found is not None
    await client.connect()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await backend.write_verdict(client, found, error=None, frontend_mtu=1500)
        taken.append(time.perf_counter() - began)
    client.close()
    return median(taken)


def _steps(stage: Stage, vif: Vif, times: int) -> float:
    taken = []
    for _ in range(times):
        stage.rewind([vif], state=2)
        links = Links(stand_in=True)
        links.load(stage.requests.dump())
        link, bridge = links.of(VifId(vif.domid, vif.devid)), links.link(BRIDGES[0])
        assert link is not None
        assert bridge is not None
        placement = BridgePort(bridge.name, bridge.index, bridge.mtu)
        goal = placement.goal(link.name, bridge.mtu, VIF_METRIC, frozenset())
        steps = attach(goal, link, serves=placement.serves(link), fresh=True)
        began = time.perf_counter()
        execute.execute(stage.requests, steps)
        taken.append(time.perf_counter() - began)
    return median(taken)

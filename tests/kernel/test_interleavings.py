"""A sample of the schedules that tests/unit plays by the thousand, replayed on the real kernel and xenstored."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings

from tests.bed.guest import Bed
from tests.bed.netback import altname
from tests.bed.toolstack import Domain, Vif, VifSpec
from tests.kernel.conftest import MakeDaemon
from tests.schedules import Life, Moment, Op, schedules
from xennetd.model.vif import VifId


class Stage:
    """Plays lives on the bed; `domid` and names are moved out of the way of earlier schedules by `offset`."""

    def __init__(self, bed: Bed, offset: int) -> None:
        self._bed = bed
        self._offset = offset
        self._domains: dict[int, Domain] = {}
        self._made: dict[VifId, Vif] = {}
        self.vifs: dict[VifId, Vif] = {}
        self.names: dict[VifId, str] = {}

    def id_of(self, life: Life) -> VifId:
        return VifId(life.vif.domid + self._offset, life.vif.devid)

    def play(self, life: Life, op: Op) -> None:
        bed, vif_id = self._bed, self.id_of(life)
        if op is Op.DIRECTORY:
            name = f"{life.vifname}x{self._offset}" if life.vifname else None
            if vif_id.domid not in self._domains:
                self._domains[vif_id.domid] = bed.toolstack.create_domain(f"guest{vif_id.domid}", domid=vif_id.domid)
            spec = VifSpec(vifname=name)
            vif = bed.toolstack.add_vif(self._domains[vif_id.domid], spec, devid=vif_id.devid)
            self._made[vif_id] = self.vifs[vif_id] = vif
            self.names[vif_id] = name or vif_id.netdev
            return
        vif = self._made[vif_id]
        match op:
            case Op.INIT_WAIT:
                bed.netback.probe(vif)
            case Op.LINK:
                bed.netback.create(vif, bed.host.guest(f"{vif_id}-{life.order}"))
            case Op.CONNECT:
                if bed.toolstack.xs.get(f"{vif.backend}/hotplug-status") == "connected":
                    bed.netback.xs.write(f"{vif.backend}/state", "4")
            case Op.RECONNECT | Op.RECONNECT_FORGETTING:
                bed.netback.disconnect(vif, forget_hotplug_status=op is Op.RECONNECT_FORGETTING)
            case Op.BACK:
                bed.netback.prepare(vif)
            case Op.OFFLINE:
                bed.toolstack.detach_vif(vif)
            case Op.CLOSED:
                bed.netback.close(vif)
            case Op.LINK_GONE:
                bed.netback.destroy(vif)
            case Op.DIRECTORY_GONE:
                bed.toolstack.forget_vif(vif)
                del self.vifs[vif_id], self.names[vif_id]
            case Op.MEDDLE:
                bed.host.rtnl.set(altname(vif), up=False, master="")


def eventually(holds: Callable[[], bool], timeout: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_any_order_of_things_ends_well_on_a_real_host(bed: Bed, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon()
    offsets = itertools.count(10, 10)

    @given(schedules())
    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def replay(schedule: tuple[tuple[Life, ...], tuple[Moment, ...]]) -> None:
        lives, moments = schedule
        stage = Stage(bed, next(offsets))
        left = {number: list(life.ops) for number, life in enumerate(lives)}
        for moment in moments:
            stage.play(lives[moment.life], moment.op)
            left[moment.life].remove(moment.op)
            time.sleep(moment.pause / 10_000)
        assert eventually(lambda: all(as_it_must_be(stage, vif) for vif in stage.vifs)), story(stage, moments)
        known = {row["vif"] for row in xennetd.ask("list")}
        assert {str(vif) for vif in stage.vifs} <= known
        for vif_id, vif in tuple(stage.vifs.items()):
            bed.toolstack.detach_vif(vif)
            bed.netback.close(vif)
            if altname(vif) in {name for link in bed.host.links().values() for name in link.get("altnames", ())}:
                bed.netback.destroy(vif)
            bed.toolstack.forget_vif(vif)
            del stage.vifs[vif_id]
        assert eventually(lambda: xennetd.ask("list") == []), story(stage, moments)

    def story(stage: Stage, moments: tuple[Moment, ...]) -> str:
        rows = [f"{row['vif']} {row['state']} {row['reason']} {row['error']}" for row in xennetd.ask("list")]
        nodes = [f"{vif.backend} {bed.toolstack.xs.tree(vif.backend)}" for vif in stage.vifs.values()]
        links = [f"{link['ifname']} {link.get('altnames')} {link['flags']}" for link in bed.host.links().values()]
        played = [f"{moment.life} {moment.op} {moment.pause}" for moment in moments]
        return "\n".join([*rows, *nodes, *links, *played, xennetd.stderr()[-2000:]])

    def as_it_must_be(stage: Stage, vif_id: VifId) -> bool:
        vif = stage.vifs[vif_id]
        nodes = bed.toolstack.xs.tree(vif.backend)
        links = bed.host.links()
        link = next((link for link in links.values() if altname(vif) in link.get("altnames", ())), None)
        if link is None:
            return True
        up = "UP" in link["flags"]
        if nodes["online"] == "0":
            return not up and "master" not in link
        if nodes["state"] in ("1", "6"):
            return True
        wanted = stage.names[vif_id]
        if wanted in links and links[wanted] is not link:
            return not up
        connected = nodes.get("hotplug-status") == "connected"
        return (link["ifname"], link.get("master"), up, connected) == (wanted, "xenbr0", True, True)

    replay()

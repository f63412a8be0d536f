"""The live view of vifs against the real xenstored: what it reports, when, at what cost, and over a lost connection."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pytest

from tests.bed.toolstack import Toolstack, VifSpec
from tests.bed.xenstored import Dump, Xenstored
from tests.kernel.conftest import both_stores
from xennetd.model.errors import ToolstackError
from xennetd.model.vif import Vif, VifId, XenbusState
from xennetd.xenstore import codec
from xennetd.xenstore.client import Reply, Request, XenstoreClient
from xennetd.xenstore.directory import SETTLE, Directory

pytestmark = both_stores

DRIVER = 5


def story(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on an event loop of its own."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30))

    return run


@dataclass(slots=True)
class Follower:
    """A directory that follows xenstored, what it has reported so far, and all that it knew at each report."""

    directory: Directory
    client: Observed
    changed: list[VifId]
    known: list[dict[VifId, Vif | None]]

    @property
    def reads(self) -> list[str]:
        return self.client.reads

    @property
    def names(self) -> set[int]:
        """The domains whose names are watched."""
        names = (re.fullmatch(r"/local/domain/(\d+)/name", path) for path in self.client.watched)
        return {int(name[1]) for name in names if name is not None}

    async def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5
        while not what():
            assert time.monotonic() < deadline, "it did not come to that"
            await asyncio.sleep(0.001)

    async def quiet(self) -> None:
        """Let everything that is on its way arrive, what it makes the directory read included."""
        for _ in range(3):
            await self.client.answered()
        await asyncio.sleep(0.03)


class Observed(XenstoreClient):
    """Notes which nodes are read, and can let something happen just before."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.reads: list[str] = []
        self.before: Callable[[], None] = lambda: None

    async def answered(self) -> None:
        """Return when xenstored has answered all that was asked of it, and what was done then has been done."""
        with suppress(ToolstackError):
            await super().exchange([Request(codec.READ, 0, codec.path_payload("domid"))])
        await asyncio.sleep(0)

    def exchange(self, requests: Sequence[Request]) -> asyncio.Future[list[Reply]]:
        self.before()
        self.reads += [request.payload.rstrip(b"\0").decode() for request in requests]
        return super().exchange(requests)


@asynccontextmanager
async def following(path: object) -> AsyncIterator[Follower]:
    changed: list[VifId] = []
    known: list[dict[VifId, Vif | None]] = []

    def report(vif: VifId, heard_at: float) -> None:
        changed.append(vif)
        known.append({each: directory.get(each) for each in directory})

    client = Observed(str(path))
    directory = Directory(client, report)
    task = asyncio.create_task(directory.run())
    await directory.loaded.wait()
    follower = Follower(directory, client, changed, known)
    if not directory.own_domid:
        await follower.until(lambda: follower.names == {vif.domid for vif in directory})
    await follower.quiet()
    changed.clear()
    known.clear()
    client.reads.clear()
    yield follower
    task.cancel()
    await asyncio.wait([task])
    client.close()


@pytest.fixture
def toolstack(xenstored: Xenstored) -> Toolstack:
    return Toolstack(xenstored)


@story
async def test_what_is_there_is_known_when_it_is_loaded(xenstored: Xenstored, toolstack: Toolstack) -> None:
    web = toolstack.create_domain("web--incoming")
    toolstack.add_vif(web, VifSpec(bridge="xenbr1", ip="192.0.2.7", mtu=9000))
    toolstack.add_vif(web, VifSpec(type="vif_ioemu"), devid=3)
    async with following(xenstored.socket) as follower:
        assert set(follower.directory) == {VifId(web.domid, 0), VifId(web.domid, 3)}
        vif = follower.directory.get(VifId(web.domid, 0))
        assert vif is not None
        assert (vif.vm, vif.uuid, vif.bridge, vif.mtu) == ("web", web.uuid, "xenbr1", 9000)
        assert (vif.state, vif.online, vif.faults) == (XenbusState.INITIALISING, True, ())
        assert follower.directory.own_domid == 0
        assert follower.directory.state == f"connected to {xenstored.socket}"


@story
async def test_a_vif_comes_and_goes(xenstored: Xenstored, toolstack: Toolstack) -> None:
    async with following(xenstored.socket) as follower:
        web = toolstack.create_domain("web")
        vif = toolstack.add_vif(web)
        key = VifId(web.domid, 0)
        await follower.until(lambda: follower.directory.get(key) is not None)
        toolstack.detach_vif(vif)
        await follower.until(lambda: (known := follower.directory.get(key)) is not None and known.removing)
        toolstack.forget_vif(vif)
        await follower.until(lambda: follower.directory.get(key) is None)
        assert set(follower.changed) == {key}
        assert list(follower.directory) == []


@story
async def test_one_state_is_looked_at_in_one_go_however_many_vifs_there_are(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    for number in range(20):
        toolstack.add_vif(toolstack.create_domain(f"guest{number}"))
    async with following(xenstored.socket) as follower:
        toolstack.xs.write("backend/vif/7/0/state", "2")
        await follower.until(lambda: bool(follower.changed))
        await follower.quiet()
        assert follower.changed == [VifId(7, 0)]
        assert sorted(follower.reads) == ["/local/domain/7/name", "/local/domain/7/vm", "backend/vif/7/0/state"]


@story
async def test_what_is_written_again_unchanged_or_is_not_ours_is_not_reported(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    vif = toolstack.add_vif(toolstack.create_domain("web"))
    async with following(xenstored.socket) as follower:
        toolstack.xs.write(f"{vif.backend}/state", "1")
        await follower.quiet()
        assert len(follower.reads) == 3
        for junk in ("feature-sg", "feature-rx-copy", "state/deeper", "mode"):
            toolstack.xs.write(f"{vif.backend}/{junk}", "1")
        for junk in ("x", "x/0", "x/0/state", "01/0/state", "1/x/state", "99999/0/state", "1/-1"):
            toolstack.xs.write(f"backend/vif/{junk}", "1")
        await follower.quiet()
        assert len(follower.reads) == 3
        assert follower.changed == []


@story
async def test_all_hints_at_hand_are_one_look_and_one_report(xenstored: Xenstored, toolstack: Toolstack) -> None:
    vif = toolstack.add_vif(toolstack.create_domain("web"))
    async with following(xenstored.socket) as follower:
        for number in range(15):  # while our loop stands still
            toolstack.xs.write(f"{vif.backend}/state", str(number % 5))
        toolstack.xs.write(f"{vif.backend}/bridge", "xenbr9")
        for _ in range(50):  # and until xenstored has sent all its events
            toolstack.xs.read("domid")
        await follower.quiet()
        assert follower.changed == [VifId(vif.domid, 0)]
        found = follower.directory.get(VifId(vif.domid, 0))
        assert found is not None
        assert (found.state, found.bridge) == (XenbusState.CONNECTED, "xenbr9")
        assert len(follower.reads) == 4


@story
async def test_of_two_that_changed_at_once_none_is_reported_before_both_are_known(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    old, new = (toolstack.add_vif(toolstack.create_domain(name)) for name in ("old", "new"))
    async with following(xenstored.socket) as follower:
        toolstack.detach_vif(old)  # while our loop stands still
        toolstack.xs.rm(f"{old.backend}/hotplug-status")  # so that all of its directory is to be looked at
        toolstack.detach_vif(new)
        for _ in range(50):
            toolstack.xs.read("domid")
        await follower.quiet()
        assert follower.changed == [VifId(old.domid, 0), VifId(new.domid, 0)]
        for known in follower.known:
            assert [vif.removing for vif in known.values() if vif is not None] == [True, True]


@story
async def test_a_node_that_goes_is_looked_into(xenstored: Xenstored, toolstack: Toolstack) -> None:
    vif = toolstack.add_vif(toolstack.create_domain("web"))
    toolstack.xs.write(f"{vif.backend}/hotplug-status", "connected")
    async with following(xenstored.socket) as follower:
        toolstack.xs.rm(f"{vif.backend}/hotplug-status")
        key = VifId(vif.domid, 0)
        await follower.until(lambda: bool(follower.changed))
        found = follower.directory.get(key)
        assert found is not None
        assert found.hotplug_status is None
        assert found.bridge == "xenbr0"


@story
async def test_a_directory_that_goes_while_it_is_looked_at_is_never_reported_by_half(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    vif = toolstack.add_vif(toolstack.create_domain("web"))
    async with following(xenstored.socket) as follower:
        seen: list[object] = []

        def vanish() -> None:
            follower.client.before = lambda: seen.append(follower.directory.get(VifId(vif.domid, 0)))
            toolstack.forget_vif(vif)

        follower.client.before = vanish
        toolstack.xs.write(f"{vif.backend}/state", "5")
        await follower.until(lambda: bool(follower.changed))
        await follower.quiet()
        assert follower.changed == [VifId(vif.domid, 0)]
        assert follower.directory.get(VifId(vif.domid, 0)) is None
        assert seen


@pytest.mark.parametrize("ancestor", ["backend/vif/{}/0", "backend/vif/{}", "backend/vif", "backend"])
def test_deleting_anything_above_it_ends_a_vif(xenstored: Xenstored, toolstack: Toolstack, ancestor: str) -> None:
    @story
    async def test() -> None:
        first = toolstack.add_vif(toolstack.create_domain("web"))
        second = toolstack.add_vif(toolstack.create_domain("db"))
        async with following(xenstored.socket) as follower:
            for domid in (first.domid, second.domid):
                toolstack.xs.rm(ancestor.format(domid))
                if ancestor in ("backend/vif", "backend"):
                    break
            await follower.until(lambda: not list(follower.directory))
            assert sorted(follower.changed) == [VifId(first.domid, 0), VifId(second.domid, 0)]

    test()


@story
async def test_an_orphan_is_no_vif(xenstored: Xenstored, toolstack: Toolstack) -> None:
    async with following(xenstored.socket) as follower:
        toolstack.xs.write("backend/vif/7/0/hotplug-status", "connected")
        await follower.quiet()
        assert list(follower.directory) == []
        assert follower.changed == []


@story
async def test_a_rename_without_an_event_is_seen_with_the_next_state(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    async with following(xenstored.socket) as follower:
        web = toolstack.create_domain("web--incoming")
        vif = toolstack.add_vif(web)

        def seen() -> Vif:
            found = follower.directory.get(VifId(web.domid, 0))
            assert found is not None
            return found

        await follower.until(lambda: bool(follower.changed))
        toolstack.rename_domain(web, "shop")
        toolstack.xs.write(f"{vif.backend}/state", "2")
        await follower.until(lambda: seen().state is XenbusState.INIT_WAIT)
        assert seen().vm == "shop"
        assert follower.names == set()  # It is too early for a watch on the name.


@story
async def test_a_vif_keeps_its_domains_name_to_the_end(xenstored: Xenstored, toolstack: Toolstack) -> None:
    web = toolstack.create_domain("web")
    vif = toolstack.add_vif(web)
    async with following(xenstored.socket) as follower:
        toolstack.xs.rm(web.path)
        toolstack.detach_vif(vif)
        await follower.until(lambda: bool(follower.changed))
        found = follower.directory.get(VifId(web.domid, 0))
        assert found is not None
        assert (found.vm, found.uuid) == ("web", web.uuid)


@story
async def test_a_released_domain_is_a_hint_to_look_at_its_vifs(xenstored: Xenstored, toolstack: Toolstack) -> None:
    web, db = toolstack.create_domain("web"), toolstack.create_domain("db")
    toolstack.add_vif(web)
    toolstack.add_vif(db)
    async with following(xenstored.socket) as follower:
        toolstack.destroy_domain(web)
        await follower.until(lambda: bool(follower.reads))
        await follower.quiet()
        assert f"backend/vif/{web.domid}/0/state" in follower.reads
        assert f"backend/vif/{db.domid}/0/state" not in follower.reads
        assert follower.changed == []


@story
async def test_refresh_looks_again_at_all_of_one_vif(xenstored: Xenstored, toolstack: Toolstack) -> None:
    web = toolstack.create_domain("web")
    toolstack.add_vif(web)
    async with following(xenstored.socket) as follower:
        toolstack.rename_domain(web, "shop")
        found = await follower.directory.refresh(VifId(web.domid, 0))
        assert found is not None
        assert found.vm == "shop"
        assert await follower.directory.refresh(VifId(99, 0)) is None
        assert follower.changed == [VifId(web.domid, 0)]
        xenstored.kill9()
        with pytest.raises(ToolstackError):
            await follower.directory.refresh(VifId(web.domid, 0))


# A lost connection


@story
async def test_after_a_restart_only_the_differences_are_reported(xenstored: Xenstored, toolstack: Toolstack) -> None:
    same, gone, other = (toolstack.add_vif(toolstack.create_domain(name)) for name in ("same", "gone", "other"))
    async with following(xenstored.socket) as follower:
        held = xenstored.dump()
        xenstored.kill9()
        await follower.until(lambda: not follower.client.connected)
        assert len(list(follower.directory)) == 3
        await follower.until(lambda: "not running" in follower.directory.state)
        xenstored.start(
            Dump(
                tuple(
                    node._replace(value=b"2") if node.path == f"{other.backend}/state" else node
                    for node in held.nodes
                    if not node.path.startswith(gone.backend)
                ),
                held.introduced,
            )
        )
        await follower.until(lambda: follower.directory.reconnects == 1)
        assert sorted(follower.changed) == [VifId(gone.domid, 0), VifId(other.domid, 0)]
        assert set(follower.directory) == {VifId(same.domid, 0), VifId(other.domid, 0)}
        with xenstored.connect() as xs:
            xs.write(f"{same.backend}/state", "2")
        await follower.until(lambda: VifId(same.domid, 0) in follower.changed)


@story
async def test_a_xenstored_that_came_back_empty_ends_no_vif(xenstored: Xenstored, toolstack: Toolstack) -> None:
    vifs = [toolstack.add_vif(toolstack.create_domain(name)) for name in ("web", "db")]
    async with following(xenstored.socket) as follower:
        held = xenstored.dump()
        xenstored.kill9()
        xenstored.start()
        await follower.until(lambda: "lost what it held" in follower.directory.state)
        await asyncio.sleep(SETTLE * 1.5)
        with xenstored.connect() as xs:
            for node in held.nodes:
                xs.restore([node])
                await asyncio.sleep(0.001)
        await follower.until(lambda: follower.directory.reconnects == 1)
        assert set(follower.directory) == {VifId(vif.domid, 0) for vif in vifs}
        assert follower.changed == []


@story
async def test_it_waits_for_a_xenstored_that_is_not_there_yet(xenstored: Xenstored) -> None:
    xenstored.kill9()
    directory = Directory(XenstoreClient(str(xenstored.socket)), lambda vif, heard_at: None)
    task = asyncio.create_task(directory.run())
    await asyncio.sleep(0.2)
    assert not directory.loaded.is_set()
    assert "not running" in directory.state
    xenstored.start()
    await asyncio.wait_for(directory.loaded.wait(), 3)
    assert directory.reconnects == 0
    task.cancel()


# A driver domain


@story
async def test_a_driver_domain_sees_its_own_vifs_and_no_names(xenstored: Xenstored, toolstack: Toolstack) -> None:
    toolstack.create_domain("driver", domid=DRIVER)
    web = toolstack.create_domain("web")
    toolstack.add_vif(web, VifSpec(backend_domid=DRIVER))
    toolstack.add_vif(web, VifSpec(backend_domid=0), devid=1)
    async with following(xenstored.domain_socket(DRIVER)) as follower:
        assert follower.directory.own_domid == DRIVER
        assert list(follower.directory) == [VifId(web.domid, 0)]
        found = follower.directory.get(VifId(web.domid, 0))
        assert found is not None
        assert (found.vm, found.uuid, found.bridge) == (None, None, "xenbr0")
        vif = toolstack.add_vif(web, VifSpec(backend_domid=DRIVER), devid=2)
        await follower.until(lambda: follower.directory.get(VifId(web.domid, 2)) is not None)
        toolstack.forget_vif(vif)
        await follower.until(lambda: follower.directory.get(VifId(web.domid, 2)) is None)
        domains = [path for path in follower.reads if path.startswith("/local/domain")]
        assert [path for path in domains if not path.endswith("/mtu")] == []


# What it costs


@story
async def test_a_thousand_vifs_are_read_about_as_fast_as_xenstored_answers(xenstored: Xenstored) -> None:
    client = XenstoreClient(str(xenstored.socket))
    await client.connect()
    nodes: dict[str, str] = {}
    for domid in range(1, 1001):
        back = {"frontend": f"/local/domain/{domid}/device/vif/0", **VifSpec(ip="192.0.2.7").back(domid, 0)}
        nodes |= {f"backend/vif/{domid}/0/{name}": value for name, value in back.items()}
        nodes[f"/local/domain/{domid}/name"] = f"guest{domid}"
        nodes[f"/local/domain/{domid}/vm"] = "/vm/3f8c1c5e-5a3b-4c62-9b51-0c8e2f7a1d44"
    await client.exchange([Request(codec.WRITE, 0, f"{path}\0{value}".encode()) for path, value in nodes.items()])
    took, bare = [], []
    for _ in range(3):
        began = time.perf_counter()
        await client.read_many(list(nodes))
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        directory = Directory(XenstoreClient(str(xenstored.socket)), lambda vif, heard_at: None)
        task = asyncio.create_task(directory.run())
        await directory.loaded.wait()
        took.append(time.perf_counter() - began)
        assert len(list(directory)) == 1000
        task.cancel()
        await asyncio.wait([task])
    print(f"1,000 vifs: {min(took):.3f} s; their nodes alone, in one batch: {min(bare):.3f} s")
    assert min(took) < 3 * min(bare) + 0.05

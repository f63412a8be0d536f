"""The directory and domains' names against the real xenstored: a rename alone is seen, and no watch is left behind."""

from __future__ import annotations

import asyncio
from itertools import islice

import pytest
import structlog

from tests.bed.toolstack import Toolstack, VifSpec
from tests.bed.xenstored import Dump, Xenstored
from tests.kernel.conftest import both_stores
from tests.kernel.test_xenstore_directory import DRIVER, following, story
from xennetd.model.vif import VifId
from xennetd.xenstore.client import XenstoreClient
from xennetd.xenstore.directory import NAMES_AFTER
from xennetd.xenstore.names import NameWatches


@pytest.fixture
def toolstack(xenstored: Xenstored) -> Toolstack:
    return Toolstack(xenstored)


@both_stores
@story
async def test_a_rename_is_reported_for_every_vif_of_the_domain(xenstored: Xenstored, toolstack: Toolstack) -> None:
    web, db = toolstack.create_domain("web"), toolstack.create_domain("db")
    for devid in (0, 3):
        toolstack.add_vif(web, devid=devid)
    toolstack.add_vif(db)
    async with following(xenstored.socket) as follower:
        toolstack.rename_domain(web, "shop")
        await follower.until(lambda: bool(follower.changed))
        await follower.quiet()
        assert sorted(follower.changed) == [VifId(web.domid, 0), VifId(web.domid, 3)]
        assert [vif.vm for vif in follower.known[0].values() if vif is not None] == ["shop", "shop", "db"]


@story
async def test_a_rename_beside_another_change_of_the_vif_is_one_report(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    web = toolstack.create_domain("web")
    vif = toolstack.add_vif(web)
    async with following(xenstored.socket) as follower:
        toolstack.xs.write(f"{vif.backend}/bridge", "xenbr9")  # while our loop stands still
        toolstack.rename_domain(web, "shop")
        for _ in range(50):  # and until xenstored has sent all its events
            toolstack.xs.read("domid")
        await follower.quiet()
        assert follower.changed == [VifId(web.domid, 0)]
        found = follower.directory.get(VifId(web.domid, 0))
        assert found is not None
        assert (found.vm, found.bridge) == ("shop", "xenbr9")


@story
async def test_the_end_of_a_migration_is_no_change(xenstored: Xenstored, toolstack: Toolstack) -> None:
    web = toolstack.create_domain("web--incoming")
    toolstack.add_vif(web)
    async with following(xenstored.socket) as follower:
        for name in ("web", "web--migratedaway", "web--incoming"):
            toolstack.rename_domain(web, name)
            await follower.until(lambda: f"/local/domain/{web.domid}/name" in follower.reads)
            await follower.quiet()
            follower.reads.clear()
        assert follower.changed == []


@story
async def test_the_watch_comes_after_the_vif_was_reported_and_reports_nothing_by_itself(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    async with following(xenstored.socket) as follower:
        web = toolstack.create_domain("web")
        toolstack.add_vif(web)
        await follower.until(lambda: bool(follower.changed))
        assert follower.names == set()
        asked_until_reported = list(follower.reads)
        assert not [path for path in asked_until_reported if path.startswith(f"/local/domain/{web.domid}/name\0")]
        await follower.until(lambda: follower.names == {web.domid})
        await follower.quiet()
        assert follower.changed == [VifId(web.domid, 0)]
        more = [path for path in islice(follower.reads, len(asked_until_reported), None) if path != "domid"]
        name, vm = f"{web.path}/name", f"{web.path}/vm"
        assert sorted(more) == sorted([f"{name}\0{name}", name, vm])


@story
async def test_a_rename_before_the_watch_is_set_is_not_missed(xenstored: Xenstored, toolstack: Toolstack) -> None:
    async with following(xenstored.socket) as follower:
        web = toolstack.create_domain("web")
        toolstack.add_vif(web)
        await follower.until(lambda: bool(follower.changed))
        assert follower.names == set()
        toolstack.rename_domain(web, "shop")
        await follower.until(lambda: len(follower.changed) == 2)
        found = follower.directory.get(VifId(web.domid, 0))
        assert found is not None
        assert found.vm == "shop"


@story
async def test_a_domain_that_goes_keeps_its_name(xenstored: Xenstored, toolstack: Toolstack) -> None:
    web = toolstack.create_domain("web")
    toolstack.add_vif(web)
    async with following(xenstored.socket) as follower:
        toolstack.xs.rm(web.path)
        await follower.until(lambda: f"/local/domain/{web.domid}/name" in follower.reads)
        await follower.quiet()
        found = follower.directory.get(VifId(web.domid, 0))
        assert found is not None
        assert found.vm == "web"
        assert follower.changed == []


@story
async def test_the_watch_goes_with_the_domains_last_vif(xenstored: Xenstored, toolstack: Toolstack) -> None:
    web = toolstack.create_domain("web")
    first, last = (toolstack.add_vif(web, devid=devid) for devid in (0, 1))
    async with following(xenstored.socket) as follower:
        assert follower.names == {web.domid}
        toolstack.forget_vif(first)
        await asyncio.sleep(NAMES_AFTER + 0.1)
        assert follower.names == {web.domid}
        toolstack.forget_vif(last)
        await follower.until(lambda: follower.names == set())
        follower.reads.clear()
        toolstack.rename_domain(web, "shop")
        await follower.quiet()
        assert set(follower.reads) <= {"domid"}


@both_stores
@story
async def test_two_hundred_domains_that_came_and_went_leave_no_watch(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    async with following(xenstored.socket) as follower:
        before = xenstored.watches()
        domains = [toolstack.create_domain(f"guest{number}", introduce=False) for number in range(200)]
        vifs = []
        for domain in domains:
            vifs.append(toolstack.add_vif(domain))
            # oxenstored lets nobody write on while a watcher leaves some 2,000 events unread.
            await asyncio.sleep(0)
        await follower.until(lambda: follower.names == {domain.domid for domain in domains})
        await follower.until(lambda: xenstored.watches() == before + 200)
        toolstack.rename_domain(domains[150], "renamed")
        await follower.until(
            lambda: (vif := follower.directory.get(VifId(domains[150].domid, 0))) is not None and vif.vm == "renamed"
        )
        for vif in vifs:
            toolstack.forget_vif(vif)
            await asyncio.sleep(0)
        await follower.until(lambda: follower.names == set())
        assert xenstored.watches() == before
        assert follower.directory.reconnects == 0


@both_stores
@story
async def test_domains_that_come_and_go_all_the_time_are_no_trouble(xenstored: Xenstored, toolstack: Toolstack) -> None:
    """Watches are set for domains that have gone meanwhile, and taken away while their events are on the way."""
    async with following(xenstored.socket) as follower:
        before = xenstored.watches()
        for number in range(60):
            domain = toolstack.create_domain(f"guest{number}", introduce=False)
            vif = toolstack.add_vif(domain)
            await asyncio.sleep(0.02)
            toolstack.rename_domain(domain, f"renamed{number}")
            toolstack.forget_vif(vif)
            toolstack.destroy_domain(domain)
        await follower.until(lambda: list(follower.directory) == [] and follower.names == set())
        assert xenstored.watches() == before
        assert follower.directory.reconnects == 0


@both_stores
@story
async def test_after_a_restart_renames_are_followed_as_before(xenstored: Xenstored, toolstack: Toolstack) -> None:
    web, db = toolstack.create_domain("web"), toolstack.create_domain("db")
    toolstack.add_vif(web)
    toolstack.add_vif(db)
    async with following(xenstored.socket) as follower:
        held = xenstored.dump()
        xenstored.kill9()
        await follower.until(lambda: not follower.client.connected)
        assert follower.names == set()
        renamed = f"{db.path}/name"
        xenstored.start(
            Dump(
                tuple(node._replace(value=b"shop") if node.path == renamed else node for node in held.nodes),
                held.introduced,
            )
        )
        await follower.until(lambda: follower.directory.reconnects == 1)
        assert follower.changed == [VifId(db.domid, 0)]
        await follower.until(lambda: follower.names == {web.domid, db.domid})
        await follower.quiet()
        with xenstored.connect() as xs:
            xs.write(f"{web.path}/name", "intranet")
        await follower.until(lambda: VifId(web.domid, 0) in follower.changed)
        found = follower.directory.get(VifId(web.domid, 0))
        assert found is not None
        assert found.vm == "intranet"


@story
async def test_a_driver_domain_watches_no_names(xenstored: Xenstored, toolstack: Toolstack) -> None:
    toolstack.create_domain("driver", domid=DRIVER)
    for number in range(5):
        toolstack.add_vif(toolstack.create_domain(f"guest{number}"), VifSpec(backend_domid=DRIVER))
    async with following(xenstored.domain_socket(DRIVER)) as follower:
        await asyncio.sleep(NAMES_AFTER + 0.1)
        assert len(follower.directory) == 5
        assert set(follower.client.watched) <= {"backend/vif", "@releaseDomain"}


@both_stores
@story
async def test_watches_that_are_refused_are_told_once_and_do_no_harm(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    """dom0 has no quota of them, but this is how it would go if it had a driver domain's."""
    toolstack.create_domain("driver", domid=DRIVER)
    client = XenstoreClient(str(xenstored.domain_socket(DRIVER)))
    await client.connect()
    domids = set(range(1, 201))
    with structlog.testing.capture_logs() as logs:
        names = NameWatches(client, lambda path: None, structlog.get_logger())
        for _ in range(20):
            settled = await names.follow(domids)
        assert settled
        assert len(logs) == 200 - len(client.watched)
        assert {entry["event"] for entry in logs} == {
            "xenstored refuses a watch on a domain's name, so xennetd notices a new name late"
        }
        for _ in range(20):
            settled = await names.follow(set())
        assert settled
    assert list(client.watched) == []
    assert await client.read("domid") == str(DRIVER).encode()

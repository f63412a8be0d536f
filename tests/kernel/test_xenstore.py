"""Our xenstore client against the real xenstored: requests, transactions, a lost connection, a driver domain."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any

import pytest

from tests.bed.toolstack import Toolstack, VifSpec
from tests.bed.xenstored import Oxenstored, Xenstored
from tests.bed.xs import Xs
from tests.kernel.conftest import both_stores
from xennetd.model.vif import Vif, VifId
from xennetd.xenstore import backend, codec
from xennetd.xenstore.channel import ConnectionLost
from xennetd.xenstore.client import ATTEMPTS, NodeChange, Request, WriteNode, XenstoreClient
from xennetd.xenstore.codec import XenstoreError
from xennetd.xenstore.parse import NODES, parse_vif

pytestmark = both_stores

DRIVER = 5


def story(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on an event loop of its own."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30))

    return run


async def connected(path: object) -> XenstoreClient:
    client = XenstoreClient(str(path))
    await client.connect()
    return client


async def look(client: XenstoreClient, vif: VifId) -> Vif:
    nodes = dict(zip(NODES, await client.read_many([f"{vif.backend}/{node}" for node in NODES]), strict=True))
    return parse_vif(vif, nodes)


@pytest.fixture
def toolstack(xenstored: Xenstored) -> Toolstack:
    return Toolstack(xenstored)


# Requests


def write(path: str, value: bytes = b"") -> Request:
    return Request(codec.WRITE, 0, codec.path_payload(path) + value)


def rm(path: str) -> Request:
    return Request(codec.RM, 0, codec.path_payload(path))


@story
async def test_nodes_are_written_read_listed_and_removed(xenstored: Xenstored) -> None:
    client = await connected(xenstored.socket)
    await client.exchange([write("/a/b", b"value\0with\xffbytes"), write("/a/c")])
    assert await client.read_many(["/a/b", "/a/c", "/a/d"]) == [b"value\0with\xffbytes", b"", None]
    assert await client.directory_many(["/a", "/a/b", "/nowhere"]) == [["b", "c"], [], None]
    assert await client.exchange([rm("/a")]) == [b"OK\0"]
    assert await client.read("/a/b") is None
    assert await client.exchange([rm("/a/b")]) == [errno.ENOENT]


@story
async def test_a_message_too_long_is_refused_here_and_costs_no_connection(xenstored: Xenstored) -> None:
    client = await connected(xenstored.socket)
    with pytest.raises(codec.ProtocolError):
        await client.exchange([write("/a", bytes(codec.PAYLOAD_MAX - len("/a")))])
    longest = bytes(codec.PAYLOAD_MAX - len("/a\0"))
    if isinstance(xenstored, Oxenstored):
        assert await client.exchange([write("/a", longest)]) == [errno.E2BIG]  # Its quota-maxsize is dom0's too.
        longest = bytes(2048)
    assert await client.exchange([write("/a", longest)]) == [b"OK\0"]
    assert await client.read("/a") == longest


@story
async def test_twenty_thousand_reads_are_one_batch(xenstored: Xenstored) -> None:
    client = await connected(xenstored.socket)
    await client.exchange([write("/a", b"1")])
    began = time.perf_counter()
    assert await client.read_many(["/a", "/b"] * 10_000) == [b"1", None] * 10_000
    print(f"20,000 reads: {time.perf_counter() - began:.3f} s")


@story
async def test_a_listing_beyond_4_kib_is_whole_while_it_changes(xenstored: Xenstored) -> None:
    client, other = await connected(xenstored.socket), await connected(xenstored.socket)
    names = {f"child-{number:04}-{'x' * 20}" for number in range(1000)}
    await other.exchange([write(f"/long/{name}") for name in names])

    away: list[str] = []

    async def rotate() -> None:
        """Take the first child away, which moves all others, and put it back at the end."""
        for name in (await other.directory("/long") or [])[:60]:
            away.append(name)
            for change in (rm(f"/long/{name}"), write(f"/long/{name}")):
                assert await other.exchange([change]) == [b"OK\0"]
                await asyncio.sleep(0.003)

    rotating = asyncio.create_task(rotate())
    listings = 0
    while not rotating.done():
        before = len(away)
        listing = await client.directory("/long") or []
        assert len(listing) == len(set(listing))
        assert names - set(away[max(before - 1, 0) :]) <= set(listing) <= names
        listings += 1
    await rotating
    assert set(await client.directory("/long") or []) == names
    assert listings > 20


@story
async def test_ten_thousand_names_are_one_listing(xenstored: Xenstored) -> None:
    client = await connected(xenstored.socket)
    names = [str(number) for number in range(1, 10_001)]
    await client.exchange([write(f"/domains/{name}") for name in names])
    began = time.perf_counter()
    listing = await client.directory("/domains")
    print(f"{len(names)} names: {(time.perf_counter() - began) * 1e3:.1f} ms")
    assert sorted(listing or (), key=int) == names
    assert await client.directory_many(["/domains/1", "/domains", "/nowhere"]) == [[], listing, None]


@story
async def test_a_listing_beyond_4_kib_over_a_ring_is_whole_or_refused(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    domain = toolstack.create_domain("driver", domid=DRIVER)
    names = {f"child-{number:04}" for number in range(900)}
    xs = toolstack.xs
    xs.write_all(f"{domain.path}/long", dict.fromkeys(names, ""))
    xs.set_perms(f"{domain.path}/long", "n0", f"r{DRIVER}")
    client = await connected(xenstored.domain_socket(DRIVER))
    if isinstance(xenstored, Oxenstored):
        with pytest.raises(XenstoreError, match=r"long: it has more names than one message .* no DIRECTORY_PART") as no:
            await client.directory("long")
        assert no.value.errno == errno.E2BIG
    else:
        assert set(await client.directory("long") or ()) == names
    assert await client.read("domid") == str(DRIVER).encode()


# Transactions


@story
async def test_a_change_that_a_quota_refuses_is_made_once(xenstored: Xenstored, toolstack: Toolstack) -> None:
    domain = toolstack.create_domain("driver", domid=DRIVER)
    client = await connected(xenstored.domain_socket(DRIVER))
    filled = await client.exchange([write(f"data/{number % 20}/{number}") for number in range(1000)])
    used_up = {reply for reply in filled if isinstance(reply, int)}
    assert used_up == {errno.EDQUOT if isinstance(xenstored, Oxenstored) else errno.ENOSPC}
    asked = 0

    def decide(values: list[bytes | None]) -> Sequence[NodeChange]:
        nonlocal asked
        asked += 1
        return [WriteNode("data/one-more", b""), WriteNode("data/0", b"also")]

    with pytest.raises(XenstoreError, match="data/one-more") as refused:
        await client.transact(["domid"], decide)
    assert asked == 1
    assert {refused.value.errno} == used_up
    assert toolstack.xs.read(f"{domain.path}/data/0") == "also"


@story
async def test_a_transaction_is_done_again_when_another_write_comes_between(xenstored: Xenstored) -> None:
    client, xs = await connected(xenstored.socket), xenstored.connect()
    xs.write("/counter", "1")
    asked: list[bytes | None] = []

    def decide(values: list[bytes | None]) -> Sequence[NodeChange]:
        asked.append(values[0])
        if len(asked) < 3:
            xs.write("/counter", str(10 * len(asked)))
        return [WriteNode("/result", b"after " + (values[0] or b""))]

    assert await client.transact(["/counter"], decide)
    assert asked == [b"1", b"10", b"20"]
    assert xs.read("/result") == "after 20"


@story
async def test_a_transaction_that_never_succeeds_ends(xenstored: Xenstored) -> None:
    client, xs = await connected(xenstored.socket), xenstored.connect()
    asked: list[bytes | None] = []

    def decide(values: list[bytes | None]) -> Sequence[NodeChange]:
        asked.append(values[0])
        xs.write("/counter", str(len(asked)))
        return [WriteNode("/result", b"")]

    with pytest.raises(XenstoreError) as refused:
        await client.transact(["/counter"], decide)
    assert refused.value.errno == errno.EAGAIN
    assert len(asked) == ATTEMPTS
    assert not xs.exists("/result")


@story
async def test_giving_up_changes_nothing_and_leaves_no_transaction(xenstored: Xenstored, toolstack: Toolstack) -> None:
    toolstack.create_domain("driver", domid=DRIVER)
    client = await connected(xenstored.domain_socket(DRIVER))
    for _ in range(20):  # twice the quota of an unprivileged domain
        assert not await client.transact(["domid"], lambda values: None)
        with pytest.raises(ZeroDivisionError):
            await client.transact(["domid"], lambda values: [] if 1 // 0 else None)


@story
async def test_cancelled_transactions_are_not_left_open(xenstored: Xenstored, toolstack: Toolstack) -> None:
    domain = toolstack.create_domain("driver", domid=DRIVER)
    client = await connected(xenstored.domain_socket(DRIVER))

    async def change() -> bool:
        return await client.transact(["domid"], lambda values: [WriteNode("data/x", b"1")])

    for pause in (0, 0.001):  # cancelled while xenstored opens them, and some way further on
        for _ in range(3):
            os.kill(xenstored.pid, signal.SIGSTOP)
            tasks = [asyncio.create_task(change()) for _ in range(6)]
            await asyncio.sleep(0.01)
            if pause:
                os.kill(xenstored.pid, signal.SIGCONT)
                await asyncio.sleep(pause)
            for task in tasks:
                task.cancel()
            os.kill(xenstored.pid, signal.SIGCONT)
            await asyncio.wait(tasks)
    assert await change()
    assert toolstack.xs.read(f"{domain.path}/data/x") == "1"


# The connection


@story
async def test_every_waiting_request_fails_at_once_when_xenstored_dies(xenstored: Xenstored) -> None:
    client = await connected(xenstored.socket)
    lost = asyncio.Event()
    os.kill(xenstored.pid, signal.SIGSTOP)
    waiting: list[asyncio.Future[Any]] = [
        *(asyncio.ensure_future(client.read("/a")) for _ in range(50)),
        *(asyncio.ensure_future(client.transact(["/a"], lambda values: [WriteNode("/a", b"")])) for _ in range(50)),
        asyncio.ensure_future(client.read_many(["/a"] * 50_000)),
        asyncio.ensure_future(client.directory("/a")),
    ]
    await asyncio.sleep(0.05)
    assert not any(future.done() for future in waiting)
    xenstored.kill9()
    began = time.perf_counter()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert time.perf_counter() - began < 0.2
    assert {type(answer) for answer in answers} == {ConnectionLost}
    assert not client.connected
    with pytest.raises(ConnectionLost):
        await client.read("/a")
    xenstored.start()
    await client.connect(lost.set)
    assert await client.read("/a") is None


@story
async def test_a_watch_is_told_of_everything_below_its_path(xenstored: Xenstored) -> None:
    client, xs = await connected(xenstored.socket), xenstored.connect()
    paths: asyncio.Queue[str] = asyncio.Queue()
    await client.watch("backend/vif", paths.put_nowait)
    xs.write("backend/vif/7/0/state", "1")
    xs.rm("backend")
    assert [await paths.get() for _ in range(3)] == ["backend/vif", "backend/vif/7/0/state", "backend/vif"]


@story
async def test_a_watch_that_is_taken_away_tells_nothing_more(xenstored: Xenstored) -> None:
    client, xs = await connected(xenstored.socket), xenstored.connect()
    paths: asyncio.Queue[str] = asyncio.Queue()
    assert await client.watch_many(["/one", "/two", "/three"], paths.put_nowait) == []
    assert [await paths.get() for _ in range(3)] == ["/one", "/two", "/three"]
    xs.write("/one", "sent before the watch is taken away")
    await client.unwatch_many(["/one", "/three", "/never-watched"])
    assert list(client.watched) == ["/two"]
    for path in ("/one", "/two", "/three"):
        xs.write(path, "")
    assert [await paths.get() for _ in range(2)] == ["/one", "/two"]
    assert await client.watch_many(["/one"], paths.put_nowait) == []
    assert await paths.get() == "/one"
    assert paths.empty()
    assert xenstored.watches() == 2


@story
async def test_watches_above_the_quota_are_refused_and_the_others_are_set(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    domain = toolstack.create_domain("driver", domid=DRIVER)
    client = await connected(xenstored.domain_socket(DRIVER))
    seen: list[str] = []
    refusals = await client.watch_many([f"data/{number}" for number in range(140)], seen.append)
    used_up = errno.EDQUOT if isinstance(xenstored, Oxenstored) else errno.E2BIG
    assert {refusal.errno for refusal in refusals} == {used_up}
    assert len(client.watched) == 140 - len(refusals)
    with pytest.raises(XenstoreError):
        await client.watch("data/one-more", seen.append)
    seen.clear()
    for number in (0, 139):
        toolstack.xs.write(f"{domain.path}/data/{number}", "")
    await client.unwatch_many(["data/0"])
    assert seen == ["data/0"]
    await client.watch("data/one-more", seen.append)


# What is written for a vif


def attach(toolstack: Toolstack, *, state: str = "2", driver: int = 0, mtu: int = 1500) -> VifId:
    """A guest with a vif as netback has it at state 2."""
    guest = toolstack.create_domain("guest")
    vif = toolstack.add_vif(guest, VifSpec(backend_domid=driver, mtu=mtu))
    toolstack.xs.write(f"{vif.backend}/state", state)
    return VifId(vif.domid, vif.devid)


def nodes(xs: Xs, vif: VifId, driver: int = 0) -> dict[str, str]:
    return xs.tree(f"/local/domain/{driver}/{vif.backend}")


@story
async def test_connected_is_told_with_the_mtu(xenstored: Xenstored, toolstack: Toolstack) -> None:
    vif, client = attach(toolstack), await connected(xenstored.socket)
    assert await backend.write_verdict(client, await look(client, vif), error=None, frontend_mtu=1400)
    assert nodes(toolstack.xs, vif)["hotplug-status"] == "connected"
    assert toolstack.xs.read(f"/local/domain/{vif.domid}/device/vif/0/mtu") == "1400"


@story
async def test_an_error_is_told_and_cleared_again(xenstored: Xenstored, toolstack: Toolstack) -> None:
    vif, client = attach(toolstack), await connected(xenstored.socket)
    assert await backend.write_verdict(client, await look(client, vif), error="bridge xenbr7 does not exist")
    assert nodes(toolstack.xs, vif)["hotplug-status"] == "error"
    assert nodes(toolstack.xs, vif)["hotplug-error"] == "bridge xenbr7 does not exist"
    assert await backend.write_verdict(client, await look(client, vif), error=None)
    assert nodes(toolstack.xs, vif)["hotplug-status"] == "connected"
    assert "hotplug-error" not in nodes(toolstack.xs, vif)


@pytest.mark.parametrize(
    ("state", "online", "told"),
    [("2", "1", True), ("4", "1", True), ("1", "1", False), ("3", "1", False), ("5", "1", False), ("6", "0", False),
     ("2", "0", False), ("4", "0", False)],
)  # fmt: skip
def test_connected_is_told_only_where_netback_may_act_on_it(
    xenstored: Xenstored, toolstack: Toolstack, state: str, online: str, told: bool
) -> None:
    @story
    async def test() -> None:
        vif, client = attach(toolstack, state=state), await connected(xenstored.socket)
        toolstack.xs.write(f"{vif.backend}/online", online)
        assert await backend.write_verdict(client, await look(client, vif), error=None, frontend_mtu=1400) is told
        assert (nodes(toolstack.xs, vif)["hotplug-status"] == "connected") is told

    test()


@story
async def test_nothing_is_recreated_in_a_directory_that_is_gone(xenstored: Xenstored, toolstack: Toolstack) -> None:
    vif, client = attach(toolstack), await connected(xenstored.socket)
    seen = await look(client, vif)
    for gone in (vif.backend, f"{vif.backend}/online", f"{vif.backend}/state"):
        toolstack.xs.write_all(vif.backend, {"state": "2", "online": "1"})
        toolstack.xs.rm(gone)
        before = toolstack.xs.tree("/local")
        assert not await backend.write_verdict(client, seen, error=None, frontend_mtu=1400)
        assert not await backend.write_verdict(client, seen, error="too late")
        assert not await backend.write_tap_verdict(client, seen, "connected")
        assert not await backend.clear_tap_verdict(client, seen)
        assert not await backend.remove_backend(client, seen)
        assert toolstack.xs.tree("/local") == before


@story
async def test_a_directory_that_goes_half_way_is_not_recreated(xenstored: Xenstored, toolstack: Toolstack) -> None:
    vif, client = attach(toolstack), await connected(xenstored.socket)
    asked = 0

    def decide(values: list[bytes | None]) -> Sequence[NodeChange] | None:
        nonlocal asked
        asked += 1
        toolstack.xs.rm(vif.backend)
        return None if values[0] is None else [WriteNode(f"{vif.backend}/hotplug-status", b"connected")]

    assert not await client.transact([f"{vif.backend}/state"], decide)
    assert asked == 2
    assert nodes(toolstack.xs, vif) == {}


@story
async def test_the_mtu_goes_into_this_vifs_frontend_and_no_other(xenstored: Xenstored, toolstack: Toolstack) -> None:
    vif, client = attach(toolstack), await connected(xenstored.socket)
    frontend = f"/local/domain/{vif.domid}/device/vif/0"
    toolstack.xs.write(f"{frontend}/mtu", "untouched")
    for node, value in (
        (f"{vif.backend}/frontend", "/local/domain/0"),
        (f"{vif.backend}/frontend", "/local/domain/99/device/vif/0"),
        (f"{frontend}/backend", "/local/domain/9/backend/vif/1/0"),
    ):
        right = toolstack.xs.read(node)
        toolstack.xs.write(node, value)
        assert await backend.write_verdict(client, await look(client, vif), error=None, frontend_mtu=1400)
        toolstack.xs.write(node, right)
        assert toolstack.xs.read(f"{frontend}/mtu") == "untouched"
    toolstack.xs.rm(f"/local/domain/{vif.domid}/device")
    assert await backend.write_verdict(client, await look(client, vif), error=None, frontend_mtu=1400)
    assert not toolstack.xs.exists(f"/local/domain/{vif.domid}/device")
    assert not toolstack.xs.exists("/local/domain/99")
    assert not toolstack.xs.exists("/local/domain/0/mtu")


@story
async def test_a_taps_verdict_is_told_and_forgotten(xenstored: Xenstored, toolstack: Toolstack) -> None:
    vif, client = attach(toolstack), await connected(xenstored.socket)
    sentence = 'error: vifname is "web-server-02": must be at most 11 characters long'
    assert await backend.write_tap_verdict(client, await look(client, vif), sentence)
    assert (await look(client, vif)).tap_status == sentence
    assert await backend.clear_tap_verdict(client, await look(client, vif))
    assert await backend.clear_tap_verdict(client, await look(client, vif))
    assert (await look(client, vif)).tap_status is None


# A driver domain


@story
async def test_a_driver_domain_tells_its_verdict_with_what_it_may_write(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    toolstack.create_domain("driver", domid=DRIVER)
    client = await connected(xenstored.domain_socket(DRIVER))
    assert client.own_domid == DRIVER
    vif = attach(toolstack, driver=DRIVER)
    assert await backend.write_verdict(client, await look(client, vif), error=None, frontend_mtu=1400)
    assert nodes(toolstack.xs, vif, DRIVER)["hotplug-status"] == "connected"
    mtu = f"/local/domain/{vif.domid}/device/vif/0/mtu"
    assert toolstack.xs.read(mtu) == "1400"
    toolstack.xs.rm(mtu)
    toolstack.xs.write(f"/local/domain/{DRIVER}/{vif.backend}/hotplug-status", "")
    assert await backend.write_verdict(client, await look(client, vif), error=None, frontend_mtu=1400)
    assert nodes(toolstack.xs, vif, DRIVER)["hotplug-status"] == "connected"
    assert not toolstack.xs.exists(mtu)


@story
async def test_a_driver_domain_removes_a_closed_backend_and_only_that(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    toolstack.create_domain("driver", domid=DRIVER)
    client = await connected(xenstored.domain_socket(DRIVER))
    vif = attach(toolstack, driver=DRIVER)
    seen = await look(client, vif)
    for state, online in (("6", "1"), ("5", "0"), ("4", "0")):
        toolstack.xs.write_all(f"/local/domain/{DRIVER}/{vif.backend}", {"state": state, "online": online})
        assert not await backend.remove_backend(client, seen)
    toolstack.xs.write_all(f"/local/domain/{DRIVER}/{vif.backend}", {"state": "6", "online": "0"})
    assert await backend.remove_backend(client, seen)
    assert nodes(toolstack.xs, vif, DRIVER) == {}
    assert toolstack.xs.exists(f"/local/domain/{DRIVER}/backend/vif/{vif.domid}")


@story
async def test_many_verdicts_at_once_stay_within_a_driver_domains_quotas(
    xenstored: Xenstored, toolstack: Toolstack
) -> None:
    toolstack.create_domain("driver", domid=DRIVER)
    client = await connected(xenstored.domain_socket(DRIVER))
    guest = toolstack.create_domain("guest")
    vifs = []
    for devid in range(40):
        vif = toolstack.add_vif(guest, VifSpec(backend_domid=DRIVER), devid)
        toolstack.xs.write(f"{vif.backend}/state", "2")
        vifs.append(await look(client, VifId(vif.domid, devid)))
    told = await asyncio.gather(*(backend.write_verdict(client, vif, error=None, frontend_mtu=1400) for vif in vifs))
    assert all(told)
    assert {nodes(toolstack.xs, vif.id, DRIVER)["hotplug-status"] for vif in vifs} == {"connected"}


# What it costs


@story
async def test_what_requests_cost(xenstored: Xenstored, toolstack: Toolstack) -> None:
    vif, client = attach(toolstack), await connected(xenstored.socket)
    seen = await look(client, vif)
    count = 500
    began = time.perf_counter()
    for _ in range(count):
        await client.read("domid")
    read = (time.perf_counter() - began) / count
    began = time.perf_counter()
    for _ in range(count):
        assert await backend.write_verdict(client, seen, error=None, frontend_mtu=1500)
    verdict = (time.perf_counter() - began) / count
    print(f"a read: {read * 1e6:.0f} µs; a verdict: {verdict * 1e6:.0f} µs")
    assert verdict < 8 * read + 0.001

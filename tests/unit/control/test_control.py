"""The control service over real unix sockets: calls, errors, monitors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asyncvarlink import VarlinkClientProtocol, connect_unix_varlink

from tests.unit.control.bed import FakeDaemon, row
from tests.unit.control.peer import Peer, attach, monitor, run, until
from xennetd.daemon.control.interface import Ambiguous, Control, NotFound, Refused, Rejected
from xennetd.daemon.control.peers import MAX_REQUEST
from xennetd.daemon.observability.audit import Audit
from xennetd.model.errors import HostError
from xennetd.model.event import Event, EventKind
from xennetd.model.value import replace
from xennetd.model.vif import VifId


@contextlib.asynccontextmanager
async def proxy(path: str) -> AsyncIterator[Any]:
    """A client made by asyncvarlink, which checks every type on the way."""
    transport, protocol = await connect_unix_varlink(VarlinkClientProtocol, path)
    try:
        yield protocol.make_proxy(Control)
    finally:
        transport.close()


def test_asyncvarlinks_own_client_understands_everything(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        audit.record(Event(EventKind.ATTACH, "vif7.0 is part of xenbr0.", vif=VifId(7, 0), realtime_us=1_500_000))
        async with proxy(path) as client:
            assert (await client.Status())["status"] == replace(
                daemon.status(), problems=list(daemon.status_problems()), notes=list(daemon.status_notes())
            )
            assert (await client.List())["vifs"] == daemon.rows
            shown = await client.Show(vif="vif7.0")
            assert shown["vif"] == daemon.rows[1]
            assert [(event.event, event.time) for event in shown["events"]] == [("attach", 1.5)]
            assert await client.Check() == {"problems": [], "notes": ["no policy uses lan"]}
            assert await client.Reload() == {}
            assert (await client.Retry(vif="7.0"))["vif"] == "vif7.0"
            assert (await client.Pin(vif="web-1"))["vif"] == "vif3.0"
            assert (await client.Unpin(vif="web-1/0"))["vif"] == "vif3.0"
            stream = client.Monitor(recent=5)
            assert (await anext(stream))["event"].message == "vif7.0 is part of xenbr0."
            assert await anext(stream) == {"event": None, "lost": 0}
        assert daemon.asked == ["reload", "retry vif7.0", "pin vif3.0", "unpin vif3.0"]

    run(scenario, path)


def test_the_interface_describes_itself(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        peer = await Peer.connect(path)
        info = (await peer.call("org.varlink.service.GetInfo"))["parameters"]
        assert info["interfaces"] == ["org.varlink.service", "org.xennetd.Control"]
        assert info["version"] == "1.2"
        text = (await peer.call("org.varlink.service.GetInterfaceDescription", interface="org.xennetd.Control"))[
            "parameters"
        ]["description"]
        assert "method List() -> (vifs: []VifStatus)" in text
        assert "method Monitor(recent: ?int) -> (event: ?EventRecord, lost: int)" in text
        assert "error Rejected (problems: []string)" in text
        assert "type VifStatus (vif: string, domid: int, devid: int, vm: ?string," in text
        assert "object" not in text, "every type is known"

    run(scenario, path)


@pytest.mark.skipif(shutil.which("varlinkctl") is None, reason="no varlinkctl here (systemd 257 has it)")
def test_varlinkctl_understands_everything(path: str) -> None:
    async def varlinkctl(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec("varlinkctl", *arguments, stdout=subprocess.PIPE)
        return (await process.communicate())[0].decode()

    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        assert "org.xennetd.Control" in await varlinkctl("info", path)
        assert "type VifStatus" in await varlinkctl("introspect", path, "org.xennetd.Control")
        shown = await varlinkctl("call", "--json=short", path, "org.xennetd.Control.Show", '{"vif":"web-1"}')
        assert json.loads(shown)["vif"]["vif"] == "vif3.0"

    run(scenario, path)


@pytest.mark.parametrize(
    ("name", "vif"),
    [
        ("vif7.0", "vif7.0"),
        ("7.0", "vif7.0"),
        ("lan7", "vif7.0"),
        ("web-1", "vif3.0"),
        ("web-1/0", "vif3.0"),
        ("db/1", "vif7.1"),
        ("a/b", "vif9.0"),
        ("a/b/0", "vif9.0"),
    ],
)
def test_a_vif_has_many_names(name: str, vif: str, path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        assert (await (await Peer.connect(path)).call("Show", vif=name))["parameters"]["vif"]["vif"] == vif

    run(scenario, path)


def test_errors_are_typed(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        daemon.problems = ["line 3: no such mode"]
        daemon.refusal = "it is being removed"
        async with proxy(path) as client:
            with pytest.raises(NotFound) as missing:
                await client.Show(vif="vif99.0")
            assert missing.value.parameters == {"vif": "vif99.0"}
            with pytest.raises(Ambiguous) as two:
                await client.Show(vif="db")
            assert two.value.parameters == {"vif": "db", "candidates": ["vif7.0", "vif7.1"]}
            with pytest.raises(Rejected) as rejected:
                await client.Reload()
            assert rejected.value.parameters == {"problems": ["line 3: no such mode"]}
            with pytest.raises(Refused) as refused:
                await client.Retry(vif="vif7.0")
            assert refused.value.parameters == {"reason": "it is being removed"}

    run(scenario, path)


def test_a_text_that_is_no_utf8_is_escaped_in_every_reply(path: str) -> None:
    """Python has a surrogate in the place of a byte of a file's name that is not UTF-8. JSON has none."""

    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        name, shown = "web\udcff.toml", "web\\udcff.toml"
        daemon.problems = [name]
        daemon.refusal = name
        daemon.rows = [row(number, error=name) for number in range(1, 300)]
        audit.record(Event(EventKind.RELOAD, name))
        peer = await Peer.connect(path)
        assert shown in (await peer.call("Status"))["parameters"]["status"]["problems"][0]
        assert {found["error"] for found in (await peer.call("List"))["parameters"]["vifs"]} == {shown}
        assert (await peer.call("Show", vif="vif7.0"))["parameters"]["vif"]["error"] == shown
        assert (await peer.call("Check"))["parameters"]["problems"] == [shown]
        assert (await peer.call("Reload"))["parameters"] == {"problems": [shown]}
        assert (await peer.call("Retry", vif="vif7.0"))["parameters"] == {"reason": shown}
        async with proxy(path) as client:
            assert (await anext(client.Monitor(recent=1)))["event"].message == shown

    run(scenario, path)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"method": "org.xennetd.Control.Explode"}, "org.varlink.service.MethodNotFound"),
        ({"method": "org.example.Foo.Bar"}, "org.varlink.service.InterfaceNotFound"),
        ({"method": "org.xennetd.Control.Show"}, "org.varlink.service.InvalidParameter"),
        ({"method": "org.xennetd.Control.Show", "parameters": {"vif": 7}}, "org.varlink.service.InvalidParameter"),
        ({"method": "org.xennetd.Control.Monitor"}, "org.varlink.service.ExpectedMore"),
    ],
)
def test_a_wrong_call_is_answered_and_the_connection_goes_on(call: dict[str, Any], error: str, path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        peer = await Peer.connect(path)
        peer.send("", raw=json.dumps(call).encode())
        assert (await peer.receive())["error"] == error
        assert "parameters" in await peer.call("Status")

    run(scenario, path)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"{}",
        b'{"method":1}',
        b'{"method":"x"}',
        b"\xff\xfe",
        b"[" * 60_000,
        b"x" * MAX_REQUEST * 2,
    ],
    ids=lambda garbage: garbage[:12].decode("latin1"),
)
def test_what_is_not_varlink_is_cut_off_and_nobody_else_notices(garbage: bytes, path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        bad, good = await Peer.connect(path), await Peer.connect(path)
        bad.send("", raw=garbage)
        assert await bad.is_cut_off()
        assert "parameters" in await good.call("Status")

    run(scenario, path)


def test_a_bug_in_the_daemon_is_an_answer_not_an_end(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        daemon.bug = ZeroDivisionError()
        peer = await Peer.connect(path)
        assert "bug" in (await peer.call("Check"))["parameters"]["reason"]
        daemon.bug = HostError("too bad", detail="xenstored is away")
        assert (await peer.call("Check"))["parameters"]["reason"] == "xenstored is away"
        daemon.bug = None
        assert "parameters" in await peer.call("Check")

    run(scenario, path)


def test_pipelined_requests_are_answered_in_order_and_oneway_ones_not(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        peer = await Peer.connect(path)
        peer.send("Show", parameters={"vif": "vif7.0"})
        peer.send("Retry", parameters={"vif": "vif7.0"}, oneway=True)
        peer.send("Show", parameters={"vif": "vif3.0"})
        assert [(await peer.receive())["parameters"]["vif"]["vif"] for _ in range(2)] == ["vif7.0", "vif3.0"]
        assert daemon.asked == ["retry vif7.0"]

    run(scenario, path)


def test_a_peer_that_closes_its_sending_side_gets_its_reply(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        peer = await Peer.connect(path)
        peer.send("List")
        peer.writer.write_eof()
        assert len((await peer.receive())["parameters"]["vifs"]) == len(daemon.rows)
        assert await peer.is_cut_off()

    run(scenario, path)


def test_monitors_get_every_event_from_the_first_reply_on(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        for number in range(5):
            audit.record(attach(number))
        one, two = await monitor(path), await monitor(path, recent=2)
        assert await one.receive() == {"parameters": {"event": None, "lost": 0}, "continues": True}
        assert [(await two.receive())["parameters"]["event"]["message"] for _ in range(2)] == ["event 3", "event 4"]
        assert (await two.receive())["parameters"]["event"] is None
        audit.record(attach(5))
        for peer in (one, two):
            event = (await peer.receive())["parameters"]["event"]
            assert (event["message"], event["vif"], event["domid"]) == ("event 5", "vif5.0", 5)
            assert event["message_id"] == EventKind.ATTACH.message_id

    run(scenario, path)


@pytest.mark.parametrize("how", ["closes", "closes its sending side"])
def test_a_monitor_that_leaves_is_forgotten_at_once(how: str, path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        peer = await monitor(path)
        await peer.receive()
        assert audit._subscriptions
        if how == "closes":
            peer.writer.close()
        else:
            peer.writer.write_eof()
        await until(lambda: not audit._subscriptions)

    run(scenario, path)


def test_the_rows_on_the_wire_have_the_keys_that_programs_rely_on(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        daemon.rows = [replace(row(7), ips=["10.0.0.1"], error="no bridge", state="error")]
        (listed,) = (await (await Peer.connect(path)).call("List"))["parameters"]["vifs"]
        keys = "vif domid devid vm uuid mac ips network mode bridge vlan state error since"
        assert set(listed) >= {*keys.split()}
        assert (listed["vif"], listed["ips"], listed["state"]) == ("vif7.0", ["10.0.0.1"], "error")
        assert listed["vlan"] is None

    run(scenario, path)

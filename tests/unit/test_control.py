"""The control service, over real unix sockets, with a daemon that only remembers what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asyncvarlink import VarlinkClientProtocol, connect_unix_varlink

from tests.unit.control_bed import FakeDaemon, row, serving
from xennetd.daemon.audit import BACKLOG, Audit
from xennetd.daemon.control import MAX_PEERS, MAX_REQUEST, ControlServer
from xennetd.daemon.interface import Ambiguous, Control, NotFound, Refused, Rejected
from xennetd.daemon.journal import Journal
from xennetd.model.errors import HostError
from xennetd.model.event import Event, EventKind
from xennetd.model.vif import VifId

ROOT = os.geteuid() == 0
NOBODY = 65534

needs_root = pytest.mark.skipif(not ROOT, reason="needs root, to be somebody else")


@pytest.fixture
def path() -> Iterator[str]:
    """A socket path in a directory that everybody may enter."""
    directory = tempfile.mkdtemp()
    os.chmod(directory, 0o755)
    yield f"{directory}/control"
    shutil.rmtree(directory)


class Peer:
    """A client that speaks bytes."""

    @classmethod
    async def connect(cls, path: str) -> Peer:
        peer = cls()
        peer.reader, peer.writer = await asyncio.open_unix_connection(path, limit=1 << 24)
        return peer

    def send(self, method: str, *, raw: bytes | None = None, **call: Any) -> None:
        method = method if "." in method else f"org.xennetd.Control.{method}"
        self.writer.write((raw if raw is not None else json.dumps({"method": method, **call}).encode()) + b"\0")

    async def receive(self) -> Any:
        return json.loads((await asyncio.wait_for(self.reader.readuntil(b"\0"), 5))[:-1])

    async def call(self, method: str, **parameters: Any) -> Any:
        self.send(method, parameters=parameters)
        return await self.receive()

    async def is_cut_off(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(), 5) == b""
        except ConnectionError:
            return True


def run(scenario: Callable[[FakeDaemon, Audit, str], Awaitable[Any]], path: str, **options: Any) -> Any:
    """Run `scenario` beside a server."""

    async def main() -> Any:
        daemon, audit = FakeDaemon(), Audit(Journal("/nonexistent"))
        async with serving(daemon, audit, path, **options):
            return await scenario(daemon, audit, path)

    return asyncio.run(main())


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
            assert (await client.Status())["status"] == daemon.status()
            assert (await client.List())["vifs"] == daemon.rows
            shown = await client.Show(vif="vif7.0")
            assert shown["vif"] == daemon.rows[1]
            assert [(event.event, event.time) for event in shown["events"]] == [("attach", 1.5)]
            assert await client.Check() == {"problems": [], "notes": ["no policy leads to lan"]}
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
        assert "method Monitor(recent: ?int) -> (event: ?Record, lost: int)" in text
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


def attach(number: int) -> Event:
    return Event(EventKind.ATTACH, f"event {number}", vif=VifId(number, 0))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def monitor(path: str, **parameters: Any) -> Peer:
    peer = await Peer.connect(path)
    peer.send("Monitor", more=True, parameters=parameters)
    return peer


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


def test_a_monitor_that_does_not_read_costs_a_bounded_backlog_and_is_told_what_it_missed(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        peer = await monitor(path)
        await peer.receive()
        peer.writer.transport.pause_reading()
        (subscription,) = audit._subscriptions
        sent = 0
        while subscription._lost < 100:
            audit.record(Event(EventKind.WARNING, f"{sent} " + "x" * 2000))
            sent += 1
            await asyncio.sleep(0)
            assert sent < 5000
        assert len(subscription._events) <= BACKLOG
        peer.writer.transport.resume_reading()
        received = lost = 0
        while received + lost < sent:
            reply = (await peer.receive())["parameters"]
            received, lost = received + 1, lost + reply["lost"]
        assert lost >= 100

    run(scenario, path)


def test_a_peer_that_asks_and_never_reads_is_not_served_further(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        daemon.rows = [row(number) for number in range(1000)]
        deaf, other = await Peer.connect(path), await Peer.connect(path)
        deaf.writer.transport.pause_reading()
        for _ in range(500):
            deaf.send("List")
        await asyncio.sleep(0.1)
        assert daemon.listed <= 2
        assert "parameters" in await other.call("Status")

    run(scenario, path)


def test_a_peer_that_never_ceases_to_ask_starves_nobody(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        flood = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-I", "-S", "-c", FLOOD, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert flood.stdout is not None
            await asyncio.to_thread(flood.stdout.readline)
            other = await Peer.connect(path)
            for _ in range(20):
                assert "parameters" in await other.call("Check")
        finally:
            flood.kill()
            flood.wait()

    run(scenario, path)


FLOOD = """
import socket, sys, threading
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
def drain():
    while s.recv(1 << 20): pass
threading.Thread(target=drain, daemon=True).start()
call = b'{"method":"org.xennetd.Control.Check"}\\0' * 1000
s.sendall(call)
print(flush=True)
while True: s.sendall(call)
"""


def test_a_list_of_a_thousand_hardly_stops_the_loop(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> float:
        daemon.rows = [row(number) for number in range(1000)]
        peer = await Peer.connect(path)
        worst = 0.0

        async def watch() -> None:
            nonlocal worst
            while True:
                begin = time.perf_counter()
                await asyncio.sleep(0)
                worst = max(worst, time.perf_counter() - begin)

        # The client is in this loop too: let it only read, not decode.
        watching = asyncio.create_task(watch())
        peer.send("List")
        reply = await peer.reader.readuntil(b"\0")
        watching.cancel()
        assert len(json.loads(reply[:-1])["parameters"]["vifs"]) == 1000
        return worst

    assert min(run(scenario, path) for _ in range(3)) < 0.02


def test_with_all_places_taken_the_most_silent_peer_makes_room(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        peers = [await Peer.connect(path) for _ in range(MAX_PEERS)]
        for peer in peers:
            await peer.call("Status")
        await peers[0].call("Status")
        newcomer = await Peer.connect(path)
        assert "parameters" in await newcomer.call("Status")
        assert await peers[1].is_cut_off()
        assert "parameters" in await peers[0].call("Status")
        assert "parameters" in await peers[2].call("Status")

    run(scenario, path)


CROWD = """
import json, socket, sys
peers = []
for _ in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); peers.append(s)
    s.sendall(b'{"method":"org.xennetd.Control.Status"}\\0')
    s.recv(1)
print("in", flush=True)
sys.stdin.read()
"""


@needs_root
def test_another_users_crowd_neither_keeps_root_out_nor_puts_it_out(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        first = await Peer.connect(path)
        await first.call("Status")
        crowd = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-I", "-S", "-c", CROWD, path, str(MAX_PEERS + 20)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
        )
        try:
            assert crowd.stdout is not None
            assert await asyncio.to_thread(crowd.stdout.readline) == b"in\n"
            assert "parameters" in await (await Peer.connect(path)).call("Status")
            assert "parameters" in await first.call("Status")
        finally:
            crowd.kill()
            crowd.communicate()

    run(scenario, path, group=grp.getgrgid(NOBODY).gr_name)


@needs_root
def test_another_user_never_puts_root_out(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        peers = [await Peer.connect(path) for _ in range(MAX_PEERS)]
        for peer in peers:
            await peer.call("Status")
        assert await ask_as(NOBODY, NOBODY, path, [("Status", {})]) != {"Status": None}
        for peer in peers:
            await peer.call("Status")

    run(scenario, path, group=grp.getgrgid(NOBODY).gr_name)


CONNECT = """
import socket, sys
for number in range(1 << 30):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(sys.argv[1])
    if number == 1000: print(flush=True)
"""


def test_a_peer_that_never_ceases_to_connect_starves_nobody(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        other = await Peer.connect(path)
        floods = [
            subprocess.Popen([sys.executable, "-I", "-S", "-c", CONNECT, path], stdout=subprocess.PIPE)  # noqa: ASYNC220
            for _ in range(3)
        ]
        try:
            for flood in floods:
                assert flood.stdout is not None
                await asyncio.to_thread(flood.stdout.readline)
            for _ in range(20):
                begin = time.perf_counter()
                await other.call("Check")
                assert time.perf_counter() - begin < 2
        finally:
            for flood in floods:
                flood.kill()
                flood.communicate()

    run(scenario, path)


ASK = """
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
replies = {}
for method, parameters in json.loads(sys.argv[2]):
    call = {"method": "org.xennetd.Control." + method, "parameters": parameters, "more": method == "Monitor"}
    s.sendall(json.dumps(call).encode() + b"\\0")
    reply = b""
    while not reply.endswith(b"\\0"):
        chunk = s.recv(65536)
        if not chunk: sys.exit("cut off")
        reply += chunk
    replies[method] = json.loads(reply[:-1]).get("error")
print(json.dumps(replies))
"""


async def ask_as(uid: int, gid: int, path: str, calls: list[tuple[str, dict[str, Any]]]) -> Any:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", ASK, path, json.dumps(calls),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, user=uid, group=gid, extra_groups=[],
    )
    out, err = await process.communicate()
    return json.loads(out) if process.returncode == 0 else err.decode().splitlines()[-1]


@needs_root
def test_others_may_read_and_only_root_may_change(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        vif = {"vif": "vif7.0"}
        changes = [("Reload", {}), ("Retry", vif), ("Pin", vif), ("Unpin", vif)]
        reads = [("Status", {}), ("List", {}), ("Show", vif), ("Check", {}), ("Monitor", {})]
        replies = await ask_as(NOBODY, NOBODY, path, changes + reads)
        assert replies == {
            **{method: "org.xennetd.Control.NotPermitted" for method, _ in changes},
            **{method: None for method, _ in reads},
        }
        assert daemon.asked == []
        assert await ask_as(0, 0, path, changes) == {method: None for method, _ in changes}
        assert daemon.asked == ["reload", "retry vif7.0", "pin vif7.0", "unpin vif7.0"]

    run(scenario, path, group=grp.getgrgid(NOBODY).gr_name)


@needs_root
def test_the_group_may_open_the_socket_and_nobody_else(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        state = os.stat(path)
        assert (stat.S_IMODE(state.st_mode), state.st_gid) == (0o660, NOBODY)
        assert "PermissionError" in await ask_as(NOBODY, NOBODY - 1, path, [("Status", {})])

    run(scenario, path, group=grp.getgrgid(NOBODY).gr_name)


def test_without_the_group_the_socket_is_roots_alone(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    run(scenario, path, group="no-such-group-here")


def test_a_stale_socket_is_replaced_and_ours_is_removed_at_the_end(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(path)

    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        assert "parameters" in await (await Peer.connect(path)).call("Status")

    run(scenario, path)
    assert not os.path.exists(path)


def test_a_socket_that_somebody_listens_on_is_left_alone(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(0)
        with pytest.raises(HostError, match="another xennetd is running"):
            ControlServer(FakeDaemon(), Audit(Journal("/nonexistent")), path, version="1.2")
        assert stat.S_ISSOCK(os.stat(path).st_mode)


def test_a_file_of_that_name_is_left_alone(path: str) -> None:
    Path(path).write_text("precious")
    with pytest.raises(HostError, match="something else of that name"):
        ControlServer(FakeDaemon(), Audit(Journal("/nonexistent")), path, version="1.2")
    assert Path(path).read_text() == "precious"


def test_a_path_that_cannot_be_is_a_named_error(path: str) -> None:
    with pytest.raises(HostError, match=r"/control can't be made: No such file"):
        ControlServer(FakeDaemon(), Audit(Journal("/nonexistent")), path + "/not/there/control", version="1.2")
    with pytest.raises(HostError, match="too long"):
        ControlServer(FakeDaemon(), Audit(Journal("/nonexistent")), path + "x" * 200, version="1.2")


def test_another_daemons_socket_is_not_removed_at_the_end(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)

    run(scenario, path)
    assert os.path.exists(path)


ACTIVATED = """
import asyncio, os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
sys.path.insert(0, sys.argv[2])
from tests.unit.control_bed import FakeDaemon, serving
from xennetd.daemon.audit import Audit
from xennetd.daemon.journal import Journal
async def main():
    async with serving(FakeDaemon(), Audit(Journal("/nonexistent")), "/nonexistent/control"):
        print("up", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["control", "xennetd.socket"])
def test_systemds_socket_is_served_and_left_to_systemd(name: str, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        server = subprocess.Popen(
            [sys.executable, "-c", ACTIVATED, str(listening.fileno()), str(Path(__file__).parents[2])],
            pass_fds=[listening.fileno()],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        assert server.stdout.readline() == b"up\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b'{"method":"org.xennetd.Control.Status"}\0')
            assert client.recv(65536).startswith(b'{"parameters":')
        server.communicate()
        assert server.returncode == 0
        assert os.path.exists(path)


def test_stopping_ends_all_conversations(path: str) -> None:
    async def main() -> None:
        audit = Audit(Journal("/nonexistent"))
        async with serving(FakeDaemon(), audit, path):
            idle, watching = await Peer.connect(path), await monitor(path)
            await watching.receive()
        assert await idle.is_cut_off()
        assert await watching.is_cut_off()
        assert not audit._subscriptions
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_running_out_of_descriptors_ends_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        loop = asyncio.get_running_loop()
        accept, failures = loop.sock_accept, [OSError(24, "Too many open files")]

        async def sock_accept(sock: socket.socket) -> Any:
            if failures:
                raise failures.pop()
            return await accept(sock)

        monkeypatch.setattr(loop, "sock_accept", sock_accept)
        for _ in range(3):
            assert "parameters" in await (await Peer.connect(path)).call("Status")
        assert not failures

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



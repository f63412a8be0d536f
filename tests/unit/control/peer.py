"""Clients of the control socket that speak bytes: in this process, or as somebody else in another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.unit.control.bed import FakeDaemon, serving
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.journal import Journal
from xennetd.model.event import Event, EventKind
from xennetd.model.vif import VifId

NOBODY = 65534

PYTHON = (sys.executable, "-I", "-S", "-c")
"""Runs a script with nothing of the environment's, as any user can."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")


class Peer:
    """A client that speaks bytes."""

    @classmethod
    async def connect(cls, path: str) -> Peer:
        return cls(*await asyncio.open_unix_connection(path, limit=1 << 24))

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        assert isinstance(writer.transport, asyncio.Transport)
        self.transport = writer.transport

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


async def monitor(path: str, **parameters: Any) -> Peer:
    peer = await Peer.connect(path)
    peer.send("Monitor", more=True, parameters=parameters)
    return peer


def attach(number: int) -> Event:
    return Event(EventKind.ATTACH, f"event {number}", vif=VifId(number, 0))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - of any kind: most have no event
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def beside(*command: str) -> AsyncIterator[str]:
    """Run a program beside the server, and kill it at the end. Gives the first line that it prints."""
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=null)
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


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


def as_user(uid: int, gid: int, *command: str) -> list[str]:
    """Return `command`, to be run as another user who can read every file: the checkout may lie in root's own home.

    Opening a socket takes the right to write, which the capability does not give.
    """
    who = (f"--reuid={uid}", f"--regid={gid}", "--clear-groups")
    may = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return ["setpriv", *who, *may, "--", *command]


async def ask_as(uid: int, gid: int, path: str, calls: list[tuple[str, dict[str, Any]]]) -> Any:
    process = await asyncio.create_subprocess_exec(
        *as_user(uid, gid, *PYTHON, ASK, path, json.dumps(calls)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    return json.loads(out) if process.returncode == 0 else err.decode().splitlines()[-1]

"""What a connection leaves in memory until the garbage collector runs, which it rarely does in the daemon."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.unit.control.bed import FakeDaemon
from tests.unit.control.peer import run
from xennetd.daemon.observability.audit import Audit

CONNECTIONS = 50
_CALL = b'{"method":"org.xennetd.Control.%s"}\0'


@pytest.fixture(autouse=True)
def only_on_request() -> Iterator[None]:
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"junk\0",
        b"no end",
        b"x" * 200_000,
        _CALL % b"Status",
        _CALL % b"NoSuchMethod",
        b'{"method":"org.xennetd.Control.Monitor","more":true}\0junk',
    ],
)
def test_a_connection_that_ends_leaves_no_more_than_its_transport(path: str, said: bytes) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> Counter[str]:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, connect, path, said, 3)
        await asyncio.sleep(0.1)
        gc.collect()
        await loop.run_in_executor(None, connect, path, said, CONNECTIONS)
        await asyncio.sleep(0.3)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return Counter(type(left).__name__ for left in gc.garbage)

    left = run(scenario, path)
    # A transport of asyncio refers to a method of its own, and so stays until it is collected.
    transports = {"_SelectorSocketTransport", "TransportSocket", "dict", "method", "socket"}
    assert {name: number for name, number in left.items() if number > 5 and name not in transports} == {}


def connect(path: str, said: bytes, times: int) -> None:
    for _ in range(times):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(path)
            try:
                peer.sendall(said)
            except BrokenPipeError:
                continue  # The daemon has heard enough.

"""The daemon's memory: after any number of connections to the control socket, and with thousands of vifs.

The unit's MemoryMax= is far above both, so that nothing but a defect reaches it.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.daemon import Daemon
from tests.bed.xen import REPOSITORY
from tests.bench.burst import _burst
from tests.bench.stage import OURS, Stage
from tests.kernel.conftest import MakeDaemon, make_or_skip
from tests.kernel.wait import eventually
from xennetd.cli import connection
from xennetd.model.value import replace

MIB = 1 << 20
LIMIT = 64 * MIB
"""What the daemon without vifs may have, whatever was done to it."""

CALL = b'{"method":"org.xennetd.Control.%s"%s}\0'
MONITOR = CALL % (b"Monitor", b',"more":true')
SAID = {
    "nothing": b"",
    "half a request": CALL[:20],
    "junk": b"junk\0",
    "a huge request": b"x" * 200_000,
    "a request": CALL % (b"Status", b""),
    "an unknown method": CALL % (b"NoSuchMethod", b""),
    "a monitor, then junk": MONITOR + b"junk\0",
    "a monitor that hangs up": MONITOR,
    "a question about nobody": CALL % (b"Show", b',"parameters":{"vif":"' + b"x" * 10_000 + b'"}'),
}


def connect(path: str, said: bytes, times: int) -> None:
    """Connect and say something, and hang up at once or once there is an answer, in turn."""
    for number in range(times):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(path)
            try:
                peer.sendall(said)
                if number % 2 and said.endswith(b"\0"):
                    peer.recv(100)
            except (BrokenPipeError, ConnectionResetError):
                continue  # The daemon has heard enough.


def descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


@pytest.mark.parametrize(
    "times", [600, pytest.param(100_000, marks=pytest.mark.long)], ids=["600 of each", "100,000 of each"]
)
def test_stays_small_whatever_peers_do_and_forgets_them(daemon: MakeDaemon, times: int) -> None:
    xennetd = daemon()
    path = str(xennetd.control)
    connect(path, CALL % (b"Status", b""), 100)
    before = eventually(lambda: descriptors(xennetd))
    for name, said in SAID.items():
        began = time.monotonic()
        connect(path, said, times)
        assert connection.call(path, "Status")["status"]["ready"]
        rss = xennetd.rss()
        print(f"{times} times {name}: {rss / MIB:.1f} MiB, {time.monotonic() - began:.0f} s", flush=True)
        assert rss < LIMIT, name
    eventually(lambda: descriptors(xennetd) <= before)


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = make_or_skip(Stage)
    with stage:
        yield stage


@pytest.mark.long
def test_with_4000_vifs_takes_less_than_half_of_what_the_unit_allows(stage: Stage) -> None:
    unit = (REPOSITORY / "systemd" / "xennetd.service").read_text()
    allowed = int(re.findall(r"^MemoryMax=(\d+)M$", unit, re.MULTILINE)[0]) * MIB
    count, a_bridge = 4000, 1000
    for number in range(count // a_bridge):
        stage.host.bridge(f"crowd{number}")
    vifs = stage.crowd([replace(OURS, bridge=f"crowd{number // a_bridge}") for number in range(count)])
    stage.rewind(vifs, state=1)
    stage.start()
    stage.settle()
    _burst(stage, vifs)
    stage.settle()
    connected = stage.daemon.rss()
    for _ in range(20):
        assert len(connection.call(str(stage.daemon.control), "List")["vifs"]) == count
    asked = stage.daemon.rss()
    stage.daemon.kill9()
    stage.start()
    stage.settle()
    print(f"connected {connected / MIB:.0f}, asked {asked / MIB:.0f}, adopted {stage.daemon.rss() / MIB:.0f} MiB")
    assert max(connected, asked, stage.daemon.rss()) < allowed / 2

"""Whoever may read, and asks as much as can be asked: guests and root are served as if nobody did.

The readers are processes of the user nobody, who may open the control socket here as members of the group xennet may.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.toolstack import Vif
from tests.bench.stage import BRIDGES, OURS, Stage
from tests.kernel.conftest import make_or_skip
from xennetd.cli import connection
from xennetd.model.value import replace

ATTACHES = 40
PERIOD = 0.025
"""Seconds between two attaches, or two requests of root."""
ATTEMPTS = 3
"""A machine that does something else beside the test can disturb one."""

CONNECTIONS = 60
RULES = 2000
"""A check of these takes a sixth of a second."""

_all: list[Vif] = []
_waiting: list[Vif] = []
"""The stage's vifs, and those that are still to be attached."""

READER = """
import socket, sys, threading, time
path, call, count, how = sys.argv[1], sys.argv[2].encode() + b"\\0", int(sys.argv[3]), sys.argv[4]
def connect():
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    return peer
def drain(peer):
    try:
        while peer.recv(1 << 20): pass
    except OSError: pass
def ask_without_end():
    while True:
        try:
            with connect() as peer:
                threading.Thread(target=drain, args=[peer], daemon=True).start()
                while True: peer.sendall(call * 50 if how == "pipelined" else call)
        except OSError: time.sleep(0.1)
def ask_and_listen():
    while True:
        try:
            with connect() as peer:
                peer.sendall(call)
                drain(peer)
        except OSError: pass
        time.sleep(0.1)
def connect_without_end():
    while True:
        with socket.socket(socket.AF_UNIX) as peer:
            try:
                peer.connect(path)
                if call: peer.sendall(call)
            except OSError: pass
def hold():
    peers = []
    while True:
        try:
            peers.append(connect())
        except OSError: time.sleep(0.001)
        del peers[:-900]
work = {"pipelined": ask_without_end, "streaming": ask_and_listen, "connecting": connect_without_end, "holding": hold}
for _ in range(count): threading.Thread(target=work[how], daemon=True).start()
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A host with many rules, on which guests wait for their attach."""
    rules = "".join(f'[[policy]]\nname = "{n}"\nmatch = {{ vm = "none-{n}" }}\ndeny = "x"\n' for n in range(RULES))
    stage = make_or_skip(lambda: Stage(STAND_IN + rules))
    with stage:
        _all.extend(stage.crowd([replace(OURS, bridge=bridge) for bridge in BRIDGES] * ATTACHES * 2))
        start(stage)
        yield stage


def start(stage: Stage) -> None:
    """Start the daemon on a host on which all guests wait for their attach."""
    stage.rewind(_all, state=1)
    _waiting[:] = _all
    stage.start()
    os.chmod(stage.daemon.control, 0o666)
    stage.settle()


def have_guests_wait(stage: Stage) -> None:
    """Have enough guests wait for two times `attaches`."""
    if len(_waiting) < 2 * ATTACHES:
        stage.daemon.terminate()
        start(stage)


def attaches(stage: Stage) -> list[float]:
    """Have a guest attached every PERIOD. Returns for each the seconds from when its turn was.

    So what holds up one attach counts for all that would have come meanwhile.
    """
    xs, taken = stage.bed.netback.xs, []
    start = time.perf_counter()
    for number in range(ATTACHES):
        due = start + number * PERIOD
        time.sleep(max(0.0, due - time.perf_counter()))
        vif = _waiting.pop()
        status = f"{vif.backend}/hotplug-status"
        xs.write(f"{vif.backend}/state", "2")
        while xs.read(status) != "connected":
            assert time.perf_counter() < due + 30
            time.sleep(0.0002)
        taken.append(time.perf_counter() - due)
    return taken


def p99(taken: Sequence[float]) -> float:
    return sorted(taken)[len(taken) * 99 // 100 - 1]


@contextlib.contextmanager
def readers(
    stage: Stage, call: dict[str, object] | None, how: str, *, count: int, processes: int = 1
) -> Iterator[None]:
    """Have processes of the user nobody at the control socket, with `count` threads each."""
    text = json.dumps(call) if call else ""
    who = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    command = [*who, sys.executable, "-I", "-S", "-c", READER, str(stage.daemon.control), text, str(count), how]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) for _ in range(processes)]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
        time.sleep(0.5)
        yield
        assert all(process.poll() is None for process in running)
    finally:
        for process in running:
            process.kill()
            process.communicate()


def status_takes(stage: Stage, times: int, period: float = PERIOD) -> list[float]:
    """Have root ask for the status every `period`. Returns the seconds of each, as `attaches` does."""
    taken = []
    start = time.perf_counter()
    for number in range(times):
        due = start + number * period
        time.sleep(max(0.0, due - time.perf_counter()))
        assert connection.call(str(stage.daemon.control), "Status")["status"]["ready"]
        taken.append(time.perf_counter() - due)
    return taken


def method(name: str, **more: object) -> dict[str, object]:
    return {"method": f"org.xennetd.Control.{name}", **more}


@pytest.mark.parametrize(
    ("call", "how"),
    [
        (method("Check"), "pipelined"),
        (method("List"), "pipelined"),
        (method("Debug", parameters={"vif": "vif1.0"}), "pipelined"),
        (method("Monitor", more=True, parameters={"recent": 1000}), "streaming"),
    ],
    ids=["check", "list", "debug", "monitor"],
)
def test_delays_neither_guests_nor_root(stage: Stage, call: dict[str, object], how: str) -> None:
    for _ in range(ATTEMPTS):
        have_guests_wait(stage)
        quiet = p99(attaches(stage))
        with readers(stage, call, how, count=CONNECTIONS):
            status = max(status_takes(stage, 120))  # long enough for a check that takes long and rests
            busy = p99(attaches(stage))
        print(f"attach p99 {quiet * 1e3:.1f} ms, with readers {busy * 1e3:.1f} ms; status {status * 1e3:.1f} ms")
        if busy < quiet + 0.010 and status < 0.100:
            return
    pytest.fail(f"readers delay an attach of {quiet * 1e3:.1f} ms to {busy * 1e3:.1f} ms, and root's by {status:.3f} s")


@pytest.mark.parametrize("how", ["connecting", "holding"])
def test_never_keeps_root_out(stage: Stage, how: str) -> None:
    with readers(stage, None, how, count=4, processes=4):
        status = status_takes(stage, 40, period=0.05)
    print(f"root's status: median {sorted(status)[20] * 1e3:.1f} ms, at most {max(status) * 1e3:.1f} ms")
    assert max(status) < 1.0

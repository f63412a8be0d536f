"""Whoever may read, and asks as much as can be asked: guests and root are served as if nobody did.

The readers are processes of the user nobody, who may open the control socket here as members of the group xennet may.

Other programs need the machine's processors at the same time, the readers among them. So the time is not counted in
which xennetd, xenstored or this process waited for a processor (`Clock`), and what the daemon's loop does at a stretch
is measured in its processor time (`tests.bed.held`). Locks of the kernel can hold up single attaches, too. So the p99
is that of the processor time which xennetd uses until the verdict, on whatever; the median is that of all the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bed import held
from tests.bed.daemon import STAND_IN
from tests.bed.toolstack import Vif
from tests.bench.stage import BRIDGES, OURS, Stage
from tests.kernel.conftest import make_or_skip
from xennetd.cli import connection
from xennetd.model.value import replace

ATTACHES = 40
PERIOD = 0.025
"""Seconds between two attaches, or two requests of root."""
HELD = 0.030
"""Seconds of processor time for which the daemon may hold its loop. It means to take 10 ms at most."""

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
print(flush=True)
sys.stdin.readline()
for _ in range(count): threading.Thread(target=work[how], daemon=True).start()
sys.stdin.read()
"""


class Clock:
    """Tells the seconds, without those in which whoever takes part in an attach waited for a processor."""

    def __init__(self, stage: Stage) -> None:
        pids = (stage.daemon.pid, stage.xenstored.pid, os.getpid())
        self._tasks = [Path(f"/proc/{pid}/task/{pid}/schedstat") for pid in pids]
        self._start = self.now()

    def now(self) -> float:
        waited = sum(int(task.read_text().split()[1]) for task in self._tasks)
        return time.perf_counter() - waited / 1e9

    def turn(self, number: int, period: float) -> float:
        """Wait for the turn with this number. Returns when it was due: what holds up one turn counts for the next."""
        due = self._start + number * period
        while (left := due - self.now()) > 0:
            time.sleep(left)
        return due


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A host with many rules, on which guests wait for their attach."""
    rules = "".join(f'[[policy]]\nname = "{n}"\nmatch = {{ vm = "none-{n}" }}\ndeny = "x"\n' for n in range(RULES))
    stage = make_or_skip(lambda: Stage(STAND_IN + rules))
    stage.daemon.wrapper = held.wrapper(notes(stage))
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


def attaches(stage: Stage, begin: Callable[[], None] = lambda: None) -> tuple[float, float]:
    """Have a guest attached every PERIOD. `begin` is called after the first.

    Returns the median of the seconds from when each one's turn was, and the p99 of the processor time that xennetd uses
    between the event and the verdict. What holds up one attach counts for all that would have come meanwhile.
    """
    xs, taken, used, clock = stage.bed.netback.xs, [], [], Clock(stage)
    for number in range(ATTACHES):
        due = clock.turn(number, PERIOD)
        vif = _waiting.pop()
        status = f"{vif.backend}/hotplug-status"
        before = stage.cpu()
        xs.write(f"{vif.backend}/state", "2")
        while xs.read(status) != "connected":
            assert clock.now() < due + 30
            time.sleep(0.0002)
        taken.append(max(0.0, clock.now() - due))  # Those who wait at the same time are subtracted each.
        used.append(stage.cpu() - before)
        if not number:
            begin()
    return statistics.median(taken), sorted(used)[ATTACHES * 99 // 100 - 1]


@contextlib.contextmanager
def readers(
    stage: Stage, call: dict[str, object] | None, how: str, *, count: int, processes: int = 1
) -> Iterator[Callable[[], None]]:
    """Have processes of the user nobody ready, with `count` threads each. They begin when the result is called."""
    text = json.dumps(call) if call else ""
    who = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    command = [*who, sys.executable, "-I", "-S", "-c", READER, str(stage.daemon.control), text, str(count), how]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) for _ in range(processes)]

    def begin() -> None:
        for process in running:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()

    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
        yield begin
        assert all(process.poll() is None for process in running)
    finally:
        for process in running:
            process.kill()
            process.communicate()


def status_takes(stage: Stage, times: int, period: float = PERIOD) -> list[float]:
    """Have root ask for the status every `period`. Returns the seconds of each, as `attaches` does."""
    taken, clock = [], Clock(stage)
    for number in range(times):
        due = clock.turn(number, period)
        assert connection.call(str(stage.daemon.control), "Status")["status"]["ready"]
        taken.append(clock.now() - due)
    return taken


def notes(stage: Stage) -> Path:
    """The file that `tests.bed.held` writes."""
    return stage.daemon.config.with_name("held")


@contextlib.contextmanager
def loop_held(stage: Stage) -> Iterator[list[float]]:
    """Fill the list, at the end, with the times for which the daemon has held its loop (`tests.bed.held`)."""
    found = list[float]()
    notes(stage).write_text("")
    yield found
    found += [0.0, *held.seconds(notes(stage))]


def reloads(stage: Stage) -> int:
    """How many reloads the daemon has finished, plus one for its start."""
    return sum("READY" in message.fields for message in stage.daemon.notify.messages)


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
    have_guests_wait(stage)
    quiet, quiet_used = attaches(stage)
    with readers(stage, call, how, count=CONNECTIONS) as begin, loop_held(stage) as longest:
        busy, busy_used = attaches(stage, begin)
        status = max(status_takes(stage, 120))  # long enough for a check that takes long and rests
    print(
        f"attach {quiet * 1e3:.1f} ms, with readers {busy * 1e3:.1f} ms; xennetd computes {quiet_used * 1e3:.1f} ms "
        f"until the verdict, with readers {busy_used * 1e3:.1f} ms; status {status * 1e3:.1f} ms"
    )
    assert max(longest) < HELD, f"readers make xennetd hold its loop for {max(longest):.3f} s"
    assert busy < quiet + 0.010, f"readers delay an attach of {quiet * 1e3:.1f} ms to {busy * 1e3:.1f} ms"
    assert busy_used < quiet_used + 0.010, f"xennetd works {busy_used * 1e3:.1f} ms for readers amid an attach"
    assert status < 0.100, f"readers delay root's request to {status:.3f} s"


@pytest.mark.parametrize("how", ["xennetctl", "SIGHUP"])
def test_a_reload_holds_up_nobody(stage: Stage, how: str) -> None:
    """It reads many rules, and looks at many guests."""
    before = reloads(stage)
    with loop_held(stage) as longest:
        if how == "SIGHUP":
            stage.daemon.signal(signal.SIGHUP)
        else:
            command = [*stage.daemon.command("xennetd.cli.main"), "--control", str(stage.daemon.control), "reload"]
            asking = subprocess.Popen(command)
        status, until = 0.0, time.monotonic() + 30
        while reloads(stage) == before:
            assert time.monotonic() < until
            status = max(status, *status_takes(stage, 2))
    assert how == "SIGHUP" or asking.wait(10) == 0
    print(f"loop held {max(longest) * 1e3:.1f} ms; status {status * 1e3:.1f} ms")
    assert max(longest) < HELD
    assert status < 0.100


@pytest.mark.parametrize("how", ["connecting", "holding"])
def test_never_keeps_root_out(stage: Stage, how: str) -> None:
    with readers(stage, None, how, count=4, processes=4) as begin:
        begin()
        status = status_takes(stage, 40, period=0.05)
    print(f"root's status: median {sorted(status)[20] * 1e3:.1f} ms, at most {max(status) * 1e3:.1f} ms")
    assert max(status) < 1.0

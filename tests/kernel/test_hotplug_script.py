"""The hotplug script conf/vif-xennetd against a real xenstored; the test plays the daemon and libxl."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.bed import xen
from tests.bed.guest import Bed
from tests.bed.hotplug import environment
from tests.bed.toolstack import Vif, VifSpec

SCRIPT = xen.REPOSITORY / "conf" / "vif-xennetd"
SHELLS = (["dash"], ["bash", "--posix"], ["busybox", "sh"])
EXECVE = re.compile(r'execve\("[^"]*?([^"/]+)", .*\) = 0$')


TIMEOUT_CAUGHT_EARLY = """\
exec python3 - "$@" <<'END'
import os, signal, sys
os.setpgid(0, 0)
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
child = os.fork()
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.execvp(sys.argv[2], sys.argv[2:])
os.waitpid(child, 0)
END"""
"""GNU's `timeout`, when its child has run before its own fork() returned: SIGTERM ends it and nobody else (*seen*)."""


@dataclass
class Daemon:
    """xennetd as far as the script can see it: /run/xennetd, and verdicts in xenstore."""

    bed: Bed
    vif: Vif
    run: Path = Path("/run/xennetd")

    def connect(self) -> None:
        self.bed.toolstack.xs.write(f"{self.vif.backend}/hotplug-status", "connected")

    def refuse(self, sentence: str | bytes) -> None:
        def write(tx: int) -> None:
            self.bed.toolstack.xs.write(f"{self.vif.backend}/hotplug-error", sentence, tx)
            self.bed.toolstack.xs.write(f"{self.vif.backend}/hotplug-status", "error", tx)

        self.bed.toolstack.xs.transact(write)

    def judge_tap(self, verdict: str) -> None:
        self.bed.toolstack.xs.write(f"{self.vif.backend}/xennetd-tap", verdict)


@dataclass(frozen=True)
class Ended:
    """How the script ended, and every program that it started, in order."""

    status: int
    stderr: str
    programs: list[str]
    seconds: float


@dataclass
class Script:
    """The script, run as libxl runs it."""

    bed: Bed
    vif: Vif
    tmp: Path
    shell: list[str] = field(default_factory=list)

    def variables(self) -> dict[str, str]:
        found = environment(self.bed.xenstored, self.vif)
        found["PATH"] = f"{self.tmp / 'bin'}:{found['PATH']}"
        return found

    def start(self, *arguments: str, without: tuple[str, ...] = (), trace: bool = True) -> subprocess.Popen[str]:
        variables = {name: value for name, value in self.variables().items() if name not in without}
        strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", str(self.tmp / "trace")]
        return subprocess.Popen(
            [*(strace if trace else []), *self.shell, str(SCRIPT), *arguments],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str], began: float, timeout: float = 10) -> Ended:
        stdout, stderr = process.communicate(timeout=timeout)
        assert stdout == ""
        return Ended(process.returncode, stderr, self.programs(), time.monotonic() - began)

    def __call__(self, *arguments: str, without: tuple[str, ...] = (), timeout: float = 10) -> Ended:
        began = time.monotonic()
        return self.end(self.start(*arguments, without=without), began, timeout)

    def programs(self) -> list[str]:
        """What was started besides the script's own shell, in the order in which it began to run."""
        started = [match[1] for line in (self.tmp / "trace").read_text().splitlines() if (match := EXECVE.search(line))]
        return started[1:]

    def wrap(self, program: str, text: str) -> None:
        """Put a program of this name before the real one, which `text` (sh) can call as "$real"."""
        path = self.tmp / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\nreal={shutil.which(program)}\n{text}\n")
        path.chmod(0o755)

    def left_behind(self) -> list[str]:
        """The programs of this script that still run."""
        mark = f"XENSTORED_PATH={self.bed.xenstored.socket}".encode()
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                mine = mark in (directory / "environ").read_bytes().split(b"\0")
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if mine and int(directory.name) != os.getpid() and command:
                found.append(command.strip())
        return found

    def watching(self) -> bool:
        return any("xenstore-watch" in command and "timeout" not in command for command in self.left_behind())


def until(condition: object, seconds: float = 5.0) -> None:
    """Wait for `condition()` to hold."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


@pytest.fixture
def vif(bed: Bed) -> Iterator[Vif]:
    domain = bed.toolstack.create_domain("web")
    vif = bed.toolstack.add_vif(domain, VifSpec(type="vif_ioemu"))
    yield vif
    bed.toolstack.forget_vif(vif)
    bed.toolstack.destroy_domain(domain)


@pytest.fixture
def daemon(bed: Bed, vif: Vif) -> Iterator[Daemon]:
    daemon = Daemon(bed, vif)
    daemon.run.mkdir()
    yield daemon
    shutil.rmtree(daemon.run)


@pytest.fixture
def script(bed: Bed, vif: Vif, tmp_path: Path) -> Iterator[Script]:
    script = Script(bed, vif, tmp_path)
    yield script
    until(lambda: script.left_behind() == [])


def link_up(bed: Bed, name: str) -> None:
    bed.host.rtnl.add_bridge(name)
    bed.host.rtnl.set(name, up=True)


ONLINE = ("online", "type_if=vif")
ADD = ("add", "type_if=tap")


class TestTheVerdictIsThere:
    @pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
    def script(self, request: pytest.FixtureRequest, script: Script) -> Script:
        """These few run under every shell that /bin/sh may be."""
        script.shell = request.param
        return script

    @pytest.fixture
    def link(self, bed: Bed, vif: Vif) -> Iterator[None]:
        link_up(bed, vif.netdev)
        yield
        bed.host.rtnl.delete(vif.netdev)

    @pytest.mark.usefixtures("link")
    def test_one_program_when_the_daemon_was_faster(self, script: Script, daemon: Daemon) -> None:
        daemon.connect()
        ended = script(*ONLINE)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", ["xenstore-read"])

    def test_connected(self, script: Script, daemon: Daemon) -> None:
        daemon.connect()
        ended = script(*ONLINE)
        assert (ended.status, ended.stderr) == (0, "")
        assert ended.programs == ["timeout", "xenstore-watch", "xenstore-read"]

    def test_an_error_is_printed(self, script: Script, daemon: Daemon) -> None:
        daemon.refuse("bridge xenbr7 does not exist")
        ended = script(*ONLINE)
        assert (ended.status, ended.stderr) == (1, "vif-xennetd: bridge xenbr7 does not exist\n")
        assert ended.programs == ["timeout", "xenstore-watch", "xenstore-read"]

    def test_a_tap_is_connected(self, script: Script, daemon: Daemon) -> None:
        daemon.judge_tap("connected")
        ended = script(*ADD)
        assert (ended.status, ended.stderr) == (0, "")

    def test_a_taps_error_is_printed(self, script: Script, daemon: Daemon) -> None:
        daemon.judge_tap("error: the bridge is full")
        ended = script(*ADD)
        assert (ended.status, ended.stderr) == (1, "vif-xennetd: the bridge is full\n")

    def test_it_comes_later(self, script: Script, daemon: Daemon) -> None:
        began = time.monotonic()
        process = script.start(*ONLINE)
        until(lambda: script.programs()[2:] if (script.tmp / "trace").exists() else [])
        time.sleep(0.2)
        assert process.poll() is None
        daemon.connect()
        ended = script.end(process, began)
        assert (ended.status, ended.stderr) == (0, "")
        assert ended.programs == ["timeout", "xenstore-watch", "xenstore-read", "xenstore-read"]

    def test_no_watch_stays_when_timeout_is_caught_early(self, script: Script, daemon: Daemon) -> None:
        script.wrap("timeout", TIMEOUT_CAUGHT_EARLY)
        daemon.connect()
        assert script(*ONLINE).status == 0
        until(lambda: script.left_behind() == [])

    def test_a_dead_xenstored_is_an_error_at_once(self, script: Script, vif: Vif, daemon: Daemon) -> None:
        process = script.start(*ONLINE, without=("XENSTORED_RUNDIR", "XENSTORED_PATH"))
        ended = script.end(process, time.monotonic())
        assert ended.status == 1
        assert ended.stderr.endswith(f"vif-xennetd: {vif.netdev} is not connected: xenstore can't be watched\n")


class TestTheVerdictComesLater:
    def test_an_error_is_printed(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        until(script.watching)
        time.sleep(0.1)
        daemon.refuse("denied")
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr) == (1, "vif-xennetd: denied\n")

    def test_a_taps_verdict(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ADD)
        until(script.watching)
        time.sleep(0.1)
        daemon.connect()
        time.sleep(0.1)
        assert process.poll() is None, "the vif's verdict is not the tap's"
        daemon.judge_tap("connected")
        assert script.end(process, 0).status == 0

    def test_written_just_before_the_watch_is_in_place(self, script: Script, vif: Vif, daemon: Daemon) -> None:
        """The lost race: its event is nobody's, only the watch's own first event is left."""
        script.wrap("xenstore-watch", f'xenstore-write {vif.backend}/hotplug-status connected\nexec "$real" "$@"')
        ended = script(*ONLINE)
        assert ended.status == 0
        assert ended.seconds < 5

    def test_written_just_after_the_first_look(self, script: Script, vif: Vif, daemon: Daemon) -> None:
        script.wrap(
            "xenstore-read",
            f'"$real" "$@"; status=$?\nxenstore-write {vif.backend}/hotplug-status connected\nexit "$status"',
        )
        ended = script(*ONLINE)
        assert ended.status == 0
        assert ended.programs.count("xenstore-write") == 2

    def test_the_daemon_restarts_meanwhile(self, script: Script, daemon: Daemon) -> None:
        """An event without a verdict, here the same empty value again, is no reason to stop waiting."""
        process = script.start(*ONLINE)
        until(script.watching)
        time.sleep(0.1)
        daemon.bed.toolstack.xs.write(f"{daemon.vif.backend}/hotplug-status", "")
        time.sleep(0.1)
        assert process.poll() is None
        daemon.connect()
        assert script.end(process, 0).status == 0


class TestItNeverComes:
    def test_the_vif_is_removed(self, script: Script, bed: Bed, vif: Vif, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        until(script.watching)
        time.sleep(0.1)
        bed.toolstack.detach_vif(vif)
        bed.netback.close(vif)
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr) == (1, f"vif-xennetd: {vif.netdev} was removed before it was connected\n")

    def test_the_directory_goes(self, script: Script, bed: Bed, vif: Vif, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        until(script.watching)
        time.sleep(0.1)
        bed.toolstack.forget_vif(vif)
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr) == (1, f"vif-xennetd: {vif.netdev} was removed before it was connected\n")

    def test_the_time_limit(self, script: Script, vif: Vif, daemon: Daemon) -> None:
        script.wrap("timeout", '[ "$1" = 30 ] || exit 9\nshift\nexec "$real" 1 "$@"')
        ended = script(*ONLINE)
        assert ended.status == 1
        assert ended.stderr == (
            f"vif-xennetd: {vif.netdev} is not connected after 30 s: "
            f"see 'systemctl status xennetd' and 'xennetctl show {vif.netdev}'\n"
        )
        assert script.left_behind() == []

    @pytest.mark.slow
    def test_the_time_limit_in_full(self, script: Script, daemon: Daemon) -> None:
        ended = script(*ONLINE, timeout=40)
        assert ended.status == 1
        assert 29 < ended.seconds < 32

    def test_xenstored_dies_meanwhile(self, tmp_path: Path, bed: Bed, vif: Vif, daemon: Daemon) -> None:
        script = Script(bed, vif, tmp_path)
        process = script.start(*ONLINE)
        until(script.watching)
        time.sleep(0.1)
        contents = bed.xenstored.dump()
        bed.xenstored.kill9()
        try:
            ended = script.end(process, 0)
        finally:
            bed.xenstored.start(contents)
            bed.reconnect()
        assert ended.status == 1
        assert "is not connected: xenstore can't be watched" in ended.stderr or "was removed" in ended.stderr
        assert script.left_behind() == []

    def test_libxl_kills_the_script(self, script: Script, daemon: Daemon) -> None:
        """What outlives it ends with the verdict; the time limit ends it otherwise."""
        process = script.start(*ONLINE, trace=False)
        until(script.watching)
        process.send_signal(signal.SIGKILL)
        process.wait()
        daemon.connect()
        process.communicate(timeout=5)

    def test_the_time_limit_holds_for_what_outlives_it(self, script: Script, daemon: Daemon) -> None:
        script.wrap("timeout", 'shift\nexec "$real" 1 "$@"')
        process = script.start(*ONLINE, trace=False)
        until(script.watching)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=5)


class TestNoProgramIsStarted:
    @pytest.mark.parametrize("arguments", [("offline", "type_if=vif"), ("remove", "type_if=tap")])
    def test_taking_a_device_away(self, script: Script, arguments: tuple[str, str]) -> None:
        ended = script(*arguments)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", [])

    @pytest.mark.parametrize("arguments", [("online", "type_if=tap"), ("add", "type_if=vif"), ("add",)])
    def test_commands_for_the_other_kind_of_device(self, script: Script, arguments: tuple[str, ...]) -> None:
        ended = script(*arguments)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", [])

    def test_no_daemon(self, script: Script) -> None:
        ended = script(*ONLINE)
        assert (ended.status, ended.programs) == (1, [])
        assert ended.stderr == "vif-xennetd: xennetd is not running: start it with 'systemctl start xennetd'\n"

    def test_observe_mode(self, script: Script, daemon: Daemon) -> None:
        (daemon.run / "observe").touch()
        daemon.connect()
        ended = script(*ONLINE)
        assert (ended.status, ended.programs) == (1, [])
        assert "xennetd only observes" in ended.stderr

    @pytest.mark.parametrize("arguments", [(), ("start",), ("online", "type_if=bond")])
    def test_usage(self, script: Script, daemon: Daemon, arguments: tuple[str, ...]) -> None:
        ended = script(*arguments)
        assert (ended.status, ended.programs) == (2, [])
        assert ended.stderr.startswith("vif-xennetd: usage: ")


class TestWhichVif:
    @pytest.mark.parametrize(
        "without", [("XENBUS_PATH",), ("XENBUS_PATH", "vif"), ("XENBUS_PATH", "INTERFACE")], ids="+".join
    )
    def test_the_interface_tells(self, script: Script, daemon: Daemon, without: tuple[str, ...]) -> None:
        daemon.judge_tap("error: found it")
        ended = script(*ADD, without=without)
        assert (ended.status, ended.stderr) == (1, "vif-xennetd: found it\n")

    @pytest.mark.parametrize("name", ["", "tap0", "vif1", "vif1.", "vif.0", "vif1.0.2", "vif1/../2.0", "vifx.y"])
    def test_other_names_do_not(
        self, script: Script, daemon: Daemon, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        variables = script.variables() | {"INTERFACE": name, "vif": name}
        monkeypatch.setattr(script, "variables", lambda: variables)
        ended = script(*ADD, without=("XENBUS_PATH",))
        assert (ended.status, ended.programs) == (2, [])
        assert "which vif this is about" in ended.stderr


class TestWhatAnErrorMayHold:
    @pytest.mark.parametrize(
        ("sentence", "shown"),
        [
            (b"two\nlines", r"two\nlines"),
            (b"\x1b[2Jgone", r"\x1b[2Jgone"),
            (b"\xff\xfe", r"\xff\xfe"),
            (b"a\\033b -n %s $(id)", r"a\\033b -n %s $(id)"),
            (b"x" * 2000, "x" * 2000),
            (b"", "{netdev} could not be connected: journalctl -u xennetd says why"),
        ],
    )
    @pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
    def test_it_stays_one_printable_line(
        self, script: Script, vif: Vif, daemon: Daemon, shell: list[str], sentence: bytes, shown: str
    ) -> None:
        script.shell = shell
        daemon.refuse(sentence)
        ended = script(*ONLINE)
        assert (ended.status, ended.stderr) == (1, f"vif-xennetd: {shown.replace('{netdev}', vif.netdev)}\n")


def test_many_at_once(script: Script, daemon: Daemon) -> None:
    """Twenty scripts wait; one verdict lets all go, and nothing stays."""
    processes = [script.start(*ONLINE, trace=False) for _ in range(20)]
    threading.Timer(0.5, daemon.connect).start()
    assert [process.communicate(timeout=20) and process.returncode for process in processes] == [0] * 20

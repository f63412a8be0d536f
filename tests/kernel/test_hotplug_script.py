"""The hotplug script conf/vif-xennetd against a real xenstored; the test plays the daemon and libxl."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.bed.guest import Bed
from tests.bed.hotplug import Script
from tests.bed.toolstack import Vif, VifSpec
from tests.kernel.wait import paused
from xennetd.daemon.marks import Marks
from xennetd.model.vif import VifId

SHELLS = (["dash"], ["bash", "--posix"], ["busybox", "sh"])

ONLINE = ("online", "type_if=vif")
ADD = ("add", "type_if=tap")

ONE_START = ["xenstore-read"]
THREE_STARTS = ["timeout", "xenstore-watch", "xenstore-read"]
THREE_STARTS_ONE_HELD = ["timeout", "xenstore-watch", "xenstore-watch", "xenstore-read"]
"""The watch that waits for the test goes on as the real one."""

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


class Daemon:
    """xennetd as far as the script can see it: verdicts in xenstore, and its marks in /run/xennetd, which are real.

    Each verdict is `write` and then `mark`; tests that care for what happens between call these two.
    """

    def __init__(self, bed: Bed, vif: Vif) -> None:
        self.run = Path("/run/xennetd")
        self.bed = bed
        self.vif = vif
        self.run.mkdir()
        self.start()

    def start(self) -> None:
        """Begin, as after a restart: with the marks that are there."""
        self.marks = Marks(self.run)
        self.marks.start([VifId(self.vif.domid, self.vif.devid)])

    def write(self, node: str, verdict: str | bytes) -> None:
        self.bed.toolstack.xs.write(f"{self.vif.backend}/{node}", verdict)

    def mark(self, name: str, node: str) -> None:
        if self.marks.tell(name):
            self.write(node, self.bed.toolstack.xs.read(f"{self.vif.backend}/{node}"))
            self.marks.heard(name)

    def mark_vif(self) -> None:
        self.mark(self.vif.netdev, "hotplug-status")

    def connect(self) -> None:
        self.write("hotplug-status", "connected")
        self.mark_vif()

    def refuse(self, sentence: str | bytes) -> None:
        def write(tx: int) -> None:
            self.bed.toolstack.xs.write(f"{self.vif.backend}/hotplug-error", sentence, tx)
            self.bed.toolstack.xs.write(f"{self.vif.backend}/hotplug-status", "error", tx)

        self.bed.toolstack.xs.transact(write)
        self.mark_vif()

    def judge_tap(self, verdict: str) -> None:
        self.write("xennetd-tap", verdict)
        self.mark(self.vif.tap, "xennetd-tap")

    def marked(self, directory: str) -> list[str]:
        return sorted(path.name for path in (self.run / directory).iterdir())


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for `condition()` to hold."""
    deadline = time.monotonic() + seconds
    while not condition():
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
    yield daemon
    shutil.rmtree(daemon.run)


@pytest.fixture
def script(bed: Bed, vif: Vif, tmp_path: Path) -> Iterator[Script]:
    script = Script(bed.xenstored, vif, tmp_path)
    yield script
    with suppress(AssertionError):
        until(lambda: script.left_behind() == [])
    assert script.left_behind() == []


class TestTheVerdictIsThere:
    @pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
    def script(self, request: pytest.FixtureRequest, script: Script) -> Script:
        """These few run under every shell that /bin/sh may be."""
        script.shell = request.param
        return script

    def test_connected(self, script: Script, daemon: Daemon) -> None:
        daemon.connect()
        ended = script(*ONLINE)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", ONE_START)
        assert daemon.marked("waiting") == []

    def test_an_error_is_printed(self, script: Script, daemon: Daemon) -> None:
        daemon.refuse("bridge xenbr7 does not exist")
        ended = script(*ONLINE)
        assert (ended.status, ended.stderr) == (1, "vif-xennetd: bridge xenbr7 does not exist\n")
        assert ended.programs == ONE_START

    def test_a_tap_is_connected(self, script: Script, daemon: Daemon) -> None:
        daemon.judge_tap("connected")
        ended = script(*ADD)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", ONE_START)

    def test_a_taps_error_is_printed(self, script: Script, daemon: Daemon) -> None:
        daemon.judge_tap("error: the bridge is full")
        ended = script(*ADD)
        assert (ended.status, ended.stderr) == (1, "vif-xennetd: the bridge is full\n")
        assert ended.programs == ONE_START

    def test_it_comes_later(self, script: Script, daemon: Daemon) -> None:
        began = time.monotonic()
        process = script.start(*ONLINE)
        until(script.watching)
        time.sleep(0.2)
        assert process.poll() is None
        daemon.connect()
        ended = script.end(process, began)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", THREE_STARTS)

    def test_no_watch_stays_when_timeout_is_caught_early(self, script: Script, daemon: Daemon) -> None:
        script.wrap("timeout", TIMEOUT_CAUGHT_EARLY)
        process = script.start(*ONLINE)
        until(script.watching)
        daemon.connect()
        assert script.end(process, 0).status == 0
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
        daemon.refuse("denied")
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr, ended.programs) == (1, "vif-xennetd: denied\n", THREE_STARTS)

    def test_a_taps_verdict(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ADD)
        until(script.watching)
        daemon.connect()
        time.sleep(0.1)
        assert process.poll() is None, "the vif's verdict is not the tap's"
        daemon.judge_tap("connected")
        ended = script.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS)

    def test_an_event_without_a_verdict(self, script: Script, daemon: Daemon) -> None:
        """Here the same empty value again: it is no reason to stop waiting."""
        process = script.start(*ONLINE)
        until(script.watching)
        daemon.bed.toolstack.xs.write(f"{daemon.vif.backend}/hotplug-status", "")
        time.sleep(0.1)
        assert process.poll() is None
        daemon.connect()
        assert script.end(process, 0).status == 0


class TestTheWatchIsFasterThanItsShell:
    """Its first event, or its second too, is there before the shell that started it has said which process it is."""

    @pytest.fixture(autouse=True)
    def shell_says_so_when(self, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Have the shell say which process it is once this FIFO is opened for writing."""
        fifo = tmp_path / "late"
        os.mkfifo(fifo)
        script.shell = ["bash", "--posix"]
        echo = f'() {{ case $1 in ended*) ;; *) read -r _ <{fifo} ;; esac; builtin echo "$@"; }}'
        variables = script.variables() | {"BASH_FUNC_echo%%": echo}
        monkeypatch.setattr(script, "variables", lambda: variables)
        return fifo

    def test_and_the_verdict_comes_later(self, script: Script, shell_says_so_when: Path, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        until(script.watching)
        shell_says_so_when.write_text("\n")
        until(script.watching)
        daemon.connect()
        ended = script.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS)

    def test_and_so_is_the_daemon(self, script: Script, shell_says_so_when: Path, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        until(script.watching)
        daemon.connect()
        until(script.watching)
        shell_says_so_when.write_text("\n")
        ended = script.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS)

    def test_and_no_mark_can_be_made(self, script: Script, shell_says_so_when: Path, daemon: Daemon) -> None:
        shutil.rmtree(daemon.run / "waiting")
        shutil.rmtree(daemon.run / "told")
        process = script.start(*ONLINE)
        until(script.watching)
        daemon.write("hotplug-status", "connected")
        until(script.watching)
        shell_says_so_when.write_text("\n")
        assert script.end(process, 0).status == 0


class TestTheWatchComesTooLate:
    """The lost race: the verdict is written before the watch is in place, so that its event is nobody's."""

    @pytest.fixture(autouse=True)
    def watch_is_held(self, script: Script) -> None:
        script.hold("xenstore-watch")

    def test_and_the_daemon_is_done_with_it(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        with script.held():
            daemon.connect()
        ended = script.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS_ONE_HELD)
        assert daemon.marked("waiting") == []

    def test_and_the_daemon_marks_it_when_the_watch_is_in_place(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        with script.held():
            daemon.write("hotplug-status", "connected")
        time.sleep(0.3)
        assert process.poll() is None, "nothing may have told it"
        daemon.mark_vif()
        ended = script.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS_ONE_HELD)

    def test_and_it_is_the_taps(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ADD)
        with script.held():
            daemon.judge_tap("error: the bridge is full")
        ended = script.end(process, 0)
        assert (ended.stderr, ended.programs) == ("vif-xennetd: the bridge is full\n", THREE_STARTS_ONE_HELD)

    def test_and_the_daemon_is_killed_before_it_marks_it(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        with script.held():
            daemon.write("hotplug-status", "connected")
        time.sleep(0.3)
        daemon.start()
        daemon.mark_vif()
        ended = script.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS_ONE_HELD)

    def test_and_the_daemon_is_killed_before_it_writes_it_once_more(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        with script.held():
            daemon.write("hotplug-status", "connected")
        time.sleep(0.3)
        assert daemon.marks.tell(script.vif.netdev)
        daemon.start()
        daemon.mark_vif()
        ended = script.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS_ONE_HELD)

    def test_and_no_mark_can_be_made(self, script: Script, daemon: Daemon) -> None:
        shutil.rmtree(daemon.run / "waiting")
        shutil.rmtree(daemon.run / "told")
        process = script.start(*ONLINE)
        with script.held():
            daemon.write("hotplug-status", "connected")
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", THREE_STARTS_ONE_HELD)

    def test_and_the_daemon_is_killed_and_does_not_come_back(self, script: Script, daemon: Daemon) -> None:
        """The verdict is found in the end."""
        script.wrap("timeout", '[ "$1" = 30 ] || exec "$real" "$@"\nshift\nexec "$real" 1 "$@"')
        process = script.start(*ONLINE)
        with script.held():
            daemon.write("hotplug-status", "connected")
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr) == (0, "")

    def test_and_marks_can_no_longer_be_made(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        with script.held():
            shutil.rmtree(daemon.run / "told")
            daemon.connect()
            assert not (daemon.run / "waiting").exists()
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", THREE_STARTS_ONE_HELD)

    def test_and_then_marks_can_no_longer_be_made(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        with script.held():
            daemon.write("hotplug-status", "connected")
        time.sleep(0.3)
        shutil.rmtree(daemon.run / "told")
        daemon.mark_vif()
        ended = script.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS_ONE_HELD)


class TestAMarkIsWrong:
    def test_of_a_verdict_that_is_gone(self, script: Script, daemon: Daemon) -> None:
        """It costs looks; the verdict that comes is seen all the same."""
        daemon.marks.tell(script.vif.netdev)
        process = script.start(*ONLINE)
        until(script.watching)
        time.sleep(0.2)
        assert process.poll() is None
        daemon.connect()
        assert script.end(process, 0).status == 0

    def test_of_a_verdict_on_a_vif_that_is_gone(self, script: Script, bed: Bed, vif: Vif, daemon: Daemon) -> None:
        daemon.connect()
        bed.toolstack.forget_vif(vif)
        ended = script(*ONLINE)
        assert (ended.status, ended.stderr) == (1, f"vif-xennetd: {vif.netdev} was removed before it was connected\n")

    def test_of_a_script_that_has_ended(self, script: Script, daemon: Daemon) -> None:
        (daemon.run / "waiting" / script.vif.netdev).touch()
        daemon.connect()
        assert daemon.marked("waiting") == []
        assert script(*ONLINE).programs == ONE_START


class TestItNeverComes:
    def test_the_vif_is_removed(self, script: Script, bed: Bed, vif: Vif, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        until(script.watching)
        bed.toolstack.detach_vif(vif)
        bed.netback.close(vif)
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr) == (1, f"vif-xennetd: {vif.netdev} was removed before it was connected\n")
        assert ended.programs == THREE_STARTS

    def test_the_directory_goes(self, script: Script, bed: Bed, vif: Vif, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        until(script.watching)
        bed.toolstack.forget_vif(vif)
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr) == (1, f"vif-xennetd: {vif.netdev} was removed before it was connected\n")

    def test_the_time_limit(self, script: Script, vif: Vif, daemon: Daemon) -> None:
        script.wrap("timeout", '[ "$1" = 30 ] || exec "$real" "$@"\nshift\nexec "$real" 1 "$@"')
        ended = script(*ONLINE)
        assert ended.status == 1
        assert ended.stderr == (
            f"vif-xennetd: {vif.netdev} is not connected after 30 s: "
            f"see 'systemctl status xennetd' and 'xennetctl show {vif.netdev}'\n"
        )
        assert script.left_behind() == []

    def test_the_time_limit_holds_when_xenstored_answers_no_more(
        self, script: Script, vif: Vif, daemon: Daemon
    ) -> None:
        script.wrap("timeout", 'shift\nexec "$real" 1 "$@"')
        process = script.start(*ONLINE)
        until(script.watching)
        with paused(script.xenstored.pid):
            ended = script.end(process, 0)
        assert ended.status == 1
        assert f"{vif.netdev} is not connected after 30 s" in ended.stderr

    @pytest.mark.slow
    def test_the_time_limit_in_full(self, script: Script, daemon: Daemon) -> None:
        ended = script(*ONLINE, timeout=40)
        assert ended.status == 1
        assert 29 < ended.seconds < 32

    def test_it_is_gone_before_the_watch_and_the_daemon_notes_it_later(
        self, script: Script, bed: Bed, vif: Vif, daemon: Daemon
    ) -> None:
        script.wrap("timeout", '[ "$1" = 30 ] || exec "$real" "$@"\nshift\nexec "$real" 1 "$@"')
        script.hold("xenstore-watch")
        process = script.start(*ONLINE)
        with script.held():
            bed.toolstack.forget_vif(vif)
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr) == (1, f"vif-xennetd: {vif.netdev} was removed before it was connected\n")

    def test_a_read_that_fails_is_not_taken_for_the_end(self, script: Script, vif: Vif, daemon: Daemon) -> None:
        """As one does that finds too many transactions open, in a driver domain."""
        script.wrap("xenstore-read", f'mkdir {script.tmp}/failed 2>/dev/null && exit 1\nexec "$real" "$@"')
        process = script.start(*ONLINE)
        until(script.watching)
        daemon.connect()
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr) == (0, "")
        assert (script.tmp / "failed").is_dir()

    def test_xenstored_dies_meanwhile(self, tmp_path: Path, bed: Bed, vif: Vif, daemon: Daemon) -> None:
        script = Script(bed.xenstored, vif, tmp_path)
        process = script.start(*ONLINE)
        until(script.watching)
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
    later = threading.Timer(0.5, daemon.connect)
    later.start()
    assert [process.communicate(timeout=20) and process.returncode for process in processes] == [0] * 20
    later.join()

"""What the hotplug script makes of the daemon's verdict, of its arguments, and of its variables."""

from __future__ import annotations

import time

import pytest

from tests.bed.hotplug import ADD, ONE_START, ONLINE, THREE_STARTS, Script
from tests.bed.toolstack import Vif
from tests.kernel.hotplug.conftest import Daemon
from tests.kernel.wait import eventually

SHELLS = (["dash"], ["bash", "--posix"], ["busybox", "sh"])

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
        eventually(script.watching)
        time.sleep(0.2)
        assert process.poll() is None
        daemon.connect()
        ended = script.end(process, began)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", THREE_STARTS)

    def test_no_watch_stays_when_timeout_is_caught_early(self, script: Script, daemon: Daemon) -> None:
        script.wrap("timeout", TIMEOUT_CAUGHT_EARLY)
        process = script.start(*ONLINE)
        eventually(script.watching)
        daemon.connect()
        assert script.end(process, 0).status == 0
        eventually(lambda: script.left_behind() == [])

    def test_a_dead_xenstored_is_an_error_at_once(self, script: Script, vif: Vif, daemon: Daemon) -> None:
        process = script.start(*ONLINE, without=("XENSTORED_RUNDIR", "XENSTORED_PATH"))
        ended = script.end(process, time.monotonic())
        assert ended.status == 1
        assert ended.stderr.endswith(f"vif-xennetd: {vif.netdev} is not connected: xenstore can't be watched\n")


class TestTheVerdictComesLater:
    def test_an_error_is_printed(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        eventually(script.watching)
        daemon.refuse("denied")
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr, ended.programs) == (1, "vif-xennetd: denied\n", THREE_STARTS)

    def test_a_taps_verdict(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ADD)
        eventually(script.watching)
        daemon.connect()
        time.sleep(0.1)
        assert process.poll() is None, "the vif's verdict is not the tap's"
        daemon.judge_tap("connected")
        ended = script.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS)

    def test_an_event_without_a_verdict(self, script: Script, daemon: Daemon) -> None:
        """Here the same empty value again: it is no reason to stop waiting."""
        process = script.start(*ONLINE)
        eventually(script.watching)
        daemon.bed.toolstack.xs.write(f"{daemon.vif.backend}/hotplug-status", "")
        time.sleep(0.1)
        assert process.poll() is None
        daemon.connect()
        assert script.end(process, 0).status == 0


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

    @pytest.mark.parametrize(
        "path",
        ["backend/vif/1", "x", "/", "backend/vif/1/", "backend/vif/1/0/..", "a b/1/0x", "backend/vif/-1/0", "1/2.3"],
    )
    def test_a_path_that_is_no_vifs_is_told_and_leaves_no_file(
        self, script: Script, daemon: Daemon, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        variables = script.variables() | {"XENBUS_PATH": path}
        monkeypatch.setattr(script, "variables", lambda: variables)
        ended = script(*ADD)
        assert (ended.status, ended.programs) == (2, [])
        assert "is not the path of a vif" in ended.stderr
        assert daemon.marked("waiting") == []


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

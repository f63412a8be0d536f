"""Who is faster: the hotplug script, its watch, or the daemon; and the marks that they leave for each other."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.bed.guest import Bed
from tests.bed.hotplug import ADD, ONE_START, ONLINE, THREE_STARTS, THREE_STARTS_ONE_HELD, Script
from tests.bed.toolstack import Vif
from tests.kernel.hotplug.conftest import Daemon
from tests.kernel.wait import eventually


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
        eventually(script.watching)
        shell_says_so_when.write_text("\n")
        eventually(script.watching)
        daemon.connect()
        ended = script.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS)

    def test_and_so_is_the_daemon(self, script: Script, shell_says_so_when: Path, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        eventually(script.watching)
        daemon.connect()
        eventually(script.watching)
        shell_says_so_when.write_text("\n")
        ended = script.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS)

    def test_and_no_mark_can_be_made(self, script: Script, shell_says_so_when: Path, daemon: Daemon) -> None:
        shutil.rmtree(daemon.run / "waiting")
        shutil.rmtree(daemon.run / "told")
        process = script.start(*ONLINE)
        eventually(script.watching)
        daemon.write("hotplug-status", "connected")
        eventually(script.watching)
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
        script.limit(2)
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
        eventually(script.watching)
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


def test_many_at_once(script: Script, daemon: Daemon) -> None:
    """Twenty scripts wait; one verdict lets all go, and nothing stays."""
    processes = [script.start(*ONLINE, trace=False) for _ in range(20)]
    later = threading.Timer(0.5, daemon.connect)
    later.start()
    assert [process.communicate(timeout=20) and process.returncode for process in processes] == [0] * 20
    later.join()

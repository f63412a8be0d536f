"""The hotplug script when no verdict comes."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.bed.guest import Bed
from tests.bed.hotplug import ONLINE, THREE_STARTS, Script
from tests.bed.toolstack import Vif
from tests.kernel.hotplug.conftest import Daemon
from tests.kernel.wait import eventually, paused


def ended(script: Script, watch: int) -> bool:
    return watch not in script.watches()


class TestItNeverComes:
    def test_the_vif_is_removed(self, script: Script, bed: Bed, vif: Vif, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        eventually(script.watching)
        bed.toolstack.detach_vif(vif)
        bed.netback.close(vif)
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr) == (1, f"vif-xennetd: {vif.netdev} was removed before it was connected\n")
        assert ended.programs == THREE_STARTS

    def test_the_directory_goes(self, script: Script, bed: Bed, vif: Vif, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        eventually(script.watching)
        bed.toolstack.forget_vif(vif)
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr) == (1, f"vif-xennetd: {vif.netdev} was removed before it was connected\n")

    def test_the_time_limit(self, script: Script, vif: Vif, daemon: Daemon) -> None:
        script.limit(2)
        ended = script(*ONLINE)
        assert ended.status == 1
        assert ended.stderr == (
            f"vif-xennetd: {vif.netdev} is not connected after 2 s: "
            f"see 'systemctl status xennetd' and 'xennetctl show {vif.netdev}'\n"
        )
        assert script.left_behind() == []

    def test_the_time_limit_holds_when_xenstored_answers_no_more(
        self, script: Script, vif: Vif, daemon: Daemon
    ) -> None:
        script.limit(2)
        script.wrap("timeout", 'shift\nexec "$real" 1 "$@"')
        process = script.start(*ONLINE)
        eventually(script.watching)
        with paused(script.xenstored.pid):
            ended = script.end(process, 0)
        assert ended.status == 1
        assert f"{vif.netdev} is not connected after 2 s" in ended.stderr

    def test_the_time_limit_holds_when_the_script_itself_has_been_stopped(
        self, script: Script, vif: Vif, daemon: Daemon
    ) -> None:
        script.limit(3)
        process = script.start(*ONLINE, trace=False)
        eventually(script.watching)
        with paused(process.pid):
            [watch] = script.watches()
            os.kill(watch, signal.SIGKILL)
            time.sleep(3.5)
        _, stderr = process.communicate(timeout=10)
        assert process.returncode == 1
        assert f"{vif.netdev} is not connected after 3 s" in stderr

    @pytest.mark.slow
    def test_the_time_limit_in_full(self, script: Script, vif: Vif, daemon: Daemon) -> None:
        ended = script(*ONLINE, timeout=40)
        assert ended.status == 1
        assert f"{vif.netdev} is not connected after 30 s" in ended.stderr
        assert 29 < ended.seconds < 32

    def test_it_comes_after_the_first_watch_has_had_its_time(self, script: Script, vif: Vif, daemon: Daemon) -> None:
        process = script.start(*ONLINE)
        eventually(script.watching)
        [first] = script.watches()
        eventually(partial(ended, script, first))
        eventually(script.watching)
        daemon.connect()
        result = script.end(process, 0)
        assert (result.status, result.stderr) == (0, "")
        assert script.left_behind() == []

    def test_it_is_gone_before_the_watch_and_the_daemon_notes_it_later(
        self, script: Script, bed: Bed, vif: Vif, daemon: Daemon
    ) -> None:
        script.limit(2)
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
        eventually(script.watching)
        daemon.connect()
        ended = script.end(process, 0)
        assert (ended.status, ended.stderr) == (0, "")
        assert (script.tmp / "failed").is_dir()

    def test_xenstored_dies_meanwhile(self, tmp_path: Path, bed: Bed, vif: Vif, daemon: Daemon) -> None:
        script = Script(bed.xenstored, vif, tmp_path)
        process = script.start(*ONLINE)
        eventually(script.watching)
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

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    @pytest.mark.parametrize("whole_group", [False, True], ids=["watch", "watch and its time limit"])
    def test_somebody_kills_the_watch(
        self, script: Script, vif: Vif, daemon: Daemon, number: signal.Signals, whole_group: bool
    ) -> None:
        process = script.start(*ONLINE)
        for _ in range(2):
            eventually(script.watching)
            [watch] = script.watches()
            os.killpg(os.getpgid(watch), number) if whole_group else os.kill(watch, number)
            eventually(partial(ended, script, watch))
        eventually(script.watching)
        daemon.connect()
        result = script.end(process, 0)
        assert (result.status, result.stderr) == (0, "")
        assert script.left_behind() == []

    def test_libxl_kills_the_script(self, script: Script, daemon: Daemon) -> None:
        """What outlives it ends with the verdict; the time limit ends it otherwise."""
        process = script.start(*ONLINE, trace=False)
        eventually(script.watching)
        process.send_signal(signal.SIGKILL)
        process.wait()
        daemon.connect()
        process.communicate(timeout=5)

    def test_what_outlives_it_ends_within_seconds(self, script: Script, daemon: Daemon) -> None:
        process = script.start(*ONLINE, trace=False)
        eventually(script.watching)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=8)  # It has the script's standard error.
        assert script.left_behind() == []

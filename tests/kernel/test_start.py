"""How the daemon starts where it can't, beside another one, or before xenstored; and what it leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from tests.bed.daemon import RUNTIME, STAND_IN, program
from tests.bed.guest import Bed
from tests.bed.systemd import Journal
from tests.bed.xen import REPOSITORY
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.defective import Defective
from tests.kernel.status import status
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually
from xennetd.daemon.runtime_dir import OBSERVE_MARK
from xennetd.model import places

OBSERVE = STAND_IN + 'mode = "observe"\n'
MARK = "observe"
MARKS = ["told", "waiting"]

RELOAD_FAILS = """
from xennetd.daemon import supervisor

def load_files(*_arguments, **_options):
    raise RuntimeError("a defect")

supervisor.load_files = load_files
"""


def exceptions(journal: Journal, since: int) -> list[str]:
    """The tracebacks in the journal from the entry number `since` on."""
    return [entry["EXCEPTION_TEXT"] for entry in journal.entries[since:] if "EXCEPTION_TEXT" in entry]


def blocking_as_the_unit_does() -> list[str]:
    """The part of the unit's ExecStart= that comes before the program."""
    unit = (REPOSITORY / "systemd/xennetd.service").read_text()
    [command] = [line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")]
    *before, _ = command.split()
    return before


def blocks(pid: int, number: int) -> bool:
    """Whether a process holds a signal back. What `env` is started as may take a moment to do so."""
    [mask] = [line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigBlk" in line]
    return bool(int(mask, 16) >> (number - 1) & 1)


class ByHand(Protocol):
    def __call__(self, config: str, *arguments: str, before: Sequence[str] = ()) -> subprocess.Popen[str]: ...


@pytest.fixture
def by_hand(bed: Bed, tmp_path: Path) -> Iterator[ByHand]:
    """Start xennetd as a person does, on a host that may have no /run/xennetd."""
    started: list[subprocess.Popen[str]] = []

    def start(config: str, *arguments: str, before: Sequence[str] = ()) -> subprocess.Popen[str]:
        (tmp_path / "by-hand.toml").write_text(config)
        started.append(
            subprocess.Popen(
                [*before, *program("xennetd.daemon.main"), "--config", tmp_path / "by-hand.toml", *arguments],
                env=bed.xenstored.environment() | {"PYTHONPATH": str(REPOSITORY)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=10)
    return process.returncode, output


class TestASecondDaemon:
    REFUSAL = "xennetd: another xennetd is running: it listens on the control socket /run/xennetd/control\n"

    def test_that_only_observes_is_refused_and_changes_nothing(self, daemon: MakeDaemon, by_hand: ByHand) -> None:
        first = daemon()
        second = by_hand(STAND_IN, "--observe")
        assert ended(second) == (1, self.REFUSAL)
        assert sorted(os.listdir(RUNTIME)) == ["control", *MARKS]
        assert first.ask("list") == []

    def test_that_enforces_is_refused_and_changes_nothing(self, daemon: MakeDaemon, by_hand: ByHand) -> None:
        first = daemon(OBSERVE)
        second = by_hand(STAND_IN)
        assert ended(second) == (1, self.REFUSAL)
        assert sorted(os.listdir(RUNTIME)) == ["control", MARK, *MARKS]
        assert first.ask("list") == []

    @pytest.mark.parametrize(
        ("mode", "there"), [("observe", ["control", *MARKS]), ("enforce", ["control", MARK, *MARKS])]
    )
    def test_that_has_a_control_socket_of_its_own_is_refused_all_the_same(
        self, mode: str, there: list[str], daemon: MakeDaemon, by_hand: ByHand
    ) -> None:
        daemon(STAND_IN if mode == "observe" else OBSERVE)
        second = by_hand(f'[daemon]\nmode = "{mode}"\ncontrol = "/run/other/control"\n')
        assert ended(second) == (1, "xennetd: another xennetd is running: it holds the directory /run/xennetd\n")
        assert sorted(os.listdir(RUNTIME)) == there
        assert not Path("/run/other").exists()

    def test_may_take_over_from_one_that_was_killed(self, daemon: MakeDaemon) -> None:
        first = daemon(OBSERVE)
        first.kill9()
        first.configure(STAND_IN)
        first.start()
        assert sorted(os.listdir(RUNTIME)) == ["control", *MARKS]


class TestRuntimeDirectory:
    def test_made_by_hand_it_goes_again(self, by_hand: ByHand) -> None:
        process = by_hand(OBSERVE)
        eventually((RUNTIME / MARK).exists)
        assert "control" in os.listdir(RUNTIME)
        process.terminate()
        assert ended(process)[0] == 0
        assert not RUNTIME.exists()

    def test_what_was_there_stays_without_what_we_made_in_it(self, daemon: MakeDaemon) -> None:
        xennetd = daemon(OBSERVE)
        xennetd.signal(signal.SIGTERM)
        assert xennetd.wait() == 0
        assert os.listdir(RUNTIME) == []

    def test_systemds_is_systemds_to_remove(self, daemon: MakeDaemon) -> None:
        xennetd = daemon(OBSERVE, wrapper=["env", f"RUNTIME_DIRECTORY={RUNTIME}"])
        xennetd.signal(signal.SIGTERM)
        assert xennetd.wait() == 0
        assert sorted(os.listdir(RUNTIME)) == [MARK, *MARKS]

    def test_the_script_finds_the_mark_wherever_the_control_socket_is(self, by_hand: ByHand) -> None:
        process = by_hand(OBSERVE + 'control = "/run/other/control"\n')
        eventually((RUNTIME / MARK).exists)
        assert os.listdir("/run/other") == ["control"]
        process.terminate()
        assert ended(process)[0] == 0
        assert not Path("/run/other").exists()
        assert not RUNTIME.exists()

    def test_the_script_knows_the_same_paths(self) -> None:
        script = (REPOSITORY / "conf" / "vif-xennetd").read_text()
        assert f"\nrun={RUNTIME}\n" in script
        assert f'-e "$run/{MARK}"' in script
        assert all(f'"$run/{directory}/$mark"' in script for directory in MARKS)
        assert str(RUNTIME) == places.RUNTIME
        assert MARK == OBSERVE_MARK

    def test_reload_changes_the_mark(self, daemon: MakeDaemon) -> None:
        xennetd = daemon()
        xennetd.configure(OBSERVE)
        assert xennetd.ctl("reload").returncode == 0
        assert sorted(os.listdir(RUNTIME)) == ["control", MARK, *MARKS]
        xennetd.configure(STAND_IN)
        assert xennetd.ctl("reload").returncode == 0
        assert sorted(os.listdir(RUNTIME)) == ["control", *MARKS]


class TestARuntimeDirectoryThatSomebodyRemoves:
    @pytest.mark.parametrize("itself", [False, True], ids=["its contents", "all of it"])
    def test_is_whole_again_by_itself(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, by_hand: ByHand, itself: bool
    ) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon(OBSERVE)
        xennetd.configure(STAND_IN)
        assert xennetd.ctl("reload").returncode == 0
        web = guest("web")
        connected(bed, web.vif)
        for path in RUNTIME.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if itself:
            RUNTIME.rmdir()
        eventually(lambda: (RUNTIME / "told" / web.vif.netdev).exists(), 10)
        eventually(lambda: xennetd.ctl("list").returncode == 0, 10)
        assert sorted(os.listdir(RUNTIME)) == ["control", *MARKS]
        connected(bed, guest("late").vif)
        status, said = ended(by_hand(STAND_IN))
        assert status == 1, "it is locked for one daemon as before"
        assert "another xennetd is running" in said

    def test_marks_observe_mode_again(self, daemon: MakeDaemon) -> None:
        daemon(OBSERVE)
        (RUNTIME / MARK).unlink()
        eventually((RUNTIME / MARK).exists, 10)

    def test_leaves_alone_what_somebody_has_put_in_the_sockets_place(
        self, daemon: MakeDaemon, journal: Journal
    ) -> None:
        xennetd = daemon()
        xennetd.control.unlink()
        xennetd.control.write_text("not ours")
        entry = journal.wait_for(MESSAGE="the control socket was removed, and xennetctl can't reach xennetd")
        assert "a file of that name exists and is no socket" in entry["XENNET_WHY"]
        xennetd.signal(signal.SIGTERM)
        assert xennetd.wait() == 0
        assert xennetd.control.read_text() == "not ours"

    def test_a_runtime_directory_that_cannot_be_made_is_a_problem_until_it_can(
        self, daemon: MakeDaemon, tmp_path: Path
    ) -> None:
        xennetd = daemon(f'{STAND_IN}control = "{tmp_path}/elsewhere/control"\n')
        xennetd.control = tmp_path / "elsewhere/control"
        shutil.rmtree(RUNTIME)
        RUNTIME.touch()
        problem = eventually(lambda: status(xennetd)["problems"], timeout=12.0)[0]
        assert problem == (
            f"{RUNTIME} was removed, and can't be made again: the directory {RUNTIME} can't be used: Not a directory: "
            f"remove what hinders that, or run mkdir {RUNTIME}; until then no hotplug script finds xennetd"
        )
        RUNTIME.unlink()
        eventually(lambda: status(xennetd)["problems"] == [], timeout=12.0)
        assert (RUNTIME / "told").is_dir()

    def test_has_its_mode_again_under_the_units_umask_and_stays_as_long_as_systemd_keeps_it(
        self, daemon: MakeDaemon
    ) -> None:
        RUNTIME.mkdir(mode=0o755)
        try:
            xennetd = daemon(wrapper=["sh", "-c", 'umask 77; exec "$@"', "sh", "env", f"RUNTIME_DIRECTORY={RUNTIME}"])
            shutil.rmtree(RUNTIME)
            eventually((RUNTIME / "told").is_dir, 12)
            assert stat.filemode(RUNTIME.stat().st_mode) == "drwxr-xr-x", "the group xennet gets to the control socket"
            xennetd.signal(signal.SIGTERM)
            assert xennetd.wait() == 0
            assert RUNTIME.is_dir(), "while systemd starts another xennetd, hotplug scripts wait for it"
        finally:
            shutil.rmtree(RUNTIME)

    @pytest.mark.parametrize("by_hand", [False, True], ids=["removed", "made again by hand"])
    def test_on_a_read_only_run_is_a_problem_with_the_remedy_that_helps(
        self, daemon: MakeDaemon, tmp_path: Path, by_hand: bool
    ) -> None:
        mounts = 'mount --bind /run /run; mount -o remount,bind,ro /run; mount --bind "$0" "$0"'
        mounts += '; mount -o remount,bind,rw "$0"; exec "$@"'
        wrapper = ["unshare", "--mount", "--propagation=slave", "sh", "-ec", mounts, str(RUNTIME)]
        xennetd = daemon(f'{STAND_IN}control = "{tmp_path}/elsewhere/control"\n', wrapper=wrapper)
        xennetd.control = tmp_path / "elsewhere/control"
        shutil.rmtree(RUNTIME)
        if by_hand:
            RUNTIME.mkdir()
        (problem,) = eventually(lambda: status(xennetd)["problems"], timeout=12.0)
        assert re.fullmatch(
            rf"{RUNTIME} was removed, and can't be made again: the directory {RUNTIME} can't be (made|used): Read-only "
            "file system: restart xennetd; until then no hotplug script finds xennetd",
            problem,
        )
        time.sleep(5.5)  # another look
        assert status(xennetd)["problems"] == [problem]


class TestRefusals:
    """Each is one sentence and exit status 1."""

    def test_a_directory_that_cannot_be_made(self, by_hand: ByHand) -> None:
        status, said = ended(by_hand('[daemon]\ncontrol = "/proc/nowhere/control"\n'))
        assert (status, said) == (1, "xennetd: the directory /proc/nowhere can't be made: No such file or directory\n")

    def test_a_control_socket_that_cannot_be_made(self, by_hand: ByHand, tmp_path: Path) -> None:
        (tmp_path / "control").mkdir()
        status, said = ended(by_hand(f'[daemon]\ncontrol = "{tmp_path}/control"\n'))
        assert status == 1
        assert said.startswith(f"xennetd: the control socket {tmp_path}/control can't be made: ")
        assert said.count("\n") == 1
        assert not RUNTIME.exists()

    def test_a_control_path_at_which_another_program_listens(self, daemon: MakeDaemon, by_hand: ByHand) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind("/run/other.sock")
            other.listen()
            config = STAND_IN + 'control = "/run/other.sock"\n'
            status, said = ended(by_hand(config))
            assert status == 1
            who = f"(pid {os.getpid()}, user 0), listens there: choose another path for daemon.control"
            assert said.startswith("xennetd: the control socket /run/other.sock can't be made: another program, ")
            assert who in said
            status, said = ended(by_hand(config, "--check"))
            assert status == 1
            assert re.search(r"^error: .*\.toml:3: daemon\.control: the socket can't be at /run/other\.sock: ", said)
            assert who in said
            # So does a daemon that is asked, whose own socket is elsewhere.
            xennetd = daemon()
            xennetd.configure(config)
            checked = xennetd.ctl("check")
            assert checked.returncode == 1
            assert re.search(r"^problem: .*\.toml:3: daemon\.control: the socket can't be at", checked.stdout)
            assert who in checked.stdout
            assert xennetd.ctl("reload").returncode == 1
            assert other.accept()

    def test_a_control_path_that_others_can_take_away(self, by_hand: ByHand) -> None:
        Path("/run/open").mkdir()
        Path("/run/open").chmod(0o777)
        config = '[daemon]\ncontrol = "/run/open/inner/control"\n'
        status, said = ended(by_hand(config))
        assert status == 1
        why = "everyone may write to the directory /run/open (mode 0777): run chmod o-w on it"
        assert said.startswith(f"xennetd: the control socket /run/open/inner/control can't be made: {why}")
        assert os.listdir("/run/open") == []
        assert why in ended(by_hand(config, "--check"))[1]

    def test_a_control_path_that_is_a_file_of_the_system(self, by_hand: ByHand) -> None:
        before = Path("/etc/passwd").read_bytes()
        config = '[daemon]\ncontrol = "/etc/passwd"\n'
        assert "/etc/passwd can't be made: a file of that name exists and is no socket" in ended(by_hand(config))[1]
        status, said = ended(by_hand(config, "--check"))
        assert status == 1
        assert (
            "by-hand.toml:2: daemon.control: the socket can't be at /etc/passwd: /etc is no place for sockets" in said
        )
        assert Path("/etc/passwd").read_bytes() == before

    def test_nothing_of_the_control_path_of_a_daemon_that_runs(self, daemon: MakeDaemon, by_hand: ByHand) -> None:
        xennetd = daemon(STAND_IN + 'control = "/run/xennetd/control"\n')
        assert ended(by_hand(xennetd.config.read_text(), "--check"))[0] == 0
        assert xennetd.ctl("check").returncode == 0
        assert xennetd.ctl("reload").returncode == 0

    def test_a_user_who_is_not_root(self, by_hand: ByHand) -> None:
        # Root without its capabilities and as nobody, who could not read this checkout.
        before = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        status, said = ended(by_hand(STAND_IN, "--observe", before=before))
        assert (status, said) == (
            1,
            "xennetd: rtnetlink can't be used: Operation not permitted: xennetd must run as root\n",
        )
        assert not RUNTIME.exists()


class TestHangup:
    def test_before_xenstored_is_there_it_is_a_reload_like_any_other(
        self, bed: Bed, daemon: MakeDaemon, journal: Journal
    ) -> None:
        contents = bed.xenstored.dump()
        bed.xenstored.kill9()
        xennetd = daemon(ready=False)
        eventually(lambda: xennetd.notify.status() == "waiting for xenstored")
        xennetd.signal(signal.SIGHUP)
        assert journal.wait_for(XENNET_EVENT="reload")["MESSAGE"] == "policy reloaded"
        assert not [message for message in xennetd.notify.messages if "RELOADING" in message.fields]
        bed.xenstored.start(contents)
        xennetd.wait_ready()
        bed.reconnect()

    @pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
    def test_at_any_moment_of_the_start_it_ends_nothing(self, daemon: MakeDaemon, number: int) -> None:
        xennetd = daemon(wrapper=blocking_as_the_unit_does(), ready=False)
        eventually(partial(blocks, xennetd.pid, number))
        ready = time.monotonic() + 0.5
        while time.monotonic() < ready:
            time.sleep(0.005)
            xennetd.signal(number)
        xennetd.wait_ready()
        assert xennetd.ask("list") == []

    def test_before_there_are_handlers_it_waits_for_them(self, daemon: MakeDaemon, journal: Journal) -> None:
        xennetd = daemon(wrapper=blocking_as_the_unit_does(), ready=False)
        eventually(partial(blocks, xennetd.pid, signal.SIGHUP))
        xennetd.signal(signal.SIGHUP)
        assert journal.wait_for(XENNET_EVENT="reload")["MESSAGE"] == "policy reloaded"
        xennetd.wait_ready()

    def test_a_reload_that_fails_by_a_defect_ends_nothing(
        self, bed: Bed, xenstored: Xenstored, tmp_path: Path, journal: Journal
    ) -> None:
        xennetd = Defective(xenstored, tmp_path, defect=RELOAD_FAILS).start()
        try:
            for _ in range(2):
                seen = len(journal.entries)
                xennetd.signal(signal.SIGHUP)
                told = eventually(partial(exceptions, journal, seen))
                assert "RuntimeError: a defect" in told[0]
            assert xennetd.ask("list") == []
            ready = [message for message in xennetd.notify.messages if "READY" in message.fields]
            assert len(ready) == 3, "systemd waits for the end of each reload"
        finally:
            xennetd.close()

"""xennetctl's verbs that change, check or monitor; and all of them without a daemon."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.unit.control.bed import Served, row
from tests.unit.control.command import BUFFERED, HOSTILE, Run, command
from tests.unit.control.peer import NOBODY, as_user, needs_root
from xennetd.cli import connection, main
from xennetd.model.event import Event, EventKind
from xennetd.model.status import Planned
from xennetd.model.vif import VifId


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("retry", "xennetd tries vif7.0 again; see: xennetctl show vif7.0\n"),
        ("pin", "vif7.0 is pinned: xennetd does not touch it until: xennetctl unpin vif7.0\n"),
        ("unpin", "xennetd manages vif7.0 again\n"),
    ],
)
def test_changing_a_vif_says_which(verb: str, said: str, served: Served, run: Run) -> None:
    assert run(verb, "lan7") == (0, said, "")
    assert served.daemon.asked == [f"{verb} vif7.0"]


def test_reload_is_silent_when_all_is_well(served: Served, run: Run) -> None:
    served.daemon.rows = [row(7)]
    assert run("reload") == (0, "", "")
    assert served.daemon.asked == ["reload"]


def test_a_reload_tells_of_problems_that_there_are_with_the_new_policy(served: Served, run: Run) -> None:
    served.daemon.rows = [row(7, state="error", error="it is quarantined")]
    assert run("reload") == (
        0, "", "xennetctl: vif7.0 of vm-7: it is quarantined\n"
        "xennetctl: the new policy is in force, and the problems above remain\n",
    )  # fmt: skip


def test_a_reload_has_worked_even_if_the_daemon_then_does_not_answer(
    served: Served, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(path: str, method: str, **how: Any) -> Any:
        if method == "Status":
            raise connection.Unreachable("no answer within 10 s")
        return ask(path, method, **how)

    ask = connection.call
    monkeypatch.setattr(connection, "call", call)
    status, out, err = run("reload")
    assert (status, out) == (0, "")
    assert "the new policy is in force" in err


def test_a_bad_reload_prints_every_problem_and_exits_1(served: Served, run: Run) -> None:
    served.daemon.problems = ["/etc/xennetd/xennetd.toml:3: no such key", "/etc/xennetd/xennetd.toml:9: no such mode"]
    status, out, err = run("reload")
    assert (status, out) == (1, "")
    assert err == "".join(f"xennetctl: {text}\n" for text in [*served.daemon.problems, "the old policy stays"])


def test_a_refusal_is_a_sentence_and_exit_1(served: Served, run: Run) -> None:
    served.daemon.refusal = "it is being removed"
    assert run("pin", "vif7.0") == (1, "", "xennetctl: it is being removed\n")
    assert run("show", "nobody") == (
        1, "", 'xennetctl: there is no guest interface, link or domain "nobody"; see: xennetctl list\n',
    )  # fmt: skip
    assert run("show", "db") == (
        1, "", 'xennetctl: "db" has several interfaces; name one of them: vif7.0, vif7.1\n',
    )  # fmt: skip


def as_nobody(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = as_user(NOBODY, NOBODY, *command(path, *arguments))
    return subprocess.run(program, capture_output=True, text=True, check=False)


@needs_root
def test_others_are_told_that_changing_is_roots(served: Served, path: str) -> None:
    done = as_nobody(path, "pin", "vif7.0")
    assert (done.returncode, done.stderr) == (1, "xennetctl: only root may do this\n")
    assert served.daemon.asked == []


@needs_root
def test_those_who_may_not_open_the_socket_are_told_how_they_could(served: Served, path: str) -> None:
    os.chmod(path, 0o600)
    done = as_nobody(path, "status")
    assert done.returncode == 3
    assert done.stderr == f"xennetctl: no permission to open {path}: be root, or join the group xennet\n"


class Monitor:
    def __init__(self, path: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            # Who runs in the background of a shell has its SIGINT ignored, and his children too.
            ["env", "--default-signal=INT", *command(path, "monitor", *arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=BUFFERED,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=10)
        return self.process.returncode, err


def test_monitor_prints_each_event_at_once(served: Served, path: str) -> None:
    served.record(Event(EventKind.ATTACH, "an old one", VifId(1, 0)))
    served.record(Event(EventKind.ATTACH, "the latest", VifId(2, 0), duration_us=700))
    monitor = Monitor(path, "--recent", "1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  attach    the latest\n", monitor.line())
    served.record(Event(EventKind.ERROR, HOSTILE, VifId(7, 0)))
    assert "error     evil\\x1b[2J\\n\\x07" in monitor.line()
    monitor.process.send_signal(signal.SIGINT)
    assert monitor.end() == (-signal.SIGINT, "")  # which a shell shows as 130


def test_monitor_json_is_an_object_a_line(served: Served, path: str) -> None:
    monitor = Monitor(path, "--json")
    served.wait_for_monitor()
    for number in range(3):
        served.record(Event(EventKind.DETACH, f"{number}\n", VifId(7, number), vm="db", ips=("10.0.0.1",)))
    events = [json.loads(monitor.line()) for _ in range(3)]
    assert [event["vif"] for event in events] == ["vif7.0", "vif7.1", "vif7.2"]
    assert (events[0]["event"], events[0]["vm"], events[0]["ips"]) == ("detach", "db", ["10.0.0.1"])
    served.stop()
    status, err = monitor.end()
    assert status == 3
    assert "closed the connection" in err


def test_a_monitor_waits_for_ever(served: Served, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TIMEOUT", 0.1)
    replies = connection.stream(path, "Monitor")
    assert next(replies)["event"] is None
    timer = threading.Timer(0.4, served.record, (Event(EventKind.DETACH, "late"),))
    timer.start()
    assert next(replies)["event"]["message"] == "late"
    timer.join()  # It asks the server's loop to note that all is done.


def test_monitor_tells_of_lost_events(path: str, run: Run) -> None:
    reply = {"continues": True, "parameters": {"event": None, "lost": 7}}
    with speaking(path, json.dumps(reply).encode() + b"\0"):
        status, out, err = run("monitor", "--json")
    assert json.loads(out) == {"event": "lost", "lost": 7}
    assert "7 events were lost" in err
    assert status == 3


class speaking:
    """A server that says `what` to the first who calls, whatever it asks, and hangs up (or not)."""

    def __init__(self, path: str, what: bytes, *, hang: bool = False) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen()
        self._what, self._hang = what, hang

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._speak)
        self._thread.start()

    def _speak(self) -> None:
        conn, _ = self._socket.accept()
        with conn:
            conn.recv(65536)
            conn.sendall(self._what)
            if self._hang:
                conn.recv(1)

    def __exit__(self, *_: object) -> None:
        self._thread.join(5)
        self._socket.close()


@pytest.mark.parametrize(
    ("planned", "plan", "apply"),
    [
        (
            Planned(["ip link set eth1 master xenbr1"], []),
            (0, "apply would do this:\n  ip link set eth1 master xenbr1\n", ""),
            (0, "done:\n  ip link set eth1 master xenbr1\n", ""),
        ),
        (
            Planned([], []),
            (0, "The host's links are as the configuration says.\n", ""),
            (0, "The host's links were as the configuration says.\n", ""),
        ),
        (
            Planned([], ["x.toml:1: a: b"], refused=True),
            (1, "! x.toml:1: a: b\n", ""),
            (1, "! x.toml:1: a: b\nNothing was changed.\n", ""),
        ),
        (
            Planned(["ip link set eth0 master b"], ["eth0 has 192.0.2.1/24"]),
            (
                1,
                "! eth0 has 192.0.2.1/24\napply would do this:\n  ip link set eth0 master b\n"
                "It would be refused, and nothing would be changed.\n",
                "",
            ),
            (1, "! eth0 has 192.0.2.1/24\ndone:\n  ip link set eth0 master b\n", ""),
        ),
    ],
    ids=["steps", "nothing to do", "a file with a problem", "refused, or done in part"],
)
def test_plan_and_apply_say_what_and_why_not(
    planned: Planned, plan: tuple[int, str, str], apply: tuple[int, str, str], served: Served, run: Run
) -> None:
    served.daemon.planned = planned
    assert run("plan") == plan
    assert run("apply") == apply
    assert served.daemon.asked == ["apply"]
    code, out, _ = run("plan", "--json")
    assert (code, json.loads(out)) == (plan[0], asdict(planned))


@pytest.mark.parametrize(
    "verb",
    [
        ["status"],
        ["list"],
        ["show", "x"],
        ["monitor"],
        ["reload"],
        ["pin", "x"],
        ["plan"],
        ["apply"],
        ["topology"],
        ["import"],
    ],
)
def test_without_a_daemon_each_verb_exits_3_and_says_what_to_do(verb: list[str], run: Run, path: str) -> None:
    status, out, err = run(*verb)
    assert (status, out) == (3, "")
    assert err == f"xennetctl: nothing listens on {path}: is xennetd running? See: systemctl status xennetd\n"


def test_a_socket_that_was_left_behind_is_no_daemon(run: Run, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(path)
    assert run("list")[0] == 3


@pytest.mark.parametrize("what", [b"", b"{", b"hello\0", b"[1]\0", b"\xff\0"])
def test_what_is_no_xennetd_is_exit_3(what: bytes, run: Run, path: str) -> None:
    with speaking(path, what):
        status, _, err = run("list")
    assert status == 3
    assert "closed the connection" in err or "does not speak Varlink" in err


def test_a_daemon_that_does_not_answer_is_exit_3(run: Run, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TIMEOUT", 0.2)
    monkeypatch.setattr(connection.call, "__defaults__", (0.2,))
    with speaking(path, b"", hang=True):
        status, _, err = run("status")
    assert status == 3
    assert "does not answer" in err


def test_a_path_that_cannot_be_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--control", "/" + "x" * 300, "list"]) == 3
    assert "can't be opened" in capsys.readouterr().err


def test_an_error_nobody_knows_is_still_a_sentence(run: Run, path: str) -> None:
    with speaking(path, b'{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"List"}}\0'):
        status, _, err = run("list")
    assert status == 1
    assert "the same version?" in err


def test_check_asks_the_daemon(served: Served, run: Run) -> None:
    assert run("check") == (0, "note: no policy uses lan\nThe configuration is valid.\n", "")
    served.daemon.problems = ["a: b"]
    assert run("check") == (1, "problem: a: b\nnote: no policy uses lan\n", "")
    assert json.loads(run("check", "--json")[1]) == {"problems": ["a: b"], "notes": ["no policy uses lan"]}


def test_check_of_a_file_needs_no_daemon(run: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text('[daemon]\nmode = "observe"\n')
    bad.write_text('[daemon]\nmode = "obsreve"\nhoks = true\n')
    status, out, err = run("check", str(good))
    assert (status, err) == (0, "")
    assert out.endswith("The configuration is valid.\n")
    status, out, _ = run("check", str(bad))
    assert status == 1
    assert out.count("problem: ") == 2
    assert f"{bad}:2" in out


def test_check_without_a_daemon_reads_this_hosts_files(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from xennetd.config.problem import Problem
    from xennetd.policy import files

    problem = Problem("/etc/xennetd/xennetd.toml", "is bad", 3)
    monkeypatch.setattr(files, "read_files", lambda config: files.Files((), (problem,)))
    status, out, err = run("check")
    assert (status, out) == (1, "problem: /etc/xennetd/xennetd.toml:3: is bad\n")
    assert "only the files are checked" in err


def test_a_reader_that_has_left_is_no_traceback(served: Served, path: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command(path, "list"), stdout=writer, stderr=subprocess.PIPE, env=BUFFERED)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_reader_that_leaves_is_no_traceback(served: Served, path: str) -> None:
    served.daemon.rows = [row(number) for number in range(1000)]
    shell = f"{shlex.join(command(path, 'list'))} | head -n 1"
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True)
    assert done.stdout.startswith("VIF ")
    assert done.stderr == ""

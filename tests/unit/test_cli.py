"""xennetctl against a real control socket with a daemon that only remembers what it was asked."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.control_bed import FakeDaemon, row, serving
from xennetd.cli import client, main
from xennetd.cli.text import age, duration, printable, span_of_time, table
from xennetd.daemon.audit import Audit
from xennetd.daemon.journal import Journal
from xennetd.model.event import Event, EventKind
from xennetd.model.vif import VifId

NOBODY = 65534
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
HOSTILE = "evil\x1b[2J\n\x07\x9b1m\u202e\x7f[bold]"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")


class Served:
    """A control server in a thread of its own."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.daemon = FakeDaemon()
        self.audit = Audit(Journal("/nonexistent"))
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._up = threading.Event()
        self._thread.start()
        self._up.wait(5)

    async def _serve(self) -> None:
        async with serving(self.daemon, self.audit, self.path, group="nogroup"):
            self._up.set()
            await self._stop.wait()

    def record(self, event: Event) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (self.audit.record(event), done.set()))
        done.wait(5)

    def wait_for_monitor(self) -> None:
        deadline = time.monotonic() + 5
        while not self.audit._subscriptions and time.monotonic() < deadline:
            time.sleep(0.005)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(5)
            self._loop.close()


@pytest.fixture
def path() -> Iterator[str]:
    directory = tempfile.mkdtemp()
    os.chmod(directory, 0o755)
    yield f"{directory}/control"
    shutil.rmtree(directory)


@pytest.fixture
def served(path: str) -> Iterator[Served]:
    server = Served(path)
    yield server
    server.stop()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(path: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run xennetctl in this process; returns its exit status, output and error output."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main.main(["--control", path, *arguments])
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def command(path: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "xennetd.cli.main", "--control", path, *arguments]


def on_terminal(path: str, *arguments: str, columns: int = 80, **environment: str) -> str:
    """Run xennetctl on a terminal of its own and return what arrives there."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        command(path, *arguments),
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "NO_COLOR": "", **environment},
    )
    os.close(theirs)
    out = b""
    try:
        while chunk := os.read(ours, 65536):
            out += chunk
    except OSError:
        pass  # The other end is closed: all was read.
    os.close(ours)
    process.wait(10)
    return out.decode().replace("\r\n", "\n")


def uncoloured(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# What people see


def test_list(served: Served, run: Run) -> None:
    now = time.time()
    served.daemon.rows = [
        row(3, vm="web-1", since=now - 200, ips=["10.0.0.3", "fd00::3"], network="lan", vlan="20"),
        row(7, 1, vm="db", since=now - 7300, state="error", bridge="xenbr9", error="there is no bridge xenbr9"),
        row(9, vm=None, mac=None, since=0, state="pending", reason="waiting for the link vif9.0", pinned=True),
    ]
    status, out, _ = run("list")
    assert status == 0
    assert out == (
        "VIF     VM     STATE      NETWORK  BRIDGE  VLAN  MAC                IPS               AGE  NOTE\n"
        "vif3.0  web-1  connected  lan      xenbr0  20    00:16:3e:00:00:03  10.0.0.3,fd00::3  3m   -\n"
        "vif7.1  db     error      -        xenbr9  -     00:16:3e:00:00:07  -                 2h   "
        "there is no bridge xenbr9\n"
        "vif9.0  -      pending    -        xenbr0  -     -                  -                 -    pinned\n"
    )


def test_list_of_nothing_is_its_header(served: Served, run: Run) -> None:
    served.daemon.rows = []
    assert run("list")[:2] == (0, "VIF  VM  STATE  NETWORK  BRIDGE  VLAN  MAC  IPS  AGE  NOTE\n")
    assert json.loads(run("list", "--json")[1]) == []


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--state", "error"], ["vif7.1"]),
        (["--state", "error", "--state", "pending"], ["vif7.1", "vif9.0"]),
        (["--vm", "web-*"], ["vif3.0"]),
        (["--vm", "db", "--state", "connected"], ["vif7.0"]),
        (["--vm", "nobody"], []),
    ],
)
def test_list_filters(filters: list[str], expected: list[str], served: Served, run: Run) -> None:
    assert [vif["vif"] for vif in json.loads(run("list", "--json", *filters)[1])] == expected
    assert [line.split()[0] for line in run("list", *filters)[1].splitlines()[1:]] == expected


def test_list_json_is_a_list_of_objects_one_a_line(served: Served, run: Run) -> None:
    status, out, _ = run("list", "--json")
    keys = "vif domid devid vm uuid mac ips network mode bridge vlan state error since"
    assert status == 0
    assert all({*keys.split()} <= set(vif) for vif in json.loads(out))
    assert [json.loads(line.rstrip(","))["vif"] for line in out.splitlines()[1:-1]] == [
        vif.vif for vif in served.daemon.rows
    ]


def test_show(served: Served, run: Run) -> None:
    served.daemon.rows = [
        replace(
            row(7, vm="db", ips=["10.0.0.7"], since=time.time() - 5000, network="lan", policy="databases", vlan="20"),
            state="error",
            error="there is no bridge xenbr0",
            tap="connected",
            warnings=["its MTU is above the bridge's"],
        )
    ]
    attach = Event(EventKind.ATTACH, "vif7.0 of db is part of xenbr0", VifId(7, 0), duration_us=1234, realtime_us=1)
    served.record(attach)
    served.record(Event(EventKind.ATTACH, "another's", VifId(8, 0)))
    status, out, _ = run("show", "db")
    assert status == 0
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(0))
    assert out == (
        "vif7.0       error for 1h 23m\n"
        "Error        there is no bridge xenbr0\n"
        "Warning      its MTU is above the bridge's\n"
        "Domain       db (domid 7, 0f8e7c1a-36f5-4a5f-9d5c-000000000007)\n"
        "Link         vif7.0 (index 107, mtu 1500)\n"
        "Tap          connected\n"
        "Network      lan (bridge)\n"
        "Bridge       xenbr0\n"
        "VLAN         20\n"
        "MAC          00:16:3e:00:00:07\n"
        "IPs          10.0.0.7\n"
        "Policy       databases\n"
        "Script       /etc/xen/scripts/vif-xennetd\n"
        "Attached in  512 µs\n"
        "\n"
        "Latest events\n"
        f"{when}.000  attach    vif7.0 of db is part of xenbr0 (1.2 ms)\n"
    )


def test_show_says_what_a_vif_waits_for(served: Served, run: Run) -> None:
    assert "Why          no link vif9.0 yet\n" in run("show", "a/b")[1]


def test_show_says_how_a_pin_ends(served: Served, run: Run) -> None:
    served.daemon.rows = [row(7, pinned=True, reason="pinned: hands off until unpin")]
    out = run("show", "7.0")[1]
    assert "Pinned       xennetd keeps its hands off until: xennetctl unpin vif7.0\n" in out
    assert out.count("hands off") == 1


def test_show_json(served: Served, run: Run) -> None:
    served.record(Event(EventKind.DRIFT, "vif7.0 was put back", VifId(7, 0)))
    shown = json.loads(run("show", "7.0", "--json")[1])
    assert (shown["vif"], shown["bridge"], shown["events"][0]["event"]) == ("vif7.0", "xenbr0", "drift")


def test_status_with_problems_shows_them_first_and_exits_1(served: Served, run: Run) -> None:
    status, out, _ = run("status")
    assert status == 1
    assert out.startswith("! vif7.1 of db: there is no bridge xenbr9\n\nxennetd   1.2, ready\n")
    assert "Vifs      4 in all, 1 pending, 2 connected, 1 error\n" in out
    assert "Policy    /etc/xennetd/xennetd.toml\n" in out


def test_status_when_all_is_well(served: Served, run: Run) -> None:
    served.daemon.rows = [row(3), row(4, pinned=True)]
    status, out, _ = run("status")
    assert status == 0
    assert out.startswith("xennetd ")
    assert "Pinned    vif4.0\n" in out


def test_status_json(served: Served, run: Run) -> None:
    status, out, _ = run("status", "--json")
    assert status == 1
    assert json.loads(out)["counts"]["connected"] == 2


def test_on_a_terminal_states_have_colours_and_lines_end_where_it_ends(served: Served, path: str) -> None:
    served.daemon.rows.append(row(12, vm="long", state="error", error="x" * 300))
    out = on_terminal(path, "list", columns=70)
    assert "\x1b[32mconnected" in out
    assert "\x1b[1;31merror" in out
    lines = uncoloured(out).splitlines()
    assert max(map(len, lines)) == 70
    assert lines[-1].endswith("x…")
    assert lines[0].split() == ["VIF", "VM", "STATE", "BRIDGE", "AGE", "NOTE"], "empty or too wide: left out"
    assert "MAC" in uncoloured(on_terminal(path, "list", columns=120))


def test_a_long_sentence_is_left_to_the_terminal_to_wrap(served: Served, path: str) -> None:
    sentence = "there is no bridge of this name " * 8
    served.daemon.rows = [row(7, state="error", error=sentence.strip())]
    assert sentence.strip() in on_terminal(path, "show", "7.0", columns=50)


def test_colours_can_be_refused(served: Served, path: str) -> None:
    assert "\x1b" not in on_terminal(path, "list", TERM="dumb")
    assert "\x1b[3" not in on_terminal(path, "list", NO_COLOR="1")


@pytest.mark.parametrize("where", ["a pipe", "a terminal"])
@pytest.mark.parametrize(
    "verb", [["list"], ["show", "vif7.0"], ["status"], ["list", "--json"], ["show", "7.0", "--json"]], ids=" ".join
)
def test_nothing_from_a_guest_reaches_the_terminal_raw(
    verb: list[str], where: str, served: Served, run: Run, path: str
) -> None:
    names = ("vm", "uuid", "mac", "network", "bridge", "vlan", "error", "reason", "policy", "link", "tap", "script")
    served.daemon.rows = [row(7, ips=[HOSTILE], warnings=[HOSTILE], state="error", **dict.fromkeys(names, HOSTILE))]
    served.record(Event(EventKind.ERROR, HOSTILE, VifId(7, 0)))
    out = run(*verb)[1] if where == "a pipe" else uncoloured(on_terminal(path, *verb, columns=1000))
    assert "evil" in out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert "\n\x07" not in out
    assert "[bold]" in out, "no markup either"


# Changing


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("retry", "vif7.0 is tried again; see: xennetctl show vif7.0\n"),
        ("pin", "vif7.0 is pinned: xennetd keeps its hands off it until: xennetctl unpin vif7.0\n"),
        ("unpin", "vif7.0 is in xennetd's care again\n"),
    ],
)
def test_changing_a_vif_says_which(verb: str, said: str, served: Served, run: Run) -> None:
    assert run(verb, "lan7") == (0, said, "")
    assert served.daemon.asked == [f"{verb} vif7.0"]


def test_reload_is_silent_when_all_is_well(served: Served, run: Run) -> None:
    assert run("reload") == (0, "", "")
    assert served.daemon.asked == ["reload"]


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
        1, "", 'xennetctl: "db" has several interfaces, name one of them: vif7.0, vif7.1\n',
    )  # fmt: skip


def as_nobody(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(path, *arguments), capture_output=True, text=True, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/"
    )
    if "ModuleNotFoundError" in done.stderr or "can't open file" in done.stderr:
        pytest.skip("other users can't read this checkout")
    return done


@needs_root
def test_others_are_told_that_changing_is_roots(served: Served, path: str) -> None:
    done = as_nobody(path, "pin", "vif7.0")
    assert (done.returncode, done.stderr) == (1, "xennetctl: only root may do that\n")
    assert served.daemon.asked == []


@needs_root
def test_those_who_may_not_open_the_socket_are_told_how_they_could(served: Served, path: str) -> None:
    os.chmod(path, 0o600)
    done = as_nobody(path, "status")
    assert done.returncode == 3
    assert done.stderr == f"xennetctl: no permission to open {path}: be root, or join the group xennet\n"


# Monitoring


class Monitor:
    def __init__(self, path: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            command(path, "monitor", *arguments),
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
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  attach    the latest \(700 µs\)\n", monitor.line())
    served.record(Event(EventKind.ERROR, HOSTILE, VifId(7, 0)))
    assert "error     evil\\x1b[2J\\n\\x07" in monitor.line()
    monitor.process.send_signal(signal.SIGINT)
    assert monitor.end() == (130, "")


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
    monkeypatch.setattr(client, "TIMEOUT", 0.1)
    replies = client.stream(path, "Monitor")
    assert next(replies)["event"] is None
    threading.Timer(0.4, served.record, (Event(EventKind.DETACH, "late"),)).start()
    assert next(replies)["event"]["message"] == "late"


def test_monitor_tells_of_lost_events(path: str, run: Run) -> None:
    reply = {"continues": True, "parameters": {"event": None, "lost": 7}}
    with speaking(path, json.dumps(reply).encode() + b"\0"):
        status, out, err = run("monitor", "--json")
    assert json.loads(out) == {"event": "lost", "lost": 7}
    assert "7 events were lost" in err
    assert status == 3


# Without a daemon


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


@pytest.mark.parametrize("verb", [["status"], ["list"], ["show", "x"], ["monitor"], ["reload"], ["pin", "x"]])
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
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    monkeypatch.setattr(client.call, "__defaults__", (0.2,))
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
    assert "of the same version?" in err


# Checking


def test_check_asks_the_daemon(served: Served, run: Run) -> None:
    assert run("check") == (0, "note: no policy leads to lan\nThe configuration is valid.\n", "")
    served.daemon.problems = ["a: b"]
    assert run("check") == (1, "problem: a: b\nnote: no policy leads to lan\n", "")
    assert json.loads(run("check", "--json")[1]) == {"problems": ["a: b"], "notes": ["no policy leads to lan"]}


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
    from xennetd.policy import files
    from xennetd.policy.problem import Problem

    monkeypatch.setattr(files, "load_files", lambda config: (Problem("/etc/xennetd/xennetd.toml", "is bad", 3),))
    status, out, err = run("check")
    assert (status, out) == (1, "problem: /etc/xennetd/xennetd.toml:3: is bad\n")
    assert "only the files are checked" in err


# The command line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["show"],
        ["list", "--state", "odd"],
        ["monitor", "-n", "x"],
        ["completion", "sh"],
        ["pin", "a", "b"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_exit_2(arguments: list[str], run: Run) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert "usage: xennetctl" in err


def verbs() -> dict[str, argparse.ArgumentParser]:
    (commands,) = (a for a in main.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(commands.choices)


@pytest.mark.parametrize("verb", [None, *verbs()])
def test_every_example_in_the_help_is_a_right_command_line(verb: str | None) -> None:
    parser = verbs()[verb] if verb else main.parser()
    examples = re.findall(r"^  (xennetctl .*)$", parser.format_help(), flags=re.MULTILINE)
    assert examples
    for example in examples:
        words = shlex.split(re.split(r" \| | && | > |   +", example)[0])
        assert callable(main.parser().parse_args(words[1:]).run)


def test_every_verb_explains_itself() -> None:
    for verb in verbs().values():
        assert verb.description
        assert all(line == line.rstrip() and len(line) <= 120 for line in verb.format_help().splitlines())


def test_the_man_page_can_be_made(tmp_path: Path) -> None:
    pytest.importorskip("argparse_manpage")
    page = tmp_path / "xennetctl.8"
    subprocess.run(
        [sys.executable, "-c", "from argparse_manpage.cli import main; main()", "--module", "xennetd.cli.main",
         "--function", "parser", "--prog", "xennetctl", "--manual-section", "8", "--output", str(page)],
        check=True,
    )  # fmt: skip
    text = page.read_text()
    assert ".TH XENNETCTL" in text
    assert "keeps xennetd's hands off this vif until unpin" in text.replace("\\(aq", "'").replace("\\'", "'")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str, run: Run, tmp_path: Path) -> None:
    status, out, _ = run("completion", shell)
    assert status == 0
    assert "unpin" in out
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(out)
        subprocess.run([shell, "-n", str(script)], check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_verbs_and_vifs(served: Served, run: Run, path: str, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(run("completion", "bash")[1])
    (tmp_path / "xennetctl").write_text(f'#!/bin/sh\nexec {shlex.join(command(path))} "$@"\n')
    (tmp_path / "xennetctl").chmod(0o755)

    def complete(*words: str) -> list[str]:
        line = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_xennetctl"
        code = f'. {tmp_path}/script; {line}; printf "%s\\n" "${{COMPREPLY[@]}}"'
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, env=environment)
        return done.stdout.split()

    assert complete("xennetctl", "st") == ["status"]
    assert complete("xennetctl", "show", "vif7") == ["vif7.0", "vif7.1"]
    assert complete("xennetctl", "list", "--state", "con") == ["connected"]


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


def test_text_that_the_locale_cannot_show_is_escaped(served: Served, path: str) -> None:
    served.daemon.rows = [row(7, vm="bücher")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command(path, "list"), capture_output=True, text=True, env=environment)
    assert "b\\xfccher" in done.stdout
    assert done.returncode == 0


def test_list_imports_nothing_that_it_does_not_need(served: Served, path: str) -> None:
    code = (
        "import sys; from xennetd.cli import main; main.main(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, "--control", path, "list"], capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert "xennetd.cli.pages" in loaded
    for name in ("rich", "asyncio", "asyncvarlink", "msgspec", "shtab", "tomllib", "xennetd.policy", "xennetd.daemon"):
        assert name not in loaded


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_thousand_vifs_are_listed_within_300_ms_from_a_cold_start(form: list[str], served: Served, path: str) -> None:
    served.daemon.rows = [row(number, ips=["10.0.0.1"]) for number in range(1000)]
    took = []
    for _ in range(10):
        begin = time.perf_counter()
        done = subprocess.run(command(path, "list", *form), capture_output=True, text=True)
        took.append(time.perf_counter() - begin)
        assert done.stdout.count("vif999.0") >= 1
        if took[-1] < 0.3:
            return
    pytest.fail(f"the fastest of ten took {min(took):.2f} s")


# Text


def test_ages() -> None:
    assert [age(s) for s in (-1, 0, 59, 60, 3599, 3600, 86399, 86400, 9e6)] == [
        "0s", "0s", "59s", "1m", "59m", "1h", "23h", "1d", "104d",
    ]  # fmt: skip
    assert [span_of_time(s) for s in (5, 60, 61, 3600, 5000, 90000)] == ["5s", "1m", "1m 1s", "1h", "1h 23m", "1d 1h"]
    assert [duration(us) for us in (0, 999, 1000, 1_500_000)] == ["0 µs", "999 µs", "1.0 ms", "1.5 s"]


def test_printable_keeps_what_is_harmless() -> None:
    assert printable("wéb-1 [x] \\") == "wéb-1 [x] \\"
    assert printable(HOSTILE + "\ud800") == "evil\\x1b[2J\\n\\x07\\x9b1m\\u202e\\x7f[bold]\\ud800"


def test_a_table_gives_up_columns_in_order_before_it_cuts() -> None:
    header, rows = ["A", "B", "C", "LAST"], [[("aaaa", ""), ("bbbb", ""), ("-", ""), ("last", "")]]

    def texts(width: int | None) -> list[str]:
        return ["".join(text for text, _ in line) for line in table(header, rows, width, ("B", "C"))]

    assert texts(None) == ["A     B     C  LAST", "aaaa  bbbb  -  last"]
    assert texts(40) == ["A     B     LAST", "aaaa  bbbb  last"]
    assert texts(12) == ["A     LAST", "aaaa  last"]
    assert texts(8) == ["A     L…", "aaaa  l…"]
    assert texts(5) == ["A   …", "aaaa…"]

    rows[0][3] = ("a long sentence that may be cut, so that it costs no column", "")
    assert texts(44)[0].split() == ["A", "B", "LAST"]


def test_every_state_and_event_can_be_shown_on_a_terminal(served: Served, path: str) -> None:
    everything = [row(n, state=s, pinned=True, error="e" if s == "error" else None, tap="error: x", warnings=["w"])
                  for n, s in enumerate(("pending", "connected", "error", "detaching", "ignored"))]  # fmt: skip
    served.daemon.rows = everything
    for kind in EventKind:
        served.record(Event(kind, f"this is {kind.label}", VifId(2, 0)))
    for verb in (["list"], ["status"], ["show", "vif2.0"]):
        assert "vif2.0" in on_terminal(path, *verb, columns=200)


"""The check of the configuration in a process of its own: what it finds, what it costs the loop, and its failures."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from xennetd.daemon import check_process
from xennetd.daemon.check_process import check_apart, check_files
from xennetd.model.errors import HostError

RULES = 2000


@pytest.fixture
def large(tmp_path: Path) -> str:
    """A configuration whose check takes a while."""
    file = tmp_path / "xennetd.toml"
    file.write_text("".join(f'[[policy]]\nname = "{n}"\nmatch = {{ vm = "v{n}" }}\ndeny = "x"\n' for n in range(RULES)))
    return str(file)


def test_it_finds_what_a_check_here_finds(tmp_path: Path) -> None:
    file = tmp_path / "xennetd.toml"
    file.write_text('[[policy]]\nname = "a"\nmatch = { vm = "x" }\nnetwork = "lan"\n')
    problems, notes = asyncio.run(check_apart(str(file)))
    assert (problems, notes) == ([f'{file}:4: policy[1].network: no network is defined, found "lan"'], [])
    file.write_text('[daemon]\nmode = "observe"\n')
    assert asyncio.run(check_apart(str(file))) == check_files(str(file))
    assert "daemon.mode is observe" in check_files(str(file))[1][0]


def test_the_loop_is_hardly_stopped_meanwhile(large: str) -> None:
    """Measured in processor time of this thread, of which no other program can take any."""

    async def scenario() -> float:
        checking = asyncio.create_task(check_apart(large))
        worst = 0.0
        while not checking.done():
            began = time.thread_time()
            await asyncio.sleep(0.0005)
            worst = max(worst, time.thread_time() - began)
        assert checking.result() == ([], [])
        return worst

    began = time.thread_time()
    check_files(large)
    here = time.thread_time() - began
    assert here > 0.05
    assert min(asyncio.run(scenario()) for _ in range(3)) < 0.01


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            ("/nonexistent/python",),
            "the process that was to do it can't be run: No such file or directory (/nonexistent/python)",
        ),
        (
            (sys.executable, "-c", "import sys; sys.exit('no \\033[2J memory')"),
            r"ended with status 1: no \x1b[2J memory",
        ),
        (
            (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"),
            "has ended with signal SIGKILL (the kernel sends it where memory runs out: see journalctl -k, and "
            "MemoryMax= of xennetd.service)",
        ),
        (
            (sys.executable, "-c", "import os, sys; print('no memory', file=sys.stderr, flush=True); os.abort()"),
            "has ended with signal SIGABRT: no memory",
        ),
        ((sys.executable, "-c", "import os; os.kill(os.getpid(), 40)"), "has ended with signal 40"),
        ((sys.executable, "-c", "raise SystemExit(3)"), "has ended with status 3"),
    ],
)
def test_a_process_that_fails_is_an_error_with_its_reason(
    program: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_process, "_PROGRAM", program)
    with pytest.raises(HostError) as raised:
        asyncio.run(check_apart(None))
    assert raised.value.detail.endswith(said)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), OSError(11, "can't start new thread")])
def test_a_process_that_can_not_be_started_is_an_error_with_its_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(asyncio.BaseEventLoop, "subprocess_exec", refuse)
    with pytest.raises(HostError, match=r"can't be run: the host can't start another process or thread: see TasksMax="):
        asyncio.run(check_apart(None))


def test_a_process_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(check_process, "_PROGRAM", (sys.executable, "-c", code))
    monkeypatch.setattr(check_process, "_TIMEOUT", 1.0)
    with pytest.raises(HostError, match="has not ended within 1 s"):
        asyncio.run(check_apart(None))
    assert not Path(f"/proc/{pid.read_text()}").exists()

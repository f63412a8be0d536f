"""xennetctl's command line, help, completion and speed."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bed.waited import timed
from tests.unit.control.bed import Served, row
from tests.unit.control.command import Run, command
from xennetd.cli import main, where
from xennetd.model.configuration import Policy
from xennetd.model.places import CONTROL


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


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('[daemon]\ncontrol = "/run/other/control"\n', "/run/other/control"),
        ("daemon.control='/run/other/control'", "/run/other/control"),
        ('daemon = { mode = "observe", "control" = "/run/other/control" }', "/run/other/control"),
        ('[daemon\ncontrol = "/run/other/control" # an error above, that reload is to tell\n', "/run/other/control"),
        ('[daemon]\n#control = "/run/other/control"\n', CONTROL),
        ('[daemon]\nmode = "observe" # control = "/run/other/control"\n', CONTROL),
        ('[[policy]]\ndeny = "out of control"\n', CONTROL),
        ("\udcff", CONTROL),
        (None, CONTROL),
    ],
)
@pytest.mark.parametrize("file", ["xennetd.toml", "conf.d/10-own.toml"])
def test_the_daemon_is_sought_where_the_configuration_puts_it(
    text: str | None, path: str, file: str, tmp_path: Path
) -> None:
    (tmp_path / "conf.d").mkdir()
    if text is not None:
        (tmp_path / file).write_text(text, errors="surrogateescape")
    assert where.control(str(tmp_path)) == path


def test_the_shipped_configuration_leaves_the_daemon_where_it_is(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[3] / "conf" / "xennetd.toml", tmp_path)
    assert where.control(str(tmp_path)) == CONTROL
    assert Policy().daemon.control == CONTROL


def test_without_an_option_that_is_where_xennetctl_asks(
    served: Served, path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(where, "control", lambda: path)
    assert main.main(["pin", "lan7"]) == 0
    assert served.daemon.asked == ["pin vif7.0"]


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
    assert "xennetd does not touch this vif until unpin" in text


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


def test_list_imports_nothing_that_it_does_not_need(served: Served, path: str) -> None:
    code = "import sys; from xennetd.cli import main; main.main(sys.argv[1:]);print(*sys.modules, file=sys.stderr)"
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
        shown, seconds = timed(command(path, "list", *form))
        took.append(seconds)
        assert shown.count("vif999.0") >= 1
        if took[-1] < 0.3:
            return
    pytest.fail(f"the fastest of ten took {min(took):.2f} s")

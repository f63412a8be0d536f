"""Where the control socket is, a server at it, and xennetctl that asks there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.unit.control.bed import Served
from tests.unit.control.command import Run
from xennetd.cli import main


@pytest.fixture
def path() -> Iterator[str]:
    """A socket path in a directory that everybody may enter."""
    directory = tempfile.mkdtemp()
    os.chmod(directory, 0o755)
    yield f"{directory}/control"
    shutil.rmtree(directory)


@pytest.fixture
def served(path: str) -> Iterator[Served]:
    server = Served(path)
    yield server
    server.stop()


@pytest.fixture
def run(path: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run xennetctl in this process; the result is its exit status, output and error output."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main.main(["--control", path, *arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run

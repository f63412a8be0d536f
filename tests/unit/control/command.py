"""xennetctl as a program of its own: on a pipe, or on a terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

HOSTILE = "evil\x1b[2J\n\x07\x9b1m\u202e\x7f[bold]"

Run = Callable[..., tuple[int, str, str]]


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

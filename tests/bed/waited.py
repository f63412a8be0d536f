"""How long programs take without what other programs take of the processors meanwhile."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def waited(pid: int) -> float:
    """The seconds in which a process was ready to run and others had the processors (Documentation/scheduler)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def timed(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[str, float]:
    """Run a program that must succeed. Return its output, and its seconds from start to end without `waited`."""
    began = time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        took = time.monotonic() - began - waited(process.pid)
    assert process.returncode == 0, f"{command[0]}: exit status {process.returncode}"
    return output, took

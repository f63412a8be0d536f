"""The journal of the machine that a test runs in, from a moment on.

Two things journalctl can't be asked for: `--sync` does not wait for what still lies in journald's socket, and systemd
252's `--after-cursor` skips the first matching entry when the cursor's own does not match. So we leave a mark of ours.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time


def mark(timeout: float = 90.0) -> int:
    """Wait until journald has taken all that it was sent until now; returns when that was, in microseconds."""
    match = f"XENNETD_TEST={time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.sendto(f"MESSAGE=a test reads the journal\n{match}\n".encode(), "/run/systemd/journal/socket")
    deadline = time.monotonic() + timeout
    while not (found := _entries(match)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"journald has not taken an entry within {timeout} s")
        time.sleep(0.1)
    return _time(found[0])


def since(start: int, *matches: str) -> list[dict[str, str]]:
    """Return the entries that came after a mark and match, oldest first."""
    mark()
    return [entry for entry in _entries(f"--since=@{start // 1_000_000}", *matches) if _time(entry) > start]


def _entries(*arguments: str) -> list[dict[str, str]]:
    argv = ["journalctl", "--quiet", "--output=json", *arguments]
    output = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=240).stdout
    return [json.loads(line) for line in output.splitlines()]


def _time(entry: dict[str, str]) -> int:
    return int(entry["__REALTIME_TIMESTAMP"])

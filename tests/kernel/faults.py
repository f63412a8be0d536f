"""Fails system calls of a running daemon, one at a time, while a guest comes and goes (strace's `inject`)."""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bed.daemon import Daemon

ERRORS: Mapping[str, tuple[str, ...]] = {
    "accept4": ("EMFILE", "ECONNABORTED", "ENOMEM"),
    "bind": ("EADDRINUSE", "ENOMEM"),
    "brk": ("ENOMEM",),
    "chmod": ("EROFS", "EPERM"),
    "clone": ("EAGAIN", "ENOMEM"),
    "clone3": ("EAGAIN", "ENOMEM"),
    "connect": ("EAGAIN", "ECONNREFUSED", "ENOMEM"),
    "epoll_create1": ("EMFILE", "ENOMEM"),
    "epoll_ctl": ("ENOMEM", "ENOSPC"),
    "epoll_wait": ("EINTR",),
    "fchmod": ("EROFS", "EPERM"),
    "fstat": ("ENOMEM", "EIO"),
    "getdents64": ("EIO", "ENOMEM"),
    "getsockopt": ("ENOMEM",),
    "ioctl": ("ENOMEM", "EIO"),
    "lseek": ("EIO",),
    "mkdir": ("ENOSPC", "EROFS"),
    "mmap": ("ENOMEM",),
    "newfstatat": ("ENOMEM", "EACCES"),
    "openat": ("EMFILE", "ENFILE", "ENOMEM", "EACCES", "EROFS", "ENOSPC"),
    "pidfd_open": ("EMFILE", "ENOMEM"),
    "pidfd_send_signal": ("EPERM",),
    "pipe2": ("EMFILE", "ENFILE"),
    "poll": ("ENOMEM",),
    "read": ("EIO", "ENOMEM"),
    "readlink": ("EIO", "EACCES"),
    "recvfrom": ("ENOMEM", "ENOBUFS"),
    "recvmsg": ("ENOMEM", "ENOBUFS"),
    "rename": ("ENOSPC", "EROFS"),
    "rmdir": ("EROFS",),
    "sendmsg": ("ENOMEM", "ENOBUFS", "EPERM"),
    "sendto": ("ENOMEM", "ENOBUFS", "EPERM"),
    "setsockopt": ("ENOMEM",),
    "socket": ("EMFILE", "ENFILE", "ENOMEM"),
    "statx": ("ENOMEM", "EACCES"),
    "unlink": ("EROFS", "EACCES"),
    "unlinkat": ("EROFS", "EACCES"),
    "vfork": ("EAGAIN", "ENOMEM"),
    "wait4": ("ECHILD",),
    "waitid": ("ECHILD",),
    "write": ("ENOSPC", "EIO"),
    "writev": ("ENOSPC", "EIO"),
}
"""What a host that is short of something answers to these calls. A call that is not here can't fail so."""


_REMOVAL = "EPOLL_CTL_DEL"


@dataclass(frozen=True)
class Fault:
    """The `number`th call of this name, from now on, fails with this error."""

    call: str
    error: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} {self.number}: {self.error}"


@contextmanager
def traced(xennetd: Daemon, output: Path, *options: str) -> Iterator[None]:
    """Have strace follow the daemon's main thread while the block runs, and write to `output`."""
    command = ["strace", "-p", str(xennetd.pid), "-o", str(output), "-e", "signal=none", *options]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert strace.stderr is not None
    try:
        said = strace.stderr.readline().decode()
        assert "attached" in said, said
        yield
    finally:
        strace.send_signal(signal.SIGTERM)
        strace.communicate()


def calls(trace: Path) -> list[tuple[str, int]]:
    """Return the calls of `ERRORS` in a trace that differ in more than numbers: their names, and which of a name's.

    Removals from an epoll instance are left out: the kernel does not refuse them.
    """
    counts: Counter[str] = Counter()
    found: dict[str, tuple[str, int]] = {}
    for line in trace.read_text(errors="replace").splitlines():
        call = line.partition("(")[0]
        if call in ERRORS:
            counts[call] += 1
            if _REMOVAL not in line:
                found.setdefault(re.sub(r"\d+|0x[0-9a-f]+", "", line)[:100], (call, counts[call]))
    return sorted(found.values())


def first(trace: Path, call: str, text: str) -> int:
    """Return the number of the first call of this name whose line contains `text`; 0 if there is none."""
    lines = [line for line in trace.read_text(errors="replace").splitlines() if line.startswith(f"{call}(")]
    return next((number for number, line in enumerate(lines, 1) if text in line), 0)


@contextmanager
def failing(xennetd: Daemon, fault: Fault, trace: Path) -> Iterator[None]:
    """Have one call of the daemon fail while the block runs. `trace` holds all calls of this name then."""
    inject = f"inject={fault.call}:error={fault.error}:when={fault.number}"
    with traced(xennetd, trace, "-e", f"trace={fault.call}", "-e", inject):
        yield


def failed(trace: Path) -> bool:
    """Return whether the call was made that was to fail."""
    return "(INJECTED)" in trace.read_text(errors="replace")


def failed_impossibly(trace: Path) -> bool:
    """Return whether a call failed that no kernel refuses. No two runs of a daemon make the same calls in one order."""
    lines = trace.read_text(errors="replace").splitlines()
    return any("(INJECTED)" in line and _REMOVAL in line for line in lines)

"""A hotplug script, run as libxl runs it (libxl__get_hotplug_script_info, libxl_linux.c; device_hotplug).

`run` is for any script, `Script` for ours, with a look at what it does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bed import xen
from tests.bed.toolstack import Vif
from tests.bed.xenstored import Xenstored

TIMEOUT = 40.0
"""LIBXL_HOTPLUG_TIMEOUT, in seconds; then comes SIGKILL."""

SCRIPT = xen.REPOSITORY / "conf" / "vif-xennetd"

ONLINE = ("online", "type_if=vif")
ADD = ("add", "type_if=tap")

ONE_START = ["xenstore-read"]
THREE_STARTS = ["timeout", "xenstore-watch", "xenstore-read"]
THREE_STARTS_ONE_HELD = ["timeout", "xenstore-watch", "xenstore-watch", "xenstore-read"]
"""What our script starts. The watch that waits for the test goes on as the real one."""

_ASLEEP = re.compile(r"^State:\tS", re.MULTILINE)
_SWITCHES = re.compile(r"^(?:non)?voluntary_ctxt_switches:\t(\d+)$", re.MULTILINE)
_EXECVE = re.compile(r'execve\("[^"]*?([^"/]+)", .*\) = 0$')


@dataclass(frozen=True, slots=True)
class Result:
    """How a script ended: `status` 0 is what libxl wants of `online` and `add`; `seconds` is what libxl waited."""

    status: int
    output: str
    seconds: float


def environment(xenstored: Xenstored, vif: Vif) -> dict[str, str]:
    """libxl's variables, in addition to those that `xl` itself was started with."""
    variables = xenstored.environment() | {
        "script": vif.script,
        "XENBUS_TYPE": "vif",
        "XENBUS_PATH": f"backend/vif/{vif.domid}/{vif.devid}",
        "XENBUS_BASE_PATH": "backend",
        "netdev": vif.spec.gatewaydev or "",
        "vif": vif.netdev,
    }
    if vif.spec.type == "vif_ioemu":
        variables["INTERFACE"] = vif.tap
    return variables


def start(xenstored: Xenstored, vif: Vif, command: str) -> subprocess.Popen[str]:
    """Start the vif's script for `online`, `offline` (the vif), `add` or `remove` (its tap); don't wait."""
    kind = "vif" if command in ("online", "offline") else "tap"
    return subprocess.Popen(
        [vif.script, command, f"type_if={kind}"],
        env=environment(xenstored, vif),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(xenstored: Xenstored, vif: Vif, command: str, timeout: float = TIMEOUT) -> Result:
    """Run the vif's script to its end; subprocess.TimeoutExpired where libxl would have killed it."""
    began = time.monotonic()
    process = start(xenstored, vif, command)
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Result(process.returncode, output, time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Ended:
    """How the script ended, and every program that it started, in order."""

    status: int
    stderr: str
    programs: list[str]
    seconds: float


@dataclass
class Script:
    """conf/vif-xennetd for one vif, run as libxl runs it, with every program start noted; `tmp` is a scratch directory.

    Times are in seconds.
    """

    xenstored: Xenstored
    vif: Vif
    tmp: Path
    shell: list[str] = field(default_factory=list)
    path: Path = SCRIPT

    def limit(self, seconds: int) -> None:
        """Have the script wait so long at most: it is a copy then."""
        text = self.path.read_text()
        assert "\nlimit=30 " in text
        self.path = self.tmp / self.path.name
        self.path.write_text(text.replace("\nlimit=30 ", f"\nlimit={seconds} "))
        self.path.chmod(0o755)

    def variables(self) -> dict[str, str]:
        found = environment(self.xenstored, self.vif)
        found["PATH"] = f"{self.tmp / 'bin'}:{found['PATH']}"
        return found

    def start(self, *arguments: str, without: tuple[str, ...] = (), trace: bool = True) -> subprocess.Popen[str]:
        variables = {name: value for name, value in self.variables().items() if name not in without}
        strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", str(self.tmp / "trace")]
        return subprocess.Popen(
            [*(strace if trace else []), *self.shell, str(self.path), *arguments],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str], began: float, timeout: float = 10) -> Ended:
        stdout, stderr = process.communicate(timeout=timeout)
        assert stdout == ""
        return Ended(process.returncode, stderr, self.programs(), time.monotonic() - began)

    def __call__(self, *arguments: str, without: tuple[str, ...] = (), timeout: float = 10) -> Ended:
        began = time.monotonic()
        return self.end(self.start(*arguments, without=without), began, timeout)

    def programs(self) -> list[str]:
        """What was started besides the script's own shell, in the order in which it began to run."""
        lines = (self.tmp / "trace").read_text().splitlines()
        return [match[1] for line in lines if (match := _EXECVE.search(line))][1:]

    def wrap(self, program: str, text: str) -> None:
        """Put a program of this name before the real one, which `text` (sh) can call as "$real"."""
        path = self.tmp / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\nreal={shutil.which(program)}\n{text}\n")
        path.chmod(0o755)

    def hold(self, program: str) -> None:
        """Have the program of this name wait, once, before it does anything: see `held`."""
        os.mkfifo(self.tmp / "held")
        self.wrap(program, f'read -r _ <{self.tmp / "held"}\nexec "$real" "$@"')

    @contextmanager
    def held(self, timeout: float = 10) -> Iterator[None]:
        """Enter once the program that `hold` named has been started, and let it go at the end."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                fifo = os.open(self.tmp / "held", os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError:  # ENXIO: nobody reads yet
                assert time.monotonic() < deadline, "it was not started"
                time.sleep(0.005)
        try:
            yield
        finally:
            os.write(fifo, b"\n")
            os.close(fifo)

    def left_behind(self) -> list[str]:
        """The programs of this script that still run."""
        return list(self._processes().values())

    def watching(self) -> bool:
        """Whether the script's watch is in place, and the script waits for news."""
        found = self._processes()
        if not any(command.startswith("xenstore-watch ") for command in found.values()):
            return False
        # When all who could still have something to do sleep, and none has run in between.
        sleepers = _sleepers([*found, self.xenstored.pid])
        return sleepers is not None and sleepers == _sleepers([*found, self.xenstored.pid])

    def watches(self) -> list[int]:
        """The process ids of the script's watches that run."""
        return [pid for pid, command in self._processes().items() if command.startswith("xenstore-watch ")]

    def _processes(self) -> dict[int, str]:
        """The script's processes and their command lines."""
        marks = {f"XENSTORED_PATH={self.xenstored.socket}".encode(), f"script={self.vif.script}".encode()}
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                mine = marks <= set((directory / "environ").read_bytes().split(b"\0"))
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if mine and int(directory.name) != os.getpid() and command:
                found[int(directory.name)] = command.strip()
        return found


def _sleepers(pids: Sequence[int]) -> list[str] | None:
    """How often each thread of these processes has gone to sleep; None if one is awake, or gone."""
    found = []
    try:
        for pid in pids:
            for task in Path(f"/proc/{pid}/task").iterdir():
                status = (task / "status").read_text()
                if not _ASLEEP.search(status):
                    return None
                found += [task.name, *_SWITCHES.findall(status)]
    except OSError:
        return None
    return found

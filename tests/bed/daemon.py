"""`Daemon`: xennetd as systemd would run it, in the namespaces of the calling thread (see `netns.Host`)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bed.systemd import Message, Notify
from tests.bed.xenstored import Xenstored

RUNTIME = Path("/run/xennetd")
"""RuntimeDirectory= of the unit; the `Host` has a /run of its own."""

STAND_IN = "[daemon]\nstand_in = true\n"
"""The least a test's configuration needs: veths with an alternative name count as netback's links."""


def program(module: str) -> list[str]:
    """How a program of ours is started by its module."""
    return [sys.executable, "-m", module]


class Daemon:
    """One xennetd with a configuration of its own; started by `start`.

    `directory` takes its configuration, its standard error and the notify socket. `xenstored_path` is where it finds
    xenstored: dom0's socket, or that of a domain (`Xenstored.domain_socket`) to run it in a driver domain. `wrapper`
    is put before its command line (`strace -D -f -o FILE`: with -D the process started is xennetd itself).
    """

    def __init__(
        self,
        xenstored: Xenstored,
        directory: Path,
        config: str | None = STAND_IN,
        *,
        arguments: Sequence[str] = (),
        xenstored_path: Path | None = None,
        watchdog: float | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.config = directory / "xennetd.toml"
        self.control = RUNTIME / "control"
        self.wrapper = list(wrapper)
        self._arguments = list(arguments)
        self._errors = directory / "stderr"
        self._notify_path = directory / "notify"
        self._process: subprocess.Popen[bytes] | None = None
        self._notify: Notify | None = None
        self.environment = xenstored.environment() | {
            "NOTIFY_SOCKET": str(self._notify_path),
            "XENSTORED_PATH": str(xenstored_path or xenstored.socket),
        }
        if watchdog is not None:
            self.environment["WATCHDOG_USEC"] = str(int(watchdog * 1_000_000))
        if config is not None:
            self.configure(config)

    def configure(self, text: str) -> None:
        """Replace the configuration; a running daemon learns of it by a reload."""
        self.config.write_text(text)

    # Its life

    def start(self, *, ready: bool = True, timeout: float = 10.0) -> Daemon:
        """Start it, and wait for READY=1 if `ready`."""
        assert self._process is None, "xennetd is running already"
        RUNTIME.mkdir(mode=0o755, exist_ok=True)
        if self._notify is not None:
            self._notify.close()
        self._notify = Notify(self._notify_path)
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [*self.wrapper, *self.command("xennetd.daemon.main"), "--config", self.config, *self._arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
        if ready:
            self.wait_ready(timeout)
        return self

    def command(self, module: str) -> list[str]:
        return program(module)

    @property
    def pid(self) -> int:
        assert self._process is not None, "xennetd is not running"
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself; `wait` returns its status."""
        return self._process is not None and self._process.poll() is not None

    @property
    def notify(self) -> Notify:
        """What it has told systemd since it was started."""
        assert self._notify is not None, "xennetd was never started"
        return self._notify

    def wait_ready(self, timeout: float = 10.0) -> Message:
        """The message with READY=1. RuntimeError with its standard error when it ends instead, or takes too long."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self.notify.ready(0.1)
            except TimeoutError:
                ended = self._process is None or self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    state = "ended" if ended else f"is not ready after {timeout} s"
                    raise RuntimeError(f"xennetd {state}; {self.notify.status()}\n{self.stderr()}") from None

    def wait(self, timeout: float = 10.0) -> int:
        """Wait for its end and return its exit status."""
        assert self._process is not None, "xennetd is not running"
        status = self._process.wait(timeout)
        self._process = None
        return status

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill9(self) -> None:
        """End it in mid-sentence. Its runtime directory stays, as RuntimeDirectoryPreserve=restart has it."""
        self.signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> int:
        """Stop the service: SIGTERM, then its runtime directory goes. Returns the exit status."""
        self.signal(signal.SIGTERM)
        status = self.wait()
        shutil.rmtree(RUNTIME, ignore_errors=True)
        return status

    def reload(self, config: str) -> None:
        """Have it take another configuration, and wait until everything is as that says."""
        self.configure(config)
        told = self.ctl("reload")
        assert told.returncode == 0, told.stdout + told.stderr

    def close(self) -> None:
        """End it if it runs, and stop listening to it."""
        if self._process is not None and self._process.poll() is None:
            self.kill9()
        self._process = None
        if self._notify is not None:
            self._notify.close()
            self._notify = None
        shutil.rmtree(RUNTIME, ignore_errors=True)

    # Looking at it

    def stderr(self) -> str:
        """All that it has written to its standard output and error."""
        return self._errors.read_text(errors="replace") if self._errors.exists() else ""

    def ctl(self, *arguments: str, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
        """Run xennetctl on its control socket, whatever comes of it."""
        return subprocess.run(
            [*self.command("xennetd.cli.main"), "--control", str(self.control), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ask(self, *arguments: str) -> Any:
        """What `xennetctl ARGUMENTS --json` answers; AssertionError when it fails."""
        result = self.ctl(*arguments, "--json")
        assert result.returncode == 0, f"xennetctl {' '.join(arguments)}: {result.stdout}{result.stderr}"
        return json.loads(result.stdout)

    def rss(self) -> int:
        """Its resident set, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def cpu(self) -> float:
        """The seconds of processor time it has used, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

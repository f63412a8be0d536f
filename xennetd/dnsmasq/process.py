"""Starts dnsmasq, one process for each network with `dhcp`, and finds it again after a restart.

Rule 1: the process is the memory. dnsmasq writes its pid into a file whose name is the digest of its configuration. If
the process with that pid has the command line that xennetd gave it, it runs with exactly that configuration. Where the
pid file is missing, any dnsmasq of the instance is stopped before another one starts.
Rule 2: dnsmasq runs on when xennetd ends. Where systemd runs, dnsmasq is a unit; elsewhere it is a daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import structlog
from systemd.daemon import booted

from xennetd.dnsmasq.slices import in_slices
from xennetd.model.text import visible
from xennetd.programs import NotRun, cause_of_end, run

_log = structlog.get_logger()

CONFIGURATION = "dnsmasq.conf"
_PID_FILE = "pid-file="
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_TIMEOUT = 30.0
"""Seconds that a start or a stop may take."""

_PROCESSES = 32
"""How many processes are examined in one slice: they take a millisecond or two."""


class DnsmasqRefused(Exception):
    """A dnsmasq can't be started, stopped or signalled. The message is a sentence to follow `network NAME: `."""


def find_dnsmasq() -> str | None:
    """Return the program's path, None if it is not installed."""
    return shutil.which("dnsmasq", path=_PATH)


def digest(content: bytes) -> str:
    """Return the digest of a configuration file: 16 hexadecimal digits. The pid-file line does not count."""
    lines = content.splitlines(keepends=True)
    counted = b"".join(line for line in lines if not line.startswith(_PID_FILE.encode()))
    return hashlib.blake2s(counted, digest_size=8).hexdigest()


def written(directory: Path, configuration: str) -> str:
    """Return the text of the configuration file: `configuration`, and a pid file in `directory` named by its digest."""
    name = digest(configuration.encode("utf-8", "surrogateescape"))
    return f"{configuration}{_PID_FILE}{directory}/{name}.pid\n"


def pid_of(directory: Path, name: str = "*") -> int | None:
    """Return the pid of the dnsmasq that runs with this directory's configuration file, None if none runs.

    `name` is the digest of the configuration that it must have read; `*` stands for any.
    """
    for file in directory.glob(f"{name}.pid"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(file.read_text())
            if _runs_with(pid, directory):
                return pid
    return None


async def stray_of(directory: Path) -> int | None:
    """Return the pid of a dnsmasq of this directory whose pid file somebody has removed, None if none runs.

    A host with thousands of guests has as many processes. The event loop serves others in between.

    A container may have a file of the same path, so a process of other namespaces does not count. To read a process's
    namespaces may need CAP_SYS_PTRACE, which the daemon has unless it is a unit of systemd's.
    """
    own = _namespaces("thread-self")
    processes = [name for name in os.listdir("/proc") if name.isdecimal()]
    async for process in in_slices(processes, _PROCESSES):
        with contextlib.suppress(OSError):  # It has ended meanwhile.
            if _runs_with(int(process), directory) and _namespaces(process) == own:
                return int(process)
    return None


def _runs_with(pid: int, directory: Path) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[0].endswith(b"dnsmasq") and os.fsencode(_argument(directory)) in words


def _namespaces(process: str) -> list[int]:
    return [os.stat(f"/proc/{process}/ns/{kind}").st_ino for kind in ("net", "mnt")]


def _argument(directory: Path) -> str:
    return f"--conf-file={directory / CONFIGURATION}"


class Runner(Protocol):
    """Starts and stops the dnsmasq of an instance. `directory` belongs to the instance and is named after it.

    Methods raise DnsmasqRefused.
    """

    async def start(self, directory: Path) -> None:
        """Start dnsmasq, and return once it serves."""
        ...

    async def stop(self, directory: Path) -> None:
        """Stop dnsmasq, and return once it has ended. It is no error if none runs."""
        ...

    async def reread(self, directory: Path) -> None:
        """Let dnsmasq forget its guests and read their files again (SIGHUP)."""
        ...


def runner() -> Runner:
    """Return the runner for this host: units where systemd runs, else daemons."""
    return Units() if booted() else Daemons()


class Daemons:
    """Runs dnsmasq as a daemon: it forks into the background once it serves, or prints why it can't."""

    async def start(self, directory: Path) -> None:
        """Start dnsmasq, and return once it serves. Raises DnsmasqRefused."""
        program = find_dnsmasq()
        if program is None:
            raise DnsmasqRefused(NOT_INSTALLED)
        status, output = await _run(program, _argument(directory))
        if status:
            raise DnsmasqRefused(f"dnsmasq does not start: {output}")

    async def stop(self, directory: Path) -> None:
        """Send SIGTERM, and SIGKILL after _TIMEOUT seconds. Return once dnsmasq has ended."""
        while (pid := pid_of(directory) or await stray_of(directory)) is not None:
            with contextlib.suppress(ProcessLookupError), _process(pid) as process:
                signal.pidfd_send_signal(process, signal.SIGTERM)
                try:
                    async with asyncio.timeout(_TIMEOUT):
                        await _end(process)
                except TimeoutError:
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    await _end(process)

    async def reread(self, directory: Path) -> None:
        """Send SIGHUP. It is no error if no dnsmasq runs."""
        pid = pid_of(directory)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError), _process(pid) as process:
                signal.pidfd_send_signal(process, signal.SIGHUP)


class Units:
    """Runs dnsmasq as an instance of systemd's unit xennetd-dnsmasq@.service."""

    async def start(self, directory: Path) -> None:
        """Test the configuration, then start the unit, and return once dnsmasq serves. Raises DnsmasqRefused."""
        program = find_dnsmasq()
        if program is None:
            raise DnsmasqRefused(NOT_INSTALLED)
        # systemctl does not pass on the unit's output, so the reason of a refusal comes from a test before.
        status, output = await _run(program, "--test", _argument(directory))
        if status:
            raise DnsmasqRefused(f"dnsmasq refuses its configuration: {output}")
        await self._systemctl("start", directory)

    async def stop(self, directory: Path) -> None:
        """Stop the unit, and return once dnsmasq has ended. Raises DnsmasqRefused."""
        await self._systemctl("stop", directory)

    async def reread(self, directory: Path) -> None:
        """Reload the unit, which sends SIGHUP. Raises DnsmasqRefused."""
        await self._systemctl("reload", directory)

    async def _systemctl(self, verb: str, directory: Path) -> None:
        name = unit(directory.name)
        status, output = await _run("systemctl", "--quiet", verb, name)
        if status:
            raise DnsmasqRefused(f"systemctl {verb} {name}: {output}; its reason is in `journalctl -u {name}`")


NOT_INSTALLED = "dnsmasq is not installed, so its guests get neither addresses nor names: apt install dnsmasq-base"


def unit(instance: str) -> str:
    """Return the name of an instance's unit, with the instance escaped as by systemd-escape(1)."""
    escaped = "".join(
        character
        if character.isalnum() or character in "_:" or (character == "." and index)
        else f"\\x{ord(character):02x}"
        for index, character in enumerate(instance)
    )
    return f"xennetd-dnsmasq@{escaped}.service"


async def _run(program: str, *arguments: str) -> tuple[int, str]:
    """Run a program to its end. Returns its exit status and its standard error in one line of at most 500 characters.

    Of a program that fails and writes nothing the line tells how it ended.

    Raises DnsmasqRefused if the program can't be run, or takes longer than _TIMEOUT.
    """
    try:
        status, _, errors = await run((program, *arguments), _TIMEOUT, {"PATH": _PATH, "LANG": "C"})
    except NotRun as error:
        raise DnsmasqRefused(f"{program} {error}") from error
    line = visible(" ".join(errors.decode("utf-8", "replace").split()), 500)
    return status, line or (f"it ended with {cause_of_end(status)}" if status else "")


@contextlib.contextmanager
def _process(pid: int) -> Iterator[int]:
    """Yield a descriptor of a process (pidfd_open(2)). Raises ProcessLookupError if it is gone."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def _end(process: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(process, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process)

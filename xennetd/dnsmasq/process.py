"""The dnsmasq processes, one for each network with `dhcp`: started, found again after our restart, and kept running.

Rule 1: the process is the memory. dnsmasq writes its pid into a file whose name is the digest of the configuration that
it has read; a process that the file names, and whose command line is ours, runs with just that configuration.
Rule 2: none of them ends with us. systemd has them where it runs; elsewhere they are daemons of their own.
Rule 3: one that ends is started again, the later the more often it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import structlog

from xennetd.model.text import visible

_log = structlog.get_logger()

CONFIGURATION = "dnsmasq.conf"
_PID_FILE = "pid-file="
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEMD = Path("/run/systemd/system")
"""sd_booted(3)."""

_TIMEOUT = 30.0
"""Seconds that starting or stopping one may take."""

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_GATHER = 0.1
"""Seconds in which changes come together that dnsmasq is told of at once."""

_STEADY = 10.0
"""Seconds after which one that was started again is taken to be well."""


class Refused(Exception):
    """Why a dnsmasq does not run, in words that follow "network NAME: "."""


def find_dnsmasq() -> str | None:
    """Return where the program is, None where it is not installed."""
    return shutil.which("dnsmasq", path=_PATH)


def digest(text: str) -> str:
    """Return what a configuration file's text is known by, whatever it says of its own pid file."""
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(_PID_FILE))
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()


def written(directory: Path, configuration: str) -> str:
    """Return the configuration file for a network's configuration."""
    return f"{configuration}{_PID_FILE}{directory}/{digest(configuration)}.pid\n"


def pid_of(directory: Path, name: str = "*") -> int | None:
    """Return the process that runs with the configuration of this digest, or with any of this directory."""
    for file in directory.glob(f"{name}.pid"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(file.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"dnsmasq") and os.fsencode(_argument(directory)) in words:
                return pid
    return None


def _argument(directory: Path) -> str:
    return f"--conf-file={directory / CONFIGURATION}"


class Runner(Protocol):
    """How the processes are started and stopped. `directory` is an instance's; its name is the instance's."""

    async def start(self, directory: Path) -> None:
        """Start it, and return once it serves. Raises Refused."""
        ...

    async def stop(self, directory: Path) -> None:
        """Stop it, and return once it has ended. One that does not run is no error."""
        ...

    async def reread(self, directory: Path) -> None:
        """Have it forget the guests it was told of, and read their files anew (SIGHUP)."""
        ...


def runner() -> Runner:
    """Return what starts processes on this host."""
    return Units() if _SYSTEMD.is_dir() else Daemons()


class Daemons:
    """Daemons of their own: dnsmasq leaves its parent once it serves, or says on standard error why it does not."""

    async def start(self, directory: Path) -> None:
        program = find_dnsmasq()
        if program is None:
            raise Refused(NOT_INSTALLED)
        status, said = await _run(program, _argument(directory))
        if status:
            raise Refused(f"dnsmasq does not start: {said or f'exit status {status}'}")

    async def stop(self, directory: Path) -> None:
        pid = pid_of(directory)
        if pid is None:
            return
        with _process(pid) as process:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            try:
                await asyncio.wait_for(_end(process), _TIMEOUT)
            except TimeoutError:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                await _end(process)

    async def reread(self, directory: Path) -> None:
        pid = pid_of(directory)
        if pid is not None:
            with _process(pid) as process:
                signal.pidfd_send_signal(process, signal.SIGHUP)


class Units:
    """Instances of systemd's unit xennetd-dnsmasq@.service."""

    async def start(self, directory: Path) -> None:
        program = find_dnsmasq()
        if program is None:
            raise Refused(NOT_INSTALLED)
        # systemd keeps to itself what a program has said, so it is asked here first.
        status, said = await _run(program, "--test", _argument(directory))
        if status:
            raise Refused(f"dnsmasq refuses its configuration: {said}")
        await self._systemctl("start", directory)

    async def stop(self, directory: Path) -> None:
        await self._systemctl("stop", directory)

    async def reread(self, directory: Path) -> None:
        await self._systemctl("reload", directory)

    async def _systemctl(self, verb: str, directory: Path) -> None:
        name = unit(directory.name)
        status, said = await _run("systemctl", "--quiet", verb, name)
        if status:
            raise Refused(f"systemctl {verb} {name}: {said}; its reason is in `journalctl -u {name}`")


NOT_INSTALLED = "dnsmasq is not installed, so its guests get neither addresses nor names: apt install dnsmasq-base"


def unit(instance: str) -> str:
    """Return the name of the instance's unit, its name escaped as systemd-escape(1) does."""
    escaped = "".join(
        character
        if character.isalnum() or character in "_:" or (character == "." and index)
        else f"\\x{ord(character):02x}"
        for index, character in enumerate(instance)
    )
    return f"xennetd-dnsmasq@{escaped}.service"


async def _run(program: str, *arguments: str) -> tuple[int, str]:
    """Run a program to its end. Returns its status and what it has said, in one line."""
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": _PATH, "LANG": "C"},
            start_new_session=True,
        )
    except OSError as error:
        raise Refused(f"{program} can't be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, said = await process.communicate()
    except TimeoutError:
        raise Refused(f"{program} has not answered in {_TIMEOUT:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, visible(" ".join(said.decode("utf-8", "replace").split()), 500)


@contextlib.contextmanager
def _process(pid: int) -> Iterator[int]:
    """A descriptor of a process (pidfd_open(2)); the block is left when there is no such process any more."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        descriptor = -1
    try:
        yield descriptor
    except ProcessLookupError:
        return
    finally:
        if descriptor >= 0:
            os.close(descriptor)


async def _end(process: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(process, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process)


class Keeper:
    """Keeps one network's dnsmasq as it is wanted: `problem` is why it is not, in a sentence, else empty;
    `title` says which it is.

    `prepare` is called while none runs, just before one is started.
    """

    def __init__(self, directory: Path, runner: Runner, prepare: Callable[[], None]) -> None:
        self.problem = ""
        self.wanted = True
        self.title = f"dnsmasq {directory.name}"
        self._directory = directory
        self._runner = runner
        self._prepare = prepare
        self._woken = asyncio.Event()
        self._reread = False
        self._afresh = False
        self._process: int | None = None
        self._since = 0.0
        self._ends = 0
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0

    def look(self, *, wanted: bool = True) -> None:
        """See to it that it runs with the configuration as it lies there now, or that none runs."""
        self.wanted = wanted
        self._not_before = 0.0
        self._woken.set()

    def reread(self) -> None:
        """Have it read the guests' files anew."""
        self._reread = True
        self._woken.set()

    def renew(self) -> None:
        """Have it stopped, and started again."""
        self._afresh = True
        self._woken.set()

    async def keep(self) -> None:
        """Keep it, until it has been stopped because it is not wanted."""
        try:
            while True:
                self._woken.clear()
                try:
                    if not self.wanted:
                        await self._stop()
                        if not self.wanted:
                            return
                    timeout = await self._converge()
                except (Refused, OSError) as refusal:
                    timeout = self._pause
                    self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                    self._tell(f"{refusal} (tried again in {timeout:.0f} s)")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), timeout)
        finally:
            self._unwatch()

    async def _converge(self) -> float | None:
        """Do what is to be done now. Returns the seconds after which it is to be looked at again, None: when woken."""
        if self._process is not None and _has_ended(self._process):
            self._bury()
        pid = None if self._afresh else pid_of(self._directory, self._digest())
        if pid is None:
            if pid_of(self._directory) is not None:
                await self._stop()
            elif (wait := self._not_before - time.monotonic()) > 0:
                return wait
            pid = await self._start()
        if self._process is None:
            self._watch(pid)
        if self._reread:
            await asyncio.sleep(_GATHER)
            self._reread = False
            await self._runner.reread(self._directory)
        return self._judge()

    async def _start(self) -> int:
        self._afresh = self._reread = False
        self._prepare()
        await self._runner.start(self._directory)
        pid = pid_of(self._directory, self._digest())
        if pid is None:
            raise Refused("dnsmasq was started and has ended at once")
        return pid

    async def _stop(self) -> None:
        self._unwatch()
        await self._runner.stop(self._directory)
        for file in self._directory.glob("*.pid"):
            file.unlink(missing_ok=True)

    def _digest(self) -> str:
        try:
            return digest((self._directory / CONFIGURATION).read_text())
        except OSError as error:
            raise Refused(f"{error.filename} can't be read: {error.strerror}") from error

    def _watch(self, pid: int) -> None:
        try:
            self._process = os.pidfd_open(pid)
        except ProcessLookupError:
            raise Refused("dnsmasq was started and has ended at once") from None
        self._since = time.monotonic()
        asyncio.get_running_loop().add_reader(self._process, self._woken.set)

    def _unwatch(self) -> None:
        if self._process is not None:
            asyncio.get_running_loop().remove_reader(self._process)
            os.close(self._process)
            self._process = None

    def _bury(self) -> None:
        """Note that the process has ended without our doing."""
        self._unwatch()
        now = time.monotonic()
        lived = now - self._since
        self._ends += 1
        times = f"{self._ends} times, the last time " if self._ends > 1 else ""
        self._tell(f"dnsmasq has ended by itself {times}after {lived:.1f} s, and is started again")
        if lived < _STEADY:
            self._not_before = now + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _judge(self) -> float | None:
        """Return how long it takes until what has ended before is well again."""
        left = self._since + _STEADY - time.monotonic()
        if self._ends and left > 0:
            return left
        self._ends = 0
        self._pause = _FIRST_PAUSE
        if self.problem:
            _log.info("dnsmasq runs again", instance=self._directory.name)
        self.problem = ""
        return None

    def _tell(self, problem: str) -> None:
        self.problem = f"{self.title}: {problem}"
        _log.warning(self.problem)


def _has_ended(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))

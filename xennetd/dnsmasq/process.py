"""Starts dnsmasq, one process for each network with `dhcp`, finds it again after a restart, and keeps it running.

Rule 1: the process is the memory. dnsmasq writes its pid into a file whose name is the digest of its configuration. If
the process with that pid has the command line that xennetd gave it, it runs with exactly that configuration. Where the
pid file is missing, any dnsmasq of the instance is stopped before another one starts.
Rule 2: dnsmasq runs on when xennetd ends. Where systemd runs, dnsmasq is a unit; elsewhere it is a daemon.
Rule 3: a dnsmasq that ends by itself is started again. If it ends soon after every start, a pause comes first, which
doubles every time.
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
from systemd.daemon import booted

from xennetd.model.text import visible

_log = structlog.get_logger()

CONFIGURATION = "dnsmasq.conf"
_PID_FILE = "pid-file="
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_TIMEOUT = 30.0
"""Seconds that a start or a stop may take."""

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
"""Seconds before dnsmasq is started again: the first pause, and the longest."""

_GATHER = 0.1
"""Seconds for which a SIGHUP waits, so that one signal serves several changed guests."""

_STEADY = 10.0
"""Seconds after which a restarted dnsmasq counts as healthy."""


class DnsmasqRefused(Exception):
    """A dnsmasq can't be started, stopped or signalled. The message is a sentence to follow `network NAME: `."""


def find_dnsmasq() -> str | None:
    """Return the program's path, None if it is not installed."""
    return shutil.which("dnsmasq", path=_PATH)


def digest(text: str) -> str:
    """Return the digest of a configuration file's text: 16 hexadecimal digits. The pid-file line does not count."""
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith(_PID_FILE))
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()


def written(directory: Path, configuration: str) -> str:
    """Return the text of the configuration file: `configuration`, and a pid file in `directory` named by its digest."""
    return f"{configuration}{_PID_FILE}{directory}/{digest(configuration)}.pid\n"


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


def stray_of(directory: Path) -> int | None:
    """Return the pid of a dnsmasq of this directory whose pid file somebody has removed, None if none runs.

    A container may have a file of the same path, so a process of other namespaces does not count. To read a process's
    namespaces may need CAP_SYS_PTRACE, which the daemon has unless it is a unit of systemd's.
    """
    own = _namespaces("thread-self")
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):  # It has ended meanwhile.
                if _runs_with(int(process.name), directory) and _namespaces(process.name) == own:
                    return int(process.name)
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
            raise DnsmasqRefused(f"dnsmasq does not start: {output or f'exit status {status}'}")

    async def stop(self, directory: Path) -> None:
        """Send SIGTERM, and SIGKILL after _TIMEOUT seconds. Return once dnsmasq has ended."""
        while (pid := pid_of(directory) or stray_of(directory)) is not None:
            with _process(pid) as process:
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
            with _process(pid) as process:
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

    Raises DnsmasqRefused if the program can't be run, or takes longer than _TIMEOUT.
    """
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
    except (OSError, RuntimeError, MemoryError) as error:  # RuntimeError: no thread can be started.
        why = error.strerror if isinstance(error, OSError) else error
        raise DnsmasqRefused(f"{program} can't be run: {why}") from error
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, stderr = await process.communicate()
    except TimeoutError:
        raise DnsmasqRefused(f"{program} has not answered in {_TIMEOUT:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, visible(" ".join(stderr.decode("utf-8", "replace").split()), 500)


@contextlib.contextmanager
def _process(pid: int) -> Iterator[int]:
    """Yield a descriptor of a process (pidfd_open(2)). ProcessLookupError ends the block: the process is gone."""
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
    """Keeps the dnsmasq of one instance running while it is wanted, and stopped otherwise.

    `problem` is a sentence that says why dnsmasq is not as it should be; it is empty if all is well, and else begins
    with `title`. `prepare` is called just before each start, while no dnsmasq of the instance runs.
    """

    def __init__(self, directory: Path, runner: Runner, prepare: Callable[[], None]) -> None:
        self.problem = ""
        self.wanted = True
        self.title = f"DHCP on {directory.name}"
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
        """Run dnsmasq with the current configuration file, or stop it if `wanted` is False."""
        self.wanted = wanted
        self._not_before = 0.0
        self._woken.set()

    def reread(self) -> None:
        """Let dnsmasq read the guests' files again."""
        self._reread = True
        self._woken.set()

    def renew(self) -> None:
        """Restart dnsmasq."""
        self._afresh = True
        self._woken.set()

    async def keep(self) -> None:
        """Do the keeper's work. Return after dnsmasq has been stopped because it is not wanted."""
        try:
            while True:
                self._woken.clear()
                try:
                    if not self.wanted:
                        await self._stop()
                        if not self.wanted:
                            return
                    timeout = await self._converge()
                except Exception as refusal:
                    if not isinstance(refusal, DnsmasqRefused | OSError):
                        _log.exception("a dnsmasq could not be kept running", instance=self._directory.name)
                    timeout = self._pause
                    self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                    self._report(f"{refusal} (tried again in {timeout:.0f} s)")
                # Not wait_for(): until Python 3.12 it swallows a cancellation that comes together with the event.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await self._woken.wait()
        finally:
            self._unwatch()

    async def _converge(self) -> float | None:
        """Start, restart or signal dnsmasq as needed.

        Returns the seconds after which to check again, None for no sooner than at the next wake-up.
        """
        if self._process is not None and _has_ended(self._process):
            self._note_end()
        name = self._digest()  # Without a configuration file, dnsmasq runs on as it is.
        pid = None if self._afresh else pid_of(self._directory, name)
        if pid is None:
            if pid_of(self._directory) is None and (wait := self._not_before - time.monotonic()) > 0:
                return wait
            # Also where no pid file tells of a process: somebody may have removed it.
            await self._stop()
            pid = await self._start()
        if self._process is None:
            self._watch(pid)
        if self._reread:
            await asyncio.sleep(_GATHER)
            self._reread = False
            await self._runner.reread(self._directory)
        return self._time_to_steady()

    async def _start(self) -> int:
        self._afresh = self._reread = False
        self._remove_pid_files()
        self._prepare()
        await self._runner.start(self._directory)
        pid = pid_of(self._directory, self._digest())
        if pid is None:
            raise DnsmasqRefused("dnsmasq was started and has ended at once")
        return pid

    async def _stop(self) -> None:
        self._unwatch()
        await self._runner.stop(self._directory)
        self._remove_pid_files()

    def _remove_pid_files(self) -> None:
        """Remove what a dnsmasq leaves that was killed. No dnsmasq of the instance runs."""
        for file in self._directory.glob("*.pid"):
            file.unlink(missing_ok=True)

    def _digest(self) -> str:
        try:
            return digest((self._directory / CONFIGURATION).read_text())
        except OSError as error:
            raise DnsmasqRefused(f"{error.filename} can't be read: {error.strerror}") from error

    def _watch(self, pid: int) -> None:
        try:
            self._process = os.pidfd_open(pid)
        except ProcessLookupError:
            raise DnsmasqRefused("dnsmasq was started and has ended at once") from None
        self._since = time.monotonic()
        asyncio.get_running_loop().add_reader(self._process, self._woken.set)

    def _unwatch(self) -> None:
        if self._process is not None:
            asyncio.get_running_loop().remove_reader(self._process)
            os.close(self._process)
            self._process = None

    def _note_end(self) -> None:
        """Report that the process has ended although xennetd did not stop it, and delay its next start."""
        self._unwatch()
        now = time.monotonic()
        lived = now - self._since
        self._ends += 1
        times = f"{self._ends} times, the last time " if self._ends > 1 else ""
        self._report(f"dnsmasq has ended by itself {times}after {lived:.1f} s, and is started again")
        if lived < _STEADY:
            self._not_before = now + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _time_to_steady(self) -> float | None:
        """Return the seconds until a dnsmasq that had ended counts as healthy. If it does, clear the problem: None."""
        left = self._since + _STEADY - time.monotonic()
        if self._ends and left > 0:
            return left
        self._ends = 0
        self._pause = _FIRST_PAUSE
        if self.problem:
            _log.info("dnsmasq runs again", instance=self._directory.name)
        self.problem = ""
        return None

    def _report(self, problem: str) -> None:
        self.problem = f"{self.title}: {problem}"
        _log.warning(self.problem)


def _has_ended(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))

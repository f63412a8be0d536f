"""Keeps the dnsmasq of each instance running, and tells why one does not.

Rule: a dnsmasq that ends by itself is started again. If it ends soon after every start, a pause comes first, which
doubles every time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from xennetd.cancellation import heed_cancellation
from xennetd.dnsmasq.process import CONFIGURATION, DnsmasqRefused, Runner, digest, pid_of

_log = structlog.get_logger()

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
"""Seconds before dnsmasq is started again: the first pause, and the longest."""

_GATHER = 0.1
"""Seconds for which a SIGHUP waits, so that one signal serves several changed guests."""

_STEADY = 10.0
"""Seconds after which a restarted dnsmasq counts as healthy."""


class Keeper:
    """Keeps the dnsmasq of one instance running while it is wanted, and stopped otherwise.

    `problem` is a sentence that says why dnsmasq is not as it should be; it is empty if all is well, and else begins
    with `title`. `prepare` is called just before each start, while no dnsmasq of the instance runs.
    """

    def __init__(self, directory: Path, runner: Runner, prepare: Callable[[], Awaitable[None]]) -> None:
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
                    heed_cancellation()
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
        await self._prepare()
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
            return digest((self._directory / CONFIGURATION).read_bytes())
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

"""What becomes of dnsmasq's files when the disk does not take them, and when somebody else removes them.

Rule 1: a file that can't be written keeps no guest from its network. It waits here, `xennetctl status` shows why, and
it is written once the file system takes it.
Rule 2: a stamp only says that somebody else has changed files, so that they must be looked at. It is no record of what
they hold.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from errno import EDQUOT, ENOSPC, EROFS
from typing import NamedTuple

import structlog

from xennetd.model.objects import HostObject, Key
from xennetd.model.places import STATE

_log = structlog.get_logger()

_MAKE_ROOM = f"make room on the file system of {STATE}"
_REMEDIES = {
    ENOSPC: _MAKE_ROOM,
    EDQUOT: _MAKE_ROOM,
    # Within the unit's sandbox the disk is read-only, but for the directory that was there when the unit started.
    EROFS: f"make {STATE} writable again (mount -o remount,rw); if it is, restart xennetd",
}
"""What an administrator must do, by errno."""

_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 60.0
"""Seconds until files are tried again that can't be written: at first, and at most."""


class Unwritten:
    """What could not be written, in the order of the last failures."""

    def __init__(self) -> None:
        self._waiting: dict[Key, _Waiting] = {}
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0

    def holds(self, wanted: HostObject) -> bool:
        """Return whether the files of exactly this object wait."""
        waiting = self._waiting.get(wanted.key)
        return waiting is not None and waiting.wanted == wanted

    def add(
        self, key: Key, title: str, error: OSError, again: Callable[[], None], wanted: HostObject | None = None
    ) -> None:
        """Let files wait: those of the host object `wanted`, if they belong to one.

        `title` names their service in sentences for people; `again` tries to write them again.
        """
        problem = f"{title}: {error.filename or STATE} can't be written: {error.strerror}: {remedy(error)}"
        if not any(waiting.title == title for waiting in self._waiting.values()):
            _log.warning(problem)
        self._waiting.pop(key, None)
        self._waiting[key] = _Waiting(wanted, title, problem, again)

    def drop(self, key: Key) -> None:
        """Forget files that are not wanted any more."""
        self._waiting.pop(key, None)

    def written(self, key: Key) -> None:
        """Forget files that are written. So others may be, too: they are tried again with the next `try_again`."""
        self._waiting.pop(key, None)
        self._pause, self._not_before = _FIRST_PAUSE, 0.0

    async def try_again(self) -> None:
        """Try to write what waits, in slices, as far as the first that fails again. After that a pause comes first.

        The pause doubles with each failure in a row. What fails goes to the end, so that it holds nothing else up.
        """
        if time.monotonic() < self._not_before:
            return
        for key, waiting in list(self._waiting.items()):
            if self._waiting.get(key) is waiting:
                waiting.again()
                if self._waiting.get(key, waiting) is not waiting:
                    self._not_before = time.monotonic() + self._pause
                    self._pause = min(2 * self._pause, _LONGEST_PAUSE)
                    return
                await asyncio.sleep(0)

    def problems(self) -> list[str]:
        """Return one sentence for each title: one of its problems, and how many more wait."""
        by_title: dict[str, list[str]] = {}
        for waiting in self._waiting.values():
            by_title.setdefault(waiting.title, []).append(waiting.problem)
        return [
            min(problems) + (f" ({len(problems) - 1} more wait)" if len(problems) > 1 else "")
            for problems in by_title.values()
        ]


def remedy(error: OSError) -> str:
    """Return what an administrator must do where a file below STATE can't be changed."""
    return _REMEDIES.get(error.errno or 0, f"see to {STATE}")


class _Waiting(NamedTuple):
    wanted: HostObject | None
    title: str
    problem: str
    again: Callable[[], None]


class Stamp(NamedTuple):
    """What tells that somebody else has changed an instance's files: None for what does not exist.

    Of the configuration file and of the guests' directories it is the inode and the time of the last change, of the
    lease file, which dnsmasq writes, only the existence.
    """

    configuration: tuple[int, int] | None
    directories: tuple[tuple[int, int] | None, ...]
    leases: bool


class Stamps:
    """The stamp of each instance's files after the daemon's own last change of them.

    `read` returns an instance's current stamp.
    """

    def __init__(self, read: Callable[[str], Stamp]) -> None:
        self._read = read
        self._stamps: dict[str, Stamp] = {}

    def holds(self, instance: str) -> bool:
        """Return whether nobody else has changed the files. To be asked before a change of the daemon's own."""
        known = self._stamps.get(instance)
        return known is None or not _differ(known, self._read(instance))

    def take(self, instance: str) -> None:
        """Note the current files as the daemon's own work."""
        self._stamps[instance] = self._read(instance)

    def forget(self, instance: str) -> None:
        """Forget an instance that is gone."""
        self._stamps.pop(instance, None)

    def disturbed(self, instances: Iterable[str]) -> dict[str, bool]:
        """Return the instances whose files somebody else has changed since they were looked at last.

        The value says whether dnsmasq has lost sight of its files: a directory that it watches, or its lease file, is
        not the same any more.
        """
        found = {}
        for instance in instances:
            now = self._read(instance)
            known = self._stamps.get(instance, now)
            self._stamps[instance] = now
            if _differ(known, now):
                found[instance] = _inodes(known) != _inodes(now) or (known.leases and not now.leases)
        return found


def _differ(known: Stamp, now: Stamp) -> bool:
    return known[:2] != now[:2] or (known.leases and not now.leases)


def _inodes(stamp: Stamp) -> list[int | None]:
    return [directory and directory[0] for directory in stamp.directories]


def identity(path: str) -> tuple[int, int] | None:
    """Return a file's inode and the time of its last change, in nanoseconds; None if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns

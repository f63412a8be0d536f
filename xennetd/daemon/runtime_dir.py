"""The run-time directory of the daemon: that it is there tells hotplug scripts of a daemon to wait for."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xennetd.model.errors import HostError
from xennetd.model.places import RUNTIME

OBSERVE_MARK = "observe"
"""A file in the run-time directory: the hotplug script refuses at once, since nothing will be configured."""


class RuntimeDirectory:
    """/run/xennetd, and the control socket's directory where that is another one. Every failure is a HostError.

    systemd makes the first and keeps it over a restart (RuntimeDirectory=); elsewhere we make what is missing. That it
    is there tells the hotplug script of a daemon to wait for; it is of one daemon, which holds a lock on it (flock(2)).
    """

    def __init__(self, control: str, path: Path = Path(RUNTIME)) -> None:
        self._path = path
        self._control = Path(control).parent
        self._mark = path / OBSERVE_MARK
        self._made: list[Path] = []
        self._lock: int | None = None

    def make(self) -> None:
        """Make the directories that are missing."""
        for directory in (self._path, self._control):
            with _named(f"the directory {directory} can't be made"):
                try:
                    directory.mkdir(mode=0o755, parents=True)
                    self._made.append(directory)
                except FileExistsError:
                    continue

    def claim(self, *, observing: bool) -> None:
        """Be the daemon that is meant by the directory, and put the mark of observe mode there or take it away."""
        with _named(f"the directory {self._path} can't be used"):
            if self._lock is None:
                lock = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                    raise HostError(f"another xennetd is running: it holds the directory {self._path}") from None
                self._lock = lock
            if observing:
                self._mark.touch()
            else:
                self._mark.unlink(missing_ok=True)

    def leave(self) -> None:
        """Remove what we made: without a daemon the hotplug script is to fail at once. Never what is another's."""
        if self._lock is not None:
            if "RUNTIME_DIRECTORY" not in os.environ:
                self._mark.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None
        for directory in reversed(self._made):
            try:
                directory.rmdir()
            except OSError:
                continue  # It is not empty, or gone.


@contextmanager
def _named(failure: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"{failure}: {error.strerror}", errno=error.errno or 0) from error

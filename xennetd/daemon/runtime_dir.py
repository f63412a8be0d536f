"""The daemon's run-time directory. Its existence tells hotplug scripts that there is a daemon to wait for."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from xennetd.daemon.control_path import untrusted
from xennetd.model.errors import HostError
from xennetd.model.places import RUNTIME

_log = structlog.get_logger(__name__)

OBSERVE_MARK = "observe"
"""The file in the run-time directory that marks observe mode. Hotplug scripts then fail at once."""


class RuntimeDirectory:
    """/run/xennetd, and the control socket's directory if that is another one.

    systemd makes /run/xennetd and keeps it over a restart (RuntimeDirectory=). The daemon makes what is missing, or was
    removed. That works under systemd too: for a unit that gets a /proc of its own (MountAPIVFS= of systemd.exec(5)),
    ProtectSystem=strict leaves /run writable. Where another setting makes /run read-only, only a new start of the unit
    brings the directory back, since systemd mounts it writable. The directory belongs to one daemon, which holds a lock
    on it (flock(2)). `problem` is a sentence while the directory is gone and can't be made again, else empty.
    """

    def __init__(self, control: str, path: Path = Path(RUNTIME)) -> None:
        self.problem = ""
        self._path = path
        self._socket = control
        self._control = Path(control).parent
        self._mark = path / OBSERVE_MARK
        self._made: list[Path] = []
        self._lock: int | None = None

    def make(self) -> None:
        """Make the directories that are missing. Raises HostError when that fails, or the socket's place is unfit."""
        with _named(f"the control socket {self._socket} can't be made"):
            if reason := untrusted(self._socket):
                raise HostError(f"the control socket {self._socket} can't be made: {reason}")
        for directory in (self._path, self._control):
            with _named(f"the directory {directory} can't be made"):
                for part in (*reversed(directory.parents), directory):
                    with suppress(FileExistsError):
                        part.mkdir()
                        part.chmod(0o755)  # Whatever the umask is: the group of the control socket must get in.
                        if part == directory:
                            self._made.append(directory)

    def claim(self, *, observing: bool) -> None:
        """Lock the directory for this daemon, and create or remove the file that marks observe mode.

        Raises HostError when another daemon holds the lock, or when the directory can't be used.
        """
        with _named(f"the directory {self._path} can't be used"):
            lock = self._lock if self._lock is not None else self._locked()
            try:
                if observing:
                    self._mark.touch()
                else:
                    self._mark.unlink(missing_ok=True)
            except OSError:
                if lock != self._lock:
                    os.close(lock)  # A directory that the daemon can't write to is not in its use.
                raise
            self._lock = lock

    def _locked(self) -> int:
        lock = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise HostError(f"another xennetd is running: it holds the directory {self._path}") from None
        return lock

    def restore(self, *, observing: bool) -> None:
        """Make the directory again if somebody has removed it, and what is in it; else `problem` says why not."""
        try:
            if self._lock is None or not _is_at(self._lock, self._path):
                if self._lock is not None:
                    os.close(self._lock)
                    self._lock = None
                self.make()
                self.claim(observing=observing)
            elif observing and not self._mark.exists():
                self.claim(observing=observing)
            self.problem = ""
        except HostError as error:
            remedy = f"remove what hinders that, or run mkdir {self._path}"
            if error.errno == errno.EROFS:
                remedy = "restart xennetd"
            failure = f"{self._path} was removed, and can't be made again: {error.detail}"
            problem = f"{failure}: {remedy}; until then no hotplug script finds xennetd"
            if problem != self.problem:
                _log.warning(problem)
            self.problem = problem

    def leave(self) -> None:
        """Release the lock and remove the directories that this daemon made, so that hotplug scripts fail at once.

        What another daemon made stays, and what systemd made and removes, also if it was made again meanwhile.
        """
        by_systemd = [Path(path) for path in os.environ.get("RUNTIME_DIRECTORY", "").split(":")]
        if self._lock is not None:
            if self._path not in by_systemd:
                with suppress(OSError):
                    self._mark.unlink()
            os.close(self._lock)
            self._lock = None
        for directory in reversed(self._made):
            if directory in by_systemd:
                continue
            try:
                directory.rmdir()
            except OSError:
                continue  # The directory is not empty, or somebody has removed it.


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open directory is the one at this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


@contextmanager
def _named(failure: str) -> Iterator[None]:
    """Turn an OSError of the block into a HostError whose sentence begins with `failure`."""
    try:
        yield
    except OSError as error:
        raise HostError(f"{failure}: {error.strerror}", errno=error.errno or 0) from error

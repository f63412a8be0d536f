"""Reads the configuration files. This is the only module of policy that does I/O."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from xennetd.config.document import LARGEST
from xennetd.config.problem import Problem, Problems
from xennetd.model.configuration import Policy
from xennetd.model.places import CONFIGURATION
from xennetd.policy.load import load

DIRECTORY = Path(CONFIGURATION)


def load_files(config: str | None = None, *, directory: Path = DIRECTORY) -> Policy | Problems:
    """Return the policy of the file `config` alone or, without one, of `directory` (xennetd.toml, then conf.d/*.toml).

    A missing `config` is a Problem. A missing `directory`, or one without files, gives an empty policy.
    """
    sources: list[tuple[str, bytes]] = []
    problems: list[Problem] = []
    for path in _default_files(directory, problems) if config is None else [Path(config)]:
        try:
            sources.append((str(path), _read(path)))
        except (_Unfit, OSError) as error:
            problems.append(_problem(path, error))
    return load(sources, tuple(problems))


class _Unfit(Exception):
    """The reason why xennetd refuses to read a file that it has opened, or a folder."""


def _problem(path: Path, error: _Unfit | OSError) -> Problem:
    return Problem(str(path), f"can't be read: {error.strerror}" if isinstance(error, OSError) else str(error))


def _default_files(directory: Path, problems: list[Problem]) -> list[Path]:
    main = directory / "xennetd.toml"
    parts = directory / "conf.d"
    files = [main] if os.path.lexists(main) else []  # a dangling symbolic link is a Problem, not a missing file
    for folder in (directory, parts):
        try:
            _check_writers(folder.stat())
            if folder == parts:
                files += sorted(path for path in parts.iterdir() if _is_part(path))
        except FileNotFoundError:
            pass
        except (_Unfit, OSError) as error:
            problems.append(_problem(folder, error))
    return files


def _is_part(path: Path) -> bool:
    if path.suffix != ".toml" or path.name.startswith("."):
        return False
    return path.is_file() or not path.exists()  # a dangling symbolic link is a Problem, not a missing file


def _check_writers(status: os.stat_result) -> None:
    if status.st_mode & stat.S_IWOTH:
        raise _Unfit(f"everyone may write to it (mode {stat.S_IMODE(status.st_mode):04o}); run chmod o-w on it")


def _read(path: Path) -> bytes:
    # Without O_NONBLOCK, opening a FIFO that has no writer would block for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Unfit("not a regular file")
        _check_writers(status)
        return file.read(LARGEST + 1)

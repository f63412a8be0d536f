"""Reads the configuration files. This is the only module of policy that does I/O."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xennetd.config.document import LARGEST
from xennetd.config.problem import Problem, Problems, printable
from xennetd.model.configuration import Policy
from xennetd.model.places import CONFIGURATION
from xennetd.policy.check import Notes
from xennetd.policy.load import load
from xennetd.policy.note_places import placed

DIRECTORY = Path(CONFIGURATION)


@dataclass(frozen=True, slots=True)
class Files:
    """The configuration files: name and content in their order, and the problems of those that can't be read."""

    contents: tuple[tuple[str, bytes], ...]
    problems: Problems

    def load(self) -> Policy | Problems:
        """Return the policy that the files make up, or all their problems."""
        return load(self.contents, self.problems)

    def placed(self, notes: Notes) -> list[str]:
        """Return the sentences of notes on the files' policy, with the places of what they are about."""
        return placed(notes, self.contents)


def read_files(config: str | None = None, *, directory: Path = DIRECTORY) -> Files:
    """Return the file `config` alone or, without one, those of `directory` (xennetd.toml, then conf.d/*.toml).

    A missing `config` is a Problem. A missing `directory`, or one without files, gives an empty policy. Files that
    others may write are read too: `exposed` says which these are.
    """
    contents: list[tuple[str, bytes]] = []
    problems: list[Problem] = []
    for path in _default_files(directory, problems) if config is None else [Path(config)]:
        try:
            contents.append((str(path), _read(path)))
        except (_Unfit, OSError) as error:
            problems.append(_problem(path, error))
    return Files(tuple(contents), tuple(problems))


def exposed(files: Sequence[str], *, directory: Path = DIRECTORY) -> tuple[str, ...]:
    """Return a sentence, with its remedy, for each file or directory that others than root may write to.

    `files` are those of a policy (`Policy.files`). Their directories count as well, since who may write to a directory
    may replace its files. Where `files` are those of `directory`, so does a directory in which others could add files.
    The user whose process this is counts as root. A file that does not exist is left out.
    """
    folders = {folder for file in files for folder in (Path(file).parent, Path(os.path.realpath(file)).parent)}
    adding = (directory, directory / "conf.d")
    if not files or not folders.isdisjoint(adding):
        folders.update(adding)
    sentences = []
    for path in (*sorted(folders), *map(Path, files)):
        try:
            status = path.stat()
        except OSError:
            continue
        # In a directory with the sticky bit, as /tmp is, nobody may replace a file of root's.
        harmless = path in folders and path not in adding and status.st_mode & stat.S_ISVTX
        sentences += _exposure(path, status, writable=not harmless)
    return tuple(sentences)


def _exposure(path: Path, status: os.stat_result, *, writable: bool) -> list[str]:
    name, mode = printable(str(path)), f"mode {stat.S_IMODE(status.st_mode):04o}"
    sentences = []
    if status.st_uid not in (0, os.geteuid()):
        owner = f"it belongs to user {status.st_uid}, who may change xennetd's configuration"
        sentences.append(f"{name}: {owner}: run chown root {name}")
    if writable and status.st_mode & stat.S_IWOTH:
        sentences.append(f"{name}: everyone may write to it ({mode}): run chmod go-w {name}")
    elif writable and status.st_mode & stat.S_IWGRP:
        sentences.append(f"{name}: group {status.st_gid} may write to it ({mode}): run chmod g-w {name}")
    return sentences


class _Unfit(Exception):
    """The reason why xennetd refuses to read a file that it has opened."""


def _problem(path: Path, error: _Unfit | OSError) -> Problem:
    return Problem(str(path), f"can't be read: {error.strerror}" if isinstance(error, OSError) else str(error))


def _default_files(directory: Path, problems: list[Problem]) -> list[Path]:
    main = directory / "xennetd.toml"
    parts = directory / "conf.d"
    files = [main] if os.path.lexists(main) else []  # a dangling symbolic link is a Problem, not a missing file
    try:
        files += sorted(path for path in parts.iterdir() if _is_part(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(_problem(parts, error))
    return files


def _is_part(path: Path) -> bool:
    if path.suffix != ".toml" or path.name.startswith("."):
        return False
    return path.is_file() or not path.exists()  # a dangling symbolic link is a Problem, not a missing file


def _read(path: Path) -> bytes:
    # Without O_NONBLOCK, opening a FIFO that has no writer would block for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _Unfit("not a regular file")
        return file.read(LARGEST + 1)

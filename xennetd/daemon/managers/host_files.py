"""Reads files of other programs with limits: no content and no kind of file leads to an error or takes long."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

_LARGEST = 1 << 18
"""Bytes of a file that are read."""

_MOST = 1000
"""Entries of a directory that are read."""

Ini = Mapping[str, Mapping[str, tuple[str, ...]]]
"""The values of a file by section and key. A key that is there twice has several values."""


class HostFiles:
    """The files of a host, whose root directory is `root`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def read(self, path: str) -> str:
        """Return the beginning of a regular file, an empty text where there is none or it can't be read."""
        try:
            # A FIFO would keep an open without O_NONBLOCK waiting.
            file = os.open(self._at(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except (OSError, ValueError):  # ValueError: a path with a null byte
            return ""
        try:
            data = os.read(file, _LARGEST) if stat.S_ISREG(os.fstat(file).st_mode) else b""
        except OSError:
            data = b""
        finally:
            os.close(file)
        return data.decode(errors="replace")

    def list(self, directory: str) -> list[str]:
        """Return the paths of a directory's entries, sorted. There are none where it can't be read."""
        try:
            with os.scandir(self._at(directory)) as entries:
                names = sorted(entry.name for entry in islice(entries, _MOST))
        except (OSError, ValueError):
            return []
        return [f"{directory}/{name}" for name in names]

    def exists(self, path: str) -> bool:
        """Return whether there is something with this path."""
        try:
            return self._at(path).exists()
        except (OSError, ValueError):
            return False

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")


def ini(text: str) -> Ini:
    """Return the values of a file as systemd.syntax(7) and nm-settings-keyfile(5) describe it.

    Sections of the same name are taken together. A line that is none of the format is ignored.
    """
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in map(str.strip, text.replace("\\\n", " ").splitlines()):
        if line.startswith(("#", ";")):
            continue
        if line.startswith("[") and line.endswith("]"):
            section = sections.setdefault(line[1:-1], {})
            continue
        key, equals, value = line.partition("=")
        if equals:
            section.setdefault(key.strip(), []).append(value.strip())
    return {name: {key: tuple(found) for key, found in values.items()} for name, values in sections.items()}


def last(values: Ini, section: str, key: str) -> str:
    """Return the last value of a key, which counts where a key has only one, an empty text without any."""
    return values.get(section, {}).get(key, ("",))[-1]


def is_true(value: str) -> bool:
    """Return whether a value is one of the words for true."""
    return value.lower() in {"1", "yes", "y", "true", "t", "on"}


def netplan_files(files: HostFiles, name: str) -> tuple[str, ...]:
    """Return the paths of netplan's files that have a section for a link: a line with its name and a colon."""
    found: dict[str, None] = {}
    for path in _yaml(files):
        lines = map(str.strip, files.read(path).splitlines())
        if any(line.startswith((f"{name}:", f'"{name}":', f"'{name}':")) for line in lines):
            found[path] = None
    return tuple(found)


def _yaml(files: HostFiles) -> Iterable[str]:
    directories = ("/etc/netplan", "/run/netplan", "/usr/lib/netplan")
    return (path for directory in directories for path in files.list(directory) if path.endswith(".yaml"))

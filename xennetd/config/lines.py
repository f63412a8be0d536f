"""Where each key of a TOML document stands, which tomllib does not tell.

Rule 1: only text that tomllib has accepted comes here, so this scanner knows where things end and checks nothing.
Rule 2: no recursion. What tomllib could just about nest must not overflow our stack.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]
"""A way into the parsed data: keys of tables, indices (from 0) of arrays."""

_STRING = r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}|' r"'''.*?''''{0,2}|" r'"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'"
_KEY = re.compile(rf"[A-Za-z0-9_-]+|{_STRING}", re.DOTALL)
_VALUE = re.compile(rf"{_STRING}|[^,\]}}#\n]+", re.DOTALL)
_BLANK = re.compile(r"[ \t]*")
_FILLING = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")


def find_lines(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) of every key and array element of the document `text`.

    A table that has a header stands where its header does, one that is only implied where it is first named, and an
    array of tables where its first table does.
    """
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.tables: dict[KeyPath, int] = {}  # how many [[tables]] an array has up to here
        self.newlines = [match.start() for match in re.finditer("\n", text)]

    def run(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self.skip(_FILLING) < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self.header(2)
            elif self.text[self.at] == "[":
                table = self.header(1)
            else:
                self.value(self.assignment(table))
        return self.lines

    def skip(self, pattern: re.Pattern[str]) -> int:
        """Move behind what matches here, and return where that is."""
        match = pattern.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        return self.at

    @property
    def line(self) -> int:
        return bisect_right(self.newlines, self.at) + 1

    def header(self, brackets: int) -> KeyPath:
        line = self.line
        self.at += brackets
        *parents, name = self.keys()
        self.at += brackets
        path: KeyPath = ()
        for key in parents:
            path += (key,)
            self.lines.setdefault(path, line)
            if path in self.tables:  # a header that passes through an array of tables means its latest table
                path += (self.tables[path] - 1,)
        path += (name,)
        if brackets == 2:
            self.lines.setdefault(path, line)
            self.tables[path] = self.tables.get(path, 0) + 1
            path += (self.tables[path] - 1,)
        self.lines[path] = line
        return path

    def keys(self) -> list[str]:
        """Read a dotted key, up to what follows it."""
        keys = []
        while True:
            start = self.skip(_BLANK)
            token = self.text[start : self.skip(_KEY)]
            keys.append(tomllib.loads(f"k={token}")["k"] if token[0] in "\"'" else token)
            if self.text[self.skip(_BLANK)] != ".":
                return keys
            self.at += 1

    def assignment(self, table: KeyPath) -> KeyPath:
        """Read `key =`, and return the key's whole path."""
        line = self.line
        for key in self.keys():
            table += (key,)
            self.lines.setdefault(table, line)
        self.at += len("=")
        return table

    def value(self, path: KeyPath) -> None:
        """Read the value of the key `path`, with all that it contains."""
        containers: list[tuple[KeyPath, int | None]] = []  # path; how many elements so far, None for an inline table
        while True:
            self.skip(_FILLING)
            if containers and self.text[self.at] in "]}":
                containers.pop()
                self.at += 1
            else:
                if containers:
                    parent, count = containers[-1]
                    if count is None:
                        path = self.assignment(parent)
                        self.skip(_BLANK)
                    else:
                        path = (*parent, count)
                        self.lines[path] = self.line
                        containers[-1] = (parent, count + 1)
                if self.text[self.at] in "[{":
                    containers.append((path, 0 if self.text[self.at] == "[" else None))
                    self.at += 1
                else:
                    self.skip(_VALUE)
            if not containers:
                return

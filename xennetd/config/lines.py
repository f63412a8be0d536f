"""The line of every key of a TOML document, which tomllib does not return.

Rule 1: the scanner reads only text that tomllib has accepted. So it need not check the syntax.
Rule 2: no recursion. A document whose nesting tomllib only just accepts must not overflow the scanner's stack.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]
"""The path of a value in the parsed data: keys of tables, indices (from 0) of arrays."""

_STRING = r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}|' r"'''.*?''''{0,2}|" r'"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'"
_KEY = re.compile(rf"[A-Za-z0-9_-]+|{_STRING}", re.DOTALL)
_VALUE = re.compile(rf"{_STRING}|[^,\]}}#\n]+", re.DOTALL)
_BLANK = re.compile(r"[ \t]*")
_FILLING = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")


def find_lines(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) of every key and array element of the document `text`.

    A table with a header has the line of its header. A table that is only implied has the line that names it first. An
    array of tables has the line of its first table.
    """
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.tables: dict[KeyPath, int] = {}  # the number of [[tables]] read so far, by the array's path
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
        """Move past the match of `pattern` at the current position, and return the new position."""
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
            if path in self.tables:  # a header whose path leads through an array of tables means its latest table
                path += (self.tables[path] - 1,)
        path += (name,)
        if brackets == 2:
            self.lines.setdefault(path, line)
            self.tables[path] = self.tables.get(path, 0) + 1
            path += (self.tables[path] - 1,)
        self.lines[path] = line
        return path

    def keys(self) -> list[str]:
        """Read a dotted key and the blanks after it, and return its parts."""
        keys = []
        while True:
            start = self.skip(_BLANK)
            token = self.text[start : self.skip(_KEY)]
            keys.append(tomllib.loads(f"k={token}")["k"] if token[0] in "\"'" else token)
            if self.text[self.skip(_BLANK)] != ".":
                return keys
            self.at += 1

    def assignment(self, table: KeyPath) -> KeyPath:
        """Read `key =` in `table`, and return the key's whole path."""
        line = self.line
        for key in self.keys():
            table += (key,)
            self.lines.setdefault(table, line)
        self.at += len("=")
        return table

    def value(self, path: KeyPath) -> None:
        """Read the value of the key `path`, with the values nested in it."""
        containers: list[tuple[KeyPath, int | None]] = []  # path; an array's elements so far, None: an inline table
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

"""The parsed text of one configuration file, and the places in it that a problem can name."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from xennetd.config.lines import KeyPath, find_lines
from xennetd.config.problem import Problem, nearest, printable
from xennetd.model.text import visible

LARGEST = 1 << 20
"""The largest size of a file in bytes. A larger file is no configuration, and reading it would delay a reload."""

_MOST_PARTS = 128
"""The largest number of parts of a dotted key: tomllib takes quadratic time and memory for them."""

_LONGEST_QUOTE = 80
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PART = r"""(?:(?<![A-Za-z0-9_-])[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.){0,200}+"|'[^'\n]{0,200}+')"""
_DEEP_KEY = re.compile(rf"(?>{_PART}[ \t]*+\.[ \t]*+){{{_MOST_PARTS}}}")
_TOML_ERROR = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Document:
    """One file's data as tomllib returns it. It lives only while a Policy is made from it."""

    file: str
    text: str
    data: dict[str, Any]

    @cached_property
    def lines(self) -> Mapping[KeyPath, int]:
        """The line of every key (from 1), determined at the first use: only a problem needs it."""
        return find_lines(self.text)

    @property
    def root(self) -> Place:
        """The place of the document as a whole, with an empty path."""
        return Place(self)


@dataclass(frozen=True, slots=True)
class Place:
    """A key of a document; the key may be missing. `str()` returns `FILE:LINE`, `place / key` a key of its table."""

    document: Document
    path: KeyPath = field(default=())

    def __truediv__(self, key: str | int) -> Place:
        return Place(self.document, (*self.path, key))

    def __str__(self) -> str:
        return ":".join(str(part) for part in (printable(self.document.file), self.line) if part is not None)

    @property
    def line(self) -> int | None:
        """The line of the key (from 1), or of the table that lacks the key. None for the document as a whole."""
        path = self.path
        while path and path not in self.document.lines:
            path = path[:-1]
        return self.document.lines[path] if path else None

    @property
    def key(self) -> str:
        """The dotted path, with array indices from 1 (`policy[2].match.vm`)."""
        text = ""
        for part in self.path:
            if isinstance(part, int):
                text += f"[{part + 1}]"
            else:
                text += ("." if text else "") + (visible(part) if _BARE_KEY.fullmatch(part) else f'"{visible(part)}"')
        return text

    def problem(self, text: str, *, found: str = "", allowed: tuple[str, ...] = (), like: str = "") -> Problem:
        """Return the problem `text` of this key. For a wrong name, `like`, it suggests a similar name of `allowed`."""
        return Problem(
            file=self.document.file,
            text=text,
            line=self.line,
            key=self.key,
            found=found,
            allowed=allowed,
            nearest=nearest(like, allowed) if like else "",
        )


def parse(file: str, data: bytes) -> Document | Problem:
    """Return the document in `data`, the content of `file`, or the Problem that makes it no document."""
    if len(data) > LARGEST:
        return Problem(file, f"larger than a configuration may be ({LARGEST} bytes)", found=f"{len(data)} bytes")
    if data.startswith(b"\xef\xbb\xbf"):
        return Problem(file, "starts with a byte order mark; save it as UTF-8 without one", line=1, column=1)
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        return Problem(file, "holds a NUL byte; it must be TOML in UTF-8", line=line)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Problem(file, "not UTF-8", line=line, found=f"byte 0x{data[error.start]:02x}")
    for number, row in enumerate(text.split("\n"), 1):  # A search of all the text at once would take some 10 ms.
        if row.count(".") >= _MOST_PARTS and _DEEP_KEY.search(row) is not None:
            return Problem(file, f"a key of more than {_MOST_PARTS} parts", line=number)
    try:
        return Document(file, text, tomllib.loads(text))
    except RecursionError:
        return Problem(file, "not a configuration: arrays or tables are nested too deeply")
    except ValueError as error:  # TOMLDecodeError, or what int() and datetime() raise in tomllib
        return _syntax_problem(file, text, str(error))


def _syntax_problem(file: str, text: str, message: str) -> Problem:
    """Return the problem that tomllib reports. Python 3.11 to 3.13 give its position in the message's text only."""
    match = _TOML_ERROR.fullmatch(message)
    if match is None:
        return Problem(file, f"not TOML: {printable(message)}")
    reason, line, column = match.groups()
    lines = text.rstrip().split("\n")
    number = int(line) if line else len(lines)
    quote = lines[number - 1].strip() if number <= len(lines) else ""
    return Problem(
        file,
        f"not TOML: {reason[:1].lower()}{printable(reason[1:])}",
        line=number,
        column=int(column) if column else None,
        found=f"`{printable(quote[:_LONGEST_QUOTE])}`" if quote else "",
    )

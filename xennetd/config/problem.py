"""What is wrong with a configuration, each problem in one line that names the place and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from xennetd.model.text import visible

_LONGEST_GUESSED = 64
"""difflib is quadratic: a longer text is no typing error, and not worth the time."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. `key` is the dotted path of the key, arrays counted from 1 (`policy[2].match.vm`).

    `found` is the value as TOML would write it; `allowed` are the valid names or values, or one phrase that describes
    them; `nearest` is the valid name that was perhaps meant. All texts are fit to show.
    """

    file: str
    text: str
    line: int | None = None
    column: int | None = None
    key: str = ""
    found: str = ""
    allowed: tuple[str, ...] = ()
    nearest: str = ""

    def describe(self) -> str:
        """Return the whole problem in one line."""
        place = ":".join(str(part) for part in (printable(self.file), self.line, self.column) if part is not None)
        key = f"{self.key}: " if self.key else ""
        found = f", found {self.found}" if self.found else ""
        nearest = f'; did you mean "{self.nearest}"?' if self.nearest else ""
        allowed = f" (allowed: {', '.join(self.allowed)})" if self.allowed else ""
        return f"{place}: {key}{self.text}{found}{nearest}{allowed}"


Problems = tuple[Problem, ...]


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the one of `names` that looks most like `word`, or the empty text."""
    if len(word) > _LONGEST_GUESSED:
        return ""
    import difflib  # only a wrong configuration pays for it

    folded = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), folded, n=1)
    return folded[close[0]] if close else ""


def printable(text: str) -> str:
    """Return the operator's own `text` in one line, with what can't be shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """Return a value read from TOML as a person would recognise it, in one short line."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{visible(value)}"'
        case dict():
            return "a table"
        case list():
            return "an array"
        case int():
            # str() refuses to write out more than 4,300 digits, which hexadecimal notation can still spell.
            return str(value) if value.bit_length() < 128 else "a huge number"
        case _:
            return str(value)

"""The problems of a configuration. A problem is one line that names the place, the fault and the valid values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from xennetd.model.text import visible

_LONGEST_GUESSED = 64
"""In characters. A longer text is no typing error, and difflib takes quadratic time."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. `line` and `column` count from 1.

    `key` is the dotted path of the key, with array indices from 1 (`policy[2].match.vm`). `found` is the value as TOML
    would write it. `allowed` are the valid names or values, or one phrase that describes them. `nearest` is the valid
    name that the writer perhaps meant. All texts are safe to show.
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
    """Return the element of `names` that is most similar to `word`, an empty text if none is similar."""
    if len(word) > _LONGEST_GUESSED:
        return ""
    import difflib  # imported here, so that only a faulty configuration costs the import

    folded = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), folded, n=1)
    return folded[close[0]] if close else ""


def printable(text: str) -> str:
    """Return `text`, which the operator wrote, in one line. Unprintable characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """Return a value that was read from TOML in one short line, as a person would recognise it."""
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
            # str() refuses to write more than 4,300 decimal digits; a hexadecimal number in TOML can have more.
            return str(value) if value.bit_length() < 128 else "a huge number"
        case _:
            return str(value)

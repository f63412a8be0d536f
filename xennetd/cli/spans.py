"""Text for people: spans, lines and tables as plain values, not yet printed.

A span is a text and the name of its style (screen.py knows the styles). A line is a list of spans. Text from the daemon
may contain what a guest wrote, so it must go through printable() before it becomes a span.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

Span = tuple[str, str]
Line = list[Span]

GAP = "  "

_LAST = 24
"""Characters of the last column that are worth more than another column."""


def printable(text: object) -> str:
    """Return `text` in one line, with control characters, which a terminal would obey, escaped."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def printable_lines(text: str) -> str:
    """Return `text` in its lines, with other control characters escaped."""
    return "\n".join(map(printable, text.split("\n")))


def cells(text: str) -> int:
    """Return how many cells of a terminal a printable text takes: East Asian characters take two, accents none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def age(seconds: float) -> str:
    """Return a time span in its largest unit: `12s`, `3m`, `5h`, `8d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(int(seconds), 0)}s"


def span_of_time(seconds: float) -> str:
    """Return a time span in its two largest units: `5h 12m`, `8d 3h`."""
    units = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
    for size, unit, smaller, smaller_unit in units:
        if seconds >= size:
            rest = int(seconds % size // smaller)
            return f"{int(seconds // size)}{unit}" + (f" {rest}{smaller_unit}" if rest else "")
    return age(seconds)


def duration(microseconds: float) -> str:
    """Return a duration in a unit that fits it: `512 µs`, `1.2 ms`, `3.4 s`."""
    if microseconds < 1000:
        return f"{microseconds:.0f} µs"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.1f} ms"
    return f"{microseconds / 1_000_000:.1f} s"


def table(header: Sequence[str], rows: Sequence[Sequence[Span]], width: int | None, spare: Sequence[str]) -> list[Line]:
    """Return the lines of a table that is `width` characters wide. Without a width all columns are shown in full.

    With a width, columns named in `spare` are left out if all their cells are `-`. Others of them are left out, in the
    order of `spare`, until the table fits. The last column is cut at the width.
    """
    columns = list(range(len(header)))
    sizes = [max([len(name), *(len(row[i][0]) for row in rows)]) for i, name in enumerate(header)]
    if width is not None:
        columns = [i for i in columns if header[i] not in spare or any(row[i][0] != "-" for row in rows)]
        needed = [*sizes[:-1], min(sizes[-1], _LAST)]
        for name in spare:
            if sum(needed[i] + len(GAP) for i in columns) - len(GAP) <= width:
                break
            columns = [i for i in columns if header[i] != name]
    lines = [_line([(name, "head") for name in header], columns, sizes, width)]
    lines += [_line(row, columns, sizes, width) for row in rows]
    return lines


def _line(row: Sequence[Span], columns: list[int], sizes: list[int], width: int | None) -> Line:
    line: Line = []
    room = width
    for i in columns:
        text, style = row[i]
        if i != columns[-1]:
            text = text.ljust(sizes[i]) + GAP
        if room is not None:
            if len(text) > room:
                text = text[: room - 1] + "…" if room else ""
            room -= len(text)
        line.append((text, style))
    return line

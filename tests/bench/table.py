"""`Row` and `Aim`: what was measured beside what was aimed at, and the forms in which it is shown."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from tests.bed import xen

MARK, MARK_END = "<!-- bench -->", "<!-- /bench -->"


class Unit(Enum):
    """What a row's numbers are."""

    SECONDS = "s"
    BYTES = "B"
    PERCENT = "%"
    TIMES = "x"

    def show(self, value: float) -> str:
        """Return `value` as a person wants to read it, with three digits that mean something."""
        match self:
            case Unit.SECONDS if value < 1:
                return f"{_digits(value * 1000)} ms"
            case Unit.SECONDS:
                return f"{_digits(value)} s"
            case Unit.BYTES:
                return f"{value / (1 << 20):.1f} MiB"
            case Unit.PERCENT:
                return f"{value:.2f} %"
            case Unit.TIMES:
                return f"{value:.2f}\N{MULTIPLICATION SIGN}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Aim:
    """What was aimed at: so many times as fast as stock, or less than so much in the row's unit."""

    ratio: float | None = None
    below: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `stock` is None where the stock script has nothing to compare; `note` says how it was measured."""

    name: str
    ours: float
    stock: float | None = None
    unit: Unit = Unit.SECONDS
    aim: Aim | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as fast as stock."""
        return self.stock / self.ours if self.stock is not None else None

    @property
    def met(self) -> bool | None:
        """Whether the aim was met, None where there is none."""
        if self.aim is None:
            return None
        if self.aim.ratio is not None:
            return self.ratio is not None and self.ratio >= self.aim.ratio
        return self.aim.below is not None and self.ours < self.aim.below

    def cells(self) -> tuple[str, ...]:
        """Return the line's columns as text."""
        stock = self.unit.show(self.stock) if self.stock is not None else ""
        ratio = f"{_digits(self.ratio)}\N{MULTIPLICATION SIGN}" if self.ratio is not None else ""
        return self.name, stock, self.unit.show(self.ours), ratio, self._aim()

    def _aim(self) -> str:
        if self.aim is None:
            return ""
        at_least = f"\N{GREATER-THAN OR EQUAL TO} {self.aim.ratio:g}\N{MULTIPLICATION SIGN}" if self.aim.ratio else ""
        text = at_least or f"< {self.unit.show(self.aim.below or 0)}"
        return text if self.met else f"{text} (missed)"

    def fields(self) -> dict[str, Any]:
        """Return the line for programs; times in seconds, memory in bytes."""
        values = dataclasses.asdict(self)
        return values | {"unit": self.unit.value, "ratio": self.ratio, "met": self.met}


HEADINGS = ("", "stock script", "xennetd", "ratio", "aim")


def machine() -> str:
    """Return one line on what this was measured on."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    parts = (
        f"{len(os.sched_getaffinity(0))} cores" + (f" ({model[1]})" if model else ""),
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
        f"xenstored and scripts of {xen.find().bin.parent.name.replace('-', ' ').title()}",
    )
    return ", ".join(parts)


def plain(rows: Sequence[Row]) -> str:
    """Return the table for a terminal, each line's note below the table."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    text = [
        f"{line[0]:{widths[0]}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(line[1:4], widths[1:4], strict=True))
        + f"  {line[4]}".rstrip()
        for line in lines
    ]
    return "\n".join([*text, "", *_notes(rows), machine()])


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for the README."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---|--:|--:|--:|--:|"]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(rows)), "", f"Measured on {machine()}."])


def _notes(rows: Iterable[Row]) -> list[str]:
    return [f"{row.name}: {row.note}" for row in rows if row.note]


def write_readme(rows: Sequence[Row], readme: Path) -> None:
    """Put the table between the README's markers; both are added at its end where it has none."""
    text = readme.read_text()
    block = f"{MARK}\n{markdown(rows)}\n{MARK_END}"
    before, mark, rest = text.partition(MARK)
    _, end, after = rest.partition(MARK_END)
    if mark and not end:
        raise ValueError(f"{readme} has {MARK} without {MARK_END} after it")
    readme.write_text(before + block + after if mark else f"{text.rstrip()}\n\n{block}\n")

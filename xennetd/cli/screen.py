"""Where lines are printed: in colour on a terminal, by rich; as plain text anywhere else, without importing it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable

from xennetd.cli.text import Line

STYLES = {
    "": "",
    "head": "bold",
    "name": "bold",
    "good": "green",
    "waiting": "yellow",
    "bad": "bold red",
    "aside": "dim",
}


def width() -> int | None:
    """Return how wide the terminal is, None when standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def show(lines: Iterable[Line]) -> None:
    """Print lines."""
    if not sys.stdout.isatty():
        sys.stdout.write("".join("".join(text for text, _ in line).rstrip() + "\n" for line in lines))
        sys.stdout.flush()
        return
    from rich.console import Console
    from rich.text import Text

    page = Text()
    for line in lines:
        for text, style in line:
            page.append(text, STYLES[style])
        page.append("\n")
    Console(highlight=False).print(page, soft_wrap=True, end="")

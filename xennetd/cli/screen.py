"""Prints lines: in colour on a terminal, with rich; as plain text elsewhere, without importing rich."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable

from xennetd.cli.spans import Line

STYLES = {  # rich's styles, by the names that spans use
    "": "",
    "head": "bold",
    "name": "bold",
    "good": "green",
    "waiting": "yellow",
    "bad": "bold red",
    "aside": "dim",
}


def width() -> int | None:
    """Return the terminal's width in columns, None if standard output is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def show(lines: Iterable[Line]) -> None:
    """Print lines to standard output."""
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

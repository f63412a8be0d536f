"""Prints lines: in colour on a terminal, with rich; as plain text elsewhere, without importing rich."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xennetd.cli.spans import Line

if TYPE_CHECKING:
    from rich.text import Text

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

    Console(highlight=False).print(coloured(lines), soft_wrap=True, end="")


def coloured(lines: Iterable[Line]) -> Text:
    """Return lines as rich prints them."""
    from rich.text import Text

    page = Text()
    for line in lines:
        for text, style in line:
            page.append(text, STYLES[style])
        page.append("\n")
    return page

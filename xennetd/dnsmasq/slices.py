"""What takes time with many guests, in slices: between two slices the event loop serves everybody else.

No thread is used: one may not be able to start, and it would go on after its task was cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

_UNLINKS = 32
"""How many files are deleted in one slice: they take about a millisecond."""


async def in_slices(items: Iterable[_T], size: int) -> AsyncIterator[_T]:
    """Yield the items, and let the event loop serve others after every `size` items."""
    for count, item in enumerate(items, 1):
        yield item
        if count % size == 0:
            await asyncio.sleep(0)


async def delete(directory: Path) -> None:
    """Delete a directory and all that is in it. What can't be deleted stays."""
    for path, directories, files in os.walk(directory, topdown=False):
        async for name in in_slices(files, _UNLINKS):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(path, name))
        for name in directories:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(path, name))
    with contextlib.suppress(OSError):
        os.rmdir(directory)

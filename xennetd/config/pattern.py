"""Shell-style patterns as fnmatch(3) has them: whether a text matches, and whether any text of a known shape could."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import translate
from functools import lru_cache

_PIECE = re.compile(r"\[!?\]?[^\]]*\]|.", re.DOTALL)
_HEX = "0123456789abcdef"
_WORD = (_HEX, _HEX, _HEX, _HEX)

MAC_SHAPE: Sequence[str] = (_HEX, _HEX, *((":", _HEX, _HEX) * 5))
UUID_SHAPE: Sequence[str] = (*_WORD, *_WORD, *(("-", *_WORD) * 3), "-", *_WORD, *_WORD, *_WORD)
"""For each character of the text, in lower case, what it may be."""


# fnmatch's own cache holds 256 patterns on Python 3.11; a policy with more would compile them all for every vif.
@lru_cache(maxsize=16384)
def _matcher(pattern: str) -> Callable[[str], object]:
    return re.compile(translate(pattern)).fullmatch


def matches(pattern: str, text: str) -> bool:
    """Return whether `text` as a whole, its case respected, matches `pattern`."""
    return _matcher(pattern)(text) is not None


def can_match(pattern: str, shape: Sequence[str]) -> bool:
    """Return whether some text of `shape` matches `pattern`."""
    reached = {0}  # after the pieces so far, how many characters of the text may have been taken
    for piece in _PIECE.findall(pattern):
        if piece == "*":
            reached = set(range(min(reached), len(shape) + 1))
        else:
            reached = {n + 1 for n in reached if n < len(shape) and any(matches(piece, c) for c in shape[n])}
        if not reached:
            return False
    return len(shape) in reached

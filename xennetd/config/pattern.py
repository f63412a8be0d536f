"""Shell-style patterns (fnmatch(3)): whether a text matches, and whether any text of a known shape can match.

A shape holds, for every character of the text in lower case, the characters that are possible there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import translate
from functools import lru_cache

_PIECE = re.compile(r"\[!?\]?[^\]]*\]|.", re.DOTALL)
_HEX = "0123456789abcdef"
_WORD = (_HEX, _HEX, _HEX, _HEX)

MAC_SHAPE: Sequence[str] = (_HEX, _HEX, *((":", _HEX, _HEX) * 5))
"""The shape of a MAC address, `00:16:3e:aa:bb:cc`."""

UUID_SHAPE: Sequence[str] = (*_WORD, *_WORD, *(("-", *_WORD) * 3), "-", *_WORD, *_WORD, *_WORD)
"""The shape of a UUID (RFC 9562)."""


# fnmatch's own cache holds 256 patterns on Python 3.11: a policy with more patterns would compile them for every vif.
@lru_cache(maxsize=16384)
def _matcher(pattern: str) -> Callable[[str], object]:
    return re.compile(translate(pattern)).fullmatch


def matches(pattern: str, text: str) -> bool:
    """Return whether the whole of `text` matches `pattern`. The case of letters matters."""
    return _matcher(pattern)(text) is not None


def can_match(pattern: str, shape: Sequence[str]) -> bool:
    """Return whether some text of `shape` matches `pattern`, which is in lower case."""
    reached = {0}  # the possible numbers of characters that the pieces so far have matched
    for piece in _PIECE.findall(pattern):
        if piece == "*":
            reached = set(range(min(reached), len(shape) + 1))
        else:
            reached = {n + 1 for n in reached if n < len(shape) and any(matches(piece, c) for c in shape[n])}
        if not reached:
            return False
    return len(shape) in reached

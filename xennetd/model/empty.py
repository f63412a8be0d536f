"""The one empty frozenset for what is kept for every vif.

CPython 3.11 makes a new object of 216 bytes for each empty result, such as `frozenset()`. Several for each of 1,000
vifs would take a megabyte: write `frozenset(...) or NONE`.
"""

from __future__ import annotations

from typing import Any

NONE: frozenset[Any] = frozenset()

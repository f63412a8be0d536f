"""What xennetd is known to do wrong in a reload. A change that is marked with a defect must show it, and nothing else.

Who puts a defect right takes its marks in tests/golden/changes.py away, and the defect itself with the last of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Defect:
    """What is wrong, in a sentence, and a pattern of the sentences about broken rules that it explains."""

    says: str
    shows: str

    def explains(self, sentence: str) -> bool:
        """Return whether a broken rule is this defect's doing."""
        return re.search(self.shows, sentence) is not None


_NOT_AS_AFTER_A_START = r"^not (as|there) after a start: "

SETTINGS_KEPT = Defect(
    "the settings of a bridge that stays are said to be removed, and stay",
    rf"{_NOT_AS_AFTER_A_START}sysctl ",
)

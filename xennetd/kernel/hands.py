"""All hands of the kernel, by the type of object that each makes."""

from __future__ import annotations

from typing import Any

from xennetd.kernel.hand import Hand
from xennetd.kernel.host import Kernel
from xennetd.model.ground import GroundObject


def hands(kernel: Kernel) -> dict[type[GroundObject], Hand[Any]]:
    """Return what makes and takes away each type of object that lives in the kernel."""
    return {}

"""What the toolstack is told of a vif, waited for as netback and the hotplug script wait for it."""

from __future__ import annotations

from tests.bed.guest import Bed
from tests.bed.toolstack import Vif


def connected(bed: Bed, vif: Vif, timeout: float = 5.0) -> None:
    """Wait until netback may go on. TimeoutError, with what the toolstack was told instead, if it may not."""
    try:
        bed.toolstack.xs.until(f"{vif.backend}/hotplug-status", "connected", timeout)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {bed.toolstack.xs.get(f'{vif.backend}/hotplug-error')}") from None


def refused(bed: Bed, vif: Vif, timeout: float = 5.0) -> str:
    """Wait for the error, and return its sentence."""
    bed.toolstack.xs.until(f"{vif.backend}/hotplug-status", "error", timeout)
    return bed.toolstack.xs.read(f"{vif.backend}/hotplug-error")

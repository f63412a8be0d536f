"""What policy decided for one vif."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from xennetd.model.vif import VifId


class Mode(StrEnum):
    """How a network takes its guests in."""

    BRIDGE = "bridge"


@dataclass(frozen=True, slots=True)
class Attachment:
    """What one vif must be part of. `mtu` is what the link gets at attach; `warnings` are for people, not errors.

    `network` and `policy` are None where the vif's own `bridge` node decided.
    """

    vif: VifId
    mode: Mode
    bridge: str
    bridge_index: int
    mtu: int
    network: str | None = None
    policy: str | None = None
    warnings: tuple[str, ...] = ()

"""The hands for everything in the kernel that the host must have for its guests."""

from __future__ import annotations

from typing import Any

from xennetd.kernel.bridges import Bridges, HostAddresses
from xennetd.kernel.hand import Hand
from xennetd.kernel.host import Kernel
from xennetd.kernel.settings import Settings
from xennetd.model.ground import (
    Element,
    GroundObject,
    HostAddress,
    OwnBridge,
    ProxyNeighbour,
    Rules,
    Setting,
)


def hands(kernel: Kernel) -> dict[type[GroundObject], Hand[Any]]:
    """Return the hand for each type of object that the kernel has."""
    return {
        OwnBridge: Bridges(kernel.links, kernel.ask),
        HostAddress: HostAddresses(kernel.links, kernel.ask),
        Rules: kernel.firewall,
        Element: kernel.firewall,
        Setting: Settings(kernel.links, kernel.firewall),
        ProxyNeighbour: kernel.proxies,
    }

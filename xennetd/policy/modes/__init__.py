"""The modes of networks. Every mode is a module of this package, and this file alone registers them."""

from __future__ import annotations

from xennetd.config.schema import Fields
from xennetd.model.configuration import Mode, Network
from xennetd.policy.mode import AttachmentRequest, ModeModule
from xennetd.policy.modes.bridge import BRIDGE, BridgeMode
from xennetd.policy.modes.isolated import ISOLATED, IsolatedMode
from xennetd.policy.modes.nat import NAT, NatMode
from xennetd.policy.modes.route import ROUTE, RouteMode

__all__ = [
    "BRIDGE",
    "ISOLATED",
    "MODES",
    "NAT",
    "ROUTE",
    "AttachmentRequest",
    "ModeModule",
    "by_script",
    "keys_of",
    "modes_with",
    "module_of",
]

MODES: dict[str, ModeModule] = {
    module.mode.name: module for module in (BridgeMode(), RouteMode(), NatMode(), IsolatedMode())
}


def module_of(network: Network) -> ModeModule:
    """Return the module of the network's mode."""
    return MODES[network.mode.name]


def by_script(suffix: str) -> ModeModule | None:
    """Return the mode that a hotplug script with this suffix (`route` of `vif-route`) selects, None if it has none."""
    return next((module for module in MODES.values() if module.script == suffix), None)


def keys_of(mode: Mode | None = None) -> Fields:
    """Return the keys of a network of this mode; without `mode`, the keys of all modes."""
    modules = MODES.values() if mode is None else (MODES[mode.name],)
    return {key: field for module in modules for key, field in module.keys.items()}


def modes_with(key: str) -> tuple[str, ...]:
    """Return the names of the modes whose networks can have the key."""
    return tuple(name for name, module in MODES.items() if key in module.keys)

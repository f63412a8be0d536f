"""What policy decided for one vif."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from xennetd.model.ground import GroundObject, IPNetwork
from xennetd.model.link import Neighbour
from xennetd.model.vif import IPInterface, VifId


class Mode(StrEnum):
    """How a network takes its guests in."""

    BRIDGE = "bridge"
    ROUTE = "route"
    NAT = "nat"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True)
class Routing:
    """How a guest is reached that is no bridge's port.

    `gateways` are the host's addresses on the vif; `source` is the preferred source of its IPv4 routes. `destinations`
    are what is routed to it. `settings` are (IP version, key, value) below net.ipvN.conf of the vif. `uplink` names the
    link that leads on from the host.
    """

    uplink: str
    gateways: tuple[IPInterface, ...]
    source: IPv4Address | None
    destinations: tuple[IPNetwork, ...]
    neighbours: frozenset[Neighbour]
    settings: tuple[tuple[int, str, int], ...]


@dataclass(frozen=True, slots=True)
class Attachment:
    """What one vif must be part of: a bridge's port, or routed. `warnings` are for people, not errors.

    `mtu` is what the link gets at attach; None leaves it as it is. `ips` are the guest's addresses and prefixes as far
    as they are known, `place` within which its MAC must be the only one of its kind. `needs` is what the host must have
    for it. `waits_on` are names of links on which all that depends. `network` and `policy` are None where the vif's own
    nodes decided.
    """

    vif: VifId
    mode: Mode
    bridge: str | None = None
    bridge_index: int = 0
    mtu: int | None = None
    routing: Routing | None = None
    ips: tuple[IPNetwork, ...] = ()
    needs: frozenset[GroundObject] = frozenset()
    waits_on: frozenset[str] = frozenset()
    network: str | None = None
    policy: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Where it is attached to, as people and the claims of others name it."""
        if self.bridge is not None:
            return self.bridge
        return f"network {self.network}" if self.network else "the routed guests"

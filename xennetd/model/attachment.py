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


Name = tuple[str, str]
"""What a guest goes by, and where: its MAC and a `place`, its VM's name and a network."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """What one vif must be part of: a bridge's port, or routed. `warnings` are for people, not errors.

    `mtu` is what the link gets at attach; None leaves it as it is. `mac` is the guest's, or what it is to be. `ips` are
    its addresses and prefixes as far as they are known; of what only one guest can have, `held` is what it has: of
    them, and of names. `needs` is what the host must have for it. `waits_on` names the links, and the
    other things, on which all that depends. `network` and `policy` are None where the vif's own nodes decided.
    """

    vif: VifId
    mode: Mode
    bridge: str | None = None
    bridge_index: int = 0
    mtu: int | None = None
    mac: str | None = None
    routing: Routing | None = None
    ips: tuple[IPNetwork, ...] = ()
    held: frozenset[IPNetwork | Name] = frozenset()
    needs: frozenset[GroundObject] = frozenset()
    waits_on: frozenset[str] = frozenset()
    network: str | None = None
    policy: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """What it is attached to, as the audit trail says it."""
        if self.routing is None:
            return self.bridge or "?"
        kind = "a NAT route" if self.mode is Mode.NAT else "a route"
        return f"{kind} via {self.routing.uplink}"

    @property
    def place(self) -> str:
        """Where its MAC must be the only one of its kind, in words."""
        return place(self.bridge, self.network)


def place(bridge: str | None, network: str | None) -> str:
    """Return where a vif is: on a bridge, or among the routed guests of a network or of none."""
    if bridge is not None:
        return f'bridge "{bridge}"'
    return f'network "{network}"' if network is not None else "the routed guests' side"

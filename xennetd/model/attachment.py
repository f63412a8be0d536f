"""What policy decided for one vif."""

from __future__ import annotations

from dataclasses import dataclass

from xennetd.model.ip import IPNetwork
from xennetd.model.objects import HostObject
from xennetd.model.placement import Placement
from xennetd.model.vif import VifId

Name = tuple[str, str]
"""What a guest goes by, and where: its MAC and a `segment`, its VM's name and a network."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which words of policy apply to a vif: the mode, and the network and the policy where these are not None.

    It is known even where the vif can't be attached, or must not be. `bridge` is the name that was asked for.
    """

    mode: str
    network: str | None = None
    policy: str | None = None
    bridge: str | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """What one vif must be part of. `warnings` are for people, not errors.

    `mtu` is what the link gets at attach; None leaves it as it is. `mac` is the guest's, or what it is to be. `ips` are
    its addresses and prefixes as far as they are known. `granted` holds the addresses and names, of those that only one
    guest can have, that this guest has. `needs` is what the host must have for it. `waits_on` names the links, and the
    other things, on which all that depends.
    """

    vif: VifId
    assignment: Assignment
    placement: Placement
    mtu: int | None = None
    mac: str | None = None
    ips: tuple[IPNetwork, ...] = ()
    granted: frozenset[IPNetwork | Name] = frozenset()
    needs: tuple[HostObject, ...] = ()
    waits_on: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()

    @property
    def network(self) -> str | None:
        """The network that it is in, None where the vif's own nodes decided."""
        return self.assignment.network

    @property
    def where(self) -> str:
        """What it is attached to, as the audit trail says it."""
        return self.placement.where

    @property
    def bridge(self) -> str | None:
        """The bridge that its link is a port of."""
        return self.placement.bridge

    @property
    def segment(self) -> str:
        """Where its MAC must be the only one of its kind, in words."""
        return segment(self.bridge, self.network)


def segment(bridge: str | None, network: str | None) -> str:
    """Return the segment that a vif is on: a bridge, or the routed guests' side of a network or of none."""
    if bridge is not None:
        return f'bridge "{bridge}"'
    return f'network "{network}"' if network is not None else "the routed guests' side"

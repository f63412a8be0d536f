"""The decision of policy for one vif: which rule applies, and what the vif must be part of."""

from __future__ import annotations

from msgspec import Struct

from xennetd.model.ip import IPNetwork
from xennetd.model.objects import HostObject
from xennetd.model.placement import Placement
from xennetd.model.vif import VifId

Name = tuple[str, str]
"""A name of a guest, and the scope in which only one guest may have it.

It is (MAC, `segment`), (VM's name, network) or (DNS label, `dns_scope`).
"""


class Assignment(Struct, frozen=True):
    """The words of policy that apply to a vif.

    `network` is None where the vif's own nodes decide, `policy` is None where no rule matches. An assignment is known
    even where the vif can't be attached, or is denied. `bridge` is the bridge's name as the network or the vif gives
    it.
    """

    mode: str
    network: str | None = None
    policy: str | None = None
    bridge: str | None = None


class Attachment(Struct, frozen=True):
    """What one vif must be part of. `warnings` are sentences for people; the vif is attached all the same.

    `mtu` is the MTU that the link gets at attach; None leaves the link's MTU alone. `mac` is the MAC that the guest has
    or is to get. `ips` are the guest's known addresses and prefixes. `granted` holds the addresses and names that this
    guest owns exclusively. `needs` are the host objects that the host must have for this vif. `waits_on` names the
    links, and the other things, whose change may change this attachment.
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
        """The network that the vif is in, None where the vif's own nodes decide."""
        return self.assignment.network

    @property
    def where(self) -> str:
        """The place that the vif is attached to, in the words of the audit trail."""
        return self.placement.where

    @property
    def bridge(self) -> str | None:
        """The name of the bridge that the vif's link is a port of, None for a routed guest."""
        return self.placement.bridge

    @property
    def terms(self) -> tuple[object, ...]:
        """What policy decides. The rest follows from the host: a bridge that is made again has another index."""
        return self.assignment, self.placement.terms, self.mac, self.ips, self.needs

    @property
    def segment(self) -> str:
        """The segment on which the vif's MAC must be unique, in words."""
        return segment(self.bridge, self.network)


def segment(bridge: str | None, network: str | None) -> str:
    """Return the segment that a vif is on, in words: a bridge, or else the routed guests of a network or of none."""
    if bridge is not None:
        return f'bridge "{bridge}"'
    return f'network "{network}"' if network is not None else "the routed guests' side"


def dns_scope(network: str) -> str:
    """Return the scope of the DNS labels of a network's guests, in words."""
    return f'the names of network "{network}"'

"""The contract of a mode's module: what a network of this mode takes, checks, and makes of a vif and of the host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xennetd.config.schema import NETWORK_KEYS, Fields
from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Mode, Network, Policy, Rule
from xennetd.model.link import HostView, Link
from xennetd.model.objects import HostObject, Ruleset
from xennetd.model.vif import Vif
from xennetd.policy.addresses import OtherGuests
from xennetd.policy.host_notes import HostNotes
from xennetd.render.nft_ruleset import NetworkRules

if TYPE_CHECKING:
    from xennetd.policy.network_reader import NetworkReader


@dataclass(frozen=True, slots=True)
class Request:
    """One vif that asks for its place. `rule` and `network` are None where its own nodes decide.

    `ruleset` is the whole filter of the policy, which routed guests need.
    """

    policy: Policy
    vif: Vif
    rule: Rule | None
    network: Network | None
    host: HostView
    others: OtherGuests
    ruleset: Ruleset


class ModeModule(ABC):
    """What one mode does. `keys` are those of `[network.X]` besides `mode`.

    `script` is the suffix of the hotplug scripts (`vif-route`, `vif-xennetd-route`) that ask for this mode without a
    network; None: no script does. `needs_subnets`: a network must have a subnet.
    """

    mode: Mode
    keys: Fields
    script: str | None = None
    needs_subnets: bool = False

    @abstractmethod
    def attach(self, request: Request, assignment: Assignment) -> Attachment:
        """Return what a vif must be part of. Raises XennetdError where that can't be had."""

    @abstractmethod
    def keeps(self, request: Request, link: Link, master: str | None) -> bool:
        """Return whether a link, a port of `master`, is where this mode has it, as far as the link itself tells."""

    @abstractmethod
    def unused_nodes(self, network: Network | None) -> frozenset[str]:
        """Return the backend's nodes that nothing depends on: a fault of theirs is a warning, as for stock scripts."""

    def bridge(self, request: Request) -> str | None:
        """Return the name of the bridge that a vif is to be a port of, None if of none."""
        network = request.network
        return (network.bridge or None) if network is not None else None

    def host_objects(self, network: Network, host: HostView) -> list[HostObject]:
        """Return what the host must have for a network, whichever guests there are in it, besides the filter."""
        return []

    def firewall(self, network: Network) -> NetworkRules:
        """Return the network's part of the filter."""
        return NetworkRules()

    def filtered(self) -> bool:
        """Return whether a network of this mode needs nftables."""
        return self.mode.own_bridge or self.mode.routed

    def check(self, reader: NetworkReader, network: Network) -> None:  # noqa: B027 # most have nothing to check
        """Report what is wrong with a network as a whole."""

    def remarks(self, network: Network, host: HostNotes) -> Iterator[str]:
        """Yield what an administrator should know of a valid network."""
        return iter(())


def keys(*names: str) -> Fields:
    """Return those of the common keys that a mode takes."""
    return {name: NETWORK_KEYS[name] for name in names}

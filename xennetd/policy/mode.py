"""The contract of a mode's module: its networks' keys and checks, their host objects, and the attachment of a vif."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from xennetd.config.lines import KeyPath
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


class AttachmentRequest(Struct, frozen=True):
    """The input for the attachment of one vif.

    `rule` is the rule that applies to the vif, `network` the rule's network; both are None where the vif's own nodes
    decide. `ruleset` is the whole filter of the policy, which routed guests need.
    """

    policy: Policy
    vif: Vif
    rule: Rule | None
    network: Network | None
    host: HostView
    others: OtherGuests
    ruleset: Ruleset


class Remark(NamedTuple):
    """What an administrator should know of a valid network. `setting` is the path of the key in the network's table."""

    sentence: str
    setting: KeyPath = ()


class ModeModule(ABC):
    """One mode of networks.

    `keys` are the keys of `[network.X]` besides `mode`. `script` is the suffix of the hotplug scripts (`vif-route`,
    `vif-xennetd-route`) that select this mode for a vif without a network; None if no script selects it.
    `needs_subnets` says that a network must have a subnet.
    """

    mode: Mode
    keys: Fields
    script: str | None = None
    needs_subnets: bool = False

    @abstractmethod
    def attach(self, request: AttachmentRequest, assignment: Assignment) -> Attachment:
        """Return what the vif must be part of. Raises XennetdError if the vif can't be attached."""

    @abstractmethod
    def keeps(self, request: AttachmentRequest, link: Link, master: str | None) -> bool:
        """Return whether a link is where this mode would put it, judged by the link's own properties alone.

        `master` is the name of the bridge that the link is a port of. A guest whose link is in place keeps its network
        even where the host has changed so that `attach` would fail now.
        """

    @abstractmethod
    def unused_nodes(self, network: Network | None) -> frozenset[str]:
        """Return the backend nodes that this mode ignores. A fault in one is a warning, as for stock scripts."""

    def bridge(self, request: AttachmentRequest) -> str | None:
        """Return the name of the bridge that the vif must be a port of, None for a routed guest."""
        network = request.network
        return (network.bridge or None) if network is not None else None

    def host_objects(self, network: Network, host: HostView) -> list[HostObject]:
        """Return the host objects that the network needs, besides the filter and apart from its guests' needs."""
        return []

    def firewall(self, network: Network) -> NetworkRules:
        """Return the network's rules of the filter."""
        return NetworkRules()

    def filtered(self) -> bool:
        """Return whether networks of this mode need nftables. One that has a `firewall` does."""
        return self.mode.own_bridge or self.mode.routed

    def check(self, reader: NetworkReader, network: Network) -> None:  # noqa: B027 # most modes have nothing to check
        """Report faults of a network that no single key shows. `reader` takes them (`wrong`, `missing`)."""

    def remarks(self, network: Network, host: HostNotes) -> Iterator[Remark]:
        """Yield what an administrator should know of a valid network. These are not errors."""
        return iter(())


_OF_EVERY_MODE = ("tx_checksum",)


def keys(*names: str) -> Fields:
    """Return the fields of these common keys of networks, and of those that networks of every mode can have."""
    return {name: NETWORK_KEYS[name] for name in (*names, *_OF_EVERY_MODE)}

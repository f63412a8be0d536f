"""The host object that says whether a link's driver computes the checksums of what the host sends through the link."""

from __future__ import annotations

from dataclasses import dataclass

from xennetd.model.objects import Key, Keys, link_key
from xennetd.model.vif import VifId


@dataclass(frozen=True, slots=True)
class Offload:
    """The tx checksum offload of a NIC, or of a guest's interface `vif`, on or off.

    While it is on, packets of the host and of other guests leave through the link without a checksum. `link` is the
    link's name, a guest's once it is attached: the link is found by `vif`, whatever its name is. Removing an Offload
    restores what was on before xennetd changed it (`model.marks.offload_tag`).
    """

    link: str
    tx_checksum: bool
    vif: VifId | None = None

    @property
    def key(self) -> Key:
        """The offload, and the vif or the link."""
        return Key("offload", f"tx checksum of {self.vif or self.link}")

    @property
    def requires(self) -> Keys:
        """The link, in case it is one of the topology."""
        return frozenset({link_key(self.link)})

    def describe(self) -> str:
        """Return the ethtool(8) command that does the same."""
        return f"ethtool -K {self.link} tx {'on' if self.tx_checksum else 'off'}"

    def describe_change(self, was: object) -> str:
        """Return the same command: it is a change always, since every link has this offload on or off."""
        return self.describe()

    def describe_removal(self) -> str:
        """Return the command for the other state. xennetd has changed it, else there is nothing to remove."""
        return f"ethtool -K {self.link} tx {'off' if self.tx_checksum else 'on'}"

"""Steps: what is to be done to one link, each with the one line that plan, log, audit and tests show.

A Step names its link by index, so that it can only ever hit the link that was looked at; the name is for people.
Every Step is idempotent.
"""

from __future__ import annotations

from dataclasses import dataclass

from xennetd.model.vif import IPInterface


@dataclass(frozen=True, slots=True)
class SetDown:
    """Take the link down: no frame passes it."""

    index: int
    name: str

    def describe(self) -> str:
        return f"ip link set dev {self.name} down"


@dataclass(frozen=True, slots=True)
class SetUp:
    """Bring the link up. Runs only when all Steps before it have succeeded."""

    index: int
    name: str

    def describe(self) -> str:
        return f"ip link set dev {self.name} up"


@dataclass(frozen=True, slots=True)
class Rename:
    """Give the link, which must be down, another name."""

    index: int
    name: str
    to: str

    def describe(self) -> str:
        return f"ip link set dev {self.name} name {self.to}"


@dataclass(frozen=True, slots=True)
class SetAddress:
    """Set the link's MAC address."""

    index: int
    name: str
    address: str

    def describe(self) -> str:
        return f"ip link set dev {self.name} address {self.address}"


@dataclass(frozen=True, slots=True)
class SetAddrGenMode:
    """Keep the kernel from making an IPv6 link-local address when the link comes up (IN6_ADDR_GEN_MODE_NONE)."""

    index: int
    name: str

    def describe(self) -> str:
        return f"ip link set dev {self.name} addrgenmode none"


@dataclass(frozen=True, slots=True)
class DeleteAddress:
    """Take an IP address off the link."""

    index: int
    name: str
    address: IPInterface

    def describe(self) -> str:
        return f"ip addr del {self.address} dev {self.name}"


@dataclass(frozen=True, slots=True)
class SetMtu:
    """Set the link's MTU, in bytes.

    Where it is not `needed`, the kernel may refuse it: netback takes no more than 1500 for a frontend without
    scatter-gather (xenvif_change_mtu() of drivers/net/xen-netback/interface.c).
    """

    index: int
    name: str
    mtu: int
    needed: bool = True

    def describe(self) -> str:
        return f"ip link set dev {self.name} mtu {self.mtu}"


@dataclass(frozen=True, slots=True)
class SetMaster:
    """Make the link a port of the bridge with index `master`; 0 takes it out of the one it is in."""

    index: int
    name: str
    master: int
    master_name: str = ""

    def describe(self) -> str:
        if not self.master:
            return f"ip link set dev {self.name} nomaster"
        return f"ip link set dev {self.name} master {self.master_name}"


Step = SetDown | SetUp | Rename | SetAddress | SetAddrGenMode | DeleteAddress | SetMtu | SetMaster

"""The host's own topology as the configuration has it: NICs, bonds, VLANs, bridges, VXLANs and dummies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from xennetd.model.ip import IPInterface

LinkKind = Literal["nic", "bond", "vlan", "bridge", "vxlan", "dummy"]

MADE = frozenset({"bond", "vlan", "bridge", "vxlan", "dummy"})
"""The kinds of links that xennetd makes. A NIC exists or not."""

ON_A_PARENT = frozenset({"vlan", "vxlan"})
"""The kinds of links that are on one other link."""

SettingValue = int | str | tuple[str, ...]
"""A value as the kernel has it: a number, the name of a link, or IPv4 addresses."""

Settings = tuple[tuple[str, SettingValue], ...]
"""Settings of one kind of link (`model.link_settings.SETTINGS`), sorted by name. A name occurs once."""


@dataclass(frozen=True, slots=True)
class TopologyLink:
    """`[KIND.NAME]`: one link of the host. What is None or missing in `settings` is left as it is.

    `ports` are the names of the links that a bond or a bridge has as ports. `parent` is the name of the link that a
    VLAN is on, or by which a VXLAN reaches its peers: without one a route decides. `mac` is the link's MAC; of a NIC it
    is the permanent MAC by which the NIC is found, whatever its name is. `path` is the name of a NIC's bus device
    (`0000:01:00.0`). `mtu` is in bytes. `vlan_mtu` is the largest MTU of VLANs on a NIC that can't take four bytes more
    than its own. `tx_checksum` says whether a NIC computes the checksums of what the host sends
    (`model.offload.Offload`). `addresses` are the host's addresses on the link; with an empty tuple the host is silent
    there. With `adopts` the link takes over what the host has of addresses, routes and rules on the links that it is
    built on.
    """

    kind: LinkKind
    name: str
    ports: tuple[str, ...] = ()
    parent: str = ""
    settings: Settings = ()
    mac: str | None = None
    path: str | None = None
    mtu: int | None = None
    vlan_mtu: int | None = None
    tx_checksum: bool | None = None
    addresses: tuple[IPInterface, ...] | None = None
    adopts: bool = False

    @property
    def title(self) -> str:
        """The link's table in the configuration, without brackets."""
        return f'{self.kind}."{self.name}"' if "." in self.name else f"{self.kind}.{self.name}"

    @property
    def below(self) -> tuple[str, ...]:
        """The names of the links that this link is built on."""
        return (self.parent,) if self.parent else self.ports


@dataclass(frozen=True, slots=True)
class Topology:
    """All links that the configuration names. Every other link is left alone.

    What a VXLAN is on is below the VXLAN, and not below what is built on it: it is another network.
    """

    links: tuple[TopologyLink, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.links)

    def __iter__(self) -> Iterator[TopologyLink]:
        return iter(self.links)

    def link(self, name: str) -> TopologyLink | None:
        """Return the link with this name, None if the configuration names none."""
        return next((link for link in self.links if link.name == name), None)

    def below(self, link: TopologyLink) -> tuple[str, ...]:
        """Return the names of all links that a link is built on, directly or not, the nearest first."""
        found: dict[str, None] = {}
        waiting = list(link.below)
        while waiting:
            name = waiting.pop(0)
            if name not in found:
                found[name] = None
                lower = self.link(name)
                waiting += lower.below if lower is not None and lower.kind != "vxlan" else ()
        return tuple(found)

    def base(self, link: TopologyLink) -> str | None:
        """Return the name of the first NIC that a link is built on, None without one."""
        lower = (self.link(name) for name in self.below(link))
        nics = (name for name, each in zip(self.below(link), lower, strict=True) if each is None or each.kind == "nic")
        return next(nics, None)

    @property
    def names(self) -> frozenset[str]:
        """The names of all links, and of the links that they are built on."""
        return frozenset(name for link in self.links for name in (link.name, *link.below))

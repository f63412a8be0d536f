"""The policy as frozen values: the content of the configuration files, checked and with all defaults filled in.

A network's *own* bridge is one that xennetd makes for the network and removes with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Literal

from xennetd.model.link import is_link_name
from xennetd.model.objects import Ruleset
from xennetd.model.places import CONTROL
from xennetd.model.topology import Topology
from xennetd.model.value import replace


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """`[daemon]`.

    `apply` says whether `xennetctl apply` alone puts the topology into force, or each reload, too. `scripts` are
    shell-style patterns of the basename of a hotplug script: xennetd manages the backends whose script matches one.
    `hooks` runs the `vif-post.d/*.hook` files as the stock scripts do. `devd` serves a driver domain in the place of
    `xl devd`. `stand_in` accepts a link's alternative name `vif-D-N` as a substitute for netback's parent device, for
    tests and the sandbox only.
    """

    mode: Literal["enforce", "observe"] = "enforce"
    control: str = CONTROL
    apply: Literal["by-hand", "on-reload"] = "by-hand"
    scripts: tuple[str, ...] = ("vif-xennetd*",)
    hooks: bool = False
    devd: bool = False
    stand_in: bool = False


@dataclass(frozen=True, slots=True)
class Mode:
    """The properties of a mode that code outside of the mode's module (`policy.modes`) needs.

    `own_bridge`: a network of this mode has its own bridge. `routed`: the guests' links are no bridge's ports.
    `way_out`: the guests can reach destinations beyond the host.
    """

    name: str
    own_bridge: bool = False
    routed: bool = False
    way_out: bool = True

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Forward:
    """One element of a network's `forward`: packets to the host's `port` go to `to_port` of a guest.

    `to` is an address within the network, or the name of a VM. For a VM the port is forwarded in every IP version in
    which the network has a subnet.
    """

    proto: Literal["tcp", "udp"]
    port: int
    to: str | IPv4Address | IPv6Address
    to_port: int


@dataclass(frozen=True, slots=True)
class Network:
    """`[network.NAME]`: a network that guests are attached to.

    `bridge` is empty in mode route; in modes nat and isolated it names the network's own bridge. With `uplink` None the
    host's default route decides. Without `dhcp`, `domain` is empty and `ra` is "off". `nptv6` has the prefix length of
    `subnet6`. `gateway` and `proxy` apply to mode route only. `tx_checksum` None leaves the guests'
    interfaces alone (`model.offload.Offload`).
    """

    name: str
    mode: Mode
    bridge: str = ""
    subnet4: IPv4Network | None = None
    subnet6: IPv6Network | None = None
    uplink: str | None = None
    dhcp: bool = False
    ra: Literal["slaac", "stateful", "off"] = "off"
    domain: str = ""
    nat66: bool = False
    nptv6: IPv6Network | None = None
    forwards: tuple[Forward, ...] = ()
    gateway: Literal["uplink", "link-local"] = "uplink"
    proxy: bool = False
    tx_checksum: bool | None = None

    @property
    def subnets(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The network's subnets, the IPv4 subnet first."""
        return tuple(subnet for subnet in (self.subnet4, self.subnet6) if subnet is not None)

    @property
    def gateways(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """The host's addresses in the network's subnets, the IPv4 address first."""
        return tuple(gateway for gateway in (self.gateway4, self.gateway6) if gateway is not None)

    @property
    def own(self) -> bool:
        """Whether the network has its own bridge."""
        return self.mode.own_bridge

    @property
    def served_link(self) -> str:
        """The name of the link that xennetd makes for the network, on whose addresses dnsmasq serves; empty if none.

        For a network with its own bridge this link is the bridge. For a network of mode route with `dhcp` the link is a
        bridge without ports, with the addresses that the guests' links lack (dnsmasq(8), --bridge-interface):
        the gateways' addresses and an IPv6 link-local address. Other networks have no such link.
        """
        if self.own or not self.mode.routed or not self.dhcp:
            return self.bridge if self.own else ""
        name = f"xn-{self.name}"
        if is_link_name(name):
            return name
        return f"xn-{hashlib.blake2s(self.name.encode(), digest_size=4).hexdigest()}"

    def without_ipv6(self) -> Network:
        """Return the part of the network that a kernel without IPv6 can provide."""
        if self.subnet6 is None:
            return self
        forwards = tuple(forward for forward in self.forwards if not isinstance(forward.to, IPv6Address))
        return replace(self, subnet6=None, ra="off", nat66=False, nptv6=None, forwards=forwards)

    @property
    def gateway4(self) -> IPv4Interface | None:
        """The first host address of the IPv4 subnet, None without one."""
        return IPv4Interface((self.subnet4[1], self.subnet4.prefixlen)) if self.subnet4 is not None else None

    @property
    def gateway6(self) -> IPv6Interface | None:
        """The first host address of the IPv6 subnet, None without one."""
        return IPv6Interface((self.subnet6[1], self.subnet6.prefixlen)) if self.subnet6 is not None else None


@dataclass(frozen=True, slots=True)
class Match:
    """The conditions of a rule. A condition that is None always holds; a vif matches if all conditions hold.

    Texts are shell-style patterns (fnmatch(3)). `script` is compared with the script's basename, `bridge` with the
    vif's own `bridge` node. `mac` and `uuid` are in lower case, because they are compared without regard to case.
    """

    vm: str | None = None
    uuid: str | None = None
    mac: str | None = None
    bridge: str | None = None
    script: str | None = None
    type: str | None = None
    devid: int | None = None
    domid: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """`[[policy]]`: either the `network` that a matching vif is attached to, or the reason (`deny`) why it gets none.

    `ips` are the addresses that the vif has in the network, whatever its `vif=` line says; an empty tuple fixes none.
    `stable_mac` gives the vif the same MAC at every start of its domain. `ignores_vlan` attaches a vif with `vlan=` all
    the same, without a VLAN. `flags` are the bridge port's flags
    (`plan.properties`) that the rule sets. `tx_checksum` None leaves it to the network's.
    """

    name: str
    match: Match
    network: Network | None = None
    deny: str | None = None
    ips: tuple[IPv4Address | IPv6Address, ...] = ()
    stable_mac: bool = False
    ignores_vlan: bool = False
    flags: tuple[tuple[str, bool], ...] = ()
    tx_checksum: bool | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole configuration. The first rule that matches a vif applies to it. `files` are the files that were read.

    `ruleset` is the filter that follows from the networks (`policy.network_needs.ruleset`), None until it is computed.
    `port_flags` are the bridge port's flags that policy decides for every guest: those that any rule names. All other
    flags are left as they are. `topology` are the host's own links, which only `xennetctl apply` puts into force.
    """

    daemon: DaemonConfig = DaemonConfig()
    networks: Mapping[str, Network] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    files: tuple[str, ...] = ()
    ruleset: Ruleset | None = field(default=None, compare=False)
    port_flags: frozenset[str] = frozenset()
    topology: Topology = field(default_factory=Topology)

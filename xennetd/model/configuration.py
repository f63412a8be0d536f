"""The policy as frozen values: what the configuration files say, checked and complete."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Literal

from xennetd.model.link import is_link_name
from xennetd.model.objects import Ruleset
from xennetd.model.places import CONTROL


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """`[daemon]`. `scripts` are shell-style patterns of a hotplug script's basename; a backend that names one is ours.

    `hooks` runs the `vif-post.d/*.hook` files as the stock scripts do. `devd` serves a driver domain in the place of
    `xl devd`. `stand_in` takes a link's alternative name `vif-D-N` for netback's parent device: for tests and the
    sandbox only.
    """

    mode: Literal["enforce", "observe"] = "enforce"
    control: str = CONTROL
    scripts: tuple[str, ...] = ("vif-xennetd*",)
    hooks: bool = False
    devd: bool = False
    stand_in: bool = False


@dataclass(frozen=True, slots=True)
class Mode:
    """How a network takes its guests in, as far as others than its own module (`policy.modes`) must know.

    `own_bridge`: a network's bridge is ours, made for it and taken away with it. `routed`: guests are no bridge's
    ports. `way_out`: a network leads on from the host.
    """

    name: str
    own_bridge: bool = False
    routed: bool = False
    way_out: bool = True

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Forward:
    """One of a network's `forward`: what comes to the host's `port` goes to `to_port` of a guest.

    `to` is an address within the network, or the name of a VM: then the port is forwarded in each IP version that the
    network has a subnet of.
    """

    proto: Literal["tcp", "udp"]
    port: int
    to: str | IPv4Address | IPv6Address
    to_port: int


@dataclass(frozen=True, slots=True)
class Network:
    """`[network.NAME]`: what guests are attached to.

    `bridge` is empty in mode route, in nat and isolated it is the name of our own bridge. `uplink` None: the host's
    default route decides. `domain` is empty without `dhcp`, `ra` "off". `nptv6` is as long as `subnet6`. `gateway` and
    `proxy` are of mode route.
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

    @property
    def subnets(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Its subnets, the IPv4 one first."""
        return tuple(subnet for subnet in (self.subnet4, self.subnet6) if subnet is not None)

    @property
    def gateways(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """The host's addresses in its subnets, the IPv4 one first."""
        return tuple(gateway for gateway in (self.gateway4, self.gateway6) if gateway is not None)

    @property
    def own(self) -> bool:
        """Whether its bridge is ours: made for it, and taken away with it."""
        return self.mode.own_bridge

    @property
    def served_link(self) -> str:
        """The link of ours that is made for it, whose addresses dnsmasq serves: its own bridge; empty if there is none.

        In mode route there is none that guests are in. With dhcp there is then one without ports that has what the
        guests' interfaces lack (dnsmasq(8), --bridge-interface): the gateway addresses, and an IPv6 link-local one.
        """
        if self.own or not self.mode.routed or not self.dhcp:
            return self.bridge if self.own else ""
        name = f"xn-{self.name}"
        if is_link_name(name):
            return name
        return f"xn-{hashlib.blake2s(self.name.encode(), digest_size=4).hexdigest()}"

    def without_ipv6(self) -> Network:
        """Return the network as it can be had on a kernel without IPv6."""
        if self.subnet6 is None:
            return self
        forwards = tuple(each for each in self.forwards if not isinstance(each.to, IPv6Address))
        return replace(self, subnet6=None, ra="off", nat66=False, nptv6=None, forwards=forwards)

    @property
    def gateway4(self) -> IPv4Interface | None:
        """The first host address of the IPv4 subnet."""
        return IPv4Interface((self.subnet4[1], self.subnet4.prefixlen)) if self.subnet4 is not None else None

    @property
    def gateway6(self) -> IPv6Interface | None:
        """The first host address of the IPv6 subnet."""
        return IPv6Interface((self.subnet6[1], self.subnet6.prefixlen)) if self.subnet6 is not None else None


@dataclass(frozen=True, slots=True)
class Match:
    """The conditions of a rule; all that are given must hold, and none given holds for every vif.

    Texts are shell-style patterns (fnmatch(3)): `script` of the script's basename, `bridge` of the vif's own `bridge`
    node, `mac` and `uuid` in lower case because they are compared without regard to case.
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
    """`[[policy]]`: either the network that a matching vif is attached to, or why it gets none.

    `ips` are the addresses that the vif has in the network whatever its `vif=` line says; empty: not fixed here.
    `stable_mac`: its MAC is to be the same whenever the domain starts. `flags` are those of a bridge's port
    (`plan.properties`) that are not as by default.
    """

    name: str
    match: Match
    network: Network | None = None
    deny: str | None = None
    ips: tuple[IPv4Address | IPv6Address, ...] = ()
    stable_mac: bool = False
    flags: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """All that the configuration says. The first rule that matches wins; `files` are what it was read from.

    `ruleset` is the filter that follows from the networks (`policy.networks.ruleset`), None where nobody has asked.
    """

    daemon: DaemonConfig = DaemonConfig()
    networks: Mapping[str, Network] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    files: tuple[str, ...] = ()
    ruleset: Ruleset | None = field(default=None, compare=False)

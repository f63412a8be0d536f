"""Host objects: what the host itself must have for its guests and networks. The kernel's copies carry xennetd's mark.

A host object has a *key*, which identifies it in the kernel, and a *value*, which is its desired content. Two objects
with one key and different values are a conflict: two owners want the same thing in two ways. `requires` holds the keys
of the objects that must exist first; a key that no owner wants is ignored. `requires` is no part of the value.
`describe` returns the line that plan, log, audit and tests show, in the words of the command that would do the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from xennetd.model.ip import IPAddress, IPInterface
from xennetd.model.marks import BRIDGE_GROUP, TABLE


class Key(NamedTuple):
    """The identity of a host object in the kernel. `kind` selects its adapter; `name` is unique within the kind."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


Keys = frozenset[Key]
NO_KEYS: Keys = frozenset()

RULESET = Key("table", f"inet {TABLE}")
"""The key of the `Ruleset`. The host has at most one."""


class HostObject(Protocol):
    """The contract of a host object, which is a frozen value. An adapter (`model.adapter`) makes it on the host."""

    @property
    def key(self) -> Key:
        """The object's identity in the kernel."""
        ...

    @property
    def requires(self) -> Keys:
        """The keys of the objects that must exist first."""
        ...

    def describe(self) -> str:
        """Return the line that plan, log, audit and tests show."""
        ...


@runtime_checkable
class DescribesChange(Protocol):
    """A host object that has words of its own for a change in place."""

    def describe_change(self, was: object) -> str:
        """Return the line about the change from `was`, an object with the same key, to this object."""
        ...


@runtime_checkable
class DescribesRemoval(Protocol):
    """A host object that has words of its own for its removal."""

    def describe_removal(self) -> str:
        """Return the line about the removal."""
        ...


def bridge_key(name: str) -> Key:
    """Return the key of the bridge with this link name."""
    return Key("bridge", name)


def link_key(name: str) -> Key:
    """Return the key of the link of the host's own topology with this name."""
    return Key("link", name)


def sysctl_key(version: int, link: str, key: str) -> Key:
    """Return the key of the sysctl `key` of a link, for IP version 4 or 6."""
    return Key("sysctl", f"net/ipv{version}/conf/{link}/{key}")


def dnsmasq_key(instance: str) -> Key:
    """Return the key of the dnsmasq instance with this name."""
    return Key("dnsmasq", instance)


@dataclass(frozen=True, slots=True)
class ManagedBridge:
    """A bridge that xennetd makes, marked by BRIDGE_GROUP.

    `address` is a MAC of the bridge's own; without it the bridge would take the lowest MAC of its ports. `up` says
    whether the bridge is up; an observed bridge may be down. `renamed` is the name that somebody else has given to an
    observed bridge. Its MAC, which follows from `name`, tells which bridge it is. `marked` is False for an observed
    bridge whose mark somebody has taken. `serves` says that guests' ports are up on an observed bridge. `others` holds
    the names of all bridges that the policy wants: a bridge with one of these names is no renamed one.
    """

    name: str
    address: str
    up: bool = True
    renamed: str | None = None
    marked: bool = True
    serves: bool = field(default=False, compare=False)
    others: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def key(self) -> Key:
        """The bridge, by its link name."""
        return bridge_key(self.name)

    @property
    def requires(self) -> Keys:
        """No key: a bridge needs no other host object."""
        return NO_KEYS

    def describe(self) -> str:
        """Return the ip(8) command that makes the bridge."""
        return f"ip link add {self.name} address {self.address} group {BRIDGE_GROUP} type bridge; set up"


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address of the host on a bridge that xennetd made, or on a link of the topology, with its prefix length.

    `marked`: the address carries ADDRESS_PROTOCOL, where the kernel keeps it. An observed address may lack the mark.
    """

    link: str
    address: IPInterface
    marked: bool = True

    @property
    def key(self) -> Key:
        """The address with its prefix length, and the link."""
        return Key("address", f"{self.address} on {self.link}")

    @property
    def requires(self) -> Keys:
        """The link, and for an IPv6 address the sysctl that switches IPv6 on there."""
        needed = {bridge_key(self.link), link_key(self.link)}
        if self.address.version == 6:
            needed.add(sysctl_key(6, self.link, "disable_ipv6"))
        return frozenset(needed)

    def describe(self) -> str:
        """Return the ip(8) command that adds the address."""
        return f"ip addr add {self.address} dev {self.link}"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A value of net.ipv4.conf.LINK or net.ipv6.conf.LINK; `link` may be `all`.

    Removing a Sysctl restores the value from before xennetd set it. `unless` lists other values that xennetd accepts
    and leaves unchanged. With `unless`, a link without this setting is no error either. `after` holds the keys of the
    objects that must be in force before this value is set. `marked`: a link that forwards only because of xennetd is
    marked so (GUEST_ONLY_LINKS), and no other link is. An observed sysctl may lack that.
    """

    version: int
    link: str
    setting: str
    value: int
    after: Keys = field(default=NO_KEYS, compare=False)
    unless: tuple[int, ...] = field(default=(), compare=False)
    marked: bool = True

    @property
    def path(self) -> str:
        """The path of the sysctl's file, relative to /proc/sys."""
        return f"net/ipv{self.version}/conf/{self.link}/{self.setting}"

    @property
    def key(self) -> Key:
        """The sysctl's file."""
        return Key("sysctl", self.path)

    @property
    def requires(self) -> Keys:
        """`after`, and the link in case it is a bridge that xennetd makes."""
        return self.after | {bridge_key(self.link)}

    def describe(self) -> str:
        """Return the assignment as sysctl(8) takes it, with the path's slashes."""
        return f"sysctl {self.path}={self.value}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain of xennetd's nftables table, and its rules.

    Rules are in nft(8)'s language, without the leading `add rule`. `hook` is nft's chain specification, for example
    `type nat hook postrouting priority srcnat`.
    """

    name: str
    hook: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All chains of xennetd's table. They change together, in one transaction. The host has at most one Ruleset."""

    chains: tuple[Chain, ...]

    @property
    def key(self) -> Key:
        """The key of xennetd's table, the same for every Ruleset."""
        return RULESET

    @property
    def requires(self) -> Keys:
        """No key: the rules match links by name or by group, so no link has to exist yet."""
        return NO_KEYS

    def describe(self) -> str:
        """Return the table's name and the number of rules and chains; the rules themselves are too long for a line."""
        count = sum(len(chain.rules) for chain in self.chains)
        return f"nft table inet {TABLE}: {count} rules in {len(self.chains)} chains"


@dataclass(frozen=True, slots=True)
class SetElement:
    """An element of a set or of a map of xennetd's table. `value` is empty for a set.

    `parts` and `value` hold the fields of a concatenation, as nft(8) writes them.
    """

    set: str
    parts: tuple[str, ...]
    value: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """The set and the element's parts; a map's value is no part of the key."""
        return Key("element", f"{self.set} {{ {' . '.join(self.parts)} }}")

    @property
    def requires(self) -> Keys:
        """The table, which declares the sets and maps."""
        return frozenset({RULESET})

    @property
    def text(self) -> str:
        """The element as nft(8) writes it, without braces."""
        return " . ".join(self.parts) + (" : " + " . ".join(self.value) if self.value else "")

    def describe(self) -> str:
        """Return the nft(8) command that adds the element."""
        return f"nft add element inet {TABLE} {self.set} {{ {self.text} }}"


@dataclass(frozen=True, slots=True)
class DhcpService:
    """One dnsmasq instance, and its configuration file's text (dnsmasq(8)).

    `instance` contains the name of the link that dnsmasq serves, not the network's: so dnsmasq runs on when the network
    is renamed. `network` is the network's name, for messages only.
    """

    instance: str
    configuration: str
    link: str = field(default="", compare=False)
    network: str = field(default="", compare=False)

    @property
    def key(self) -> Key:
        """The dnsmasq instance."""
        return dnsmasq_key(self.instance)

    @property
    def requires(self) -> Keys:
        """The bridge that dnsmasq serves."""
        return frozenset({bridge_key(self.link)})

    def describe(self) -> str:
        """Return the instance, and the network's name if it is known."""
        return f"dnsmasq {self.instance}" + (f" for network {self.network}" if self.network else "")


@dataclass(frozen=True, slots=True)
class DhcpHost:
    """The addresses and the DNS name that a dnsmasq instance gives to one guest, which it knows by its MAC.

    `name` is the full name (`web-1.lab.internal`), None for a guest without one.
    """

    instance: str
    mac: str
    addresses: tuple[IPAddress, ...]
    name: str | None

    @property
    def key(self) -> Key:
        """The MAC and the dnsmasq instance."""
        return Key("dhcp host", f"{self.mac} of {self.instance}")

    @property
    def requires(self) -> Keys:
        """The dnsmasq instance."""
        return frozenset({dnsmasq_key(self.instance)})

    def describe(self) -> str:
        """Return the instance, the guest's MAC, its addresses and its name."""
        addresses = ", ".join(map(str, self.addresses))
        return f"dnsmasq {self.instance}: {self.mac} is {addresses}{f' {self.name}' if self.name else ''}"


@dataclass(frozen=True, slots=True)
class ProxyNeighbour:
    """An address that the host answers for on a link: proxy ARP or proxy NDP. Its mark is the protocol ROUTE_PROTOCOL.

    `after` holds the keys of the objects that must be in force before the host answers.
    """

    link: str
    address: IPAddress
    after: Keys = field(default=NO_KEYS, compare=False)

    @property
    def key(self) -> Key:
        """The address and the link."""
        return Key("proxy", f"{self.address} on {self.link}")

    @property
    def requires(self) -> Keys:
        """`after`; the link is an uplink, which xennetd does not make."""
        return self.after

    def describe(self) -> str:
        """Return the ip(8) command that adds the entry."""
        return f"ip neigh add proxy {self.address} dev {self.link}"

"""Host objects: what the host itself must have for its guests and networks, each marked as ours in the kernel.

A host object has a *key*, which says what it is in the kernel, and a *value*, which is all the rest of it and says how
it must be. Two objects with one key and different values are the same thing wanted in two ways. `requires` holds the
keys of objects that must be there first, as far as anybody wants them; it is no part of the value. `describe` returns
the line that plan, log, audit and tests show.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from xennetd.model.ip import IPAddress, IPInterface
from xennetd.model.marks import BRIDGE_GROUP, TABLE


class Key(NamedTuple):
    """What a host object is in the kernel. `kind` says which adapter knows it, `name` is unique within the kind."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


Keys = frozenset[Key]
NO_KEYS: Keys = frozenset()

RULESET = Key("table", f"inet {TABLE}")
"""The key of the one `Ruleset` there is."""


class HostObject(Protocol):
    """Anything that the host itself must have: a frozen value with a key. An adapter makes it (`model.adapter`)."""

    @property
    def key(self) -> Key:
        """What it is in the kernel."""
        ...

    @property
    def requires(self) -> Keys:
        """The keys of objects that must be there first."""
        ...

    def describe(self) -> str:
        """Return the line that plan, log, audit and tests show."""
        ...


def bridge_key(name: str) -> Key:
    """Return the key of the bridge with this name."""
    return Key("bridge", name)


def sysctl_key(version: int, link: str, key: str) -> Key:
    """Return the key of a sysctl of a link."""
    return Key("sysctl", f"net/ipv{version}/conf/{link}/{key}")


def dnsmasq_key(instance: str) -> Key:
    """Return the key of a dnsmasq instance."""
    return Key("dnsmasq", instance)


@dataclass(frozen=True, slots=True)
class ManagedBridge:
    """A bridge of ours, up, in BRIDGE_GROUP, with a MAC address of its own so that no port's can become its."""

    name: str
    address: str
    up: bool = True

    @property
    def key(self) -> Key:
        return bridge_key(self.name)

    @property
    def requires(self) -> Keys:
        return NO_KEYS

    def describe(self) -> str:
        return f"ip link add {self.name} address {self.address} group {BRIDGE_GROUP} type bridge; set up"


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address of the host on a link of ours. IPv6 must be switched on there first."""

    link: str
    address: IPInterface

    @property
    def key(self) -> Key:
        return Key("address", f"{self.address} on {self.link}")

    @property
    def requires(self) -> Keys:
        needed = {bridge_key(self.link)}
        if self.address.version == 6:
            needed.add(sysctl_key(6, self.link, "disable_ipv6"))
        return frozenset(needed)

    def describe(self) -> str:
        return f"ip addr add {self.address} dev {self.link}"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A value of net.ipv4.conf.LINK or net.ipv6.conf.LINK (`link` may be `all`). What it was before us comes back.

    A value of `unless` is as good, and left as it is, as is a link without this setting then. `after` holds the keys of
    what must be so before this value is set.
    """

    version: int
    link: str
    setting: str
    value: int
    after: Keys = field(default=NO_KEYS, compare=False)
    unless: tuple[int, ...] = field(default=(), compare=False)

    @property
    def path(self) -> str:
        """Its file below /proc/sys."""
        return f"net/ipv{self.version}/conf/{self.link}/{self.setting}"

    @property
    def key(self) -> Key:
        return Key("sysctl", self.path)

    @property
    def requires(self) -> Keys:
        return self.after | {bridge_key(self.link)}

    def describe(self) -> str:
        return f"sysctl {self.path}={self.value}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain of our table and its rules, in nft's own language. `hook` is like `type nat hook postrouting`."""

    name: str
    hook: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All chains of our table; they change together, in one transaction. There is one such object, or none."""

    chains: tuple[Chain, ...]

    @property
    def key(self) -> Key:
        return RULESET

    @property
    def requires(self) -> Keys:
        return NO_KEYS

    def describe(self) -> str:
        count = sum(len(chain.rules) for chain in self.chains)
        return f"nft table inet {TABLE}: {count} rules in {len(self.chains)} chains"


@dataclass(frozen=True, slots=True)
class SetElement:
    """An element of a set (`value` is empty) or of a map of our table, part by part, as nft writes each."""

    set: str
    parts: tuple[str, ...]
    value: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return Key("element", f"{self.set} {{ {' . '.join(self.parts)} }}")

    @property
    def requires(self) -> Keys:
        return frozenset({RULESET})

    @property
    def text(self) -> str:
        """The element as nft writes it."""
        return " . ".join(self.parts) + (" : " + " . ".join(self.value) if self.value else "")

    def describe(self) -> str:
        return f"nft add element inet {TABLE} {self.set} {{ {self.text} }}"


@dataclass(frozen=True, slots=True)
class DhcpService:
    """One dnsmasq, and its configuration as dnsmasq(8) reads it.

    `instance` names it by the link that it serves, so that it goes on when its network gets another name. `network` is
    that name, for people.
    """

    instance: str
    configuration: str
    link: str = field(default="", compare=False)
    network: str = field(default="", compare=False)

    @property
    def key(self) -> Key:
        return dnsmasq_key(self.instance)

    @property
    def requires(self) -> Keys:
        return frozenset({bridge_key(self.link)})

    def describe(self) -> str:
        return f"dnsmasq {self.instance}" + (f" for network {self.network}" if self.network else "")


@dataclass(frozen=True, slots=True)
class DhcpHost:
    """What a dnsmasq is to tell one guest's MAC: its addresses, and its full name (`web-1.lab.internal`)."""

    instance: str
    mac: str
    addresses: tuple[IPAddress, ...]
    name: str | None

    @property
    def key(self) -> Key:
        return Key("dhcp host", f"{self.mac} of {self.instance}")

    @property
    def requires(self) -> Keys:
        return frozenset({dnsmasq_key(self.instance)})

    def describe(self) -> str:
        addresses = ", ".join(map(str, self.addresses))
        return f"dnsmasq {self.instance}: {self.mac} is {addresses}{f' {self.name}' if self.name else ''}"


@dataclass(frozen=True, slots=True)
class ProxyNeighbour:
    """An address that the host answers for on a link: proxy ARP or proxy NDP, with ROUTE_PROTOCOL as its protocol.

    `after` holds the keys of what must be so before the host answers.
    """

    link: str
    address: IPAddress
    after: Keys = field(default=NO_KEYS, compare=False)

    @property
    def key(self) -> Key:
        return Key("proxy", f"{self.address} on {self.link}")

    @property
    def requires(self) -> Keys:
        return self.after

    def describe(self) -> str:
        return f"ip neigh add proxy {self.address} dev {self.link}"

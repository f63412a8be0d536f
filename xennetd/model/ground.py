"""What the host itself must have for its guests: objects that several may need, each marked as ours in the kernel.

An object is a value: it is needed or not, there or not. What makes one, and takes it away when its last user has gone,
knows it by its type; `describe` is the line that plan, log and tests show. The order of `RANKS` is the order in which
objects are made; they are taken away in the reverse order.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from xennetd.model.vif import IPInterface

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

ROUTE_PROTOCOL = 120
"""Our number in rtm_protocol and NDA_PROTOCOL. linux/rtnetlink.h leaves those above RTPROT_STATIC to programs."""

BRIDGE_GROUP = 0x786E
"""The link group (`ip link set group`) of bridges that we made: "xn" as a number."""

GUEST_GROUP = 0x786F
"""The link group of routed guests' interfaces. A link's kind does not tell them apart: netback's links have none."""

TABLE = "xennetd"
"""Our nftables table, of family inet: everything in it is ours, nothing outside of it is."""


@dataclass(frozen=True, slots=True)
class OwnBridge:
    """A bridge of ours, up, in BRIDGE_GROUP, with a MAC address of its own so that no port's can become its."""

    name: str
    address: str

    def describe(self) -> str:
        return f"ip link add {self.name} address {self.address} group {BRIDGE_GROUP} type bridge; set up"


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address of the host on a link of ours."""

    link: str
    address: IPInterface

    def describe(self) -> str:
        return f"ip addr add {self.address} dev {self.link}"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value of net.ipv4.conf.LINK or net.ipv6.conf.LINK (`link` may be `all`). What it was before us comes back."""

    version: int
    link: str
    key: str
    value: int

    @property
    def path(self) -> str:
        """Its file below /proc/sys."""
        return f"net/ipv{self.version}/conf/{self.link}/{self.key}"

    def describe(self) -> str:
        return f"sysctl {self.path}={self.value}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain of our table and its rules, in nft's own language. `hook` is like `type nat hook postrouting`."""

    name: str
    hook: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """All chains of our table; they change together, in one transaction. There is one such object, or none."""

    chains: tuple[Chain, ...]

    def describe(self) -> str:
        count = sum(len(chain.rules) for chain in self.chains)
        return f"nft table inet {TABLE}: {count} rules in {len(self.chains)} chains"


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set (`value` is empty) or of a map of our table, part by part, as nft writes each."""

    set: str
    key: tuple[str, ...]
    value: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The element as nft writes it."""
        return " . ".join(self.key) + (" : " + " . ".join(self.value) if self.value else "")

    def describe(self) -> str:
        return f"nft add element inet {TABLE} {self.set} {{ {self.text} }}"


@dataclass(frozen=True, slots=True)
class DhcpService:
    """One dnsmasq for one network, and its configuration as dnsmasq(8) reads it."""

    network: str
    configuration: str

    def describe(self) -> str:
        return f"dnsmasq for network {self.network}"


@dataclass(frozen=True, slots=True)
class DhcpHost:
    """What dnsmasq is to tell one guest's MAC: its addresses, and its full name (`web-1.lab.internal`)."""

    network: str
    mac: str
    addresses: tuple[IPAddress, ...]
    name: str | None

    def describe(self) -> str:
        addresses = ", ".join(map(str, self.addresses))
        return f"dnsmasq for network {self.network}: {self.mac} is {addresses}{f' {self.name}' if self.name else ''}"


@dataclass(frozen=True, slots=True)
class ProxyNeighbour:
    """An address that the host answers for on a link: proxy ARP or proxy NDP, with ROUTE_PROTOCOL as its protocol."""

    link: str
    address: IPAddress

    def describe(self) -> str:
        return f"ip neigh add proxy {self.address} dev {self.link}"


GroundObject = OwnBridge | HostAddress | Rules | Setting | Element | DhcpService | DhcpHost | ProxyNeighbour

RANKS: tuple[type[GroundObject], ...] = (
    OwnBridge,
    HostAddress,
    Rules,  # before a link forwards, what it may forward is settled
    Element,
    Setting,
    DhcpService,
    DhcpHost,
    ProxyNeighbour,
)


def rank(needed: GroundObject) -> tuple[int, bool]:
    """Return where an object stands in the order of making: a link heeds advertisements before it forwards."""
    return RANKS.index(type(needed)), isinstance(needed, Setting) and needed.key != "accept_ra"

"""From one `[network.NAME]` table to a Network.

A table is read to its end. A faulty or missing value is reported, and then its default is used. Problems that may only
result from such a value are not reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Literal, Protocol

from xennetd.config.document import Place
from xennetd.config.grammar import is_domain
from xennetd.config.problem import Problem, shown
from xennetd.config.schema import FORWARD, NETWORK_KEYS, NETWORK_NAME, Fields, choices, read_table
from xennetd.model.configuration import Forward, Mode, Network
from xennetd.model.ip import IPNetwork
from xennetd.model.link import is_link_name
from xennetd.model.value import replace

_RA_PREFIX = 64
"""The only prefix length for which dnsmasq(8) sends router advertisements to guests."""


@dataclass(frozen=True, slots=True)
class NetworkDraft:
    """A network as it was read, with the places of its values. `whole` says that no value is faulty.

    `prefixes` are the network's subnets, and the prefix that its guests are translated to.
    """

    place: Place
    network: Network
    prefixes: tuple[tuple[Place, IPNetwork], ...]
    forwards: tuple[tuple[Place, Forward], ...]
    whole: bool


class KnownMode(Protocol):
    """The properties of a mode's module that the reader needs. `policy.mode.ModeModule` implements them."""

    @property
    def mode(self) -> Mode:
        """The mode itself."""
        ...

    @property
    def keys(self) -> Fields:
        """The keys of a network of this mode, besides `mode`."""
        ...

    @property
    def needs_subnets(self) -> bool:
        """Whether a network of this mode must have a subnet."""
        ...

    def check(self, reader: NetworkReader, network: Network) -> None:
        """Report faults of a network that no single key shows."""
        ...


def read_network(
    place: Place, name: str, table: dict[str, Any], modes: Mapping[str, KnownMode], problems: list[Problem]
) -> NetworkDraft | None:
    """Return the network that `table` describes, None if its mode is missing or unknown."""
    before = len(problems)
    named = NETWORK_NAME.read(place, name, problems) is not None
    field = choices(tuple(modes))
    rest = {key: value for key, value in table.items() if key != "mode"}
    if "mode" in table:
        mode = field.read(place / "mode", table["mode"], problems)
    else:
        mode = None
        problems.append((place / "mode").problem("missing", allowed=field.allowed))
    if mode is None:
        known = {key: field for module in modes.values() for key, field in module.keys.items()}
        read_table(place, rest, {"mode": field, **known}, problems)
        return None
    reader = NetworkReader(place, name if named else "", modes[mode], modes, rest, problems)
    network = reader.network()
    forwards = reader.forwards(network)
    network = replace(network, forwards=tuple(forward for _, forward in forwards))
    return NetworkDraft(place, network, reader.prefixes(), forwards, whole=len(problems) == before)


def unfit(network: Network, wanted: IPNetwork) -> str | None:
    """Return why no guest of `network` can have the address or prefix `wanted`, None if a guest can have it."""
    if network.subnet4 is None and network.subnet6 is None:
        return None
    subnet = network.subnet4 if wanted.version == 4 else network.subnet6
    gateway = network.gateway4 if wanted.version == 4 else network.gateway6
    if subnet is None:
        return f'network "{network.name}" has no IPv{wanted.version} subnet'
    if not wanted.subnet_of(subnet):  # type: ignore[arg-type] # both are of one version
        return f'not in {subnet}, the subnet of network "{network.name}"'
    if subnet.network_address in wanted or (wanted.version == 4 and subnet.broadcast_address in wanted):
        return f'an address that no guest of network "{network.name}" can have'
    if network.own and gateway is not None and gateway.ip in wanted:
        return f'the gateway of network "{network.name}"'
    return None


class NetworkReader:
    """Reads one `[network.NAME]` table, whose mode is known already.

    `name` is empty if the network's name is faulty. `values` are the valid values of the table, `faulty` the keys of
    all other values.
    """

    def __init__(
        self,
        place: Place,
        name: str,
        module: KnownMode,
        modes: Mapping[str, KnownMode],
        table: dict[str, Any],
        problems: list[Problem],
    ) -> None:
        self.place = place
        self.name = name
        self.module = module
        self.mode = module.mode
        self.problems = problems
        known = module.keys
        users = {key: [name for name, other in modes.items() if key in other.keys] for key in table}
        foreign = [key for key in table if users[key] and key not in known]
        for key in foreign:
            self.wrong(key, f"not a key of mode {self.mode}, only of {_listed(users[key])}")
        possible = {key: value for key, value in table.items() if key not in foreign}
        self.values = read_table(place, possible, {"mode": choices(tuple(modes)), **known}, problems)
        self.faulty = table.keys() - self.values.keys()
        self.dhcp: bool = self.values.get("dhcp", False)
        self.subnets: tuple[IPNetwork, ...] = self.values.get("subnets", ())
        self.subnet4 = next((subnet for subnet in self.subnets if isinstance(subnet, IPv4Network)), None)
        self.subnet6 = next((subnet for subnet in self.subnets if isinstance(subnet, IPv6Network)), None)

    def network(self) -> Network:
        """Return the network without `forwards`, and report what is wrong with it."""
        network = Network(
            self.name,
            self.mode,
            self.bridge(),
            subnet4=self.subnet4,
            subnet6=self.subnet6,
            uplink=self.values.get("uplink"),
            dhcp=self.dhcp,
            ra=self.ra(),
            domain=self.domain(),
            nat66=self.values.get("nat66", False),
            nptv6=self.values.get("nptv6"),
            gateway=self.values.get("gateway", "uplink"),
            proxy=self.values.get("proxy", False),
            tx_checksum=self.values.get("tx_checksum"),
        )
        self.check_subnets(network)
        self.module.check(self, network)
        return network

    def prefixes(self) -> tuple[tuple[Place, IPNetwork], ...]:
        """Return the first subnet of each IP version, and the prefix that guests are translated to; with the places."""
        prefixes = [
            (self.place / "subnets" / i, subnet)
            for i, subnet in enumerate(self.subnets)
            if subnet is self.subnet4 or subnet is self.subnet6
        ]
        if "nptv6" in self.values:
            prefixes.append((self.place / "nptv6", self.values["nptv6"]))
        return tuple(prefixes)

    def wrong(self, key: str, text: str, *, found: str = "") -> None:
        """Report the fault `text` of the value of `key`; `found` is the value as TOML would write it."""
        self.problems.append((self.place / key).problem(text, found=found))

    def missing(self, key: str, why: str = "") -> None:
        """Report that `key` is missing, and `why` it is needed. A key that is there but faulty has been reported."""
        if key not in self.faulty:
            problem = (self.place / key).problem(f"missing{why and f': {why}'}", allowed=NETWORK_KEYS[key].allowed)
            self.problems.append(problem)

    def bridge(self) -> str:
        """Return the bridge's name; a network's own bridge is called `xn-NAME` by default."""
        if "bridge" not in self.module.keys:
            return ""
        if "bridge" in self.values:
            return str(self.values["bridge"])
        default = f"xn-{self.name}" if self.name else ""
        if not self.mode.own_bridge:
            self.missing("bridge")
        elif is_link_name(default):
            return default
        elif self.name:
            self.missing("bridge", f"{shown(default)} would be too long for a link's name")
        return ""

    def ra(self) -> Literal["slaac", "stateful", "off"]:
        """Return the value of `ra`. The default is "slaac" with `dhcp` and an IPv6 subnet, else "off"."""
        given: Literal["slaac", "stateful", "off"] | None = self.values.get("ra")
        if given in (None, "off"):
            default = self.dhcp and self.subnet6 is not None and "ra" not in self.faulty
            return "slaac" if default and given is None else "off"
        if not self.dhcp and "dhcp" not in self.faulty:
            self.wrong("ra", "needs dhcp = true", found=shown(given))
        if self.subnet6 is None and "subnets" not in self.faulty:
            self.wrong("ra", "needs an IPv6 subnet", found=shown(given))
        return given or "off"

    def domain(self) -> str:
        """Return the DNS domain. With `dhcp` the default is NAME.internal; without `dhcp` it is empty."""
        if "domain" in self.values:
            return str(self.values["domain"])
        if not self.dhcp:
            return ""
        default = f"{self.name}.internal"
        if self.name and not is_domain(default):
            self.missing("domain", f"{shown(default)} would be no DNS domain")
        return default

    def check_subnets(self, network: Network) -> None:
        """Report missing subnets, a second subnet of one IP version, and a prefix length that dnsmasq can't serve."""
        if not self.subnets and self.module.needs_subnets:
            self.missing("subnets", f"mode {self.mode} needs one")
        elif not self.subnets and self.dhcp:
            self.missing("subnets", "dhcp needs one")
        for i, subnet in enumerate(self.subnets):
            value, place = shown(str(subnet)), self.place / "subnets" / i
            if subnet is not self.subnet4 and subnet is not self.subnet6:
                text = f"a second IPv{subnet.version} subnet; a network has at most one of each IP version"
                self.problems.append(place.problem(text, found=value))
            elif subnet.version == 6 and network.dhcp and network.ra != "off" and subnet.prefixlen != _RA_PREFIX:
                text = f'must be a /{_RA_PREFIX} unless ra = "off": router advertisements need this length'
                self.problems.append(place.problem(text, found=value))

    def forwards(self, network: Network) -> tuple[tuple[Place, Forward], ...]:
        """Return the forwarded ports of `network` with their places."""
        forwards = []
        for i, table in enumerate(self.values.get("forward", ())):
            place = self.place / "forward" / i
            values = read_table(place, table, FORWARD, self.problems)
            for key, field in FORWARD.items():
                if key not in table:
                    self.problems.append((place / key).problem("missing", allowed=field.allowed))
            if "to" in values and "subnets" not in self.faulty and not isinstance(values["to"][0], str):
                reason = unfit(network, ip_network(values["to"][0]))
                if reason is not None:
                    self.problems.append((place / "to").problem(reason, found=shown(table["to"])))
            if values.keys() == FORWARD.keys():
                to, to_port = values["to"]
                forwards.append((place, Forward(values["proto"], values["port"], to, to_port)))
        return tuple(forwards)


def _listed(modes: Sequence[str]) -> str:
    *others, last = modes
    return f"{', '.join(others)} and {last}" if others else last

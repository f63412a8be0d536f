"""Random configurations of a host's own topology, and hosts for them. Pure.

All of a configuration is drawn from one `random.Random`, so that a lane without hypothesis can use it too. What is
drawn is valid as a text; on a host that has addresses in the way it may be refused.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from random import Random

NICS = ("eth0", "eth1", "eth2", "eth3")

MACS = {nic: f"02:00:00:00:00:{number:02x}" for number, nic in enumerate(NICS, 0xA0)}

BRIDGES = ("xenbr7", "xenbr8", "lan")
BONDS = ("bond0", "bond1")
DUMMIES = ("dummy0", "dummy1")
MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")

ALL_KINDS = frozenset({"bond", "vlan", "bridge", "dummy"})


def addresses_of(nic: str) -> tuple[str, str]:
    """An IPv4 and an IPv6 address that the host may have on a NIC."""
    number = nic.removeprefix("eth")
    return f"192.0.{number}.7/24", f"2001:db8:{number}::7/64"


def host_commands(random: Random) -> list[str]:
    """Commands of ip(8) that give a host with NICs what hosts have on them."""
    commands = []
    for nic in NICS:
        four, six = addresses_of(nic)
        router, router6 = four.replace(".7/24", ".1"), six.replace("::7/64", "::1")
        number = nic.removeprefix("eth")
        if random.random() < 0.3:
            commands.append(f"address add {four} dev {nic}")
            if random.random() < 0.5:
                commands.append(f"route add 10.{number}.0.0/16 via {router} dev {nic} metric {random.randrange(1, 99)}")
            if random.random() < 0.3:
                commands.append(f"neighbour add {router} lladdr 02:00:00:00:00:01 dev {nic} nud permanent")
        if random.random() < 0.15:
            commands.append(f"address add {six} dev {nic} nodad")
            if random.random() < 0.5:
                commands.append(f"-6 route add 2001:db8:9{number}::/48 via {router6} dev {nic}")
    return commands


def configuration(random: Random, commands: Collection[str], kinds: Collection[str] = ALL_KINDS) -> str:
    """A TOML text with links of these kinds, over some of the NICs. It may be empty.

    A link adopts only what comes back to where it was: to the first of its NICs. `commands` are those of the host.
    """
    return _Draft(random, kinds, {nic for nic in NICS if any(nic in each.split() for each in commands)}).text()


class _Draft:
    def __init__(self, random: Random, kinds: Collection[str], furnished: Set[str]) -> None:
        self._random = random
        self._kernel_names = {f"nic{nic.removeprefix('eth')}": nic for nic in NICS}
        self._furnished = furnished
        self._sections: list[str] = []
        self._numbers = list(range(1, 200))
        self._free = [self._nic(nic) for nic in NICS]
        self._parents: list[str] = list(self._free)
        self._adopted: set[str] = set()
        self._with_addresses: set[str] = set()
        self._below: dict[str, tuple[str, ...]] = {nic: (nic,) for nic in self._free}
        if "bond" in kinds:
            for name in self._some(BONDS):
                self._bond(name)
        if "vlan" in kinds:
            self._vlans()
        if "dummy" in kinds:
            for name in self._some(DUMMIES):
                self._section("dummy", name, [*self._mtu(), *self._addresses(name, (name,))])
                self._free.append(name)
                self._below[name] = (name,)
        for name in self._some(BRIDGES):
            self._bridge(name)

    def text(self) -> str:
        """The configuration."""
        return "\n".join(self._sections)

    def _some(self, of: Sequence[str]) -> list[str]:
        return [each for each in of if self._random.random() < 0.5]

    def _maybe(self, line: str, chance: float = 0.3) -> list[str]:
        return [line] if self._random.random() < chance else []

    def _section(self, kind: str, name: str, lines: list[str]) -> None:
        self._sections.append("\n".join([f'[{kind}."{name}"]', *lines]))
        if any(line.startswith("addresses") for line in lines):
            self._with_addresses.add(name)  # which is then no port

    def _mtu(self) -> list[str]:
        return self._maybe(f"mtu = {self._random.choice((1280, 1400, 1500))}", 0.2)

    def _nic(self, nic: str) -> str:
        """A NIC under the name that the configuration has for it: another one if it is found by its MAC."""
        if self._random.random() < 0.8:
            return nic
        name = f"nic{nic.removeprefix('eth')}"
        self._section("nic", name, [f'mac = "{MACS[nic]}"'])
        return name

    def _take(self, most: int, among: Set[str]) -> list[str]:
        candidates = [each for each in self._free if each in among]
        taken = self._random.sample(candidates, self._random.randint(0, min(most, len(candidates))))
        for name in taken:
            self._free.remove(name)
        return taken

    def _addresses(self, name: str, below: tuple[str, ...]) -> list[str]:
        """Addresses of a link on these: none, an empty list, some of its own, or those that others had.

        No link has some of its own in one configuration and adopts in the next: it would keep them as the host's, and
        give them back where they never were.
        """
        choice = self._random.random()
        lists = sum(name.encode()) % 2 == 0
        if not self._furnished.isdisjoint(self._kernel_names.get(each, each) for each in below):
            choice = max(choice, 0.5)  # What else there is would be refused: there are addresses in the way.
        if choice < 0.25:
            return ["addresses = []"]
        if choice < 0.5 and lists:
            number = self._numbers.pop(self._random.randrange(len(self._numbers)))
            own = [f'"10.9.{number}.1/24"', f'"2001:db8:a:{number}::1/64"'][: self._random.randint(1, 2)]
            return [f"addresses = [{', '.join(own)}]"]
        if choice < 0.95 and not lists and self._adopted.isdisjoint(below) and self._comes_back(below):
            self._adopted.update(below)
            return ['addresses = "adopt"']
        return []

    def _comes_back(self, below: tuple[str, ...]) -> bool:
        nics = [name for each in below if (name := self._kernel_names.get(each, each)) in NICS]
        return self._furnished.isdisjoint(nics[1:])

    def _bond(self, name: str) -> None:
        # A VLAN can't be on a port.
        ports = self._take(3, {each for each in self._free if self._kernel_names.get(each, each) in NICS})
        self._parents = [parent for parent in self._parents if parent not in ports]
        mode = self._random.choice(MODES)
        lines = [f"ports = {_list(ports)}", f'mode = "{mode}"']
        if mode in {"active-backup", "balance-xor", "balance-rr"} and self._random.random() < 0.3:
            lines += ["arp_interval = 200", 'arp_ip_target = ["192.0.2.1"]']
        else:
            lines += self._maybe("miimon = 50")
        if mode == "802.3ad":
            lines += self._maybe('lacp_rate = "fast"')
        if mode in {"active-backup", "balance-tlb", "balance-alb"} and ports:
            lines += self._maybe(f'primary = "{ports[0]}"')
        if mode in {"balance-xor", "802.3ad"}:
            lines += self._maybe('xmit_hash_policy = "layer3+4"')
        self._below[name] = (name, *ports)
        self._section("bond", name, [*lines, *self._mtu(), *self._addresses(name, self._below[name])])
        self._free.append(name)
        self._parents.append(name)

    def _vlans(self) -> None:
        for parent in self._random.sample(self._parents, min(2, len(self._parents))):
            for vid in self._random.sample((7, 100, 4094), self._random.randint(0, 2)):
                name = f"{parent}.{vid}"
                lines = self._maybe('protocol = "802.1ad"')
                self._below[name] = (name, *self._below[parent])
                self._section("vlan", name, [*lines, *self._addresses(name, self._below[name])])
                self._free.append(name)

    def _bridge(self, name: str) -> None:
        ports = self._take(2, set(self._free) - self._with_addresses)
        below = (name, *(each for port in ports for each in self._below[port]))
        lines = [f"ports = {_list(ports)}"]
        lines += self._maybe("forward_delay = 3")  # With stp a bridge's state changes by itself for some seconds.
        lines += self._maybe(f"multicast_snooping = {self._random.choice(('true', 'false'))}")
        lines += self._maybe(f"multicast_querier = {self._random.choice(('true', 'false'))}")
        lines += self._maybe(f"group_fwd_mask = {self._random.choice((8, 16384))}")
        lines += self._maybe(f'mac = "02:00:00:00:01:{BRIDGES.index(name):02x}"', 0.2)
        lines += self._maybe("mtu = 1280", 0.2)  # No port has less.
        self._section("bridge", name, [*lines, *self._addresses(name, below)])


def _list(names: Sequence[str]) -> str:
    return f"[{', '.join(f'{chr(34)}{name}{chr(34)}' for name in names)}]"

"""A host without a kernel: its links, its sysctls and all that adapters keep, as tables that Steps change.

Rule 1: the tables change as the kernel, nft and dnsmasq would change, as far as a plan depends on it.
Rule 2: every Step is told of before it is done, also one that does nothing here.
Rule 3: what no plan may ever ask for is noted in `wrong`: a bridge that goes with its ports, filters that go before the
guests behind them, a route through a link that is down. It is done all the same, so that the rest of the plan is seen.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface

from tests.unit.hosts import TableHost
from xennetd.kernel.execute import StepRefused
from xennetd.kernel.links import LinkChange
from xennetd.model.errors import HostError
from xennetd.model.ip import IPAddress
from xennetd.model.link import IFF_UP, Link, Route
from xennetd.model.marks import BRIDGE_GROUP, GUEST_GROUP
from xennetd.model.objects import DhcpHost, HostAddress, HostObject, Key, ManagedBridge, Ruleset, Sysctl
from xennetd.model.offload import Offload
from xennetd.model.value import replace
from xennetd.model.vif import VifId
from xennetd.plan.difference import Change, Make, Remove
from xennetd.plan.steps import AddRoute, LinkStep, SetLink, SetSysctl, Step

DEFAULTS = {
    (4, "forwarding"): 0,
    (4, "rp_filter"): 0,
    (4, "proxy_arp"): 0,
    (6, "forwarding"): 0,
    (6, "accept_ra"): 1,
    (6, "accept_dad"): 1,
    (4, "promote_secondaries"): 0,
    (6, "disable_ipv6"): 0,
    (6, "proxy_ndp"): 0,
}
"""What the kernel gives a new link (Documentation/networking/ip-sysctl.rst)."""

FROM_6_17 = {(6, "force_forwarding"): 0}
"""What it gives a new link besides, from Linux 6.17 on."""

UPLINKS = {"eth0": ("192.0.2.2/24", "2001:db8::2/64"), "eth1": ("203.0.113.2/24", "2001:db8:1::2/64")}
WAYS_OUT = {4: "eth0", 6: "eth0"}
ROUTERS: tuple[IPAddress, ...] = (ip_address("192.0.2.1"), ip_address("fe80::1"))
"""The host's addresses, and where its default routes lead."""

_EVERY_LINK = ("all", "default")
_FORWARDING6 = (6, "all", "forwarding")


@dataclass(frozen=True)
class HostLinks(TableHost):
    """Implements `HostView`, and what else `kernel.links.Links` offers, over lists and tables that change."""

    def by_index(self, index: int) -> Link | None:
        return next((link for link in self.links if link.index == index), None)

    def of(self, vif: VifId) -> Link | None:
        return next((link for link in self.links if link.parent == vif), None)


class SimulatedHost:
    """The uplinks eth0, with the default routes, and eth1, and an administrator's bridges, each with a port.

    `bridges` are their names and MTUs; `forces_ipv6` makes the kernel one from Linux 6.17 on. `told` hears of every
    Step, `changed` of every link that changes.
    """

    def __init__(self, bridges: Sequence[tuple[str, int]] = (), *, forces_ipv6: bool = False) -> None:
        self.told: Callable[[Step], None] = lambda step: None
        self.changed: Callable[[list[LinkChange]], None] = lambda changes: None
        self.settings: dict[tuple[int, str, str], int] = {}
        self.saved: dict[tuple[int, str, str], int] = {}
        self.objects: dict[Key, HostObject] = {}
        self.wrong: list[str] = []
        self._links: list[Link] = []
        self._known = DEFAULTS | FROM_6_17 if forces_ipv6 else DEFAULTS
        self._next_index = 2
        self.links = HostLinks(self._links, self.settings, WAYS_OUT, ROUTERS)
        for link in _EVERY_LINK:
            self._settle(link)
        for name, addresses in UPLINKS.items():
            self.put(Link(self.index(), name, flags=IFF_UP, addresses=tuple(map(ip_interface, addresses))))
        for name, mtu in bridges:
            bridge = Link(self.index(), name, kind="bridge", flags=IFF_UP, mtu=mtu)
            self.put(bridge)
            self.put(Link(self.index(), f"port-{name}", master=bridge.index, flags=IFF_UP, mtu=mtu))

    def index(self) -> int:
        """Return an index that no link has had yet."""
        self._next_index += 1
        return self._next_index - 1

    def put(self, link: Link) -> None:
        """Have a link be so."""
        old = self.links.by_index(link.index)
        if old is None:
            self._links.append(link)
            self._settle(link.name)
        else:
            self._links[self._links.index(old)] = link
        if old != link:
            self.changed([LinkChange(old, link)])

    def drop(self, link: Link) -> None:
        """Take a link away, and its settings with it."""
        self._links.remove(link)
        for key in [key for key in self.settings if key[1] == link.name]:
            del self.settings[key]
        self.changed([LinkChange(link, None)])

    def read_sysctl(self, version: int, link: str, setting: str) -> int | None:
        """Return a sysctl's value, as `kernel.procsys` does."""
        return self.settings.get((version, link, setting))

    def set_sysctl(self, sysctl: Sysctl) -> None:
        """Set a sysctl. IPv6's `all/forwarding` sets that of every link."""
        key = (sysctl.version, sysctl.link, sysctl.setting)
        if key == _FORWARDING6:
            for other in [other for other in self.settings if other[0] == 6 and other[2] == "forwarding"]:
                self.settings[other] = sysctl.value
        self.settings[key] = sysctl.value

    def execute(self, steps: tuple[LinkStep, ...]) -> list[StepRefused]:
        """Do Steps to links, as `kernel.kernel.Kernel` does."""
        for step in steps:
            self.told(step)
            link = self.links.by_index(step.index)
            if link is None:
                self.wrong.append(f"{step.describe()}: there is no such link")
            elif isinstance(step, SetSysctl):
                self.set_sysctl(step.sysctl)
            else:
                self._check(step, link)
                self.put(step.effect(link))
        return []

    def look_at(self, index: int) -> None:
        """What was done shows at once, so there is no reason to look again."""
        raise AssertionError(f"link {index} was doubted")

    def _check(self, step: LinkStep, link: Link) -> None:
        match step:
            case SetLink(property="master", value=int(index)) if index:
                bridge = self.links.by_index(index)
                if bridge is None or bridge.kind != "bridge":
                    self.wrong.append(f"{step.describe()}: there is no such bridge")
            case AddRoute() if not link.up:
                self.wrong.append(f"{step.describe()}: the link is down")
            case AddRoute():
                others = [each for each in self._links if any(_same(route, step.route) for route in each.routes)]
                if others and not step.replace:
                    self.wrong.append(f"{step.describe()}: {others[0].name} has that route")
                for other in others:
                    kept = frozenset(each for each in other.routes if not _same(each, step.route))
                    self.put(replace(other, routes=kept))

    def _settle(self, link: str) -> None:
        for (version, setting), value in self._known.items():
            inherited = self.settings.get((version, "default", setting), value)
            self.settings[version, link, setting] = inherited

    def present(self, wanted: HostObject) -> HostObject | None:
        """Return the object with this key as it is now."""
        match wanted:
            case Sysctl():
                value = self.read_sysctl(wanted.version, wanted.link, wanted.setting)
                if value is None:
                    return wanted if wanted.unless else None
                right = value == wanted.value or value in wanted.unless
                return wanted if right else Sysctl(wanted.version, wanted.link, wanted.setting, value)
            case ManagedBridge():
                link = self._bridge(wanted.name)
                return ManagedBridge(link.name, link.address, link.up) if link is not None else None
            case HostAddress():
                link = self._bridge(wanted.link)
                return wanted if link is not None and wanted.address in link.addresses else None
            case Offload():
                return self.objects.get(wanted.key, replace(wanted, tx_checksum=True))
        return self.objects.get(wanted.key)

    def apply(self, wanted: Sequence[HostObject]) -> None:
        """Make objects, or change those that are there. Raises HostError for a name that another link has."""
        for each in wanted:
            was = self.present(each)
            # Of a link that was not there when this was planned, nobody could know what its settings would be.
            if was == each and not isinstance(each, Sysctl):
                self.wrong.append(f"{each.describe()}: that is so already")
            self.told(Make(each) if was is None else Change(each, was))
            self._apply(each)

    def remove(self, objects: Sequence[HostObject]) -> None:
        """Remove objects; one that is another's by now stays."""
        for each in objects:
            self.told(Remove(each))
            self._remove(each)

    def list_owned(self) -> Collection[HostObject]:
        """Return everything that carries our mark: an address carries none."""
        sysctls = [Sysctl(*key, self.settings[key]) for key in self.saved if key in self.settings]
        bridges = [ManagedBridge(each.name, each.address, each.up) for each in self.links.bridges() if _is_ours(each)]
        return [*self.objects.values(), *sysctls, *bridges]

    def lease(self, instance: str, mac: str) -> Collection[IPAddress]:
        """Return the addresses that dnsmasq is to give to this MAC."""
        told = self.objects.get(DhcpHost(instance, mac, (), None).key)
        return told.addresses if isinstance(told, DhcpHost) else ()

    def _bridge(self, name: str) -> Link | None:
        link = self.links.link(name)
        return link if link is not None and _is_ours(link) else None

    def _apply(self, wanted: HostObject) -> None:
        match wanted:
            case Sysctl():
                self._save(wanted)
                self.set_sysctl(wanted)
            case ManagedBridge():
                link = self.links.link(wanted.name)
                if link is not None and not _is_ours(link):
                    sentence = f'bridge "{wanted.name}" can\'t be made: there is a link of that name'
                    raise HostError(sentence, errno=errno.EEXIST, waits_on=frozenset({wanted.name}))
                link = link or Link(self.index(), wanted.name, kind="bridge", group=BRIDGE_GROUP)
                self.put(replace(link, address=wanted.address, flags=IFF_UP))
            case HostAddress():
                link = self._bridge(wanted.link)
                if link is None:
                    raise HostError(f"{wanted.describe()}: there is no such bridge", errno=errno.ENODEV)
                # A link has an IPv6 address once, so the adapter removes it first if its prefix has another length.
                kept = [each for each in link.addresses if wanted.address.version == 4 or each.ip != wanted.address.ip]
                self.put(replace(link, addresses=(*kept, wanted.address)))
            case _:
                if isinstance(wanted, Ruleset):
                    self._check_filters(wanted)
                self.objects[wanted.key] = wanted

    def _remove(self, there: HostObject) -> None:
        match there:
            case Sysctl():
                link = self.links.link(there.link)
                key = (there.version, there.link, there.setting)
                default = self.settings[there.version, "default", there.setting]
                before = default if link is not None and _is_ours(link) else self.saved.pop(key, None)
                if before is not None and self.present(there) == there:
                    self.set_sysctl(replace(there, value=before))
            case ManagedBridge():
                link = self._bridge(there.name)
                if link is not None:
                    self._drop_ports(link)
                    self.drop(link)
            case HostAddress():
                link = self._bridge(there.link)
                if link is not None:
                    kept = tuple(each for each in link.addresses if each != there.address)
                    self.put(replace(link, addresses=kept))
            case _:
                if isinstance(there, Ruleset):
                    self._check_filters(None)
                if self.objects.get(there.key) == there:
                    del self.objects[there.key]

    def _check_filters(self, ruleset: Ruleset | None) -> None:
        """Note a bridge of ours that has guests and, with this ruleset, no rules."""
        rules = [rule for chain in ruleset.chains for rule in chain.rules] if ruleset is not None else []
        for bridge in filter(_is_ours, self.links.bridges()):
            ports = [each.name for each in self._links if each.master == bridge.index and each.up]
            if ports and not any(f'"{bridge.name}"' in rule for rule in rules):
                self.wrong.append(f"the rules of {bridge.name} go while it has the ports {', '.join(ports)}")

    def _drop_ports(self, bridge: Link) -> None:
        for port in [each for each in self._links if each.master == bridge.index]:
            self.wrong.append(f"bridge {bridge.name} is removed while {port.name} is in it")
            self.put(replace(port, master=0, flags_on=frozenset()))

    def _save(self, sysctl: Sysctl) -> None:
        """What a value was before us is saved, but for a link of ours, with which it goes."""
        link = self.links.link(sysctl.link)
        key = (sysctl.version, sysctl.link, sysctl.setting)
        if link is None or link.group not in (BRIDGE_GROUP, GUEST_GROUP):
            self.saved.setdefault(key, self.settings[key])


def _same(one: Route, other: Route) -> bool:
    """Return whether the kernel takes two routes of one table for the same one."""
    return (one.destination, one.metric) == (other.destination, other.metric)


def _is_ours(link: Link) -> bool:
    return link.kind == "bridge" and link.group == BRIDGE_GROUP

"""A host with two guests in each kind of place, and the ways in which this host can become worse under them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bed.daemon import Daemon
from tests.bed.echoes import Echoes
from tests.bed.guest import Bed, Guest
from tests.bed.netns import MS_BIND, NetNs, _mount
from tests.bed.site import HOST4, SERVER4, Site, ip
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Inhabit, MakeGuest
from tests.kernel.every_mode import held, networks
from tests.kernel.status import status
from tests.kernel.wait import eventually, paused

UPLINK, SPARE = 'uplink = "eth0"\n', "up1"
LAB = '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24"]\ndhcp = true\n' + UPLINK
CONFIG = networks(
    '[network.lan]\nmode = "bridge"\nbridge = "xenbr0"\n',
    '[network.edge]\nmode = "route"\n' + UPLINK,
    '[network.hop]\nmode = "route"\n',
    '[network.leased]\nmode = "route"\nsubnets = ["203.0.113.96/27"]\ndhcp = true\n' + UPLINK,
    LAB,
    '[network.any]\nmode = "nat"\nsubnets = ["10.79.0.0/24"]\n',
    '[network.store]\nmode = "isolated"\nsubnets = ["10.78.0.0/24"]\ndhcp = true\n',
)
WITH_IPV6 = CONFIG.replace('"10.77.0.0/24"', '"10.77.0.0/24", "fd77::/64"')

VOLATILE = r"fe80::|multicast ff00"
"""What the kernel gives a link that comes up: it is gone after a flush, and its duplicate detection takes a while."""


@dataclass(frozen=True)
class Kind:
    """Two guests in one place: their vif lines, their addresses, and their gateway, if they have one."""

    specs: tuple[VifSpec, VifSpec]
    addresses: tuple[str, str]
    gateways: tuple[str, ...] = ()
    domids: tuple[int, int] | None = None
    reaches_out: bool = True


def _routed(number: int, script: str = "vif-xennetd", gatewaydev: str | None = None) -> Kind:
    ips = f"203.0.113.{number}1", f"203.0.113.{number}2"
    specs = (
        VifSpec(script=script, ip=ips[0], gatewaydev=gatewaydev),
        VifSpec(script=script, ip=ips[1], gatewaydev=gatewaydev),
    )
    return Kind(specs, (f"{ips[0]}/32", f"{ips[1]}/32"), (HOST4,) * 2)


def _owned(subnet: str, *, reaches_out: bool = True) -> Kind:
    ips = f"{subnet}.11", f"{subnet}.12"
    specs = VifSpec(ip=ips[0]), VifSpec(ip=ips[1])
    return Kind(specs, (f"{ips[0]}/24", f"{ips[1]}/24"), (f"{subnet}.1",) * 2, reaches_out=reaches_out)


def _bridged(subnet: str, bridge: str = "xenbr0") -> Kind:
    spec = VifSpec(bridge=bridge)
    return Kind((spec, spec), (f"{subnet}.1/24", f"{subnet}.2/24"), reaches_out=False)


KINDS: Mapping[str, Kind] = {
    "lan": _bridged("10.1.0"),
    "named": _bridged("10.2.0", "xenbr1"),
    "edge": _routed(1),
    "hop": _routed(2),
    "leased": _routed(10),
    "alone": _routed(3, "vif-xennetd-route", gatewaydev="eth0"),
    "numbered": Kind(
        (VifSpec(script="vif-xennetd-nat"), VifSpec(script="vif-xennetd-nat")),
        ("10.2.0.1/32", "10.2.1.1/32"),
        ("10.2.0.128", "10.2.1.128"),
        (512, 513),
    ),
    "lab": _owned("10.77.0"),
    "any": _owned("10.79.0"),
    "store": _owned("10.78.0", reaches_out=False),
}


def _pin_neighbours(namespace: NetNs, *addresses: str) -> None:
    """Make what a guest knows of its neighbours permanent.

    Else the kernel forgets it with the carrier, and keeps the packets that it can't send until the carrier is back.
    """
    for address in addresses:
        eventually(partial(namespace.ping, address, wait=0.2))
    known = json.loads(namespace.run("ip", "-json", "-4", "neighbour", "show", "dev", "eth0").stdout)
    ip(namespace, *(f"neighbour replace {each['dst']} lladdr {each['lladdr']} dev eth0" for each in known))


class World:
    """Two connected guests in each place on a host with an uplink, and the daemon."""

    def __init__(self, bed: Bed, site: Site, guest: MakeGuest, inhabit: Inhabit, xennetd: Daemon) -> None:
        self.bed, self.host, self.xennetd = bed, bed.host, xennetd
        for bridge in ("xenbr0", "xenbr1", SPARE):
            bed.host.bridge(bridge)
        ip(site.host, f"address add 192.0.3.2/24 dev {SPARE}")
        self.guests: dict[str, tuple[Guest, ...]] = {}
        for name, kind in KINDS.items():
            domids = kind.domids or (None, None)
            made = (guest(f"{name}-{n + 1}", spec, domid=domids[n]) for n, spec in enumerate(kind.specs))
            self.guests[name] = tuple(made)
        for pair in self.guests.values():
            for each in pair:
                each.connect()
        for name, kind in KINDS.items():
            for number, each in enumerate(self.guests[name]):
                inhabit(each, kind.addresses[number], gateways=kind.gateways[number : number + 1])
        for name in KINDS:
            _pin_neighbours(self.guests[name][0].namespace, KINDS[name].addresses[1].partition("/")[0])
        self.right = held(bed, without=VOLATILE)

    def pings(self, stopped: str) -> Echoes:
        """Pings from each first guest to its neighbour, its gateway and the internet.

        `stopped` is a pattern (re.search) of pings, like "lab out", that the condition itself stops.
        """
        pings: dict[str, tuple[NetNs, str]] = {}
        for name, kind in KINDS.items():
            ways = {"neighbour": kind.addresses[1].partition("/")[0]}
            ways |= {"gateway": kind.gateways[0]} if kind.gateways else {}
            ways |= {"out": SERVER4} if kind.reaches_out else {}
            for way, address in ways.items():
                if not (stopped and re.search(stopped, f"{name} {way}")):
                    pings[f"{name} {way}"] = self.guests[name][0].namespace, address
        return Echoes(pings)

    def cut_off(self) -> list[str]:
        """The guests whose port is down, or who have lost `connected`."""
        links = self.host.links()
        return [
            each.name
            for pair in self.guests.values()
            for each in pair
            if "UP" not in links[each.vif.netdev]["flags"] or each.hotplug_status() != "connected"
        ]

    def problems(self) -> str:
        return "\n".join(status(self.xennetd)["problems"])


# What happens while the host is worse


def nothing(world: World) -> None:
    world.xennetd.ask("list")


def reload(world: World) -> None:
    world.xennetd.ctl("reload")


def retry(world: World) -> None:
    for first, _ in world.guests.values():
        world.xennetd.ctl("retry", first.vif.netdev)


def restart(world: World) -> None:
    world.xennetd.kill9()
    world.xennetd.start()


Event = Callable[[World], None]
EVENTS: tuple[Event, ...] = (nothing, reload, retry, restart)


@dataclass(frozen=True)
class Condition:
    """How the host becomes worse, and better again.

    `told` is a pattern of what `status` says meanwhile, `stopped` one of the pings that the condition itself stops (see
    `World.pings`). `late` says that a running daemon does not notice: it counts from a restart on. `forgotten` is a
    pattern of what can't be known any more after a restart meanwhile.
    """

    begin: Callable[[World], None]
    end: Callable[[World], None]
    told: str
    stopped: str = ""
    late: bool = False
    forgotten: str = ""


def _ip(*commands: str) -> Callable[[World], None]:
    return lambda world: ip(world.host, *commands)


def _uplink_is_back(world: World) -> None:
    ip(
        world.host,
        "address replace 192.0.2.2/24 dev eth0",
        "address replace 2001:db8::2/64 dev eth0 nodad",
        "route replace default via 192.0.2.1",
        "route replace default via 2001:db8::1",
    )


def _renamed(old: str, new: str) -> Callable[[World], None]:
    return _ip(f"link set {old} name {new}")


def _configure(text: str) -> Callable[[World], None]:
    def configure(world: World) -> None:
        world.xennetd.configure(text)
        world.xennetd.ctl("reload")

    return configure


def _hide(pattern: str, hidden: bool) -> Callable[[World], None]:
    def change(world: World) -> None:
        with world.host:
            for file in Path("/usr").glob(pattern):
                if hidden:
                    _mount("/dev/null", str(file), flags=MS_BIND)
                else:
                    world.host.run("umount", str(file))

    return change


def _name_node(present: bool) -> Callable[[World], None]:
    def change(world: World) -> None:
        xs = world.bed.toolstack.xs
        for pair in world.guests.values():
            for each in pair:
                path = f"{each.domain.path}/name"
                xs.write(path, each.name) if present else xs.rm(path)

    return change


class _Removal:
    """Removes xennetd's filter again and again, from `begin` to `end`."""

    def begin(self, world: World) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(world,))
        self._thread.start()

    def end(self, world: World) -> None:
        self._over.set()
        self._thread.join()

    def _run(self, world: World) -> None:
        while not self._over.wait(0.02):
            world.host.run("nft", "delete", "table", "inet", "xennetd", check=False)


_removal = _Removal()


def _take_the_name(world: World) -> None:
    with paused(world.xennetd.pid):  # It would be faster.
        ip(world.host, "link set xn-lab name mine", "link add xn-lab type bridge")


_OUT = r"(edge|hop|leased|alone|numbered|lab|any) out"
CONDITIONS: Mapping[str, Condition] = {
    "the uplink has lost its addresses": Condition(
        _ip("address flush dev eth0"), _uplink_is_back, "eth0|default route", _OUT
    ),
    "the uplink is renamed": Condition(_renamed("eth0", "wan0"), _renamed("wan0", "eth0"), "eth0"),
    "there is no default route": Condition(
        _ip("route del default", "route del default via 2001:db8::1"), _uplink_is_back, "default route", _OUT
    ),
    "bridges are renamed": Condition(
        _ip("link set xenbr0 name lan0", "link set xenbr1 name lan1"),
        _ip("link set lan0 name xenbr0", "link set lan1 name xenbr1"),
        'bridge "xenbr1" does not exist',
    ),
    "the bridge of a network of ours is renamed": Condition(_renamed("xn-lab", "mine"), nothing, ""),
    "the bridge of a network of ours is renamed, and its name is taken": Condition(
        _take_the_name,
        _ip("link del xn-lab"),
        "there is a bridge of that name",
    ),
    "the host has a guest's address": Condition(
        _ip(f"address add 203.0.113.11/32 dev {SPARE}", f"address add 203.0.113.31/32 dev {SPARE}"),
        _ip(f"address del 203.0.113.11/32 dev {SPARE}", f"address del 203.0.113.31/32 dev {SPARE}"),
        "address 203.0.113.11 is the host's own",
        "edge|alone",
    ),
    "the router has a guest's address": Condition(
        _ip("route replace default via 203.0.113.11 dev eth0 onlink"), _uplink_is_back, "host's router", _OUT
    ),
    "another link is in the subnet of a network": Condition(
        _ip(f"address add 10.77.0.99/24 dev {SPARE}"), _ip(f"address del 10.77.0.99/24 dev {SPARE}"), ""
    ),
    "libnftables can't be loaded": Condition(
        _hide("lib/*/libnftables.so.1", True), _hide("lib/*/libnftables.so.1", False), "libnftables", late=True
    ),
    "dnsmasq is not installed": Condition(
        _hide("sbin/dnsmasq", True), _hide("sbin/dnsmasq", False), "dnsmasq", late=True
    ),
    "no name of a VM can be read": Condition(
        _name_node(False), _name_node(True), "depends on the domain's name", late=True
    ),
    "another program keeps removing the filter": Condition(
        _removal.begin,
        _removal.end,
        "keeps removing the filter|needed again|again and again",
        "(numbered|lab|any) out",
        forgotten="elements|0x0000",
    ),
    "a network gets an IPv6 subnet": Condition(_configure(WITH_IPV6), _configure(CONFIG), ""),
}

"""One attach in each mode beside the stock script for it, where there is one that works."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

from tests.bed import hotplug, xen
from tests.bed.daemon import STAND_IN
from tests.bed.toolstack import VifSpec
from tests.bench.single import attach_once
from tests.bench.stage import Stage, Verdicts
from tests.bench.table import Aim, Row
from xennetd.model.value import replace

UPLINK = "eth9"
CONFIGURATION = """
[network.lab]
mode = "nat"
subnets = ["10.77.0.0/16", "fd77::/64"]
dhcp = true

[network.store]
mode = "isolated"
subnets = ["10.78.0.0/16"]
dhcp = true

[[policy]]
match = { bridge = "lab" }
network = "lab"

[[policy]]
match = { bridge = "store" }
network = "store"
"""

_ROUTED: dict[str, Any] = {"ip": "192.0.2.17", "gatewaydev": UPLINK}
_BESIDE_STOCK = {
    "a route by vif-xennetd-route": (VifSpec("vif-xennetd-route", **_ROUTED), VifSpec("vif-route", **_ROUTED)),
    "NAT by vif-xennetd-nat": (
        VifSpec("vif-xennetd-nat", gatewaydev=UPLINK),
        VifSpec("vif-nat", gatewaydev=UPLINK),
    ),
}
_ALONE = {
    "a network of mode nat with DHCP": VifSpec(bridge="lab"),
    "an isolated network with DHCP": VifSpec(bridge="store"),
}

_NEIGHBOURS = (
    replace(_BESIDE_STOCK["a route by vif-xennetd-route"][0], ip="192.0.2.18"),
    replace(_BESIDE_STOCK["NAT by vif-xennetd-nat"][0], ip="10.200.0.1"),
)
"""Guests that stay, so that the host forwards already: it does so from its first guest on."""


def rows(rounds: int, ours_a_round: int) -> list[Row]:
    """Attach one guest after the other: each round once by the stock script, several times by us."""
    xen.program("ifconfig", "net-tools")  # stock's vif-route wants it
    xen.program("nft", "nftables")
    xen.program("dnsmasq", "dnsmasq-base")
    ours: dict[str, list[float]] = {name: [] for name in (*_BESIDE_STOCK, *_ALONE)}
    stock: dict[str, list[float]] = {name: [] for name in _BESIDE_STOCK}
    with Stage(STAND_IN + CONFIGURATION) as stage:
        _uplink(stage)
        stage.start()
        for spec in _NEIGHBOURS:
            _, vif = stage.appear(spec)
            attach_once(stage, vif)
        for number in range(rounds):
            for name, (our, theirs) in _BESIDE_STOCK.items():
                stock[name].append(_stock(stage, theirs))
                ours[name] += [_ours(stage, our) for _ in range(ours_a_round if number else ours_a_round + 1)][
                    -ours_a_round:
                ]
            for name, spec in _ALONE.items():
                ours[name] += [_ours(stage, spec) for _ in range(ours_a_round if number else ours_a_round + 1)][
                    -ours_a_round:
                ]
    beside = [
        Row(f"one attach to {name}, p50", median(ours[name]), median(stock[name]), aim=Aim(ratio=20), note=_NOTES[name])
        for name in _BESIDE_STOCK
    ]
    return beside + [Row(f"one attach to {name}, p50", median(ours[name]), note=_NOTES[name]) for name in _ALONE]


_NOTES = {
    "a route by vif-xennetd-route": "an address of the uplink's subnet, proxied; beside stock's vif-route",
    "NAT by vif-xennetd-nat": "beside stock's vif-nat, which leaves the masquerading to others",
    "a network of mode nat with DHCP": "with a fixed lease and a name; there is no stock script for it",
    "an isolated network with DHCP": "the same",
}


def _uplink(stage: Stage) -> None:
    stage.host.rtnl.add_veth(UPLINK, "eth0", stage.host.guest("beyond").fd)
    stage.host.rtnl.set(UPLINK, up=True)
    stage.host.rtnl.add_address(UPLINK, "192.0.2.2/24")


def _ours(stage: Stage, spec: VifSpec) -> float:
    domain, vif = stage.appear(spec)
    taken = attach_once(stage, vif)
    stage.bed.toolstack.detach_vif(vif)
    stage.vanish(domain, vif)
    return taken


def _stock(stage: Stage, spec: VifSpec) -> float:
    domain, vif = stage.appear(spec)
    stage.bed.netback.prepare(vif)
    with stage.without_xennetd(), Verdicts(stage, [vif]) as verdicts:
        began = perf_counter()
        process = hotplug.start(stage.xenstored, vif, "online")
        taken = verdicts.all_connected() - began
        process.communicate()
        stage.bed.toolstack.detach_vif(vif)
        hotplug.run(stage.xenstored, vif, "offline")
    stage.vanish(domain, vif)
    return taken

"""A bond loses a leg and gets it back while a guest behind it is pinged 20 times a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.bed.guest import Guest
from tests.bed.pinging import Pinging
from tests.bed.toolstack import VifSpec
from tests.vm.fabric import GUEST, MOST_LOST, ROUTER, Fabric, is_told, problems
from tests.vm.machine import Machine, left_alone, until
from tests.vm.test_topology import apply

MakeGuest = Callable[..., Guest]

BOND = """
[bond.bond0]
ports = ["leg0", "leg1"]
{settings}
[vlan."bond0.100"]
[bridge.service]
ports = ["bond0.100"]
addresses = ["10.100.0.254/24"]
"""

MIIMON = 'mode = "active-backup"\nmiimon = 50\nprimary = "leg0"'
ARP = f'mode = "active-backup"\narp_interval = 100\narp_ip_target = ["{ROUTER}"]\nprimary = "leg0"'


@pytest.fixture
def fabric(host: Machine, service: None) -> Iterator[Fabric]:
    with left_alone("service bond0* leg* enp9s0"):
        yield Fabric(host)
        apply("")


def active(host: Machine) -> str:
    link = host.link("bond0")
    assert link is not None
    return str(link["linkinfo"]["info_data"]["active_slave"])


def connected(guest: MakeGuest) -> Guest:
    web = guest("web", VifSpec(bridge="service"), address=f"{GUEST}/24")
    web.connect()
    until(lambda: web.ping(ROUTER))
    return web


@pytest.mark.parametrize(
    ("settings", "group"),
    [
        (MIIMON, ()),
        pytest.param('mode = "balance-rr"\nmiimon = 50', ("balance-rr",), marks=pytest.mark.long),
        pytest.param(
            'mode = "802.3ad"\nmiimon = 50\nlacp_rate = "fast"',
            ("802.3ad", "lacp_rate", "fast"),
            marks=pytest.mark.long,
        ),
    ],
    ids=["active-backup", "balance-rr", "802.3ad"],
)
def test_a_guest_goes_on_over_the_other_leg(
    host: Machine, fabric: Fabric, guest: MakeGuest, settings: str, group: tuple[str, ...]
) -> None:
    if group:
        fabric.group(*group)
    apply(BOND.format(settings=settings))
    web = connected(guest)
    until(lambda: not problems())
    for leg in ("leg0", "leg1"):
        with Pinging(web.namespace, ROUTER) as pinging:
            fabric.cut(leg)
            until(partial(is_told, f"{leg}, a port of bond0, has no carrier"))
            lost = pinging.lost()
        print(f"{settings.splitlines()[0]}: {leg} cut: {len(lost)} requests lost")
        assert len(lost) <= MOST_LOST
        with Pinging(web.namespace, ROUTER) as pinging:
            fabric.heal(leg)
            until(lambda: not problems())
            lost = pinging.lost()
        print(f"{settings.splitlines()[0]}: {leg} back: {len(lost)} requests lost")
        assert len(lost) <= MOST_LOST


@pytest.mark.long
def test_a_path_that_fails_beyond_the_switch_is_found_by_arp(host: Machine, fabric: Fabric, guest: MakeGuest) -> None:
    """The leg keeps its carrier. The bond's requests go where the VLAN's bridge has its address."""
    apply(BOND.format(settings=ARP))
    web = connected(guest)
    until(lambda: active(host) == "leg0")
    with Pinging(web.namespace, ROUTER) as pinging:
        fabric.net.rtnl.set("core-a", up=False)
        until(lambda: active(host) == "leg1")
        lost = pinging.lost()
    print(f"ARP monitor: path cut: {len(lost)} requests lost")
    assert len(lost) <= MOST_LOST
    until(partial(is_told, "leg0, a port of bond0, hears nothing from the addresses of arp_ip_target"))
    with Pinging(web.namespace, ROUTER) as pinging:
        fabric.net.rtnl.set("core-a", up=True)
        until(lambda: active(host) == "leg0")
        lost = pinging.lost()
    print(f"ARP monitor: path back: {len(lost)} requests lost")
    assert len(lost) <= MOST_LOST
    until(lambda: not problems())


@pytest.mark.long
def test_switches_learn_where_the_host_and_its_guests_are_after_a_failover(
    host: Machine, fabric: Fabric, guest: MakeGuest
) -> None:
    """The kernel announces the host's own addresses. A guest is known again as soon as it says anything."""
    apply(BOND.format(settings=MIIMON))
    web = connected(guest)
    until(lambda: host.ping(ROUTER))
    link, own = web.namespace.link("eth0"), host.link("service")
    assert link is not None
    assert own is not None
    assert (fabric.learned(link["address"]), fabric.learned(own["address"])) == ("core-a", "core-a")
    fabric.cut("leg0")
    until(lambda: active(host) == "leg1")
    until(lambda: fabric.learned(own["address"]) == "core-b", timeout=10.0)
    print(f"a guest that is silent is known to be behind {fabric.learned(link['address'])}")
    until(lambda: web.ping(ROUTER))
    assert fabric.learned(link["address"]) == "core-b"

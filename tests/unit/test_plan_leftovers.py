"""`leftovers`: marked objects that nobody wants. Wanted bridges under another name, and what is on them, are none."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from xennetd.model.objects import HostAddress, HostObject, ManagedBridge, Sysctl
from xennetd.plan.difference import by_key
from xennetd.plan.leftovers import leftovers

WANTED, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
UPLINK = Sysctl(4, "eth0", "forwarding", 1)


def on(bridge: str) -> list[HostObject]:
    return [HostAddress(bridge, ip_interface("10.77.0.1/24")), Sysctl(4, bridge, "forwarding", 0)]


@pytest.mark.parametrize(
    ("bridge", "stays"),
    [
        (ManagedBridge("mine", WANTED), True),
        (ManagedBridge("mine", WANTED, serves=True), True),
        (ManagedBridge("mine", OTHER, serves=True), True),
        (ManagedBridge("mine", OTHER), False),
    ],
)
def test_a_bridge_and_what_is_on_it_stay_together(bridge: ManagedBridge, *, stays: bool) -> None:
    lab = ManagedBridge("xn-lab", WANTED)
    found = leftovers([bridge, *on("mine"), UPLINK], by_key([lab, *on("xn-lab")]))
    assert found == by_key([UPLINK] if stays else [bridge, *on("mine"), UPLINK])


def test_a_second_bridge_with_the_mac_of_one_that_is_there_is_a_leftover() -> None:
    lab, second = ManagedBridge("xn-lab", WANTED), ManagedBridge("mine", WANTED)
    assert leftovers([lab, second], by_key([lab])) == by_key([second])


def test_a_wanted_bridge_that_serves_guests_loses_what_its_network_gave_up() -> None:
    lab = ManagedBridge("xn-lab", WANTED, serves=True)
    assert leftovers([lab, *on("xn-lab")], by_key([lab])) == by_key(on("xn-lab"))

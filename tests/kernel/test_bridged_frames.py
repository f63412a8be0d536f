"""br_netfilter shows nftables the frames between two ports of a bridge: xennetd's rules about routing leave them alone.

And nothing that the host routes passes for such a frame.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from tests.bed.guest import Guest
from tests.bed.netns import NetNs
from tests.bed.site import HOST4, HOST6, ROUTER4, ROUTER6, Site, ip, sysctl
from tests.bed.toolstack import VifSpec
from tests.bed.wire import Frame, Wire, udp
from tests.kernel.conftest import Inhabit, MakeDaemon, MakeGuest
from tests.kernel.every_mode import networks
from tests.kernel.wait import eventually

LAN = '[network.lan]\nmode = "bridge"\nbridge = "xenbr0"\n'
EDGE = '[network.edge]\nmode = "route"\n'
LAB = (
    '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24", "fd77::/64"]\nnptv6 = "2001:db8:77::/64"\n'
    'forward = [{ proto = "udp", port = 8080, to = "10.77.0.11:80" }]\n'
)
CABLE = '[network.cable]\nmode = "isolated"\n'
BRIDGE_MAC = "02:00:00:00:00:99"
PORT_MAC = "fe:ff:ff:ff:ff:ff"
"""The MAC of every vif, which is local to each bridge that has a vif as its port."""


@pytest.fixture(autouse=True)
def br_netfilter(site: Site) -> None:
    if not Path("/proc/sys/net/bridge").is_dir():
        pytest.skip("kernel lane: this kernel's module br_netfilter is not loaded")
    site.pass_bridged_frames(through_nftables=True)


def mac(guest: Guest) -> str:
    return str(guest.namespace.links()["eth0"]["address"])


def frames(sender: Guest, receiver: Guest, *sent: tuple[str, str, str], port: int = 9) -> list[Frame]:
    """What of frames, each by its target MAC, source address and target address, comes to the receiver."""
    with Wire(receiver.namespace) as inside, Wire(sender.namespace) as wire:
        for number, (target, source, destination) in enumerate(sent):
            wire.send(udp(mac(sender), target, source, destination, f"frame{number}".encode(), port=port))
        time.sleep(0.2)
        wire.send(udp(mac(sender), mac(receiver), "203.0.113.99", "203.0.113.98", b"fence"))
        return [frame for frame in inside.until(b"fence") if b"frame" in frame.raw]


def passes(namespace: NetNs, *addresses: str) -> dict[str, bool]:
    return {address: namespace.ping(address, wait=0.4) for address in addresses}


def forwards_for_guests_only(site: Site, version: int) -> bool:
    listed = site.host.run("nft", "list", "set", "inet", "xennetd", f"guest_only{version}", check=False)
    return "xenbr0" in listed.stdout


@pytest.fixture
def uplink(site: Site) -> str:
    """The usual dom0: the uplink is a port of xenbr0, which has the host's addresses."""
    site.host.bridge("xenbr0")
    ip(
        site.host,
        "address flush dev eth0",
        f"link set xenbr0 address {BRIDGE_MAC} up",
        "link set eth0 master xenbr0",
        f"address add {HOST4}/24 dev xenbr0",
        f"address add {HOST6}/64 dev xenbr0 nodad",
        f"route add default via {ROUTER4}",
        f"route replace default via {ROUTER6}",
    )
    return "xenbr0"


@pytest.mark.parametrize("why", ["a routed guest", "a network"])
@pytest.mark.usefixtures("uplink")
def test_an_uplink_that_forwards_because_of_us_bridges_as_before_and_routes_to_guests_only(
    site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, why: str
) -> None:
    # given
    daemon(networks(LAN, EDGE, *([LAB] if why == "a network" else [])))
    one, other = guest("lan-1"), guest("lan-2")
    inhabit(one, "192.0.2.101/24", "2001:db8::101/64", gateways=(HOST4, HOST6))
    inhabit(other, "192.0.2.102/24", "2001:db8::102/64", gateways=(HOST4, HOST6))
    if why == "a routed guest":
        edge = guest("edge-1", VifSpec(ip="203.0.113.11 2001:db8:5::12"))
        assert eventually(edge.hotplug_status) == "connected", edge.hotplug_error()
    for version in (4, 6):
        eventually(partial(forwards_for_guests_only, site, version))
    # then
    bridged = ("192.0.2.102", "2001:db8::102", ROUTER4, ROUTER6)
    assert passes(one.namespace, *bridged) == dict.fromkeys(bridged, True)
    # and: packets to the host, which has a route to their destination, out of the bridge that they came by
    routed = [
        (target, source, destination)
        for target in (BRIDGE_MAC, PORT_MAC)
        for source, destination in (("192.0.2.101", "192.0.2.102"), ("2001:db8::101", "2001:db8::102"))
    ]
    for address in ("192.0.2.102", "2001:db8::102"):  # the host knows the neighbour's MAC
        assert site.host.ping(address)
    assert frames(one, other, *routed) == []
    # and when an administrator makes the host a router: these packets would have been seen
    sysctl(site.host, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
    eventually(lambda: len(frames(one, other, *routed)) == 4)


def test_frames_of_a_foreign_bridge_are_not_translated_and_not_dropped(
    site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit
) -> None:
    """Whoever is on the bridge may use a network's subnet, and the prefix that stands for it outside."""
    site.host.bridge("xenbr0")
    daemon(networks(LAN, LAB))
    one, other = guest("lan-1"), guest("lan-2")
    inhabit(one, "10.77.0.5/24")
    inhabit(other, "10.77.0.6/24")
    sent = [("10.77.0.5", "10.77.0.6"), ("fd77::5", "fd77::6"), ("2001:db8:77::5", "2001:db8:77::6")]
    sent += [("10.77.0.5", "198.51.100.9"), ("fd77::5", "2001:db8:ffff::9")]
    seen = frames(one, other, *((mac(other), *addresses) for addresses in sent))
    assert [frame.sender for frame in seen] == [source for source, _ in sent]


def test_guests_of_a_cable_may_use_the_hosts_address_at_a_forwarded_port(
    guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit
) -> None:
    daemon(networks(CABLE, LAB))
    one, other = guest("cable-1"), guest("cable-2")
    inhabit(one, "192.0.2.5/24")
    inhabit(other, f"{HOST4}/24")
    [seen] = frames(one, other, (mac(other), "192.0.2.5", HOST4), port=8080)
    assert seen.raw[30:34] == bytes([192, 0, 2, 2])

"""DHCP, router advertisements and DNS of guests that are in no bridge: each alone at its interface."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.bed.dhcp import (
    NOERROR,
    Answer,
    Care,
    add_address,
    ask,
    dhclient,
    kill_all,
    make_link,
    network,
    pid,
    told,
    udhcpc,
)
from tests.bed.netns import Host, NetNs
from tests.kernel.wait import eventually
from xennetd.model.configuration import Network
from xennetd.policy.modes import ROUTE

WEB, DB, STRANGER = (f"00:16:3e:00:00:{number:02x}" for number in (1, 2, 3))
UPLINK = "192.0.2.10/32"


@pytest.fixture
def care(host: Host) -> Iterator[Care]:
    for version in ("ipv4", "ipv6"):
        Path(f"/proc/sys/net/{version}/conf/all/forwarding").write_text("1")
    care = Care()
    yield care
    care.stop()
    kill_all()


def routed(name: str, number: int, **more: object) -> Network:
    return network(name, ROUTE, (f"10.9{number}.0.0/24", f"fd9{number}::/64"), ra="stateful", **more)


def serve(host: Host, care: Care, *networks: Network) -> None:
    for each in networks:
        make_link(host, each)
        care.serve(each)
    eventually(lambda: all(pid(each.name) and pid(f"{each.name}:ipv6") for each in networks))


def default_route6(guest: NetNs) -> str:
    """The guest's IPv6 default route, empty while it has none."""
    return guest.run("ip", "-6", "route", "show", "default").stdout


def add_routed_guest(host: Host, mac: str, domid: int, *addresses: str, link_local: bool = True) -> NetNs:
    """A guest wired to vif<domid>.0, with what route mode gives that: gateways, routes, neighbours."""
    vif = f"vif{domid}.0"
    guest = host.guest(f"guest-{domid}")
    host.rtnl.add_veth(vif, "eth0", guest.fd)
    guest.rtnl.set("eth0", address=mac)
    host.run("ip", "link", "set", vif, "addrgenmode", "none", "up")
    for gateway in (UPLINK, "169.254.1.1/32", *(["fe80::1/64"] if link_local else [])):
        add_address(host, vif, gateway)
    for address in addresses:
        host.run("ip", "route", "add", address, "dev", vif)
        host.run("ip", "neighbour", "add", address, "lladdr", mac, "dev", vif, "nud", "permanent")
    guest.rtnl.set("eth0", up=True)
    return guest


def test_a_routed_guest_is_told_that_it_is_alone_and_who_the_gateway_is(host: Host, care: Care) -> None:
    serve(host, care, routed("one", 1))
    care.tell(told("one", WEB, "10.91.0.5", "fd91::5", name="web.one.internal"))
    guest = add_routed_guest(host, WEB, 1, "10.91.0.5", "fd91::5")
    given = dhclient(guest)
    assert (given["new_ip_address"], given["new_subnet_mask"]) == ("10.91.0.5", "255.255.255.255")
    assert (given["new_routers"], given["new_domain_name_servers"]) == ("10.91.0.1", "10.91.0.1")
    assert given["new_rfc3442_classless_static_routes"] == "32 10 91 0 1 0 0 0 0 0 10 91 0 1"
    for command in (
        "address add 10.91.0.5/32 dev eth0",
        "route add 10.91.0.1 dev eth0",
        "route add default via 10.91.0.1",
    ):
        guest.run("ip", *command.split())
    assert guest.ping("192.0.2.10")
    assert ask(guest, "10.91.0.1", "10.91.0.5", "PTR") == Answer(NOERROR, ["web.one.internal"])


def test_the_gateway_may_be_the_link_local_one(host: Host, care: Care) -> None:
    serve(host, care, routed("one", 1, gateway="link-local"))
    care.tell(told("one", WEB, "10.91.0.5", name="web.one.internal"))
    given = udhcpc(add_routed_guest(host, WEB, 1, "10.91.0.5"), "-O", "staticroutes")
    assert (given["router"], given["serverid"]) == ("169.254.1.1", "10.91.0.1")
    assert given["staticroutes"].startswith("169.254.1.1/32 0.0.0.0 0.0.0.0/0 169.254.1.1")


def test_ipv6_comes_by_router_advertisement_and_dhcpv6(host: Host, care: Care) -> None:
    serve(host, care, routed("one", 1))
    care.tell(told("one", WEB, "10.91.0.5", "fd91::5", name="web.one.internal"))
    guest = add_routed_guest(host, WEB, 1, "10.91.0.5", "fd91::5")
    eventually(lambda: "via fe80::1" in guest.run("ip", "-6", "route", "show", "default").stdout, timeout=30.0)
    assert dhclient(guest, 6)["new_ip6_address"] == "fd91::5"
    assert [address for address in guest.addresses("eth0") if ":" in address and address[:4] != "fe80"] == []
    guest.rtnl.add_address("eth0", "fd91::5/128")
    eventually(lambda: guest.ping("fd91::1"))
    assert ask(guest, "fd91::1", "web.one.internal", "AAAA") == Answer(NOERROR, ["fd91::5"])


def test_two_routed_networks_give_each_guest_its_own(host: Host, care: Care) -> None:
    serve(host, care, routed("one", 1), routed("two", 2))
    care.tell(told("one", WEB, "10.91.0.5", "fd91::5"), told("two", DB, "10.92.0.5", "fd92::5"))
    web = add_routed_guest(host, WEB, 1, "10.91.0.5", "fd91::5")
    db = add_routed_guest(host, DB, 2, "10.92.0.5", "fd92::5")
    assert (udhcpc(web)["ip"], udhcpc(db)["ip"]) == ("10.91.0.5", "10.92.0.5")
    for guest, address in ((web, "fd91::5"), (db, "fd92::5")):
        eventually(partial(default_route6, guest), timeout=30.0)
        assert dhclient(guest, 6)["new_ip6_address"] == address


def test_a_routed_guest_of_no_network_hears_nothing(host: Host, care: Care) -> None:
    serve(host, care, routed("one", 1))
    care.tell(told("one", WEB, "10.91.0.5", "fd91::5"))
    stranger = add_routed_guest(host, STRANGER, 3, "10.93.0.5", link_local=False)
    web = add_routed_guest(host, WEB, 1, "10.91.0.5", "fd91::5")
    assert udhcpc(stranger, tries=2) == {}
    eventually(lambda: web.run("ip", "-6", "route", "show", "default").stdout, timeout=30.0)
    assert stranger.run("ip", "-6", "route", "show", "default").stdout == ""


def test_port_53_of_the_uplinks_address_is_left_to_others(host: Host, care: Care) -> None:
    serve(host, care, routed("one", 1))
    care.tell(told("one", WEB, "10.91.0.5", "fd91::5"))
    guest = add_routed_guest(host, WEB, 1, "10.91.0.5", "fd91::5")
    assert udhcpc(guest)["ip"] == "10.91.0.5"
    bound = host.run("ss", "-Hlnut", "sport", "=", "53").stdout.split()
    addresses = {word for word in bound if word.endswith(":53")}
    assert addresses == {"10.91.0.1:53", "[fd91::1]:53"}


def test_the_gateways_address_brings_no_route_to_the_subnet(host: Host, care: Care) -> None:
    serve(host, care, routed("one", 1))
    routes = host.run("ip", "route").stdout + host.run("ip", "-6", "route").stdout
    assert "10.91.0.0/24" not in routes
    assert "fd91::/64" not in routes

"""Somebody renames the bridge of a network of ours: its guests keep what they have, and get nothing else."""

from __future__ import annotations

import time

import pytest

from tests.bed.echoes import Echoes
from tests.bed.guest import Bed
from tests.bed.netns import NetNs
from tests.bed.reach import WHO, ask
from tests.bed.site import HOST4, HOST6, ROUTER4, ROUTER6, SERVER4, SERVER6, Site, ip, sysctl
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Inhabit, MakeDaemon, MakeGuest
from tests.kernel.every_mode import networks
from tests.kernel.status import status
from tests.kernel.wait import eventually, paused

LAB = '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24"]\nuplink = "eth0"\n'
STORE = '[network.store]\nmode = "isolated"\nsubnets = ["10.78.0.0/24", "fd78::/64"]\n'
FORWARD = f'forward = [{{ proto = "tcp", port = 8080, to = "10.77.0.11:{WHO}" }}]\n'
TAKEN = "there is a bridge of that name"


def take_the_name(bed: Bed, pid: int, bridge: str) -> None:
    with paused(pid):  # It would be faster.
        ip(bed.host, f"link set {bridge} name mine", f"link add {bridge} type bridge")


def count(namespace: NetNs, family: str, source: str) -> None:
    """Let a namespace count what comes from an address. `family` is nft's, ip or ip6."""
    chain = f"add chain {family} t c {{ type filter hook prerouting priority 0; }}"
    rule = f"add rule {family} t c {family} saddr {source} counter"
    namespace.run("nft", f"add table {family} t; {chain}; {rule}")


def arrived(namespace: NetNs, family: str) -> int:
    return int(namespace.run("nft", "list", "table", family, "t").stdout.partition("packets ")[2].split()[0])


@pytest.mark.parametrize("again", ["", "reload", "restart"])
def test_guests_keep_their_gateway_while_another_link_has_the_name(
    bed: Bed, site: Site, guest: MakeGuest, inhabit: Inhabit, daemon: MakeDaemon, again: str
) -> None:
    xennetd = daemon(networks(LAB))
    web = guest("lab-1", VifSpec(ip="10.77.0.11"))
    web.connect()
    inhabit(web, "10.77.0.11/24", gateways=["10.77.0.1"])
    index = bed.host.links()["xn-lab"]["ifindex"]
    with Echoes({"gateway": (web.namespace, "10.77.0.1"), "out": (web.namespace, SERVER4)}) as pings:
        take_the_name(bed, xennetd.pid, "xn-lab")
        eventually(lambda: TAKEN in "".join(status(xennetd)["problems"]))
        if again == "reload":
            assert xennetd.ctl("reload").returncode == 0
        elif again == "restart":
            xennetd.kill9()
            xennetd.start()
        time.sleep(0.3)
        assert "10.77.0.1/24" in bed.host.addresses("mine")
        ip(bed.host, "link delete xn-lab")
        eventually(lambda: (bed.host.link("xn-lab") or {}).get("ifindex") == index)
        assert pings.lost() == {}
    assert eventually(lambda: status(xennetd)["problems"] == [])


def test_renames_in_a_row_take_no_address_and_no_bridge(bed: Bed, site: Site, daemon: MakeDaemon) -> None:
    """The second one is repaired a second later, since the first has just been. No guest is there meanwhile."""
    daemon(networks(LAB))
    index = bed.host.links()["xn-lab"]["ifindex"]
    for _ in range(3):
        eventually(lambda: "xn-lab" in bed.host.links())
        ip(bed.host, "link set xn-lab name mine")
        time.sleep(0.1)
    link = eventually(lambda: bed.host.link("xn-lab"))
    assert link["ifindex"] == index
    assert "10.77.0.1/24" in bed.host.addresses("xn-lab")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.usefixtures("br_netfilter")
def test_an_isolated_network_stays_isolated(
    bed: Bed, site: Site, guest: MakeGuest, inhabit: Inhabit, daemon: MakeDaemon, version: int
) -> None:
    """On a host that forwards anyway, and that forwards its ports to another network."""
    sysctl(site.host, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
    xennetd = daemon(networks(STORE, LAB + FORWARD))
    safe, other, web = (guest(name) for name in ("store-1", "store-2", "lab-1"))
    gateway, theirs, server, host, subnet = {
        4: ("10.78.0.1", ROUTER4, SERVER4, HOST4, "10.78.0.0/24"),
        6: ("fd78::1", ROUTER6, SERVER6, HOST6, "fd78::/64"),
    }[version]
    place = inhabit(safe, "10.78.0.11/24", "fd78::11/64", gateways=["10.78.0.1", "fd78::1"])
    inhabit(other, "10.78.0.12/24", "fd78::12/64")
    inhabit(web, "10.77.0.11/24", gateways=["10.77.0.1"])
    ours, neighbour = (place.ipv4, "10.78.0.12") if version == 4 else (place.ipv6, "fd78::12")
    link = bed.host.links()["xn-store"]["address"]
    ip(safe.namespace, f"neighbour replace {gateway} lladdr {link} dev eth0 nud permanent")
    ip(site.internet, f"route replace {subnet} via {host} dev eth0")
    family = "ip" if version == 4 else "ip6"
    count(site.internet, family, ours)
    count(safe.namespace, family, theirs)
    take_the_name(bed, xennetd.pid, "xn-store")
    for _ in range(2):
        safe.namespace.ping(server, wait=0.3)
        site.internet.run("ping", "-c1", "-W0.3", "-I", theirs, ours, check=False)
        assert (arrived(site.internet, family), arrived(safe.namespace, family)) == (0, 0)
        assert not safe.namespace.ping(host, wait=0.3)
        assert ask(safe.namespace, HOST4, 8080, window=0.4) is None
        eventually(lambda: TAKEN in "".join(status(xennetd)["problems"]))
        time.sleep(0.3)
    assert safe.namespace.ping(gateway, wait=0.5)
    assert safe.namespace.ping(neighbour, wait=0.5)


@pytest.mark.usefixtures("br_netfilter")
def test_a_nat_network_stays_closed_and_its_guests_open_connections(
    bed: Bed, site: Site, guest: MakeGuest, inhabit: Inhabit, daemon: MakeDaemon
) -> None:
    xennetd = daemon(networks(LAB + FORWARD))
    web, other = guest("lab-1", VifSpec(ip="10.77.0.11")), guest("lab-2")
    inhabit(web, "10.77.0.11/24", gateways=["10.77.0.1"])
    inhabit(other, "10.77.0.12/24", gateways=["10.77.0.1"])
    ip(site.internet, f"route replace 10.77.0.0/24 via {HOST4} dev eth0")
    count(web.namespace, "ip", ROUTER4)
    take_the_name(bed, xennetd.pid, "xn-lab")
    for _ in range(2):
        site.internet.run("ping", "-c1", "-W0.3", "-I", ROUTER4, "10.77.0.11", check=False)
        assert arrived(web.namespace, "ip") == 0
        for address in (SERVER4, HOST4, "10.77.0.1", "10.77.0.12"):
            assert web.namespace.ping(address, wait=0.5), address
        for place in (site.internet, other.namespace):
            answer = ask(place, HOST4, 8080)
            assert answer is not None
            assert answer.name == "lab-1"
        eventually(lambda: TAKEN in "".join(status(xennetd)["problems"]))
        time.sleep(0.3)

"""Somebody renames the bridge of a network of ours: its guests keep what they have, and get nothing else."""

from __future__ import annotations

import time

import pytest

from tests.bed.echoes import Echoes
from tests.bed.guest import Bed
from tests.bed.netns import NetNs
from tests.bed.site import SERVER4, Site, ip, sysctl
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Inhabit, MakeDaemon, MakeGuest
from tests.kernel.every_mode import networks
from tests.kernel.status import status
from tests.kernel.wait import eventually, paused

LAB = '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24"]\nuplink = "eth0"\n'
STORE = '[network.store]\nmode = "isolated"\nsubnets = ["10.78.0.0/24"]\n'
TAKEN = "there is a bridge of that name"


def take_the_name(bed: Bed, pid: int, bridge: str) -> None:
    with paused(pid):  # It would be faster.
        ip(bed.host, f"link set {bridge} name mine", f"link add {bridge} type bridge")


def count(namespace: NetNs, source: str) -> None:
    """Let a namespace count what comes from an address."""
    rule = f"add rule ip t c ip saddr {source} counter"
    namespace.run("nft", f"add table ip t; add chain ip t c {{ type filter hook prerouting priority 0; }}; {rule}")


def arrived(namespace: NetNs) -> int:
    return int(namespace.run("nft", "list", "table", "ip", "t").stdout.partition("packets ")[2].split()[0])


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


def test_an_isolated_network_stays_isolated(
    bed: Bed, site: Site, guest: MakeGuest, inhabit: Inhabit, daemon: MakeDaemon
) -> None:
    """On a host that forwards anyway."""
    sysctl(site.host, ipv4__ip_forward=1)
    xennetd = daemon(networks(STORE))
    safe = guest("store-1", VifSpec(ip="10.78.0.11"))
    safe.connect()
    inhabit(safe, "10.78.0.11/24", gateways=["10.78.0.1"])
    address = bed.host.links()["xn-store"]["address"]
    ip(safe.namespace, f"neighbour replace 10.78.0.1 lladdr {address} dev eth0 nud permanent")
    count(site.internet, "10.78.0.11")
    take_the_name(bed, xennetd.pid, "xn-store")
    eventually(lambda: TAKEN in "".join(status(xennetd)["problems"]))
    time.sleep(0.3)
    safe.namespace.ping(SERVER4, wait=0.5)
    assert arrived(site.internet) == 0
    assert safe.namespace.ping("10.78.0.1", wait=0.5)

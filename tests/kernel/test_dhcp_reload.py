"""A reload that changes how a network's guests are served: dnsmasq runs by the new words, and every lease is kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.bed import dhcp, dnsmasq
from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Guest
from tests.bed.netns import NetNs
from tests.bed.site import Site
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.status import status
from tests.kernel.wait import eventually

pytestmark = pytest.mark.usefixtures("dnsmasq", "no_resolver")

GATEWAY = "10.77.0.1"
DUAL = 'subnets = ["10.77.0.0/24", "fd77::/64"]'
IPV4 = 'subnets = ["10.77.0.0/24"]'
MAC = "00:16:3e:00:77:11"


def lab(mode: str, *lines: str) -> str:
    """A configuration with one network for all, with DHCP."""
    return "\n".join(
        (STAND_IN, "[network.lab]", f'mode = "{mode}"', "dhcp = true", *lines, '[[policy]]\nnetwork = "lab"', "")
    )


@pytest.fixture
def no_resolver(site: Site) -> None:
    """Have dnsmasq refuse at once what it would ask another server for."""
    Path("/etc/resolv.conf").unlink(missing_ok=True)
    Path("/etc/resolv.conf").touch()


def configure(guest: Guest) -> str:
    """Connect a guest, have it configured by what DHCP says, and return its address."""
    guest.connect()
    lease = eventually(partial(dhcp.udhcpc, guest.namespace))
    Site.give(guest.namespace, f"{lease['ip']}/{lease['mask']}", gateways=(lease.get("router", GATEWAY),))
    return lease["ip"]


def names(guest: Guest, domain: str, *whose: str) -> list[dhcp.Answer | None]:
    """What the network's DNS server tells a guest of these guests' names in a domain."""
    return [dhcp.ask(guest.namespace, GATEWAY, f"{name}.{domain}") for name in whose]


def known(*addresses: str) -> list[dhcp.Answer | None]:
    return [dhcp.Answer(dhcp.NOERROR, [address]) for address in addresses]


def comes_into_force(host: NetNs, look: Callable[[], bool]) -> None:
    """Wait until guests are served as the configuration says now."""
    try:
        eventually(look, interval=0.05)
    except AssertionError as error:
        files = sorted(map(str, Path("/var/lib/xennetd").rglob("*")))
        raise AssertionError(f"{error}: dnsmasq runs as {dnsmasq.running(host)}, its files are {files}") from None


def has_leases(host: NetNs, wanted: dict[str, str]) -> bool:
    """Whether a dnsmasq runs that has these leases in its file."""
    return wanted.items() <= dnsmasq.leases(host).items()


def is_well(xennetd: Daemon) -> bool:
    """Whether xennetd knows of no problem, soon."""
    return eventually(lambda: not status(xennetd)["problems"])


@pytest.mark.parametrize("mode", ["nat", "isolated", "route"])
def test_another_domain_is_in_force_and_the_leases_are_kept(
    site: Site, guest: MakeGuest, daemon: MakeDaemon, mode: str
) -> None:
    # given
    xennetd = daemon(lab(mode, DUAL, 'domain = "old.internal"'))
    web, db = guest("web"), guest("db")
    addresses = [configure(web), configure(db)]
    assert names(web, "old.internal", "web", "db") == known(*addresses)
    leases = dnsmasq.leases(site.host)
    assert sorted(leases.values()) == sorted(addresses)
    # when
    xennetd.reload(lab(mode, DUAL, 'domain = "new.internal"'))
    # then
    comes_into_force(site.host, lambda: names(web, "new.internal", "web", "db") == known(*addresses))
    assert has_leases(site.host, leases)
    comes_into_force(site.host, lambda: dhcp.udhcpc(web.namespace, tries=1).get("domain") == "new.internal")
    assert [answer and answer.values for answer in names(web, "old.internal", "web", "db")] == [[], []]
    assert [dhcp.udhcpc(each.namespace).get("ip") for each in (web, db)] == addresses
    assert is_well(xennetd)


def test_a_guest_that_was_gone_over_the_reload_has_its_address_again(
    site: Site, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    """Nothing but the lease knows its address: `xl create` has given it another uuid."""
    # given
    xennetd = daemon(lab("nat", IPV4, 'domain = "old.internal"'))
    web, first = guest("web"), guest("db", VifSpec(mac=MAC))
    configure(web)
    address = configure(first)
    first.destroy()
    eventually(lambda: [row["vm"] for row in xennetd.ask("list")] == ["web"])
    # when
    xennetd.reload(lab("nat", IPV4, 'domain = "new.internal"'))
    # then
    second = guest("db", VifSpec(mac=MAC))
    second.connect()
    comes_into_force(site.host, lambda: dhcp.udhcpc(second.namespace).get("ip") == address)
    Site.give(second.namespace, f"{address}/24", gateways=(GATEWAY,))
    assert names(second, "new.internal", "db") == known(address)


def test_other_router_advertisements_are_in_force_and_the_leases_are_kept(
    site: Site, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    # given: a guest that is given its IPv4 address alone
    xennetd = daemon(lab("nat", DUAL, 'ra = "off"'))
    web = guest("web", VifSpec(ip="10.77.0.11 fd77::11"))
    configure(web)
    leases = dnsmasq.leases(site.host)
    assert list(leases.values()) == ["10.77.0.11"]
    # when
    xennetd.reload(lab("nat", DUAL, 'ra = "stateful"'))
    # then: the one that runs now gives it the other, too
    comes_into_force(site.host, lambda: names(web, "lab.internal", "web") == known("10.77.0.11"))
    assert dhcp.dhclient(web.namespace, 6).get("new_ip6_address") == "fd77::11"
    assert has_leases(site.host, leases)
    assert dhcp.udhcpc(web.namespace).get("ip") == "10.77.0.11"
    assert is_well(xennetd)


@pytest.mark.parametrize(("before", "after"), [("uplink", "link-local"), ("link-local", "uplink")])
def test_another_gateway_of_routed_guests_is_in_force_and_the_leases_are_kept(
    site: Site, guest: MakeGuest, daemon: MakeDaemon, before: str, after: str
) -> None:
    # given
    routers = {"uplink": GATEWAY, "link-local": "169.254.1.1"}
    xennetd = daemon(lab("route", IPV4, f'gateway = "{before}"'))
    web, db = guest("web"), guest("db")
    addresses = [configure(web), configure(db)]
    leases = dnsmasq.leases(site.host)
    assert sorted(leases.values()) == sorted(addresses)
    # when
    xennetd.reload(lab("route", IPV4, f'gateway = "{after}"'))
    # then: the other guest, too, is still known
    comes_into_force(site.host, lambda: dhcp.udhcpc(web.namespace, tries=1).get("router") == routers[after])
    assert has_leases(site.host, leases)
    assert [dhcp.udhcpc(each.namespace).get("ip") for each in (web, db)] == addresses
    assert names(web, "lab.internal", "web", "db") == known(*addresses)
    assert is_well(xennetd)

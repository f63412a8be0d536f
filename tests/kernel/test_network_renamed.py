"""A network that the configuration calls by another name, and nothing else: its guests notice nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from tests.bed import dhcp, dnsmasq
from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed
from tests.bed.netns import Host
from tests.bed.news import LinkNews, Seen
from tests.bed.pinging import Pinging
from tests.bed.reach import Place
from tests.bed.site import Site
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Inhabit, MakeDaemon, MakeGuest
from tests.kernel.status import status
from tests.kernel.wait import eventually

BRIDGE = "lab0"
GATEWAYS = ("10.77.0.1", "fd77::1")
FENCE = "vif32000.0"
"""The guest of `settle`, which is none of the network's."""


def called(name: str, mode: str, *lines: str) -> str:
    """A configuration with one network of this name, on a bridge that is called otherwise."""
    network = (f"[network.{name}]", f'mode = "{mode}"', f'bridge = "{BRIDGE}"', 'domain = "lab.internal"')
    subnets = 'subnets = ["10.77.0.0/24", "fd77::/64"]'
    policies = (f'[[policy]]\nmatch = {{ vm = "{each}" }}\nnetwork = "{name}"' for each in ("web", "db", "mail"))
    return "\n".join((STAND_IN, *network, subnets, *lines, *policies, ""))


def bridge(host: Host) -> tuple[Any, Any, list[str]] | None:
    """What a bridge must not lose: its index, its MAC address and its addresses. None: there is none."""
    if (link := host.link(BRIDGE)) is None:
        return None
    return link["ifindex"], link["address"], sorted(host.addresses(BRIDGE))


def upheavals(news: list[Seen], index: int) -> list[Seen]:
    """Those changes that a frame may be lost by: a link that has gone, is down, or is not in the bridge."""
    theirs = [seen for seen in news if seen.name == BRIDGE or (seen.name.startswith("vif") and seen.name != FENCE)]
    return [seen for seen in theirs if seen.gone or not seen.up or index not in (seen.index, seen.master)]


@pytest.fixture
def join(guest: MakeGuest, inhabit: Inhabit) -> Callable[[str, int], tuple[Place, str]]:
    """Have a guest of this name in the network, with this number in its subnets; return its backend directory, too."""

    def make(name: str, number: int) -> tuple[Place, str]:
        guests = guest(name, VifSpec(ip=f"10.77.0.{number} fd77::{number}"))
        addresses = f"10.77.0.{number}/24", f"fd77::{number}/64"
        return inhabit(guests, *addresses, gateways=GATEWAYS), guests.vif.backend

    return make


Join = Callable[[str, int], tuple[Place, str]]


def by_a_reload(xennetd: Daemon, config: str) -> None:
    xennetd.reload(config)


def by_a_restart(xennetd: Daemon, config: str) -> None:
    xennetd.kill9()
    xennetd.configure(config)
    xennetd.start()


@pytest.mark.parametrize("rename", [by_a_reload, by_a_restart])
@pytest.mark.parametrize("lines", [(), ("dhcp = true",)], ids=["", "dhcp"])
@pytest.mark.parametrize("mode", ["nat", "isolated"])
@pytest.mark.usefixtures("dnsmasq")
def test_its_guests_stay_where_they_are(
    bed: Bed,
    site: Site,
    daemon: MakeDaemon,
    join: Join,
    settle: Callable[[], None],
    mode: str,
    lines: tuple[str, ...],
    rename: Callable[[Daemon, str], None],
) -> None:
    # given
    xennetd = daemon(called("lab", mode, *lines))
    (web, web_directory), (db, db_directory) = join("web", 11), join("db", 12)
    settle()
    before = bridge(site.host)
    assert before is not None
    with ExitStack() as stack:
        pings = [stack.enter_context(Pinging(web.namespace, address)) for address in (db.ipv4, db.ipv6, *GATEWAYS)]
        verdicts = stack.enter_context(bed.xenstored.connect())
        for directory in (web_directory, db_directory):
            verdicts.watch(f"{directory}/hotplug-status")
            assert verdicts.event().path == f"{directory}/hotplug-status"
        news = stack.enter_context(LinkNews(site.host))
        # when
        rename(xennetd, called("office", mode, *lines))
        settle()
        # then
        assert [ping.lost() for ping in pings] == [[], [], [], []]
        assert bridge(site.host) == before
        assert upheavals(news.drain(), before[0]) == []
        with pytest.raises(TimeoutError):
            verdicts.event(timeout=0.01)
    rows = {row["vm"]: (row["state"], row["network"]) for row in xennetd.ask("list")}
    assert rows["web"] == rows["db"] == ("connected", "office")
    assert status(xennetd)["problems"] == []


@pytest.mark.parametrize("mode", ["nat", "isolated"])
@pytest.mark.usefixtures("dnsmasq")
def test_its_dnsmasq_goes_on_with_its_leases(
    site: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None], mode: str
) -> None:
    """Those of guests without an address of their own, and that of one which is not there at the moment."""
    # given
    xennetd = daemon(called("lab", mode, "dhcp = true"))
    web, db, mail = guest("web"), guest("db"), guest("mail", VifSpec(mac="00:16:3e:00:77:11"))
    addresses = {}
    for each in (web, db, mail):
        each.connect()
        addresses[each.name] = eventually(partial(dhcp.udhcpc, each.namespace))["ip"]
        Site.give(each.namespace, f"{addresses[each.name]}/24")
    mail.destroy()
    settle()
    leases = dnsmasq.leases(site.host)
    assert sorted(leases.values()) == sorted(addresses.values())
    # when
    xennetd.reload(called("office", mode, "dhcp = true"))
    settle()
    # then
    known = dhcp.Answer(dhcp.NOERROR, [addresses["db"]])
    eventually(lambda: dhcp.ask(web.namespace, GATEWAYS[0], "db.lab.internal") == known, interval=0.05)
    assert leases.items() <= dnsmasq.leases(site.host).items()
    for each in (web, db):
        assert dhcp.udhcpc(each.namespace).get("ip") == addresses[each.name]
    again = guest("mail", VifSpec(mac="00:16:3e:00:77:11"))
    again.connect()
    assert eventually(partial(dhcp.udhcpc, again.namespace))["ip"] == addresses["mail"]
    assert eventually(lambda: status(xennetd)["problems"] == [])

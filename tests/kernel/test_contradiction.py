"""Two owners want different values of one sysctl: the later one gets one error, and the value stays as it is.

A routed guest whose uplink is an isolated network's bridge wants that to forward; the network wants it not to.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.forwarding import ForwardingNews
from tests.bed.guest import Bed
from tests.bed.site import UPLINK, Site
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.every_mode import setting, way
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually

BRIDGE = "private0"
ADDRESS = "10.78.0.1/24"
STORE = f'[network.store]\nmode = "isolated"\nbridge = "{BRIDGE}"\nsubnets = ["10.78.0.0/24"]\n'
FORWARDING = f"ipv4/conf/{BRIDGE}/forwarding"
DESTINATION = "203.0.113.11"
ROUTED = VifSpec(script="vif-xennetd-route", ip=DESTINATION, gatewaydev=BRIDGE)

SOON = 2.0
"""Seconds in which a guest is told that it can't be connected."""

WHILE = 3.0
"""Seconds in which nothing is to happen after that, and the processor time that this may take."""
LITTLE = 0.3


@pytest.fixture
def xennetd(site: Site, daemon: MakeDaemon, journal: Journal) -> Daemon:
    return daemon(STAND_IN + STORE)


@pytest.fixture
def news(xennetd: Daemon, site: Site) -> Iterator[ForwardingNews]:
    with ForwardingNews(site.host) as news:
        yield news


def test_the_guest_is_told_what_is_wanted_and_by_whom(
    bed: Bed, xennetd: Daemon, guest: MakeGuest, journal: Journal
) -> None:
    web = guest("web", ROUTED)
    refused(bed, web.vif, SOON)
    error = journal.wait_for(XENNET_EVENT="error")
    assert error["XENNET_VIF"] == web.vif.netdev
    assert [row["state"] for row in xennetd.ask("list")] == ["error"]
    for text in (error["MESSAGE"], xennetd.ctl("show", web.vif.netdev).stdout):
        assert f"net/{FORWARDING}" in text
        assert re.search(rf"\b{re.escape(web.vif.netdev)}\b", text)
        assert re.search(r"\bstore\b", text)


def test_nothing_is_set_to_and_fro(
    site: Site, xennetd: Daemon, news: ForwardingNews, guest: MakeGuest, journal: Journal
) -> None:
    """The network's bridge never forwards, nothing is repaired, and xennetd has nothing to do."""
    # given: a guest that has been told, or should have been
    web = guest("web", ROUTED)
    deadline = time.monotonic() + SOON
    while web.hotplug_status() != "error" and time.monotonic() < deadline:
        time.sleep(0.005)
    # when
    used, end = xennetd.cpu(), time.monotonic() + WHILE
    while time.monotonic() < end and xennetd.cpu() - used < LITTLE:
        time.sleep(0.05)
    used = xennetd.cpu() - used
    # then
    journal.catch_up()
    assert news.of(site.host.rtnl.index(BRIDGE)) == []
    assert setting(site.host, FORWARDING) == 0
    assert [entry["MESSAGE"] for entry in journal.having(XENNET_EVENT="drift")] == []
    assert len(journal.having(XENNET_EVENT="error")) == 1
    assert used < LITTLE


def test_the_guest_is_connected_when_the_network_has_gone(
    bed: Bed, site: Site, xennetd: Daemon, guest: MakeGuest
) -> None:
    # given
    web = guest("web", ROUTED)
    refused(bed, web.vif, SOON)
    # when: the bridge goes with its network, and the administrator makes another by this name
    xennetd.reload(STAND_IN)
    assert BRIDGE not in site.host.links()
    site.host.bridge(BRIDGE, address=ADDRESS)
    # then
    connected(bed, web.vif)
    eventually(lambda: way(site.host, DESTINATION) == web.vif.netdev)
    eventually(lambda: setting(site.host, FORWARDING) == 1)


def test_the_guest_is_connected_when_it_comes_back_with_another_uplink(
    bed: Bed, site: Site, xennetd: Daemon, guest: MakeGuest
) -> None:
    # given
    first = guest("web", ROUTED)
    refused(bed, first.vif, SOON)
    # when
    first.destroy()
    second = guest("web", VifSpec(script=ROUTED.script, ip=DESTINATION, gatewaydev=UPLINK), uuid=first.domain.uuid)
    # then
    connected(bed, second.vif)
    assert way(site.host, DESTINATION) == second.vif.netdev
    assert setting(site.host, FORWARDING) == 0

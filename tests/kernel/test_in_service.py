"""Guests that stay in service in spite of an error or a pin: what is theirs stays, and what guards others."""

from __future__ import annotations

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed, Guest
from tests.bed.site import HOST4, Site, ip
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Inhabit, MakeDaemon, MakeGuest
from tests.kernel.every_mode import networks, setting
from tests.kernel.status import status
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually, paused

ROUTED = VifSpec(script="vif-xennetd-route", ip="203.0.113.31", gatewaydev="eth0")


def chains(bed: Bed) -> str:
    return bed.host.run("nft", "list", "table", "inet", "xennetd", check=False).stdout


def look(xennetd: Daemon, how: str) -> None:
    """Have the daemon look again, or be another one."""
    if how == "reload":
        assert xennetd.ctl("reload").returncode == 0
    elif how == "restart":
        xennetd.kill9()
        xennetd.start()


def pair(bed: Bed, make: MakeGuest, spec: VifSpec) -> tuple[Guest, Guest]:
    """Two guests in xenbr0 that reach each other, the first as `spec` has it."""
    if "xenbr0" not in bed.host.links():
        bed.host.bridge("xenbr0")
    first = make("first", spec, address="10.0.0.1/24")
    second = make("second", address="10.0.0.2/24")
    first.connect()
    second.connect()
    eventually(lambda: first.namespace.ping("10.0.0.2", wait=0.3))
    return first, second


@pytest.mark.parametrize("why", ["error", "pinned"])
def test_the_filter_of_a_guest_that_is_kept_comes_back(
    bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, why: str
) -> None:
    xennetd = daemon(STAND_IN)
    kept = guest("kept", ROUTED)
    kept.connect()
    connected(bed, kept.vif)
    if why == "error":
        ip(bed.host, "address flush dev eth0")
        eventually(lambda: "error" in str(xennetd.ask("list")))
    else:
        assert xennetd.ctl("pin", kept.vif.netdev).returncode == 0
    assert "chain passing" in chains(bed)
    bed.host.run("nft", "flush", "ruleset")
    eventually(lambda: "chain passing" in chains(bed))
    assert "UP" in bed.host.links()[kept.vif.netdev]["flags"]


@pytest.mark.parametrize("how", ["nothing", "restart"])
def test_nobody_gets_the_address_of_a_guest_that_is_kept(
    bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, how: str
) -> None:
    bed.host.bridge("up1", address="192.0.3.2/24")
    xennetd = daemon(networks('[network.edge]\nmode = "route"\nuplink = "eth0"\n'))
    kept = guest("edge-1", VifSpec(ip="203.0.113.11"))
    kept.connect()
    inhabit(kept, "203.0.113.11/32", gateways=[HOST4])
    ip(bed.host, "address flush dev eth0")
    look(xennetd, how)
    eventually(lambda: "error" in str(xennetd.ask("list")))
    thief = guest("thief", VifSpec(script="vif-xennetd-route", ip="203.0.113.11", gatewaydev="up1"))
    eventually(lambda: thief.hotplug_status() == "error")
    assert "in use" in (thief.hotplug_error() or "")
    assert kept.vif.netdev in bed.host.run("ip", "route", "show", "203.0.113.11").stdout


@pytest.mark.parametrize("how", ["nothing", "reload", "restart"])
def test_a_guest_without_a_named_bridge_stays_where_it_is_when_another_bridge_comes(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, how: str
) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon(STAND_IN)
    first, _ = pair(bed, guest, VifSpec(bridge=""))
    bed.host.bridge("br-docker")
    look(xennetd, how)
    ip(bed.host, f"link set {first.vif.netdev} down")
    eventually(lambda: "UP" in bed.host.links()[first.vif.netdev]["flags"])
    assert first.namespace.ping("10.0.0.2", wait=1.0)
    later = guest("later", VifSpec(bridge=""))
    later.connect()
    eventually(lambda: bed.host.links()[later.vif.netdev].get("master") == "br-docker")


def test_a_guest_whose_links_name_another_link_has_keeps_its_network(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    xennetd = daemon(STAND_IN)
    first, _ = pair(bed, guest, VifSpec())
    with paused(xennetd.pid):
        ip(bed.host, f"link set {first.vif.netdev} name mine", f"link add {first.vif.netdev} type bridge")
    eventually(lambda: "be named" in str(status(xennetd)["problems"]))
    assert first.namespace.ping("10.0.0.2", wait=0.5)
    ip(bed.host, f"link del {first.vif.netdev}")
    eventually(lambda: bed.host.links().get(first.vif.netdev, {}).get("master") == "xenbr0")
    eventually(lambda: first.namespace.ping("10.0.0.2", wait=0.3))
    eventually(lambda: not status(xennetd)["problems"])


@pytest.mark.parametrize("how", ["nothing", "reload", "restart"])
def test_an_administrators_alias_cuts_no_guest_off_when_its_bridge_is_renamed(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, how: str
) -> None:
    xennetd = daemon(STAND_IN)
    first, _ = pair(bed, guest, VifSpec())
    ip(bed.host, f"link set {first.vif.netdev} alias web-server")
    eventually(lambda: bed.host.links()[first.vif.netdev]["group"] != "default")
    ip(bed.host, "link set xenbr0 name lan0")
    look(xennetd, how)
    eventually(lambda: "xenbr0" in str(status(xennetd)["problems"]))
    assert first.namespace.ping("10.0.0.2", wait=0.5)
    assert bed.host.links()[first.vif.netdev]["ifalias"] == "web-server"


def test_a_bridge_that_a_changed_policy_forbids_is_left_also_with_an_administrators_alias(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    """The new bridge does not exist, so that the guest is nowhere."""
    bed.host.bridge("lan0")
    lan = '[network.lan]\nmode = "bridge"\nbridge = "lan0"\n[[policy]]\nnetwork = "lan"\nmatch = {}\n'
    xennetd = daemon(STAND_IN + lan)
    first, _ = pair(bed, guest, VifSpec())
    ip(bed.host, f"link set {first.vif.netdev} alias web-server")
    eventually(lambda: bed.host.links()[first.vif.netdev]["group"] != "default")
    xennetd.kill9()
    xennetd.configure(STAND_IN + lan.replace("lan0", "dmz0"))
    xennetd.start()
    eventually(lambda: "UP" not in bed.host.links()[first.vif.netdev]["flags"])
    link = bed.host.links()[first.vif.netdev]
    assert (link.get("master"), link["group"], link["ifalias"]) == (None, "default", "web-server")


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_a_routed_guest_whose_script_is_given_away_keeps_all_that_serves_it(
    bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, how: str
) -> None:
    xennetd = daemon(STAND_IN)
    kept = guest("kept", ROUTED)
    kept.connect()
    inhabit(kept, "203.0.113.31/32", gateways=[HOST4])
    xennetd.configure(STAND_IN + 'scripts = ["vif-other"]\n')
    look(xennetd, how)
    eventually(lambda: "ignored" in str(xennetd.ask("list")))
    assert "chain passing" in chains(bed)
    assert setting(bed.host, "ipv4/conf/eth0/forwarding") == 1
    assert kept.namespace.ping(HOST4, wait=0.5)
    kept.destroy()
    eventually(lambda: not chains(bed))
    assert setting(bed.host, "ipv4/conf/eth0/forwarding") == 0

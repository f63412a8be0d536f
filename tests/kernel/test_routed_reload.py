"""A policy that changes under guests' feet, between all modes; pin, and observe mode, for all of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed, Guest
from tests.bed.site import HOST4, SERVER4, Site, ip, sysctl
from tests.bed.state import changes, host_state
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import FENCE, MakeDaemon, MakeGuest
from tests.kernel.every_mode import (
    EDGE,
    EVERY_MODE,
    LAB,
    LAN,
    SPECS,
    STORE,
    elements,
    held,
    networks,
    policy,
    populate,
    proxied,
    same,
    served,
    told,
    way,
    write_setting,
)
from tests.kernel.status import status
from tests.kernel.test_routed_restart import Trace
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually

pytestmark = pytest.mark.usefixtures("dnsmasq")

NETWORKS = STAND_IN + LAN + EDGE + LAB.replace("lab-1", "web") + STORE
OUTCOMES = {name: f'network = "{name}"' for name in ("lan", "edge", "lab", "store")} | {"denied": 'deny = "not now"'}
ADDRESS4 = {"lan": "10.0.0.5", "edge": "192.0.2.17", "lab": "10.77.0.5", "store": "10.78.0.5"}


@pytest.fixture(autouse=True)
def on_a_host(site: Site, bed: Bed) -> None:
    sysctl(site.host, ipv6__conf__default__accept_dad=0)
    bed.host.bridge("xenbr0", address="10.0.0.254/24")


class TestAGuestMoves:
    """Without a break: it is the same link, and the toolstack hears nothing of it."""

    def put(self, xennetd: Daemon, where: str) -> None:
        fixed = f'ip = ["{ADDRESS4[where]}"]\n' if where in ("edge", "lab", "store") else ""
        xennetd.reload(NETWORKS + policy("web", fixed + OUTCOMES[where]))

    def is_in(self, site: Site, web: Guest, where: str) -> bool:
        """Whether it is in its place, and nowhere else."""
        link = site.host.links()[web.vif.netdev]
        routed = "master" not in link
        found = {
            "lan": link.get("master") == "xenbr0",
            "edge": routed and way(site.host, ADDRESS4["edge"]) == web.vif.netdev and bool(proxied(site.host)),
            "lab": link.get("master") == "xn-lab" and len(told("lab")) == 1,
            "store": link.get("master") == "xn-store" and len(told("store")) == 1,
            "denied": "UP" not in link["flags"] and "master" not in link,
        }
        left = {
            "a proxy": bool(proxied(site.host)) and where != "edge",
            "a route": way(site.host, ADDRESS4["edge"]) == web.vif.netdev and where != "edge",
            "a forward": bool(elements(site.host, "forward4")) and where != "lab",
            "the group of routed guests": link["group"] != "default" and where != "edge",
            "an address": bool(site.host.addresses(web.vif.netdev)) and where != "edge",
            "dnsmasq in lab": bool(told("lab")) and where != "lab",
            "dnsmasq in store": bool(told("store")) and where != "store",
        }
        wrong = [name for name, there in left.items() if there]
        assert not wrong, f"left behind when it came to {where}: {wrong}"
        return found[where]

    def test_from_every_place_to_every_other(
        self, site: Site, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
    ) -> None:
        places = [*OUTCOMES]
        walk = [place for pair in itertools.combinations(places, 2) for place in pair] + [places[0]]
        assert set(pairwise(walk)) == set(itertools.permutations(places, 2)), "it leaves each place for each other"
        xennetd = daemon(NETWORKS + policy("web", OUTCOMES["lan"]))
        web = guest("web", VifSpec())
        web.connect()
        # Settings of the guest's link go with that, and do nothing for a port of a bridge.
        passing = r"xenbr0|fe80|sysctl ipv\d vif"
        before = host_state(site.host, without=passing)
        index = site.host.rtnl.index(web.vif.netdev)
        for where in walk[1:]:
            self.put(xennetd, where)
            assert self.is_in(site, web, where), where
            assert web.hotplug_status() == "connected"
        assert walk[-1] == "lan"
        assert site.host.rtnl.index(web.vif.netdev) == index
        assert same(before, lambda: host_state(site.host, without=passing))
        moves = journal.having(XENNET_EVENT="change", XENNET_VIF=web.vif.netdev)
        assert sum("moved from" in entry["MESSAGE"] for entry in moves) >= 12, [entry["MESSAGE"] for entry in moves]

    def test_and_has_its_network_there(self, site: Site, guest: MakeGuest, daemon: MakeDaemon) -> None:
        xennetd = daemon(NETWORKS + policy("web", OUTCOMES["lan"]))
        web = guest("web", VifSpec())
        web.connect()
        gateways = {"lan": "10.0.0.254", "edge": HOST4, "lab": "10.77.0.1", "store": "10.78.0.1"}
        for where in ("lan", "edge", "lab", "store", "lan"):
            self.put(xennetd, where)
            ip(web.namespace, "address flush dev eth0")
            site.give(web.namespace, f"{ADDRESS4[where]}/24", gateways=(gateways[where],))
            eventually(partial(web.namespace.ping, gateways[where], wait=0.3))
            if where in ("edge", "lab"):
                eventually(lambda: web.namespace.ping(SERVER4, wait=0.3))


class TestANetwork:
    LAB4 = '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24"]\n'

    def test_that_is_added_is_made_and_that_is_removed_goes(
        self, site: Site, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        xennetd = daemon()
        settle()
        before = host_state(site.host, without=FENCE)
        xennetd.reload(EVERY_MODE)
        served("lab", "store")
        assert {"xn-lab", "xn-store"} <= set(site.host.links())
        xennetd.reload(STAND_IN)
        assert same(before, lambda: host_state(site.host, without=FENCE))

    def test_with_another_subnet_renumbers_its_guests(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
    ) -> None:
        xennetd = daemon(networks(self.LAB4 + "dhcp = true\n"))
        (dnsmasq,) = served("lab")
        lab = guest("lab-1")
        lab.connect()
        assert "10.77.0." in str(told("lab"))
        xennetd.reload(networks(self.LAB4.replace("10.77", "10.99") + "dhcp = true\n"))
        assert bed.host.addresses("xn-lab")[0] == "10.99.0.1/24"
        assert not any(address.startswith("10.77") for address in bed.host.addresses("xn-lab"))
        assert "10.99.0." in str(told("lab"))
        eventually(lambda: served("lab") != [dnsmasq])
        assert lab.hotplug_status() == "connected"
        assert not journal.having(XENNET_EVENT="error")

    def test_gets_dhcp_and_loses_it(self, guest: MakeGuest, daemon: MakeDaemon) -> None:
        xennetd = daemon(networks(self.LAB4))
        lab = guest("lab-1", VifSpec(ip="10.77.0.5"))
        lab.connect()
        assert not any(Path("/var/lib/xennetd").iterdir())
        xennetd.reload(networks(self.LAB4 + "dhcp = true\n"))
        (dnsmasq,) = served("lab")
        assert "10.77.0.5" in str(told("lab"))
        xennetd.reload(networks(self.LAB4))
        eventually(lambda: not Path(f"/proc/{dnsmasq}").exists())
        eventually(lambda: not any(Path("/var/lib/xennetd").iterdir()))

    def test_whose_subnet_the_host_has_already_is_refused_and_the_old_policy_stays(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        xennetd = daemon(networks(self.LAB4))
        lab = guest("lab-1", VifSpec(ip="10.77.0.5"))
        lab.connect()
        settle()
        before = held(bed)
        xennetd.configure(networks(self.LAB4.replace("10.77.0.0/24", "192.0.2.0/25")))
        result = xennetd.ctl("reload")
        assert result.returncode == 1
        assert "192.0.2.0/25" in result.stdout + result.stderr
        assert "eth0" in result.stdout + result.stderr
        settle()
        assert same(before, lambda: held(bed))

    def test_that_is_changed_leaves_the_others_alone(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, tmp_path: Path
    ) -> None:
        trace = Trace(tmp_path)
        xennetd = daemon(EVERY_MODE, wrapper=trace.wrapper)
        everyone = populate(bed, guest)
        for each in everyone.values():
            each.connect()
        served("lab", "store")
        count = len(trace.netlink())
        xennetd.reload(EVERY_MODE)
        assert trace.netlink()[count:] == []
        xennetd.reload(EVERY_MODE.replace("port = 8080", "port = 8081"))
        changed = trace.netlink()[count:]
        assert changed
        assert all("NFT_MSG" in line or "NFNL" in line for line in changed), changed
        assert "tcp . 8081" in elements(bed.host, "forward4")
        assert "8080" not in elements(bed.host, "forward4")


class TestPin:
    def test_keeps_hands_off_and_the_guests_things_in_place(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        xennetd = daemon(EVERY_MODE)
        everyone = populate(bed, guest)
        for each in everyone.values():
            each.connect()
        edge, lab = everyone["edge-1"], everyone["lab-1"]
        for each in (edge, lab):
            assert xennetd.ctl("pin", each.name).returncode == 0
        settle()
        assert proxied(site.host) >= {"192.0.2.17"}
        assert len(told("lab")) == 1
        ip(site.host, f"route del 203.0.113.11 dev {edge.vif.netdev} proto 120")
        write_setting(site.host, f"ipv4/conf/{edge.vif.netdev}/rp_filter", 0)
        settle()
        assert way(site.host, "203.0.113.11") == "eth0"
        # A restart does not take from it what it needs.
        xennetd.kill9()
        xennetd.start()
        assert proxied(site.host) >= {"192.0.2.17"}
        assert len(told("lab")) == 1
        assert way(site.host, "192.0.2.17") == edge.vif.netdev
        assert xennetd.ctl("unpin", edge.name).returncode == 0
        eventually(lambda: way(site.host, "203.0.113.11") == edge.vif.netdev)


class TestObserve:
    OBSERVE = EVERY_MODE.replace("stand_in = true", 'stand_in = true\nmode = "observe"')

    def test_says_what_it_would_do_in_every_mode_and_writes_nothing(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, tmp_path: Path
    ) -> None:
        trace = Trace(tmp_path)
        everyone = populate(bed, guest)
        before = held(bed)
        xennetd = daemon(self.OBSERVE, wrapper=trace.wrapper)

        said = {row["vm"]: str(row["reason"]) for row in xennetd.ask("list")}
        assert "master xenbr0" in said["lan-1"]
        for name in ("edge-1", "alone-1"):
            vif = everyone[name].vif.netdev
            assert re.search(rf"ip route add 203.0.113.1\d/32 dev {vif} src {HOST4} metric 2 proto 120", said[name])
            assert "ip neigh add proxy 192.0.2.1" in said[name]
            assert "sysctl net/ipv4/conf/eth0/forwarding=1" in said[name]
        assert "nft add element inet xennetd masquerade4 { 10." in said["alone-2"]
        for name, network in (("lab-1", "lab"), ("store-1", "store")):
            assert f"dnsmasq xn-{network}: 00:16:3e:" in said[name]
            assert f"ip link set dev {everyone[name].vif.netdev} master xn-{network}" in said[name]
        assert not any("tell the toolstack" in text for text in said.values()), "that comes once all is in place"
        notes = str(status(xennetd)["notes"])
        assert "network lab: in enforce mode xennetd would do this: ip link add xn-lab" in notes
        assert "dnsmasq xn-store for network store" in notes

        assert (trace.netlink(), trace.files(), trace.programs()) == ([], [], [])
        for each in everyone.values():
            each.destroy()
        eventually(lambda: xennetd.ask("list") == [])
        assert (trace.netlink(), trace.files(), trace.programs()) == ([], [], [])
        assert [line for line in changes(before, held(bed)) if not re.search(r"vif|node|xenbr0", line)] == []

    def test_after_enforcing_leaves_all_as_it_is_and_takes_it_up_again(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon
    ) -> None:
        xennetd = daemon(EVERY_MODE)
        everyone = populate(bed, guest)
        for each in everyone.values():
            each.connect()
        served("lab", "store")
        up = [*(each.vif.netdev for each in everyone.values()), "xenbr0", "xn-lab", "xn-store"]
        eventually(lambda: all(bed.host.links()[name]["operstate"] == "UP" for name in up))
        before = held(bed)
        xennetd.reload(self.OBSERVE)
        assert same(before, lambda: held(bed))
        site.host.run("nft", "flush", "set", "inet", "xennetd", "masquerade4")
        everyone["edge-1"].destroy()
        eventually(lambda: "edge-1" not in {row["vm"] for row in xennetd.ask("list")})
        xennetd.reload(EVERY_MODE)
        eventually(lambda: elements(site.host, "masquerade4") != "")
        eventually(lambda: "192.0.2.17" not in proxied(site.host))
        assert {row["vm"] for row in xennetd.ask("list") if row["state"] == "connected"} == set(SPECS) - {"edge-1"}


def test_a_guest_that_nobody_routes_yet_can_be_moved_there(
    bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    """From a state of error, too."""
    xennetd = daemon(NETWORKS + policy("web", OUTCOMES["denied"]))
    web = guest("web", VifSpec(ip="192.0.2.17"))
    bed.toolstack.xs.until(f"{web.vif.backend}/hotplug-status", "error")
    xennetd.reload(NETWORKS + policy("web", OUTCOMES["edge"]))
    connected(bed, web.vif)
    assert way(site.host, "192.0.2.17") == web.vif.netdev

"""MAC addresses of guests on a running host: the same one twice on one network, and those that a policy keeps."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed
from tests.bed.site import HOST4, Site
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Inhabit, MakeDaemon, MakeGuest
from tests.kernel.every_mode import EDGE, LAB, LAN, neighbours, networks, policy, told
from tests.kernel.status import status
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually

MAC = "00:16:3e:0a:0b:0c"
UUID = "7b0c9c4c-1d2e-4f50-8a5b-0123456789ab"


class TestTheSameMacTwice:
    @pytest.mark.parametrize("network", ["lan", "lab", "edge"])
    def test_of_two_guests_is_a_warning_that_names_both(
        self,
        bed: Bed,
        site: Site,
        guest: MakeGuest,
        daemon: MakeDaemon,
        journal: Journal,
        settle: Callable[[], None],
        network: str,
    ) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon(networks(LAN, EDGE, LAB.replace('dhcp = true\nra = "stateful"\n', "")))
        specs = {"lan": ("", ""), "lab": ("10.77.0.5", "10.77.0.6"), "edge": ("203.0.113.5", "203.0.113.6")}
        first, second = (
            guest(f"{network}-{number}", VifSpec(ip=ip or None, mac=MAC)) for number, ip in enumerate(specs[network], 1)
        )
        for each in (first, second):
            connected(bed, each.vif)
        settle()
        warnings = [entry["MESSAGE"] for entry in journal.having(XENNET_EVENT="warning") if MAC in entry["MESSAGE"]]
        notes = [note for note in status(xennetd)["notes"] if MAC in note]
        for said in (warnings, notes):
            assert any(first.vif.netdev in text and second.vif.netdev in text for text in said), said
        first.destroy()
        settle()
        assert not [note for note in status(xennetd)["notes"] if MAC in note]

    def test_of_one_domain_in_a_reboot_is_no_warning(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
    ) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        old = guest("web", VifSpec(mac=MAC))
        connected(bed, old.vif)
        new = guest("web", VifSpec(mac=MAC), uuid=old.domain.uuid)
        connected(bed, new.vif)
        settle()
        assert MAC not in str(status(xennetd)["notes"])
        assert not journal.having(XENNET_EVENT="warning")

    def test_on_two_networks_is_nobodys_business(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
    ) -> None:
        for bridge in ("xenbr0", "xenbr1"):
            bed.host.bridge(bridge)
        daemon()
        for number in range(2):
            connected(bed, guest(f"web-{number}", VifSpec(mac=MAC, bridge=f"xenbr{number}")).vif)
        settle()
        assert not journal.having(XENNET_EVENT="warning")


class TestStable:
    @pytest.mark.parametrize("network", ["lan", "edge"])
    def test_is_in_both_directories_before_the_guest_is_connected(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, network: str
    ) -> None:
        bed.host.bridge("xenbr0", address="10.0.0.254/24")
        daemon(STAND_IN + LAN + EDGE + policy("web", f'network = "{network}"\nmac = "stable"'))
        seen = []
        # What libxl picks is another one at each start.
        for mac in ("00:16:3e:11:11:11", "00:16:3e:22:22:22"):
            web = guest("web", VifSpec(mac=mac, ip="203.0.113.5"), uuid=UUID)
            connected(bed, web.vif)
            xs = bed.toolstack.xs
            backend, frontend = (xs.read(f"{path}/mac") for path in (web.vif.backend, web.vif.frontend))
            assert backend == frontend != mac
            seen.append(frontend)
            if network == "edge":
                assert neighbours(site.host, web.vif.netdev)["203.0.113.5"] == frontend
                inhabit(web, "203.0.113.5/32", gateways=(HOST4,))
                assert web.ping(HOST4)
            web.destroy()
        assert seen[0] == seen[1]
        assert re.fullmatch(r"[0-9a-f][26ae](:[0-9a-f]{2}){5}|00:16:3e(:[0-9a-f]{2}){3}", seen[0])

    def test_is_what_dnsmasq_is_told(
        self, bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, dnsmasq: None
    ) -> None:
        daemon(STAND_IN + LAB.replace("lab-1", "web") + policy("web", 'network = "lab"\nmac = "stable"'))
        web = guest("web", VifSpec(mac=MAC), uuid=UUID)
        connected(bed, web.vif)
        web.connect()
        stable = web.namespace.links()["eth0"]["address"]
        assert stable != MAC
        assert list(told("lab")) == [stable.replace(":", "")]

    def test_does_not_change_under_a_guest_that_runs(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
    ) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        web = guest("web", VifSpec(mac=MAC), uuid=UUID)
        web.connect()
        xennetd.configure(STAND_IN + LAN + policy("web", 'network = "lan"\nmac = "stable"'))
        assert xennetd.ctl("reload").returncode == 0
        assert bed.toolstack.xs.read(f"{web.vif.backend}/mac") == MAC
        eventually(lambda: any("the guest keeps MAC" in note for note in status(xennetd)["notes"]))
        assert xennetd.ask("show", "web")["mac"] == MAC

"""DHCP end to end: a guest starts, is given its address by xennetd's dnsmasq, and has it again when it comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.bed import dhcp
from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed, Guest
from tests.bed.reach import Services, ask
from tests.bed.site import HOST4, HOST6, SERVER4, SERVER6, Site, ip, sysctl
from tests.bed.state import changes, host_state
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import FENCE, MakeDaemon, MakeGuest
from tests.kernel.status import status
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually

pytestmark = pytest.mark.usefixtures("dnsmasq")


def lab(*lines: str) -> str:
    """A configuration with one network for all, with DHCP."""
    head = (STAND_IN, "[network.lab]", 'mode = "nat"', 'subnets = ["10.77.0.0/24", "fd77::/64"]', "dhcp = true")
    return "\n".join((*head, "nat66 = true", *lines, "[[policy]]", 'network = "lab"', ""))


def configure(guest: Guest) -> str:
    """Have a guest configured by what DHCP says, and return its address."""
    lease = dhcp.udhcpc(guest.namespace)
    Site.give(guest.namespace, f"{lease['ip']}/{lease['mask']}", gateways=(lease["router"],))
    return lease["ip"]


@pytest.fixture
def server(site: Site, services: Services) -> Site:
    services.offer(site.beyond)
    return site


def test_a_guest_gets_address_gateway_and_names(server: Site, guest: MakeGuest, daemon: MakeDaemon) -> None:
    daemon(lab())
    web, db = guest("web"), guest("db", VifSpec(ip="10.77.0.5"))
    for each in (web, db):
        each.connect()
    address = configure(web)
    assert configure(db) == "10.77.0.5"
    answer = ask(web.namespace, SERVER4)
    assert answer is not None
    assert answer.source == HOST4
    assert dhcp.ask(web.namespace, "10.77.0.1", "db.lab.internal") == dhcp.Answer(dhcp.NOERROR, ["10.77.0.5"])
    assert dhcp.ask(db.namespace, "10.77.0.1", address, "PTR") == dhcp.Answer(dhcp.NOERROR, ["web.lab.internal"])
    assert web.ping("10.77.0.5")


def test_a_vm_whose_name_is_no_label_has_a_name_in_dns_all_the_same(
    server: Site, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    xennetd = daemon(lab())
    web, other = guest("web_1.example.com"), guest("web-1")
    for each in (web, other):
        each.connect()
    answer = dhcp.Answer(dhcp.NOERROR, [configure(web)])
    second = configure(other)
    assert dhcp.ask(other.namespace, "10.77.0.1", "web-1.lab.internal") == answer
    assert dhcp.ask(web.namespace, "10.77.0.1", second, "PTR") == dhcp.Answer(dhcp.NXDOMAIN, [])
    notes = [note for note in status(xennetd)["notes"] if note.startswith("vif")]
    assert [note.partition(": ")[0] for note in notes] == ["vif1.0 of web_1.example.com", "vif2.0 of web-1"]
    assert "the guest is web-1.lab.internal in DHCP and DNS" in notes[0]
    assert "the guest has no name in DNS until that one is gone" in notes[1]
    web.destroy()
    answer = dhcp.Answer(dhcp.NOERROR, [second])
    eventually(lambda: dhcp.ask(other.namespace, "10.77.0.1", "web-1.lab.internal") == answer)


def test_a_guest_makes_its_own_ipv6_address(server: Site, guest: MakeGuest, daemon: MakeDaemon) -> None:
    daemon(lab())
    web = guest("web")
    sysctl(web.namespace, ipv6__conf__eth0__accept_dad=0)
    web.connect()
    eventually(lambda: [each for each in web.namespace.addresses("eth0") if each.startswith("fd77:")], timeout=15)
    answer = eventually(lambda: ask(web.namespace, SERVER6))
    assert answer.source == HOST6


def test_a_guest_gets_its_ipv6_address_by_dhcp(server: Site, guest: MakeGuest, daemon: MakeDaemon) -> None:
    daemon(lab('ra = "stateful"'))
    web = guest("web", VifSpec(ip="10.77.0.11 fd77::11"))
    sysctl(web.namespace, ipv6__conf__eth0__accept_dad=0)
    web.connect()
    lease = dhcp.dhclient(web.namespace, 6)
    assert lease["new_ip6_address"] == "fd77::11"
    ip(web.namespace, "address add fd77::11/128 dev eth0 nodad")
    answer = eventually(lambda: ask(web.namespace, SERVER6), timeout=15)
    assert answer.source == HOST6
    assert dhcp.ask(web.namespace, "fd77::1", "web.lab.internal", "AAAA") == dhcp.Answer(dhcp.NOERROR, ["fd77::11"])


class TestReboot:
    """A new domid, the same uuid, and another MAC where none is configured; the old domain has not quite gone."""

    @pytest.mark.parametrize("mac", [None, "00:16:3e:00:77:11"])
    def test_keeps_the_address_and_the_old_ones_end_does_not_take_it(
        self, server: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None], mac: str | None
    ) -> None:
        daemon(lab())
        old = guest("web", VifSpec(mac=mac))
        old.connect()
        address = configure(old)
        assert ask(old.namespace, SERVER4) is not None

        new = guest("web", VifSpec(mac=mac), uuid=old.domain.uuid)
        new.connect()
        ip(old.namespace, "link set eth0 down")
        assert configure(new) == address
        assert ask(new.namespace, SERVER4) is not None

        old.destroy()
        settle()
        assert ask(new.namespace, SERVER4) is not None
        assert dhcp.udhcpc(new.namespace)["ip"] == address
        assert dhcp.ask(new.namespace, "10.77.0.1", "web.lab.internal") == dhcp.Answer(dhcp.NOERROR, [address])

    def test_keeps_the_address_when_the_guest_was_gone_for_a_while(
        self, site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        xennetd = daemon(lab())
        old = guest("web")
        old.connect()
        address = configure(old)
        old.destroy()
        settle()
        xennetd.kill9()
        xennetd.start()
        for number in range(5):
            connected(bed, guest(f"other-{number}").vif)
        new = guest("web", uuid=old.domain.uuid)
        new.connect()
        assert configure(new) == address


def test_a_restart_leaves_dnsmasq_and_everything_else_alone(
    site: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
) -> None:
    xennetd = daemon(lab('uplink = "eth0"', 'forward = [{ proto = "tcp", port = 8080, to = "web:80" }]'))
    web = guest("web")
    web.connect()
    configure(web)
    settle()
    before, process = host_state(site.host, without=FENCE), dhcp.pid()
    assert process is not None
    xennetd.kill9()
    xennetd.start()
    settle()
    assert changes(before, host_state(site.host, without=FENCE)) == []
    assert dhcp.pid() == process


def test_routed_guests_get_theirs_too(server: Site, guest: MakeGuest, daemon: MakeDaemon) -> None:
    daemon(lab().replace('mode = "nat"', 'mode = "route"\ngateway = "link-local"').replace("nat66 = true", ""))
    web = guest("web")
    web.connect()
    lease = dhcp.udhcpc(web.namespace, "-O", "staticroutes")
    assert (lease["mask"], lease["router"]) == ("32", "169.254.1.1")
    Site.give(web.namespace, f"{lease['ip']}/32", gateways=(lease["router"],))
    answer = ask(web.namespace, SERVER4)
    assert answer is not None
    assert answer.source == lease["ip"]
    assert f"{lease['ip']} dev {web.vif.netdev}" in server.host.run("ip", "route").stdout

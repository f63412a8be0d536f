"""Networks of mode nat: what leaves them and as whom, which ports lead in, and stock's scheme without configuration."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed
from tests.bed.reach import Answer, Place, Services, ask, matrix, table
from tests.bed.site import HOST4, HOST6, ROUTER_MAC, SERVER4, SERVER6, UPLINK_MAC, Site, ip
from tests.bed.state import changes, host_state
from tests.bed.toolstack import VifSpec
from tests.bed.wire import Wire, udp
from tests.kernel.conftest import FENCE, Inhabit, MakeDaemon, MakeGuest
from tests.kernel.wait import paused

GATEWAYS = ("10.77.0.1", "fd77::1")


def lab(*lines: str) -> str:
    """A configuration with one network for all, and `lines` in its table."""
    head = (STAND_IN, "[network.lab]", 'mode = "nat"', 'subnets = ["10.77.0.0/24", "fd77::/64"]')
    return "\n".join((*head, *lines, "[[policy]]", 'network = "lab"', ""))


@pytest.fixture
def server(site: Site, services: Services) -> Place:
    services.offer(site.beyond)
    return site.beyond


@pytest.fixture
def join(guest: MakeGuest, inhabit: Inhabit) -> Callable[[str, int], Place]:
    """Have a guest of this name in the network, with this number in its subnets."""

    def make(name: str, number: int) -> Place:
        spec = VifSpec(ip=f"10.77.0.{number} fd77::{number}")
        addresses = f"10.77.0.{number}/24", f"fd77::{number}/64"
        return inhabit(guest(name, spec), *addresses, gateways=GATEWAYS)

    return make


Join = Callable[[str, int], Place]


class TestWhomTheInternetSees:
    """By the source address that the server has seen; None: it has seen nothing, or its answer did not come back."""

    @pytest.mark.parametrize(
        ("lines", "ipv4", "ipv6"),
        [
            ((), HOST4, "fd77::11"),  # IPv6 is routed as it is
            (("nat66 = true",), HOST4, HOST6),
            (('nptv6 = "2001:db8:77:1::/64"',), HOST4, "2001:db8:77:1::11"),
            (('uplink = "eth0"', "nat66 = true"), HOST4, HOST6),
            (('uplink = "eth1"', "nat66 = true"), None, None),  # the way to the server is another
        ],
    )
    def test_source(
        self,
        bed: Bed,
        server: Place,
        daemon: MakeDaemon,
        join: Join,
        lines: tuple[str, ...],
        ipv4: str | None,
        ipv6: str | None,
    ) -> None:
        bed.host.rtnl.add_veth("eth1", "eth0", bed.host.guest("vpn").fd)
        ip(bed.host, "link set eth1 up", "address add 192.0.3.2/24 dev eth1", "address add fd99::2/64 dev eth1")
        daemon(lab(*lines))
        web = join("web", 11)
        for tcp in (True, False):
            assert seen(ask(web.namespace, SERVER4, tcp=tcp)) == ipv4
            assert seen(ask(web.namespace, SERVER6, tcp=tcp)) == ipv6

    def test_what_nobody_has_asked_for_does_not_go_back_to_the_router(
        self, site: Site, server: Place, daemon: MakeDaemon, join: Join
    ) -> None:
        """Which would send it here again: the prefix is routed to this host, and leads nowhere on it."""
        daemon(lab('nptv6 = "2001:db8:77:1::/64"'))
        web = join("web", 11)
        with Wire(site.internet) as wire:
            wire.send(udp(ROUTER_MAC, UPLINK_MAC, SERVER6, "2001:db8:77:1::11", b"unasked"))
            assert seen(ask(web.namespace, SERVER6)) == "2001:db8:77:1::11"
            assert [str(frame) for frame in wire.frames() if b"unasked" in frame.raw] == []

    def test_two_guests_with_the_same_port_get_each_its_own_answer(
        self, server: Place, daemon: MakeDaemon, join: Join
    ) -> None:
        daemon(lab("nat66 = true"))
        places = [join("web", 11), join("db", 12)]
        for address, mine in ((SERVER4, "10.77.0.{}"), (SERVER6, "fd77::{}")):
            clients = []
            for place, number in zip(places, (11, 12), strict=True):
                with place.namespace:
                    client = socket.create_connection((address, 7), 2, source_address=(mine.format(number), 4444))
                clients.append(client)
            for client in clients:
                with client:
                    assert client.recv(100).decode().startswith("internet ")

    def test_nothing_leaves_untranslated_whoever_it_pretends_to_be_from(
        self, site: Site, daemon: MakeDaemon, join: Join
    ) -> None:
        daemon(lab("nat66 = true"))
        web, db = join("web", 11), join("db", 12)
        bridge = site.host.links()["xn-lab"]["address"]
        mac = web.namespace.links()["eth0"]["address"]
        pretended = {"10.77.0.11", "10.99.0.1", "203.0.113.9", HOST4, SERVER4, "fd77::11", "fd99::1", HOST6, "fe80::9"}
        with Wire(site.internet) as outside, Wire(web.namespace) as wire:
            for source in pretended:
                target = SERVER6 if ":" in source else SERVER4
                wire.send(udp(mac, bridge, source, target, b"pretended"))
            assert outside.has(b"pretended")
            seen_from = {frame.sender for frame in outside.frames() if b"pretended" in frame.raw}
            seen_macs = {frame.source for frame in outside.frames()}
        assert seen_from <= {HOST4, HOST6}
        assert seen_macs <= {UPLINK_MAC}
        assert db.ipv4  # it has its place, and is left alone
        assert ask(db.namespace, HOST4, 99) is None


FORWARDS = (
    "forward = [",
    '{ proto = "tcp", port = 8080, to = "web:80" },',
    '{ proto = "udp", port = 8080, to = "web:80" },',
    '{ proto = "tcp", port = 2222, to = "10.77.0.12:22" },',
    '{ proto = "tcp", port = 2223, to = "[fd77::12]:22" },',
    "]",
)


def test_guests_of_a_bridge_in_another_link_group_and_the_host_itself_leave_as_the_host(
    site: Site, join: Join, daemon: MakeDaemon
) -> None:
    xennetd = daemon(lab())
    web = join("web", 11)
    chain = "add chain ip seen from { type filter hook prerouting priority 0; }"
    site.internet.run("nft", f"add table ip seen; {chain}")
    for source in ("10.77.0.0/24", HOST4):
        site.internet.run("nft", f"add rule ip seen from ip saddr {source} ip daddr {SERVER4} counter")
    with paused(xennetd.pid):  # It would put the group right.
        ip(site.host, "link set xn-lab group 5")
        web.namespace.ping(SERVER4)
        site.host.run("ping", "-c1", "-W1", "-I", "10.77.0.1", SERVER4, check=False)
    counted = re.findall(r"packets (\d+)", site.internet.run("nft", "list", "chain", "ip", "seen", "from").stdout)
    assert counted == ["0", "2"], "from the subnet, and from the host"


class TestForwards:
    @pytest.fixture
    def everybody(
        self, site: Site, daemon: MakeDaemon, server: Place, join: Join, services: Services
    ) -> dict[str, Place]:
        daemon(lab("nat66 = true", *FORWARDS))
        web, db = join("web", 11), join("db", 12)
        services.offer(web, 80)
        services.offer(db, 22)
        return {"web": web, "db": db, "dom0": site.dom0, "internet": site.beyond}

    @pytest.mark.parametrize("address", [HOST4, HOST6, *GATEWAYS])
    def test_lead_from_everywhere_to_the_guest(
        self, br_netfilter: bool, everybody: dict[str, Place], address: str
    ) -> None:
        """By the guest's name, by its address; from outside, from dom0, from its neighbour, and from itself."""
        ssh = 2223 if ":" in address else 2222
        if address in GATEWAYS:
            del everybody["internet"]
        reached = {
            name: (
                who(ask(place.namespace, address, 8080)),
                who(ask(place.namespace, address, 8080, tcp=False)),
                who(ask(place.namespace, address, ssh)),
            )
            for name, place in everybody.items()
        }
        expected: dict[str, tuple[str | None, ...]] = dict.fromkeys(everybody, ("web", "web", "db"))
        if br_netfilter:  # The bridge redirects the frame itself then, and never back to the port that it came from.
            expected |= {"web": (None, None, "db"), "db": ("web", "web", None)}
        assert reached == expected

    def test_the_guest_sees_who_asks_from_outside(self, everybody: dict[str, Place]) -> None:
        assert seen(ask(everybody["internet"].namespace, HOST4, 8080)) == SERVER4
        assert seen(ask(everybody["internet"].namespace, HOST6, 8080)) == SERVER6

    def test_nothing_else_leads_in(self, site: Site, everybody: dict[str, Place]) -> None:
        web = everybody["web"]
        for address, port in (
            (HOST4, 80),  # not the port that is forwarded to
            (HOST4, 22),
            (HOST4, 2223),  # only by IPv6
            (HOST6, 2222),
            (web.ipv4, 80),  # the router knows the way
            (web.ipv6, 80),
            (web.ipv4, 8080),
        ):
            for tcp in (True, False):
                assert ask(site.internet, address, port, tcp=tcp, window=0.3) is None
        # A port of a host beyond, of the same number, is not ours to redirect.
        assert ask(web.namespace, SERVER4, 8080, window=0.3) is None
        assert ask(site.host, "127.0.0.1", 8080, window=0.3) is None

    def test_nothing_gets_in_as_an_answer_to_nothing(self, site: Site, everybody: dict[str, Place]) -> None:
        """A packet for a guest's address, right at the host's MAC, from the wire of the uplink."""
        with Wire(site.internet) as outside, Wire(everybody["web"].namespace) as inside:
            for source, target in (
                (SERVER4, "10.77.0.11"),
                ("10.77.0.12", "10.77.0.11"),
                ("10.77.0.1", "10.77.0.11"),
                (SERVER6, "fd77::11"),
                ("fd77::12", "fd77::11"),
            ):
                outside.send(udp(ROUTER_MAC, UPLINK_MAC, source, target, b"knock"))
            assert not inside.has(b"knock", timeout=0.5)


def test_forwards_go_with_the_guest_and_come_with_the_next(
    site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, services: Services, settle: Callable[[], None]
) -> None:
    daemon(lab(*FORWARDS))
    first = guest("web", VifSpec(ip="10.77.0.11"))
    services.offer(inhabit(first, "10.77.0.11/24", gateways=("10.77.0.1",)), 80)
    assert who(ask(site.internet, HOST4, 8080)) == "web"
    first.destroy()
    settle()
    assert ask(site.internet, HOST4, 8080, window=0.3) is None
    second = guest("web", VifSpec(ip="10.77.0.44"))
    services.offer(inhabit(second, "10.77.0.44/24", gateways=("10.77.0.1",)), 80)
    assert who(ask(site.internet, HOST4, 8080)) == "web"


# Without configuration nothing is kept out, as with stock's script: its guests are routed, and may be known outside.
EVERYBODY = table(
    """
    from\\to   web db  dom0 internet
    web       .   yes yes  yes
    db        yes .   yes  yes
    dom0      yes yes .    yes
    internet  yes yes yes  .
    """
)


class TestTheStockScheme:
    """Script vif-xennetd-nat without any configuration: the addresses of stock's vif-nat."""

    def test_guests_are_numbered_by_domid_and_go_out_as_the_host(
        self, site: Site, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, server: Place, services: Services
    ) -> None:
        daemon()
        spec = VifSpec(script="vif-xennetd-nat")
        web, db = guest("web", spec, domid=7), guest("db", spec, domid=300)
        services.offer(site.dom0)
        places = [
            inhabit(web, "10.0.7.1/16", gateways=("10.0.7.128",)),
            inhabit(db, "10.1.44.1/16", gateways=("10.1.44.128",)),
            site.dom0,
            server,
        ]
        assert seen(ask(web.namespace, SERVER4)) == HOST4
        assert seen(ask(db.namespace, SERVER4, tcp=False)) == HOST4
        assert matrix(places, 4) == EVERYBODY

    @pytest.mark.parametrize(
        ("address", "gateway"),
        [
            ("10.0.0.1", "10.0.0.128"),
            ("10.0.0.127", "10.0.0.254"),
            ("10.0.0.128", "10.0.0.1"),
            ("10.9.9.254", "10.9.9.127"),
        ],
    )
    def test_the_gateways_last_octet_does_not_overflow(
        self, server: Place, guest: MakeGuest, daemon: MakeDaemon, inhabit: Inhabit, address: str, gateway: str
    ) -> None:
        daemon()
        web = inhabit(guest("web", VifSpec(script="vif-xennetd-nat", ip=address)), f"{address}/16", gateways=(gateway,))
        assert seen(ask(web.namespace, SERVER4)) == HOST4

    def test_nothing_is_left_of_it(
        self, site: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
    ) -> None:
        daemon()
        settle()
        before = host_state(site.host, without=FENCE)
        web = guest("web", VifSpec(script="vif-xennetd-nat"))
        web.connect()
        web.destroy()
        settle()
        assert changes(before, host_state(site.host, without=FENCE)) == []


def test_a_network_that_the_configuration_loses_leaves_nothing(
    site: Site, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
) -> None:
    xennetd = daemon(STAND_IN)
    settle()
    before = host_state(site.host, without=FENCE)
    xennetd.configure(lab('uplink = "eth0"', "nat66 = true", *FORWARDS))
    assert xennetd.ctl("reload").returncode == 0
    assert "xn-lab" in site.host.links()
    xennetd.configure(STAND_IN)
    assert xennetd.ctl("reload").returncode == 0
    settle()
    assert changes(before, host_state(site.host, without=FENCE)) == []


def who(answer: Answer | None) -> str | None:
    return answer.name if answer is not None else None


def seen(answer: Answer | None) -> str | None:
    return answer.source if answer is not None else None


MATRIX = table(
    """
    from\\to   web db  dom0 internet
    web       .   yes yes  yes
    db        yes .   yes  yes
    dom0      yes yes .    yes
    internet  no  no  yes  .
    """
)


@pytest.mark.parametrize("lines", [(), ('uplink = "eth0"', "nat66 = true"), ('nptv6 = "2001:db8:77:1::/64"',)])
def test_who_reaches_whom(
    site: Site, server: Place, daemon: MakeDaemon, join: Join, services: Services, lines: tuple[str, ...]
) -> None:
    daemon(lab(*lines))
    services.offer(site.dom0)
    places = [join("web", 11), join("db", 12), site.dom0, server]
    assert matrix(places, 4) == MATRIX
    assert matrix(places, 6) == MATRIX

"""DHCP, router advertisements and DNS of a network: what guests get from the real dnsmasq, and what they don't."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bed.dhcp import (
    NOERROR,
    NXDOMAIN,
    REFUSED,
    Answer,
    Care,
    add_guest,
    ask,
    dhclient,
    kill_all,
    make_link,
    network,
    pid,
    told,
    udhcpc,
)
from tests.bed.netns import Host, NetNs
from tests.kernel.wait import eventually
from xennetd.model.configuration import Mode, Network
from xennetd.model.objects import DhcpHost
from xennetd.policy.modes import ISOLATED, NAT

WEB, DB, STRANGER = (f"00:16:3e:00:00:{number:02x}" for number in (1, 2, 3))
DUAL = ("10.77.0.0/24", "fd77::/64")


@pytest.fixture
def care(host: Host) -> Iterator[Care]:
    care = Care()
    yield care
    care.stop()
    kill_all()


@pytest.fixture
def served(host: Host, care: Care) -> Callable[[Network], Network]:
    """Makes a network's link and has it served: returns once it is."""

    def serve(network: Network) -> Network:
        make_link(host, network)
        care.serve(network)
        eventually(lambda: pid(network.name))
        return network

    return serve


@pytest.fixture
def web(host: Host, care: Care, served: Callable[[Network], Network]) -> NetNs:
    """The guest web in a nat network lab, 10.77.0.5 and fd77::5."""
    served(network("lab", subnets=DUAL))
    care.tell(told("lab", WEB, "10.77.0.5", "fd77::5", name="web.lab.internal"))
    return add_guest(host, "xn-lab", WEB, "web")


def test_a_guest_gets_its_address_and_the_gateway(web: NetNs) -> None:
    given = udhcpc(web)
    assert (given["ip"], given["subnet"], given["router"]) == ("10.77.0.5", "255.255.255.0", "10.77.0.1")
    assert (given["dns"], given["domain"], given["lease"]) == ("10.77.0.1", "lab.internal", "43200")


def test_the_other_client_gets_the_same(web: NetNs) -> None:
    given = dhclient(web)
    assert (given["new_ip_address"], given["new_routers"]) == ("10.77.0.5", "10.77.0.1")
    assert (given["new_domain_name"], given["new_domain_name_servers"]) == ("lab.internal", "10.77.0.1")


def test_an_unknown_mac_gets_nothing(host: Host, web: NetNs) -> None:
    # As long as dnsmasq takes to see by ICMP that an address which it would choose is free.
    assert udhcpc(add_guest(host, "xn-lab", STRANGER, "stranger"), tries=6) == {}


def test_who_asks_for_anothers_address_gets_its_own(host: Host, care: Care, web: NetNs) -> None:
    care.tell(told("lab", DB, "10.77.0.6", name="db.lab.internal"))
    assert udhcpc(add_guest(host, "xn-lab", DB, "db"), "-r", "10.77.0.5")["ip"] == "10.77.0.6"


def test_names_are_there_before_the_lease(host: Host, care: Care, web: NetNs) -> None:
    care.tell(told("lab", DB, "10.77.0.6", "fd77::6", name="db.lab.internal"))
    web.rtnl.add_address("eth0", "10.77.0.5/24")
    eventually(lambda: ask(web, "10.77.0.1", "db.lab.internal") == Answer(NOERROR, ["10.77.0.6"]))
    assert ask(web, "10.77.0.1", "db.lab.internal", "AAAA") == Answer(NOERROR, ["fd77::6"])
    assert ask(web, "10.77.0.1", "10.77.0.6", "PTR") == Answer(NOERROR, ["db.lab.internal"])
    assert ask(web, "10.77.0.1", "fd77::6", "PTR") == Answer(NOERROR, ["db.lab.internal"])
    assert ask(web, "10.77.0.1", "nobody.lab.internal") == Answer(NXDOMAIN, [])
    assert ask(web, "10.77.0.1", "10.77.0.99", "PTR") == Answer(NXDOMAIN, [])


def test_what_a_guest_calls_itself_is_ignored(host: Host, care: Care, web: NetNs) -> None:
    care.tell(told("lab", DB, "10.77.0.6", name="db.lab.internal"), told("lab", STRANGER, "10.77.0.7"))
    db = add_guest(host, "xn-lab", DB, "db")
    assert udhcpc(db, "-F", "web.lab.internal", "-x", "hostname:web")["ip"] == "10.77.0.6"
    nameless = add_guest(host, "xn-lab", STRANGER, "nameless")
    assert udhcpc(nameless, "-x", "hostname:mail")["ip"] == "10.77.0.7"
    db.rtnl.add_address("eth0", "10.77.0.6/24")
    assert ask(db, "10.77.0.1", "web.lab.internal") == Answer(NOERROR, ["10.77.0.5"])
    assert ask(db, "10.77.0.1", "10.77.0.6", "PTR") == Answer(NOERROR, ["db.lab.internal"])
    for name in ("mail", "mail.lab.internal"):
        assert ask(db, "10.77.0.1", name) == Answer(NXDOMAIN, [])


@pytest.mark.parametrize("name", ["ignore", "infinite", "12h", "7"])
def test_a_name_that_dnsmasq_has_another_use_for_is_a_name(host: Host, care: Care, web: NetNs, name: str) -> None:
    care.tell(told("lab", DB, "10.77.0.6", name=f"{name}.lab.internal"))
    db = add_guest(host, "xn-lab", DB, "db")
    assert udhcpc(db)["lease"] == "43200"
    db.rtnl.add_address("eth0", "10.77.0.6/24")
    assert ask(db, "10.77.0.1", f"{name}.lab.internal") == Answer(NOERROR, ["10.77.0.6"])


# IPv6


def global_addresses(guest: NetNs) -> list[str]:
    return [address for address in guest.addresses("eth0") if ":" in address and not address.startswith("fe80")]


def default_routes(guest: NetNs) -> str:
    return guest.run("ip", "-6", "route", "show", "default").stdout


def test_the_kernel_takes_an_address_by_slaac_and_the_gateway(host: Host, web: NetNs) -> None:
    eventually(lambda: global_addresses(web) == ["fd77::216:3eff:fe00:1/64"], timeout=30.0)
    eventually(lambda: web.ping("fd77::1"))
    assert ask(web, "fd77::1", "web.lab.internal", "AAAA") == Answer(NOERROR, ["fd77::5"])


def test_a_router_that_forwards_is_advertised_as_the_default(host: Host, web: NetNs) -> None:
    Path("/proc/sys/net/ipv6/conf/xn-lab/forwarding").write_text("1")
    eventually(lambda: "default via fe80:" in default_routes(web), timeout=30.0)


def test_stateful_gives_the_address_that_is_the_guests(host: Host, care: Care, served: Callable[..., Network]) -> None:
    served(network("lab", subnets=DUAL, ra="stateful"))
    care.tell(told("lab", WEB, "10.77.0.5", "fd77::5", name="web.lab.internal"))
    guest = add_guest(host, "xn-lab", WEB, "web")
    eventually(lambda: "fd77::/64" in guest.run("ip", "-6", "route").stdout, timeout=30.0)
    assert dhclient(guest, 6)["new_ip6_address"] == "fd77::5"
    assert global_addresses(guest) == []


def test_without_ra_nothing_is_said_of_ipv6(host: Host, care: Care, served: Callable[..., Network]) -> None:
    served(network("lab", subnets=DUAL, ra="off"))
    care.tell(told("lab", WEB, "10.77.0.5", "fd77::5", name="web.lab.internal"))
    guest = add_guest(host, "xn-lab", WEB, "web")
    assert udhcpc(guest)["ip"] == "10.77.0.5"
    assert dhclient(guest, 6, timeout=5) == {}
    assert global_addresses(guest) == []


# Isolated


def test_an_isolated_guest_gets_an_address_and_no_way_out(
    host: Host, care: Care, served: Callable[..., Network]
) -> None:
    served(network("lab", ISOLATED, DUAL))
    care.tell(told("lab", WEB, "10.77.0.5", "fd77::216:3eff:fe00:1", name="web.lab.internal"))
    guest = add_guest(host, "xn-lab", WEB, "web")
    Path("/proc/sys/net/ipv6/conf/xn-lab/forwarding").write_text("1")
    given = udhcpc(guest)
    assert (given["ip"], given["dns"]) == ("10.77.0.5", "10.77.0.1")
    assert "router" not in given
    eventually(lambda: global_addresses(guest) == ["fd77::216:3eff:fe00:1/64"], timeout=30.0)
    assert default_routes(guest) == ""


class Upstream:
    """A DNS server beyond the uplink, the one in resolv.conf, which answers 192.0.2.1 to everything."""

    def __init__(self, host: Host) -> None:
        host.bridge("xenbr0", address="192.0.2.2/24")
        outside = host.uplink("xenbr0", address="192.0.2.53/24")
        with outside:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("192.0.2.53", 53))
        self._socket.setblocking(False)
        Path("/etc/resolv.conf").unlink(missing_ok=True)
        Path("/etc/resolv.conf").write_text("nameserver 192.0.2.53\n")

    def answer(self) -> bool:
        """Answer a query, if there is one."""
        try:
            query, sender = self._socket.recvfrom(4096)
        except BlockingIOError:
            return False
        question = query[12 : query.index(b"\0", 12) + 5]
        answer = struct.pack(">6H", int.from_bytes(query[:2], "big"), 0x8180, 1, 1, 0, 0) + question
        self._socket.sendto(answer + struct.pack(">3HIH4B", 0xC00C, 1, 1, 60, 4, 192, 0, 2, 1), sender)
        return True


@pytest.mark.parametrize("mode", [NAT, ISOLATED])
def test_only_of_nat_networks_a_foreign_name_is_asked_upstream(
    host: Host, care: Care, served: Callable[..., Network], mode: Mode
) -> None:
    upstream = Upstream(host)
    served(network("lab", mode))
    care.tell(told("lab", WEB, "10.77.0.5", name="web.lab.internal"))
    guest = add_guest(host, "xn-lab", WEB, "web")
    guest.rtnl.add_address("eth0", "10.77.0.5/24")
    if mode is NAT:
        eventually(lambda: (ask(guest, "10.77.0.1", "example.org", timeout=0.2), upstream.answer())[1])
        eventually(lambda: ask(guest, "10.77.0.1", "example.org") == Answer(NOERROR, ["192.0.2.1"]))
    else:
        assert ask(guest, "10.77.0.1", "example.org") == Answer(REFUSED, [])
        assert ask(guest, "10.77.0.1", "8.8.8.8", "PTR") == Answer(REFUSED, [])
        assert not upstream.answer()


# Where it answers


def test_nobody_else_is_answered(host: Host, care: Care, web: NetNs) -> None:
    host.bridge("xenbr0", address="10.0.0.254/24")
    other = add_guest(host, "xenbr0", DB, "other")
    care.tell(told("lab", DB, "10.77.0.6", name="db.lab.internal"))
    assert udhcpc(other) == {}
    other.rtnl.add_address("eth0", "10.0.0.1/24")
    other.run("ip", "route", "add", "10.77.0.1", "via", "10.0.0.254")
    assert other.ping("10.77.0.1")
    assert ask(other, "10.77.0.1", "web.lab.internal", timeout=1.0) is None
    assert ask(host, "127.0.0.1", "web.lab.internal", timeout=1.0) is None
    assert udhcpc(web)["ip"] == "10.77.0.5"


def test_networks_and_the_hosts_own_dns_server_live_side_by_side(
    host: Host, care: Care, served: Callable[..., Network]
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stub, socket.socket() as stub_tcp:
        stub.bind(("127.0.0.1", 53))
        stub_tcp.bind(("127.0.0.1", 53))
        stub_tcp.listen()
        for number, name in enumerate(("one", "two")):
            served(network(name, subnets=(f"10.7{number}.0.0/24",)))
            care.tell(told(name, WEB, f"10.7{number}.0.5", name=f"web-{name}.{name}.internal"))
        assert care.problems() == []
        for number, name in enumerate(("one", "two")):
            guest = add_guest(host, f"xn-{name}", WEB, name)
            assert udhcpc(guest)["ip"] == f"10.7{number}.0.5"
            guest.rtnl.add_address("eth0", f"10.7{number}.0.5/24")
            gateway = f"10.7{number}.0.1"
            assert ask(guest, gateway, f"web-{name}.{name}.internal") == Answer(NOERROR, [f"10.7{number}.0.5"])
            # A renewal is sent to the gateway's address: it must reach this network's dnsmasq, and not the other one.
            assert udhcpc(guest, "-r", f"10.7{number}.0.5")["serverid"] == gateway


# Guests come, change and go


def timed_lease(guest: NetNs, expected: str) -> float:
    began = time.monotonic()
    assert udhcpc(guest)["ip"] == expected
    return time.monotonic() - began


def test_guests_come_and_go_and_dnsmasq_runs_on(host: Host, care: Care, web: NetNs) -> None:
    before = pid()
    db = add_guest(host, "xn-lab", DB, "db")
    assert udhcpc(db, tries=1) == {}
    entry = told("lab", DB, "10.77.0.6", name="db.lab.internal")
    care.tell(entry)
    assert timed_lease(db, "10.77.0.6") < 5.0
    changed = told("lab", DB, "10.77.0.60", name="db.lab.internal")
    care.tell(changed)
    eventually(lambda: udhcpc(db).get("ip") == "10.77.0.60", timeout=20.0)
    web.rtnl.add_address("eth0", "10.77.0.5/24")
    assert ask(web, "10.77.0.1", "db.lab.internal") == Answer(NOERROR, ["10.77.0.60"])
    time.sleep(0.5)  # By now dnsmasq has heard of the change: what it hears next is that the guest is gone.
    care.forget(entry)  # The MAC is told something else by now.
    assert care.call(care.hosts.present, changed) == changed
    care.forget(changed)
    eventually(lambda: ask(web, "10.77.0.1", "db.lab.internal") == Answer(NXDOMAIN, []))
    eventually(lambda: udhcpc(db, tries=1) == {}, timeout=20.0)
    assert udhcpc(web)["ip"] == "10.77.0.5"
    assert pid() == before


def test_an_address_is_its_new_owners_though_it_is_leased_to_the_old_one(host: Host, care: Care, web: NetNs) -> None:
    assert udhcpc(web)["ip"] == "10.77.0.5"
    care.forget(told("lab", WEB, "10.77.0.5", "fd77::5", name="web.lab.internal"))
    care.tell(told("lab", DB, "10.77.0.5", name="web.lab.internal"))
    eventually(lambda: udhcpc(add_guest(host, "xn-lab", DB, "db")).get("ip") == "10.77.0.5", timeout=20.0)


def test_what_a_mac_had_last_is_remembered(host: Host, care: Care, web: NetNs) -> None:
    entry = told("lab", WEB, "10.77.0.5", "fd77::5", name="web.lab.internal")
    assert udhcpc(web)["ip"] == "10.77.0.5"
    assert care.call(care.hosts.lease, "xn-lab", WEB) == entry.addresses
    care.forget(entry)
    assert care.call(care.hosts.lease, "xn-lab", WEB) == entry.addresses[:1]
    assert care.call(care.hosts.lease, "xn-lab", DB) == ()


def test_files_are_written_when_they_differ_only(host: Host, care: Care, web: NetNs) -> None:
    entries = [told("lab", WEB, "10.77.0.5", "fd77::5", name="web.lab.internal")]
    assert list(care.owned_hosts()) == entries
    files = [file for file in Path("/var/lib/xennetd/xn-lab").rglob("*") if file.is_file() and file.name != "leases"]
    before = [(file, file.stat().st_mtime_ns, file.stat().st_ino) for file in files]
    care.tell(*entries)
    care.serve(network("lab", subnets=DUAL))
    assert [(file, file.stat().st_mtime_ns, file.stat().st_ino) for file in files] == before


def test_several_addresses_and_no_name_are_read_back_as_they_were(care: Care, web: NetNs) -> None:
    entries = {
        told("lab", WEB, "10.77.0.5", "fd77::5", name="web.lab.internal"),
        told("lab", DB, "fd77::6", "10.77.0.6", "10.77.0.7", name=None),
        DhcpHost("xn-lab", STRANGER, (), None),
    }
    care.tell(*entries)
    assert set(care.owned_hosts()) == entries
    care.forget(*entries)
    assert list(care.owned_hosts()) == []

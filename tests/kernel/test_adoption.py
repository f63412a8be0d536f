"""A bridge adopts what the host has on its port: no ping in ten a second is lost, and removal gives everything back."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import threading
import time
from ipaddress import ip_address
from typing import Any

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.entries import configure
from tests.bed.netns import Host, NetNs
from tests.kernel.conftest import MakeDaemon
from tests.kernel.status import status
from tests.kernel.test_topology import apply, plan, shape
from tests.kernel.wait import eventually

ADOPTS = STAND_IN + '[bridge.xenbr0]\nports = ["eth0"]\naddresses = "adopt"\n'


def state(host: Host, link: str) -> dict[str, Any]:
    """Everything of the IP layer on a link, its name left out. What changes by itself is left out, too."""
    found: dict[str, Any] = {}
    for what, command in (
        ("addresses", ("address", "show", "dev", link)),
        ("routes", ("route", "show", "table", "all")),
        ("routes6", ("-6", "route", "show", "table", "all")),
        ("rules", ("rule", "show")),
        ("rules6", ("-6", "rule", "show")),
        ("neighbours", ("neighbour", "show", "dev", link, "nud", "permanent")),
    ):
        text = host.run("ip", "-json", "-details", *command).stdout.strip() or "[]"
        rows = json.loads(text)
        if what == "addresses":
            rows = [each for row in rows for each in row.get("addr_info", []) if each["scope"] != "link"]
        kept = [
            json.dumps(row, sort_keys=True).replace(f'"{link}', '"LINK')
            for row in rows
            if row.get("table") != "local" and not str(row.get("dst", "")).startswith(("fe80", "ff00", "multicast"))
        ]
        found[what] = sorted(each for each in kept if "LINK" in each or what in {"addresses", "neighbours"})
    return found


def advertise(router: NetNs, prefix: str) -> None:
    """Send a router advertisement (RFC 4861, 4.2) with a prefix of 64 bits for SLAAC."""
    header = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    option = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 900, 900, 0) + ip_address(prefix).packed
    with router, socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.sendto(header + option, ("ff02::1%eth0", 0))


def accept_ra(host: Host, link: str) -> int:
    return int(host.run("sysctl", "-n", f"net/ipv6/conf/{link}/accept_ra").stdout)


def test_everything_moves_and_comes_back(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    before, links = state(host, "eth0"), shape(host)
    assert all(before[what] for what in before), before
    xennetd = daemon(ADOPTS)
    steps = apply(xennetd)
    assert "ip addr add 192.0.2.7/24 dev xenbr0" in steps
    assert any(step.startswith("ip route replace default via 192.0.2.1") and "xenbr0" in step for step in steps), steps
    assert state(host, "xenbr0") == before
    assert host.addresses("eth0") == [] or all(each.startswith("fe80") for each in host.addresses("eth0"))
    assert host.ping("192.0.2.1")
    assert host.ping("2001:db8::1")
    xennetd.kill9()
    xennetd.start()
    assert state(host, "xenbr0") == before
    xennetd.configure(STAND_IN)
    apply(xennetd)
    assert (state(host, "eth0"), shape(host)) == (before, links)
    assert host.ping("192.0.2.1")


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"], ids=["IPv4", "IPv6"])
def test_no_more_than_one_ping_of_ten_a_second_is_lost_and_a_connection_goes_on(
    host: Host, router: NetNs, daemon: MakeDaemon, address: str
) -> None:
    """Both ways: into the bridge, and back out of it."""
    xennetd = daemon(ADOPTS)
    for config in (ADOPTS, STAND_IN):
        xennetd.configure(config)
        with router:
            pinging = subprocess.Popen(
                ["ping", "-q", "-i", "0.1", "-c", "40", "-W", "1", address], stdout=subprocess.PIPE, text=True
            )
        with Session(host, router, address) as session:
            time.sleep(1)
            apply(xennetd)
            output, _ = pinging.communicate(timeout=30)
            assert int(output.split(" packets transmitted, ")[1].split()[0]) >= 39, output
            assert session.slowest() < 1.0


class Session:
    """A connection as that of ssh: a character and its echo, all the time."""

    def __init__(self, host: Host, beyond: NetNs, address: str) -> None:
        self._server = socket.create_server(
            (address, 2222), family=socket.AF_INET6 if ":" in address else socket.AF_INET
        )
        with beyond:
            self._client = socket.create_connection((address, 2222), timeout=10)
        self._peer, _ = self._server.accept()
        self._times: list[float] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._echo, self._type)]

    def __enter__(self) -> Session:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(15)
        for each in (self._client, self._peer, self._server):
            each.close()

    def _echo(self) -> None:
        while data := self._peer.recv(16):
            self._peer.sendall(data)

    def _type(self) -> None:
        while not self._end.is_set():
            began = time.monotonic()
            self._client.sendall(b"x")
            self._client.recv(16)
            self._times.append(time.monotonic() - began)
            time.sleep(0.02)
        self._client.shutdown(socket.SHUT_WR)

    def slowest(self) -> float:
        """Seconds of the longest echo so far; there were many."""
        assert len(self._times) > 50
        return max(self._times)


def test_a_start_adopts_what_the_distribution_has_configured_at_boot(
    host: Host, router: NetNs, daemon: MakeDaemon
) -> None:
    before = state(host, "eth0")
    xennetd = daemon(ADOPTS)
    apply(xennetd)
    xennetd.terminate()
    host.run("ip", "link", "delete", "xenbr0")
    host.run("ip", "rule", "delete", "priority", "1000")
    host.run("ip", "-6", "rule", "delete", "priority", "1001")
    configure(host)
    assert state(host, "eth0") == before
    xennetd.start()
    assert state(host, "xenbr0") == before
    assert host.ping("192.0.2.1")
    assert status(xennetd)["problems"] == []


def test_what_a_dhcp_client_keeps_is_not_taken(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    host.run("ip", "address", "change", "192.0.2.7/24", "dev", "eth0", "valid_lft", "600", "preferred_lft", "600")
    xennetd = daemon(ADOPTS)
    before = shape(host)
    code, _, problems = plan(xennetd)
    assert code == 1
    assert any(
        each.startswith("eth0 has 192.0.2.7/24 from a DHCP client, which would go on using eth0") for each in problems
    )
    assert xennetd.ctl("apply").returncode == 1
    assert shape(host) == before


def test_a_start_makes_no_port_of_a_nic_with_a_leased_address(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    """The bridge is made, and the host stays reachable."""
    xennetd = daemon(ADOPTS)
    apply(xennetd)
    xennetd.terminate()
    host.run("ip", "link", "delete", "xenbr0")
    host.run("ip", "address", "add", "192.0.2.7/24", "dev", "eth0", "valid_lft", "600", "preferred_lft", "600")
    xennetd.start()
    links = host.links()
    assert ("xenbr0" in links, links["eth0"].get("master")) == (True, None)
    assert any("from a DHCP client" in problem for problem in status(xennetd)["problems"])
    assert host.ping("192.0.2.1")


def test_what_is_on_other_links_stays_where_it_is(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    host.rtnl.add_veth("eth1", "eth0", host.guest("other").fd)
    for command in ("link set eth1 up", "address add 10.9.0.1/24 dev eth1", "route add 10.10.0.0/16 via 10.9.0.2",
                    "rule add iif eth1 table 100 priority 1002"):  # fmt: skip
        host.run("ip", *command.split())
    before = state(host, "eth1")
    xennetd = daemon(ADOPTS)
    apply(xennetd)
    assert state(host, "eth1") == before


def test_addresses_from_router_advertisements_come_anew(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    host.run(
        "ip", "address", "add", "2001:db8:5::7/64", "dev", "eth0", "valid_lft", "900", "preferred_lft", "900", "nodad"
    )
    host.run("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.eth0.accept_ra=2")
    xennetd = daemon(ADOPTS)
    notes = json.loads(xennetd.ctl("plan", "--json").stdout)["notes"]
    why = "was given by a router and can't be moved: xenbr0 hears the router, and gets an address of its own"
    assert notes == [f"2001:db8:5::7/64 on eth0 {why}"]
    assert "remove ip address 2001:db8:5::7/64 on eth0" in apply(xennetd)
    assert accept_ra(host, "xenbr0") == 2, "with 1 a link that forwards hears no router"
    assert not any(each.startswith("2001:db8:5:") for link in ("eth0", "xenbr0") for each in host.addresses(link))
    assert "2001:db8::7/64" in host.addresses("xenbr0")

    def heard() -> bool:
        advertise(router, "2001:db8:5::")
        return any(each.startswith("2001:db8:5:") for each in host.addresses("xenbr0"))

    eventually(heard, interval=0.2)


@pytest.mark.parametrize("family", ["IPv4", "IPv6 socket"])
def test_an_address_with_a_session_on_it_goes_only_with_a_confirmation(
    host: Host, router: NetNs, daemon: MakeDaemon, family: str
) -> None:
    """As ssh to dom0: one that listens on all addresses has a socket of both IP versions."""
    host.rtnl.add_veth("eth1", "eth0", host.guest("other").fd)
    listed = STAND_IN + '[bridge.xenbr1]\nports = ["eth1"]\naddresses = ["192.0.2.50/32"]\n'
    xennetd = daemon(listed)
    apply(xennetd)
    if family == "IPv4":
        server = socket.create_server(("192.0.2.50", 2222))
    else:
        server = socket.create_server(("::", 2222), family=socket.AF_INET6, dualstack_ipv6=True)
    with router:
        client = socket.create_connection(("192.0.2.50", 2222), timeout=10)
    with server, client, server.accept()[0]:
        xennetd.configure(STAND_IN)
        code, _, (problem,) = plan(xennetd)
        assert (code, problem.startswith("192.0.2.50 goes, and with it 1 connection to this host")) == (1, True), (
            problem
        )
        refused = xennetd.ctl("apply")
        assert (refused.returncode, "Nothing was changed." in refused.stdout) == (1, True)
        assert xennetd.ctl("apply", "--confirm", "10").returncode == 0
        assert xennetd.ctl("confirm").returncode == 0
    assert "xenbr1" not in host.links()


def test_a_bridge_with_a_session_on_it_loses_its_port_only_with_a_confirmation(
    host: Host, router: NetNs, daemon: MakeDaemon
) -> None:
    bridge = '[bridge.xenbr1]\nports = ["eth1"]\naddresses = ["192.0.5.1/24"]\n'
    beyond = host.guest("beyond")
    host.rtnl.add_veth("eth1", "eth0", beyond.fd)
    beyond.rtnl.set("eth0", up=True)
    beyond.rtnl.add_address("eth0", "192.0.5.2/24")
    xennetd = daemon(STAND_IN + bridge)
    apply(xennetd)
    eventually(lambda: host.ping("192.0.5.2"))
    server = socket.create_server(("192.0.5.1", 2222))
    with beyond:
        client = socket.create_connection(("192.0.5.1", 2222), timeout=10)
    connection, _ = server.accept()
    xennetd.configure(STAND_IN + bridge.replace('"eth1"', ""))
    code, _, (caution,) = plan(xennetd)
    assert (code, caution.partition(":")[0]) == (
        1,
        "192.0.5.1 loses a link that it is reached by, and with it 1 connection to this host",
    )
    assert xennetd.ctl("apply").returncode == 1
    assert host.links()["eth1"]["master"] == "xenbr1"
    for each in (server, client, connection):
        each.close()
    eventually(lambda: plan(xennetd)[0] == 0)


def test_an_apply_that_would_lose_something_takes_everything_back(
    host: Host, router: NetNs, daemon: MakeDaemon
) -> None:
    """This kernel has no VLAN filtering, and no bonds."""
    before, links = state(host, "eth0"), shape(host)
    bond = '[bond.bond0]\nmode = "active-backup"\nports = ["eth0"]\n[bridge.xenbr0]\nports = ["bond0"]\n'
    for config in (ADOPTS + "vlan_aware = true\n", f'{STAND_IN}{bond}addresses = "adopt"\n'):
        xennetd = daemon(config)
        done = xennetd.ctl("apply")
        assert (done.returncode, "so everything was taken back" in done.stdout) == (1, True), done.stdout
        assert (state(host, "eth0"), shape(host)) == (before, links)
        assert host.ping("192.0.2.1")
        xennetd.terminate()


def test_what_can_not_move_stays_and_nothing_else_waits_for_it(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    """As at a boot where IPv6 is off for new links: there is nobody who could take the apply back."""
    xennetd = daemon(ADOPTS)
    apply(xennetd)
    xennetd.terminate()
    host.run("ip", "link", "delete", "xenbr0")
    for priority in ("1000", "1001"):
        host.run("ip", *(("-6",) if priority == "1001" else ()), "rule", "delete", "priority", priority)
    configure(host)
    host.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    xennetd.start()
    assert "192.0.2.7/24" in host.addresses("xenbr0")
    assert "default via 192.0.2.1 dev xenbr0" in host.run("ip", "route").stdout
    assert "2001:db8::7/64" in host.addresses("eth0")
    assert any("2001:db8::7/64" in problem for problem in status(xennetd)["problems"])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("route", "append", "default", "via", "10.9.0.2", "dev", "eth1"), "another route has its destination"),
        (("rule", "add", "table", "200", "priority", "1000"), "another rule has its priority"),
        (("route", "add", "10.20.0.0/16", "nhid", "7"), "it has a nexthop object"),
    ],
    ids=["two routes", "two rules", "a nexthop object"],
)
def test_what_could_not_be_put_back_as_it_was_is_not_adopted(
    host: Host, router: NetNs, daemon: MakeDaemon, command: tuple[str, ...], said: str
) -> None:
    host.rtnl.add_veth("eth1", "eth0", host.guest("other").fd)
    host.rtnl.set("eth1", up=True)
    host.rtnl.add_address("eth1", "10.9.0.1/24")
    host.run("ip", "nexthop", "add", "id", "7", "via", "192.0.2.1", "dev", "eth0")
    host.run("ip", *command)
    before = state(host, "eth0")
    xennetd = daemon(ADOPTS)
    done = xennetd.ctl("apply")
    assert (done.returncode, said in done.stdout, "Nothing was changed." in done.stdout) == (1, True, True), done.stdout
    assert state(host, "eth0") == before


def test_an_ipv6_route_of_an_address_without_one_moves_too(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    """As NetworkManager configures it."""
    host.run("ip", "-6", "address", "del", "2001:db8::7/64", "dev", "eth0")
    host.run("ip", "-6", "address", "add", "2001:db8::7/64", "dev", "eth0", "nodad", "noprefixroute")
    near = ("2001:db8::/64", "dev", "eth0", "proto", "kernel", "metric", "100")
    host.run("ip", "-6", "route", "add", *near)
    host.run("ip", "-6", "route", "replace", "default", "via", "2001:db8::1", "dev", "eth0")
    before = state(host, "eth0")
    xennetd = daemon(ADOPTS)
    apply(xennetd)
    assert state(host, "xenbr0") == before
    assert host.ping("2001:db8::1")


def test_a_port_is_not_taken_out_of_a_bridge_with_the_hosts_addresses(
    host: Host, router: NetNs, daemon: MakeDaemon
) -> None:
    host.bridge("br0", address="10.9.0.1/24")
    host.rtnl.set("eth0", master="br0")
    before = shape(host)
    xennetd = daemon(ADOPTS)
    done = xennetd.ctl("apply")
    assert (done.returncode, "eth0 is a port of br0, which has 10.9.0.1/24" in done.stdout) == (1, True), done.stdout
    assert shape(host) == before


def test_a_list_that_is_adopted_stays(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    xennetd = daemon(ADOPTS)
    apply(xennetd)
    listed = ADOPTS.replace('"adopt"', '["192.0.2.7/24"]')
    for config in (listed, ADOPTS):
        xennetd.configure(config)
        apply(xennetd)
        assert "192.0.2.7/24" in host.addresses("xenbr0")
    xennetd.configure(STAND_IN + '[bridge.xenbr0]\nports = ["eth0"]\n')
    apply(xennetd)
    xennetd.configure(STAND_IN)
    refused = xennetd.ctl("apply")
    assert (refused.returncode, "which would be lost with it" in refused.stdout) == (1, True), refused.stdout
    assert host.ping("192.0.2.1")

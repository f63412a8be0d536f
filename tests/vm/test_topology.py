"""The host's own bonds, VLANs and dummies, on a kernel that has them all, under the shipped unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.bed.guest import Guest
from tests.bed.netns import NetNs
from tests.bed.toolstack import VifSpec
from tests.vm.machine import CONFIGURATION, UNIT, Journal, Machine, do, run, until
from xennetd.cli.connection import RELOAD_TIMEOUT, call

MakeGuest = Callable[..., Guest]

FILE = CONFIGURATION / "test.toml"
STATE = Path("/var/lib/xennetd/topology.json")

VLANS_ON_A_BOND = """
[bond.bond0]
ports = ["leg0", "leg1"]
mode = "active-backup"
miimon = 50
[vlan."bond0.100"]
[vlan."bond0.200"]
[bridge.service]
ports = ["bond0.100"]
addresses = ["10.100.0.254/24"]
[bridge.management]
ports = ["bond0.200"]
addresses = []
"""


@pytest.fixture
def wire(host: Machine, service: None) -> Iterator[NetNs]:
    """A switch beyond the host's leg0 and leg1, with a machine in the VLANs 100 and 200, and one without a tag.

    After the test nothing of the topology is left.
    """
    beyond = host.guest("switch")
    beyond.rtnl.add_bridge("wire")
    beyond.rtnl.set("wire", up=True)
    for leg in ("leg0", "leg1"):
        host.rtnl.add_veth(leg, leg, beyond.fd)
        beyond.rtnl.set(leg, master="wire", up=True)
    untagged = host.guest("untagged")
    beyond.rtnl.add_veth("untagged", "eth0", untagged.fd)
    beyond.rtnl.set("untagged", master="wire", up=True)
    untagged.rtnl.set("eth0", up=True)
    untagged.rtnl.add_address("eth0", "10.100.0.9/24")
    for vid in (100, 200):
        beyond.run("ip", "link", "add", "link", "wire", f"wire.{vid}", "up", "type", "vlan", "id", str(vid))
        beyond.rtnl.add_address(f"wire.{vid}", f"10.{vid}.0.1/24")
    before = set(host.links())
    yield beyond
    apply("")
    assert set(host.links()) == before, set(host.links()) ^ before


def ask(method: str) -> dict[str, Any]:
    """What `xennetctl plan` and `apply` ask the daemon. The start of a Python program takes seconds in the machine."""
    answer: dict[str, Any] = call("/run/xennetd/control", method, RELOAD_TIMEOUT)["plan"]
    return answer


def plan() -> list[str]:
    answer = ask("Plan")
    assert answer["problems"] == []
    steps: list[str] = answer["steps"]
    return steps


def apply(text: str) -> list[str]:
    """Put the topology of a configuration into force. Afterwards there is nothing left to do."""
    FILE.write_text(text)
    answer = ask("Apply")
    assert answer["problems"] == [], answer
    assert plan() == []
    steps: list[str] = answer["steps"]
    return steps


def info(host: Machine, name: str) -> dict[str, object]:
    link = host.link(name)
    assert link is not None, name
    data: dict[str, object] = link["linkinfo"]["info_data"]
    return data


def test_guests_are_in_vlans_on_a_bond_and_survive_the_loss_of_a_leg(
    host: Machine, wire: NetNs, guest: MakeGuest, journal: Journal
) -> None:
    apply(VLANS_ON_A_BOND)
    assert (info(host, "bond0")["mode"], info(host, "bond0")["miimon"]) == ("active-backup", 50)
    assert info(host, "bond0.100")["id"] == 100
    until(lambda: host.ping("10.100.0.1"))
    web = guest("web", VifSpec(bridge="service"), address="10.100.0.5/24")
    backup = guest("backup", VifSpec(bridge="management"), address="10.200.0.5/24")
    for each, router in ((web, "10.100.0.1"), (backup, "10.200.0.1")):
        each.connect()
        until(partial(each.ping, router))
    assert not web.ping("10.100.0.9"), "this address answers without a tag only"
    assert not web.ping("10.200.0.5")
    assert host.addresses("management") == []
    wire.run("ip", "link", "set", "leg0", "down")
    until(lambda: web.ping("10.100.0.1"))
    problem = "leg0, a port of bond0, has no carrier: it lives on 1 other"
    until(lambda: problem in run("xennetctl", "status").stdout)
    wire.run("ip", "link", "set", "leg0", "up")
    until(lambda: problem not in run("xennetctl", "status").stdout)
    assert any(problem in entry["MESSAGE"] for entry in journal.entries())


def test_the_picture_has_the_speed_of_a_bond(host: Machine, service: None) -> None:
    beyond = host.guest("switch")
    host.run("ip", "link", "add", "bond0", "type", "bond", "mode", "active-backup", "miimon", "50")
    for leg in ("leg0", "leg1"):
        host.rtnl.add_veth(leg, leg, beyond.fd)
        beyond.rtnl.set(leg, up=True)
        host.run("ip", "link", "set", leg, "master", "bond0")
    host.run("ip", "link", "set", "bond0", "up")

    def speeds() -> dict[str, int | None]:
        links = call("/run/xennetd/control", "Topology")["links"]
        return {link["name"]: link["speed"] for link in links if link["name"] in {"bond0", "leg0", "leg1"}}

    until(lambda: speeds() == {"leg0": 10_000, "leg1": 10_000, "bond0": 10_000})
    beyond.rtnl.set("leg0", up=False)
    until(lambda: speeds() == {"leg0": None, "leg1": 10_000, "bond0": 10_000})
    beyond.rtnl.set("leg1", up=False)
    until(lambda: speeds() == {"leg0": None, "leg1": None, "bond0": None})
    for name in ("bond0", "leg0", "leg1"):
        host.run("ip", "link", "delete", name)


def test_the_second_leg_and_another_mode_come_in_place(host: Machine, wire: NetNs) -> None:
    one_leg = VLANS_ON_A_BOND.replace(', "leg1"', "")
    apply(one_leg)
    index = (host.link("bond0") or {})["ifindex"]
    until(lambda: host.ping("10.100.0.1"))
    assert "ip link set leg1 master bond0" in apply(VLANS_ON_A_BOND)
    apply(VLANS_ON_A_BOND.replace("miimon = 50", 'miimon = 50\nprimary = "leg1"'))
    assert info(host, "bond0")["primary"] == "leg1"
    apply(VLANS_ON_A_BOND.replace('"active-backup"', '"802.3ad"\nlacp_rate = "fast"'))
    assert (info(host, "bond0")["mode"], info(host, "bond0")["ad_lacp_rate"]) == ("802.3ad", "fast")
    assert (host.link("bond0") or {})["ifindex"] == index
    until(lambda: "leg0, a port of bond0, has no LACP partner" in run("xennetctl", "status").stdout)
    assert {(host.link(leg) or {})["master"] for leg in ("leg0", "leg1")} == {"bond0"}


def test_an_import_of_what_was_applied_changes_nothing(host: Machine, wire: NetNs) -> None:
    text = VLANS_ON_A_BOND.replace('"active-backup"', '"802.3ad"\nlacp_rate = "fast"\nxmit_hash_policy = "layer3+4"')
    apply(text + '[vlan.v]\nparent = "leg0"\nid = 7\nprotocol = "802.1ad"\n[dummy.dummy7]\n'.replace("leg0", "bond0"))
    imported = do("xennetctl", "import")
    assert 'mode = "802.3ad"' in imported
    assert 'protocol = "802.1ad"' in imported
    FILE.write_text(imported)
    assert plan() == []


def test_a_vlan_with_another_number_is_made_anew_with_what_is_on_it(host: Machine, wire: NetNs) -> None:
    apply('[vlan.v]\nparent = "leg0"\nid = 300\n[bridge.b]\nports = ["v"]\n')
    steps = apply('[vlan.v]\nparent = "leg0"\nid = 301\nprotocol = "802.1ad"\n[bridge.b]\nports = ["v"]\n')
    assert any(step.startswith("ip link delete v; ip link add link leg0 v ") for step in steps), steps
    assert (info(host, "v")["id"], info(host, "v")["protocol"]) == (301, "802.1ad")
    assert (host.link("v") or {})["master"] == "b"


def test_addresses_are_adopted_through_all_that_is_new_on_the_way(host: Machine, wire: NetNs) -> None:
    """A bond takes only a port that is down, which loses its routes and its IPv6 addresses by that."""
    for command in (
        "link set leg0 up",
        "address add 10.100.0.7/24 dev leg0",
        "address add 2001:db8::7/64 dev leg0 nodad",
        "route add 10.1.0.0/16 via 10.100.0.1",
        "-6 route add 2001:db8:9::/48 via 2001:db8::1",
        "rule add iif leg0 table 100 priority 1000",
    ):
        do("ip", *command.split())
    before = entries(host, "leg0")
    adopts = VLANS_ON_A_BOND.replace('["10.100.0.254/24"]', '"adopt"')
    apply(adopts)
    assert entries(host, "service") == before
    until(lambda: host.ping("10.100.0.1"))
    apply("")
    assert entries(host, "leg0") == before
    do("ip", "rule", "delete", "priority", "1000")


def test_networkd_leaves_the_topology_alone(host: Machine, wire: NetNs) -> None:
    """The machine has a .network file that matches every link and gives it IPv6."""
    apply(VLANS_ON_A_BOND + "[dummy.dummy7]\n")
    do("ip", "link", "add", "other0", "up", "type", "dummy")
    until(lambda: networkd_state("other0") <= {"configuring", "configured"})
    made = ("bond0", "bond0.100", "bond0.200", "service", "management", "dummy7")
    until(lambda: networkd_state(*made) == {"unmanaged"})
    before = {name: host.addresses(name) for name in made}
    for command in (
        ("networkctl", "reload"),
        ("udevadm", "trigger", "--subsystem-match=net", "--settle"),
        ("networkctl", "reload"),
        ("networkctl", "reconfigure", *made),
        ("systemctl", "restart", "systemd-networkd"),
    ):
        do(*command)
        until(lambda: networkd_state("other0") <= {"configuring", "configured"})
        until(lambda: networkd_state(*made) == {"unmanaged"})
    assert {name: host.addresses(name) for name in made} == before
    assert host.addresses("management") == []
    assert {(host.link(leg) or {})["master"] for leg in ("leg0", "leg1")} == {"bond0"}
    do("ip", "link", "delete", "other0")


def networkd_state(*links: str) -> set[str]:
    """What networkd does with these links, in the last column of its list."""
    lines = do("networkctl", "--no-pager", "--no-legend", "list", *links).splitlines()
    assert len(lines) == len(links), lines
    return {line.split()[-1] for line in lines}


def entries(host: Machine, link: str) -> list[str]:
    """The addresses, routes and rules of a link, without its name."""
    texts = [host.run("ip", *what).stdout for what in (("route",), ("-6", "route"), ("rule",))]
    found = [line.strip() for text in texts for line in text.splitlines() if f" {link} " in f"{line} "]
    found += [each for each in host.addresses(link) if not each.startswith("fe80")]
    return sorted(each.replace(f" {link}", " LINK") for each in found if not each.startswith("fe80"))


def test_a_bridge_on_a_dummy(host: Machine, wire: NetNs, guest: MakeGuest) -> None:
    apply('[dummy.dummy7]\n[bridge.b]\nports = ["dummy7"]\naddresses = ["10.7.0.254/24"]\nvlan_aware = true\n')
    assert info(host, "b")["vlan_filtering"] == 1
    web = guest("web", VifSpec(bridge="b"), address="10.7.0.1/24")
    web.connect()
    until(lambda: web.ping("10.7.0.254"))


def test_it_is_there_again_when_the_daemon_starts_on_a_bare_kernel(host: Machine, wire: NetNs) -> None:
    apply(VLANS_ON_A_BOND)
    assert oct(STATE.stat().st_mode & 0o777) == "0o600"
    do("systemctl", "stop", UNIT)
    for name in ("service", "management", "bond0.100", "bond0.200", "bond0"):
        do("ip", "link", "delete", name)
    do("systemctl", "start", UNIT)
    until(lambda: host.ping("10.100.0.1"))
    assert plan() == []


@pytest.mark.parametrize("end", [("stop", UNIT), ("kill", "--kill-whom=main", "--signal=SIGSTOP", UNIT)], ids=" ".join)
def test_systemd_has_it_rolled_back_without_the_daemon(host: Machine, wire: NetNs, end: tuple[str, ...]) -> None:
    apply('[bridge.b]\nports = ["leg1"]\naddresses = ["10.9.0.1/24"]\n')
    before = described(host)
    FILE.write_text(VLANS_ON_A_BOND)
    do("xennetctl", "apply", "--confirm", "10")
    assert "bond0" in host.links()
    until(lambda: run("systemctl", "is-active", "xennetd-rollback.service").stdout == "active\n")
    do("systemctl", *end)
    until(lambda: not Path("/var/lib/xennetd/checkpoint.json").exists())
    assert described(host) == before
    until(lambda: run("systemctl", "is-active", "xennetd-rollback.service").stdout == "inactive\n")
    do("systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", UNIT) if end[0] == "kill" else None
    do("systemctl", "start", UNIT)
    assert described(host) == before


def described(host: Machine) -> dict[str, object]:
    """The links of the test, their masters and addresses."""
    names = ("leg0", "leg1", "b", "bond0", "bond0.100", "bond0.200", "service", "management")
    links = {name: host.link(name) for name in names}
    return {
        name: (link.get("master"), link["mtu"], link["address"], sorted(host.addresses(name)))
        for name, link in links.items()
        if link is not None
    }


def test_a_nic_that_is_plugged_in_late_gets_its_place(host: Machine, wire: NetNs) -> None:
    apply(VLANS_ON_A_BOND)
    do("systemctl", "stop", UNIT)
    for name in ("leg0", "bond0"):
        do("ip", "link", "delete", name)
    do("systemctl", "start", UNIT)
    assert 'there is no NIC "leg0"' in run("xennetctl", "status").stdout
    until(lambda: host.ping("10.100.0.1"))
    host.rtnl.add_veth("leg0", "leg2", wire.fd)
    wire.rtnl.set("leg2", master="wire", up=True)
    until(lambda: (host.link("leg0") or {}).get("master") == "bond0")
    until(lambda: plan() == [])

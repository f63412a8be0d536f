"""The host's own topology below real guests: VLANs on two bonds, and an uplink whose addresses move to a bridge.

dom0 has no NIC of its own here. Veths stand in for its NICs: eth0 to eth3 lead to a switch, `uplink0` to a router. The
guest `web` runs from the first test to the last one. Its first two interfaces are where the drawing in
conf/examples/topology-vlans-two-bonds.toml has them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.netns import NetNs
from tests.bed.pinging import Pinging
from tests.bed.rtnl import Rtnl
from tests.bed.wire import Wire
from tests.xen.toolstack import Guest, answers, do, links, master, run, until
from tests.xen.traffic import Pings

VLANS_ON_TWO_BONDS = (Path(__file__).parents[2] / "conf/examples/topology-vlans-two-bonds.toml").read_text()
AND_AN_OUTER_BRIDGE = VLANS_ON_TWO_BONDS + '\n[bridge.outer]\nports = ["uplink0"]\naddresses = "adopt"\n'
AND_A_BRIDGE_WITHOUT_UPLINK = VLANS_ON_TWO_BONDS + "\n[bridge.outer]\nports = []\naddresses = []\n"

FILE = Path("/etc/xennetd/conf.d/topology.toml")
CONFIRMED = Path("/var/lib/xennetd/topology.json")
UNMANAGED = Path("/run/systemd/network/05-topology.network")

NICS = {"eth0": "bond0", "eth1": "bond0", "eth2": "bond1", "eth3": "bond1"}
SERVICE, MANAGEMENT = 100, 200
"""The VLANs: of the guest's first interface, and of its second one and dom0."""

OF_UPLINK0 = """
address add 203.0.113.7/24 dev uplink0
address add 2001:db8::7/64 dev uplink0 nodad
route add default via 203.0.113.1
route add 10.1.0.0/16 via 203.0.113.1 metric 50
-6 route add 2001:db8:9::/48 via 2001:db8::1
"""


class Switch:
    """A switch that dom0's NICs lead to, with a machine in each VLAN and one in none.

    Each machine has an address in the subnet of each VLAN, so that it would answer whatever frame gets to it: the
    machine in VLAN 100 has 10.100.0.1 and 10.200.0.2, that in VLAN 200 has 10.100.0.2 and 10.200.0.1, and that in no
    VLAN has 10.100.0.3 and 10.200.0.3.
    """

    def __init__(self, host: Rtnl) -> None:
        self.inside = NetNs("switch")
        self.inside.run("ip", "link", "add", "wire", "up", "type", "bridge", "vlan_filtering", "1")
        for nic in NICS:
            host.add_veth(nic, nic, self.inside.fd)
            host.set(nic, up=True)
            self.inside.rtnl.set(nic, master="wire", up=True)
            for vid in (SERVICE, MANAGEMENT):
                self.inside.run("bridge", "vlan", "add", "dev", nic, "vid", str(vid))
        self._machines = [
            self._machine(SERVICE, "10.100.0.1/24", "10.200.0.2/24"),
            self._machine(MANAGEMENT, "10.100.0.2/24", "10.200.0.1/24"),
            self._machine(1, "10.100.0.3/24", "10.200.0.3/24"),
        ]

    def _machine(self, vid: int, *addresses: str) -> NetNs:
        machine, port = NetNs(f"in{vid}"), f"to{vid}"
        self.inside.rtnl.add_veth(port, "eth0", machine.fd)
        self.inside.rtnl.set(port, master="wire", up=True)
        if vid != 1:
            self.inside.run("bridge", "vlan", "del", "dev", port, "vid", "1")
        self.inside.run("bridge", "vlan", "add", "dev", port, "vid", str(vid), "pvid", "untagged")
        machine.rtnl.set("eth0", up=True)
        for address in addresses:
            machine.rtnl.add_address("eth0", address)
        return machine

    def set_leg(self, nic: str, *, up: bool) -> None:
        """Put the far end of a NIC up or down: its carrier follows."""
        self.inside.rtnl.set(nic, up=up)

    def learned(self, mac: str) -> set[tuple[str, int]]:
        """Return where the switch has learned a MAC, as (NIC at the other end, VLAN)."""
        found = json.loads(self.inside.run("bridge", "-json", "fdb", "show", "br", "wire").stdout)
        return {(entry["ifname"], entry["vlan"]) for entry in found if entry["mac"] == mac}

    def close(self) -> None:
        for namespace in (*self._machines, self.inside):
            namespace.close()


@pytest.fixture(scope="module")
def left_as_found() -> Iterator[None]:
    # The machine's networkd takes every link that it is not told to leave alone, and gives it IPv6.
    UNMANAGED.parent.mkdir(parents=True, exist_ok=True)
    names = f"{' '.join(NICS)} bond* service management outer uplink0"
    UNMANAGED.write_text(f"[Match]\nName={names}\n[Link]\nUnmanaged=yes\n")
    do("networkctl", "reload")
    before = network()
    yield
    until(lambda: network() == before)
    UNMANAGED.unlink()
    do("networkctl", "reload")


@pytest.fixture(scope="module")
def router(left_as_found: None) -> Iterator[NetNs]:
    """The router 203.0.113.1 at the other end of uplink0, and 10.1.0.1 behind it."""
    router, host = NetNs("router"), Rtnl()
    host.add_veth("uplink0", "eth0", router.fd)
    router.rtnl.set("eth0", up=True)
    host.set("uplink0", up=True)
    for link, address in (("eth0", "203.0.113.1/24"), ("eth0", "2001:db8::1/64"), ("lo", "10.1.0.1/32")):
        router.rtnl.add_address(link, address)
    for command in OF_UPLINK0.strip().splitlines():
        do("ip", *command.split())
    before = entries("uplink0")
    yield router
    assert entries("uplink0") == before
    router.close()


@pytest.fixture(scope="module")
def switch(router: NetNs) -> Iterator[Switch]:
    """The switch. After the last test no topology is in force any more."""
    switch = Switch(Rtnl())
    do("ip", "address", "add", "10.200.0.254/24", "dev", "eth2")
    before = entries("eth2")
    yield switch
    apply("")
    FILE.unlink()
    assert entries("eth2") == before
    switch.close()


@pytest.fixture(scope="module")
def web(switch: Switch) -> Iterator[Guest]:
    apply(VLANS_ON_TWO_BONDS)
    web = Guest("web", ("bridge=service", "bridge=management"), address="10.100.0.9", addresses=["10.200.0.9"])
    web.create().connected(0).connected(1)
    answers("10.200.0.9")
    yield web
    web.destroy()
    web.gone()  # A bridge that has a guest can't be removed.


def apply(text: str, *options: str) -> None:
    """Put the topology of a configuration into force, with no problem. In the emulated host it takes ten seconds."""
    FILE.write_text(text)
    do("xennetctl", "apply", *options)


def network() -> dict[str, object]:
    """Return the host's links, with their masters and addresses, and its routes."""
    addresses = json.loads(do("ip", "-json", "address"))
    shown = {each["ifname"]: [entry["local"] for entry in each["addr_info"]] for each in addresses}
    found: dict[str, object] = {name: (link.get("master"), shown.get(name)) for name, link in links().items()}
    return found | {"routes": do("ip", "route") + do("ip", "-6", "route")}


def entries(link: str) -> list[str]:
    """Return the addresses and the routes of a link, without its name and what the kernel itself gives a link."""
    (shown,) = json.loads(do("ip", "-json", "address", "show", "dev", link))
    found = [f"{entry['local']}/{entry['prefixlen']}" for entry in shown["addr_info"]]
    for family in ("-4", "-6"):
        found += [" ".join(line.split()) for line in do("ip", family, "route", "show", "dev", link).splitlines()]
    return [each for each in found if not each.startswith("fe80")]


def reached(guest: Guest, devid: int, *addresses: str) -> set[str]:
    """Return which addresses answer a guest that takes them for its neighbours on one of its interfaces."""
    one = f"(ping -c 3 -i 0.3 -W 3 -I $(ls /sys/bus/xen/devices/vif-{devid}/net) %s >/dev/null && echo %s) &"
    pings = " ".join(one % (address, address) for address in addresses)
    return set(guest.run(f"({pings} wait)").split())  # In a subshell, since the guest's shell tells when a job ends.


def active_leg(bond: str) -> str:
    return Path(f"/sys/class/net/{bond}/bonding/active_slave").read_text().strip()


def test_each_interface_is_in_its_vlan_and_in_no_other(switch: Switch, web: Guest) -> None:
    assert {nic: master(nic) for nic in NICS} == NICS
    assert (master(web.vif(0)), master(web.vif(1))) == ("service", "management")
    with Wire(switch.inside, active_leg("bond0")) as service, Wire(switch.inside, active_leg("bond1")) as management:
        assert reached(web, 0, "10.100.0.1", "10.100.0.2", "10.100.0.3") == {"10.100.0.1"}
        assert reached(web, 1, "10.200.0.1", "10.200.0.2", "10.200.0.3") == {"10.200.0.1"}
        sent = [{(frame.source, frame.vid) for frame in wire.frames()} for wire in (service, management)]
    assert {(mac, vid) for mac, vid in sent[0] if mac == web.mac(0)} == {(web.mac(0), SERVICE)}
    assert {(mac, vid) for mac, vid in sent[1] if mac == web.mac(1)} == {(web.mac(1), MANAGEMENT)}
    assert {mac for mac, _ in sent[0]}.isdisjoint({mac for mac, _ in sent[1]})


def test_dom0_has_its_address_on_the_management_bridge_and_is_silent_on_the_other(web: Guest) -> None:
    assert entries("management") == ["10.200.0.254/24", "10.200.0.0/24 proto kernel scope link src 10.200.0.254"]
    assert "inet" not in do("ip", "address", "show", "dev", "service")


def test_a_guest_outlives_the_loss_of_a_leg(switch: Switch, web: Guest) -> None:
    active = active_leg("bond0")
    (other,) = {nic for nic, bond in NICS.items() if bond == "bond0"} - {active}
    assert switch.learned(web.mac(0)) == {(active, SERVICE)}
    problem = f"{active}, a port of bond0, has no carrier: it lives on 1 other"
    with Pings(web, "10.100.0.1") as pings:
        pings.mark("cut")
        switch.set_leg(active, up=False)
        until(lambda: switch.learned(web.mac(0)) == {(other, SERVICE)})
        pings.mark("moved")
        until(lambda: problem in run("xennetctl", "status").output)
    print(f"pings lost by the loss of a leg: {pings.lost}")
    assert active_leg("bond0") == other
    assert pings.answered_between("moved", "end") > 5, str(pings)
    assert pings.lost <= 20, str(pings)
    switch.set_leg(active, up=True)
    until(lambda: problem not in run("xennetctl", "status").output)


def test_addresses_move_to_a_bridge_below_a_running_guest(web: Guest, router: NetNs) -> None:
    before, confirmed = entries("uplink0"), CONFIRMED.read_bytes()
    with Pings(web, "10.100.0.1") as pings, Pinging(router, "203.0.113.7") as from_router:
        apply(AND_AN_OUTER_BRIDGE, "--confirm", "600")
        lost = from_router.lost()
    assert (entries("outer"), entries("uplink0")) == (before, [])
    assert pings.lost == 0, str(pings)
    assert len(lost) <= 20, lost
    do("xl", "network-attach", web.name, f"mac={web.mac(2)}", "bridge=outer")
    web.connected(2)
    web.run("address 2 203.0.113.9/24; ip route add 10.1.0.0/16 via 203.0.113.1")
    assert reached(web, 2, "203.0.113.1", "203.0.113.7") == {"203.0.113.1", "203.0.113.7"}
    assert "3 packets received" in web.run("ping -c 3 -i 0.2 10.1.0.1")
    assert CONFIRMED.read_bytes() == confirmed
    do("xennetctl", "confirm")
    assert CONFIRMED.read_bytes() != confirmed


def test_what_nobody_confirms_is_rolled_back_and_no_ping_is_lost_on_another_bridge(web: Guest, router: NetNs) -> None:
    """What is rolled back has cut the guest's third interface off from the router."""
    before, confirmed = entries("outer"), CONFIRMED.read_bytes()
    with Pings(web, "10.100.0.1") as pings:
        apply(AND_A_BRIDGE_WITHOUT_UPLINK, "--confirm", "20")
        pings.mark("applied")
        assert (entries("outer"), entries("uplink0"), master("uplink0")) == ([], before, None)
        until(lambda: entries("outer") == before)
        pings.mark("rolled back")
    assert pings.lost == 0, str(pings)
    assert pings.answered_between("applied", "rolled back") > 20, str(pings)
    assert (entries("uplink0"), master("uplink0"), master(web.vif(2))) == ([], "outer", "outer")
    assert CONFIRMED.read_bytes() == confirmed
    assert "3 packets received" in web.run("ping -c 3 -i 0.2 10.1.0.1")
    assert run("xennetctl", "confirm").status == 1

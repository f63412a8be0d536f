"""The sections of the host's own topology: what they mean, and what is refused with file, line and key."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface

import pytest

from tests.unit.test_policy_load import lines, policy
from xennetd.model.link import IFF_LOWER_UP, Link
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.objects import HostAddress
from xennetd.model.topology import Topology, TopologyLink
from xennetd.policy.bond_ports import BondPort, failed_ports
from xennetd.policy.check import Note, check
from xennetd.policy.host_notes import HostNotes
from xennetd.policy.topology_objects import TopologyFacts, derived_mac, oversized_links, topology_objects

BONDED = """
[nic.lan0]
mac = "52:54:00:AB:00:01"
mtu = 9000
[bond.bond0]
ports = ["lan0", "eth1"]
mode = "active-backup"
primary = "lan0"
[vlan."bond0.100"]
[vlan.storage]
parent = "bond0"
id = 200
protocol = "802.1ad"
[bridge.xenbr0]
ports = ["bond0.100"]
addresses = ["192.0.2.5/24", "2001:db8::5/64"]
[bridge.guests]
addresses = []
vlan_aware = true
stp = true
forward_delay = 4
[dummy.d0]
"""


def test_everything_that_can_be_said() -> None:
    topology = policy(BONDED).topology
    assert topology.links == (
        TopologyLink("nic", "lan0", mac="52:54:00:ab:00:01", mtu=9000),
        TopologyLink("bond", "bond0", ("lan0", "eth1"), settings=(("mode", 1), ("primary", "lan0"))),
        TopologyLink("vlan", "bond0.100", parent="bond0", settings=(("id", 100),)),
        TopologyLink("vlan", "storage", parent="bond0", settings=(("id", 200), ("protocol", 0x88A8))),
        TopologyLink(
            "bridge",
            "xenbr0",
            ("bond0.100",),
            addresses=(IPv4Interface("192.0.2.5/24"), IPv6Interface("2001:db8::5/64")),
        ),
        TopologyLink(
            "bridge",
            "guests",
            settings=(("forward_delay", 400), ("stp_state", 1), ("vlan_filtering", 1)),
            addresses=(),
        ),
        TopologyLink("dummy", "d0"),
    )
    assert topology.names == {"lan0", "eth1", "bond0", "bond0.100", "storage", "xenbr0", "guests", "d0"}


def test_files_share_a_topology() -> None:
    assert len(policy("[bridge.a]\n", "[bridge.b]\n").topology.links) == 2
    assert lines("[bridge.a]\n", "[dummy.a]\n") == ["1.toml:1: dummy.a: given already at 0.toml:1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[vlan."eth0.4095"]', '0.toml:1: vlan."eth0.4095": no VLAN has this number, found 4095'),
        ('[vlan."eth0.0"]', '0.toml:1: vlan."eth0.0".parent: missing: the name does not have the form PARENT.ID'),
        ("[vlan.x]\nparent = 'eth0'\nid = 0", "0.toml:3: vlan.x.id: not valid, found 0"),
        ("[bridge.averylongname123]", "0.toml:1: bridge.averylongname123: not valid"),
        ('[bridge."vif7.0"]', '0.toml:1: bridge."vif7.0": the name of a guest\'s interface'),
        ("[bridge.a]\nports = ['lo']", "0.toml:2: bridge.a.ports[1]: the host's loopback"),
        ("[bridge.a]\nports = ['e', 'e']", '0.toml:2: bridge.a.ports[2]: given twice, found "e"'),
        (
            "[bridge.a]\nports = ['e']\n[bridge.b]\nports = ['e']",
            "0.toml:4: bridge.b.ports[1]: a port of bridge.a already, at 0.toml:2; a link is a port of one link",
        ),
        ("[vlan.a]\nparent = 'b'\nid = 1\n[vlan.b]\nparent = 'a'\nid = 1", "0.toml:1: vlan.a: a circle: a on b on a"),
        ("[bridge.a]\nports = ['a.5']\n[vlan.'a.5']", "0.toml:1: bridge.a: a circle: a on a.5 on a"),
        (
            "[bond.b]\nmode = '802.3ad'\nports = ['eth0', 'eth1.5']\n[vlan.'eth1.5']",
            '0.toml:3: bond.b.ports[2]: a bond\'s ports are NICs, and this is vlan."eth1.5" at 0.toml:4',
        ),
        ("[bond.b]", "0.toml:1: bond.b.mode: missing"),
        ("[bond.b]\nmode = 'lacp'", '0.toml:2: bond.b.mode: not valid, found "lacp"'),
        (
            "[bond.b]\nmode = '802.3ad'\nprimary = 'eth0'\nports = ['eth0']",
            "0.toml:3: bond.b.primary: only for modes active-backup",
        ),
        (
            "[bond.b]\nmode = 'active-backup'\nprimary = 'eth9'",
            "0.toml:3: bond.b.primary: not one of the bond's ports",
        ),
        ("[bond.b]\nmode = 'balance-rr'\nlacp_rate = 'fast'", "0.toml:3: bond.b.lacp_rate: only for mode 802.3ad"),
        ("[bond.b]\nmode = 'balance-rr'\narp_interval = 9", "0.toml:3: bond.b.arp_interval: needs arp_ip_target"),
        (
            "[bond.b]\nmode = '802.3ad'\narp_interval = 9\narp_ip_target = ['192.0.2.1']",
            "0.toml:3: bond.b.arp_interval: not for modes 802.3ad",
        ),
        (
            "[bond.b]\nmode = 'balance-rr'\narp_interval = 9\nmiimon = 9\narp_ip_target = ['192.0.2.1']",
            "0.toml:3: bond.b.arp_interval: not beside miimon",
        ),
        (
            "[bond.b]\nmode = 'balance-rr'\nports = ['eth0']\n[vlan.'eth0.5']",
            '0.toml:4: vlan."eth0.5".parent: a port of bond.b at 0.toml:3: put the VLAN on the bond',
        ),
        (
            "[vlan.a]\nparent = 'e'\nid = 5\n[vlan.'e.5']",
            '0.toml:4: vlan."e.5": the same VLAN of e as vlan.a at 0.toml:1',
        ),
        ("[bridge.a]\nstp = true\nforward_delay = 1", "0.toml:3: bridge.a.forward_delay: too short: with stp"),
        ("[bridge.a]\ngroup_fwd_mask = 1", "0.toml:2: bridge.a.group_fwd_mask: not valid, found 1"),
        ("[bridge.a]\nmac = '01:00:00:00:00:00'", "0.toml:2: bridge.a.mac: a multicast address"),
        ("[bridge.a]\naddresses = ['10.0.0.0/24']", "0.toml:2: bridge.a.addresses[1]: not an address of a host"),
        ("[bridge.a]\naddresses = ['10.0.0.1']", "0.toml:2: bridge.a.addresses[1]: not valid"),
        ("[bridge.a]\naddresses = 'adapt'", '0.toml:2: bridge.a.addresses: must be an array, found "adapt"'),
        ("[nic.a]\naddresses = 'adopt'", '0.toml:2: nic.a.addresses: must be an array, found "adopt"'),
        (
            "[bridge.a]\naddresses = ['10.0.0.1/24']\n[dummy.b]\naddresses = ['10.0.0.1/8']",
            "0.toml:4: dummy.b.addresses[1]: given already at 0.toml:2",
        ),
        (
            "[bridge.a]\nports = ['b']\n[dummy.b]\naddresses = ['10.0.0.1/8']",
            "0.toml:4: dummy.b.addresses: this link is a port of bridge.a at 0.toml:2: give that link the addresses",
        ),
        (
            "[vxlan.v]\nlocal = '192.0.2.1'",
            "0.toml:1: vxlan.v.id: missing (allowed: a VXLAN's number from 1 to 16777215)",
        ),
        (
            "[vxlan.v]\nid = 7\nremote = '239.1.1.1'",
            "0.toml:3: vxlan.v.remote: a multicast group needs parent: the link on which its members are",
        ),
        (
            "[vxlan.v]\nid = 7\n[vxlan.w]\nid = 7\nport = 4789",
            "0.toml:4: vxlan.w.id: the same VXLAN as vxlan.v at 0.toml:1, found 7",
        ),
        (
            "[vxlan.v]\nid = 7\naddresses = 'adopt'",
            "0.toml:3: vxlan.v.addresses: ",
        ),
        (
            "[bridge.a]\nmtu = 9000\nports = ['e']\n[nic.e]\nmtu = 1500",
            "0.toml:2: bridge.a.mtu: larger than 1500, the mtu of nic.e at 0.toml:4",
        ),
        (
            "[nic.a]\nmac = '00:16:3e:00:00:01'\n[nic.b]\nmac = '00:16:3E:00:00:01'",
            "0.toml:4: nic.b.mac: given already at 0.toml:2: two names for one NIC",
        ),
        ("[nic.a]\nmac = '00:16:3e:00:00:01'\npath = '0000:01:00.0'", "0.toml:3: nic.a.path: not beside mac"),
        (
            "[bridge.xn-lab]\n[network.lab]\nmode = 'isolated'",
            "0.toml:1: bridge.xn-lab: belongs to network.lab at 0.toml:2, which makes it itself",
        ),
        (
            "[dummy.d]\n[network.lan]\nmode = 'bridge'\nbridge = 'd'",
            "0.toml:4: network.lan.bridge: dummy.d at 0.toml:1 is no bridge",
        ),
        (
            "[bridge.a]\naddresses = ['10.77.0.9/16']\n[network.lab]\nmode = 'isolated'\nsubnets = ['10.77.0.0/24']",
            "0.toml:2: bridge.a.addresses[1]: overlaps 10.77.0.0/24, network.lab.subnets[1] at 0.toml:5",
        ),
        (
            "[vlan.'e.1']\n[vlan.'e.2']\n[bridge.a]\nports = ['e.1']\naddresses = 'adopt'\n"
            "[bridge.b]\nports = ['e.2']\naddresses = 'adopt'",
            "0.toml:8: bridge.b.addresses: bridge.a at 0.toml:3 adopts already what e has",
        ),
        ("[bridge]\na = 1", "0.toml:2: bridge.a: must be written as [bridge.a], found 1"),
        ("[bridge.a]\nport = []", '0.toml:2: bridge.a.port: unknown key; did you mean "ports"?'),
    ],
    ids=lambda value: value.replace("\n", " ")[:40] if value.startswith("[") else "",
)
def test_what_can_not_be_built_is_refused(text: str, said: str) -> None:
    found = lines(text)
    assert any(line.startswith(said) for line in found), found
    assert len(found) <= 2, found


def test_names_of_nics_that_are_found_stand_for_the_kernels() -> None:
    facts = TopologyFacts({"lan0": "enp1s0"}, {"enp1s0": "52:54:00:ab:00:01"}, machine="machine")
    objects = topology_objects(policy(BONDED).topology, facts)
    assert HostPort("enp1s0", "bond0") in objects
    (nic,) = (each for each in objects if isinstance(each, HostLink) and each.name == "enp1s0")
    assert (nic.kind, nic.mac, nic.mtu, nic.found) == ("nic", None, 9000, "MAC 52:54:00:ab:00:01")
    bond = next(each for each in objects if isinstance(each, HostLink) and each.name == "bond0")
    assert dict(bond.made_with) == {"mode": 1, "primary": "enp1s0", "miimon": 100}
    assert HostAddress("xenbr0", IPv4Interface("192.0.2.5/24")) in objects


def test_a_new_bridge_has_the_mac_of_its_nic_or_one_of_its_own_that_stays() -> None:
    facts = TopologyFacts({"lan0": "enp1s0"}, {"enp1s0": "52:54:00:ab:00:01"}, machine="machine")
    made = {each.key.name: each for each in topology_objects(policy(BONDED).topology, facts)}
    through, alone = made["xenbr0"], made["guests"]
    assert isinstance(through, HostLink)
    assert isinstance(alone, HostLink)
    assert through.initial_mac == "52:54:00:ab:00:01"
    assert (alone.initial_mac, alone.silent, through.silent) == (derived_mac("machine", "guests"), True, False)
    assert derived_mac("machine", "guests") != derived_mac("another machine", "guests")
    assert int(derived_mac("machine", "guests")[:2], 16) & 3 == 2  # locally administered, of one device


def test_a_bridge_that_looks_for_loops_keeps_its_delay_and_others_have_none() -> None:
    loops, plain = (
        next(each for each in topology_objects(policy(text).topology, TopologyFacts()) if isinstance(each, HostLink))
        for text in ("[bridge.a]\nstp = true", "[bridge.a]")
    )
    assert dict(loops.made_with) == {"stp_state": 1}
    assert dict(plain.made_with) == {"forward_delay": 0}


def test_words_are_those_of_ip() -> None:
    objects = {str(each.key): each.describe() for each in topology_objects(policy(BONDED).topology, TopologyFacts())}
    assert objects["link bond0.100"] == "ip link add link bond0 bond0.100 group 30829 type vlan id 100; set up"
    assert objects["link storage"].endswith("type vlan id 200 protocol 802.1ad; set up")
    assert objects["link bond0"].endswith("type bond miimon 100 mode active-backup primary lan0; set up")
    assert "arp off group 30829 type bridge forward_delay 400 stp_state 1 vlan_filtering 1" in objects["link guests"]
    assert objects["link lan0"] == "wait for the NIC lan0 (MAC 52:54:00:ab:00:01)"
    down = HostLink("nic", "lan0", mtu=1500, up=False)
    assert HostLink("nic", "lan0", mtu=9000).describe_change(down) == "ip link set lan0 mtu 9000 up"
    was = HostLink("bridge", "a", settings=(("mcast_snooping", 1),), mtu=1500, up=False)
    wanted = HostLink("bridge", "a", settings=(("mcast_snooping", 0),), mtu=1400)
    assert wanted.describe_change(was) == "ip link set a mtu 1400 up type bridge mcast_snooping 0"
    vlan = HostLink("vlan", "v", parent="e", settings=(("id", 5),))
    assert vlan.describe_change(HostLink("vlan", "v", parent="e", settings=(("id", 4),))).startswith(
        "ip link delete v;"
    )


def test_no_section_is_no_topology() -> None:
    assert policy("").topology == Topology()
    assert not policy("").topology


MTUS = {"eth0": 9000, "eth1": 1500, "lan0": 1500}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[bridge.b]\nports = ['eth0']", {"b": 9000}),
        ("[bridge.b]\nports = ['eth0', 'eth1']", {"b": 1500}),
        ("[bridge.b]\nports = ['eth0', 'eth7']", {"b": None}),
        ("[bridge.b]", {"b": 1500}),
        ("[bridge.b]\nports = ['d']\n[dummy.d]\nmtu = 1400", {"b": 1400, "d": 1400}),
        ("[bridge.b]\nports = ['eth0']\nmtu = 1400", {"b": 1400}),
        ("[bridge.b]\nports = ['eth0.5']\n[vlan.'eth0.5']", {"b": 9000, "eth0.5": None}),
        ("[bridge.b]\nports = ['eth1.5']\n[vlan.'eth1.5']\n[nic.eth1]\nmtu = 9000", {"b": 9000, "eth1.5": 9000}),
        ("[bridge.b]\nports = ['eth1.5']\n[vlan.'eth1.5']\n[nic.eth1]\nvlan_mtu = 1496", {"b": 1496, "eth1.5": 1496}),
        (
            "[bond.o]\nmode = 'active-backup'\nports = ['eth0', 'eth1']\n[vlan.'o.5']\n[bridge.b]\nports = ['o.5']\n"
            "[nic.eth0]\nvlan_mtu = 1496\nmtu = 1500",
            {"o": 1500, "o.5": 1496, "b": 1496},
        ),
    ],
)
def test_no_link_sends_more_than_those_below_can(text: str, wanted: dict[str, int | None]) -> None:
    objects = topology_objects(policy(text).topology, TopologyFacts(mtus=MTUS))
    mtus = {each.name: each.mtu for each in objects if isinstance(each, HostLink)}
    assert {name: mtus[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[bridge.b]\nports = ['eth1']\nmtu = 9000", {"b": "eth1 has 1500"}),
        ("[vlan.'eth1.5']\nmtu = 1501", {"eth1.5": "eth1 has 1500"}),
        ("[vlan.'eth1.5']\nmtu = 1500", {}),
        ("[vlan.'eth1.5']\nmtu = 1500\n[nic.eth1]\nvlan_mtu = 1496", {"eth1.5": "the vlan_mtu below it is 1496"}),
        ("[bridge.b]\nports = ['eth1']\nmtu = 9000\n[nic.eth1]\nmtu = 9000", {}),
        ("[bridge.b]\nports = ['eth7']\nmtu = 9000", {}),
        ("[bridge.b]\nmtu = 9000", {}),
    ],
)
def test_an_mtu_is_refused_that_the_links_below_can_not_send(text: str, why: dict[str, str]) -> None:
    found = oversized_links(policy(text).topology, TopologyFacts(mtus=MTUS))
    assert {key.name: sentence.partition(", since ")[2].partition(":")[0] for key, sentence in found.items()} == why


def test_what_the_host_lacks_is_noted_and_what_nobody_can_plug_in_is_an_error() -> None:
    text = "[bridge.b]\nports = ['bond0.5', 'eth7', 'eth0']\n[network.lan]\nmode = 'bridge'\nbridge = 'b'\n"
    found = check(policy(text), HostNotes(links=frozenset({"eth0"}), bridges=frozenset()))
    assert found == (
        Note('bridge.b: "bond0.5" has no section, and does not exist on this host', True, ("bridge", "b", "ports")),
        Note('bridge.b: there is no NIC "eth7" now', key=("bridge", "b", "ports")),
        Note('network "lan": no policy uses it', key=("network", "lan")),
    )
    assert not any("bond0" in note.sentence for note in check(policy(text), HostNotes()))
    there = HostNotes(links=frozenset({"eth0", "eth7", "bond0.5"}), bridges=frozenset())
    assert [note.sentence for note in check(policy(text), there)] == ['network "lan": no policy uses it']


@pytest.mark.parametrize(
    ("text", "roots", "about"),
    [
        ("[bridge.b]\nports = ['eth0']\naddresses = 'adopt'\n", ("eth0",), [("bridge.b", "ports", "eth0")]),
        ("[bridge.b]\nports = ['eth0']\n", ("eth0.5", "eth0"), [("bridge.b", "ports", "eth0")]),
        (
            "[bond.o]\nmode = 'active-backup'\nports = ['eth0', 'eth1']",
            ("eth0", "eth1"),
            [("bond.o", "ports", "eth0"), ("bond.o", "ports", "eth1")],
        ),
        ("[bridge.br0]\nports = ['eth1']\n", ("br0", "eth0"), [("bridge.br0", "", "br0")]),
        ("[bridge.b]\nports = ['eth0']\n", ("br0", "eth0"), [("bridge.b", "ports", "eth0")]),
        ("[vlan.'eth0.5']\n", ("eth0.5", "eth0"), [('vlan."eth0.5"', "", "eth0.5")]),
        ("[vlan.'eth0.5']\naddresses = 'adopt'\n", ("eth0",), [('vlan."eth0.5"', "addresses", "eth0")]),
        (
            "[bridge.b]\nports = ['eth0.5']\naddresses = 'adopt'\n[vlan.'eth0.5']",
            ("eth0",),
            [("bridge.b", "addresses", "eth0")],
        ),
        ("[nic.eth0]\nmtu = 9000\n", ("eth0",), [("nic.eth0", "", "eth0")]),
        # A VLAN on the link, and a bridge for guests on the VLAN, leave the link as it is.
        ("[vlan.'eth0.5']\naddresses = ['192.0.2.5/24']", ("eth0",), []),
        (
            "[nic.eth0]\nmac = '02:00:00:00:00:01'\nvlan_mtu = 1496\n[vlan.'eth0.5']\n[bridge.b]\nports = ['eth0.5']\n",
            ("eth0",),
            [],
        ),
        ("[bridge.b]\nports = ['eth0']\naddresses = 'adopt'\n", ("eth1",), []),
    ],
)
def test_the_links_of_the_root_file_system_are_not_touched(
    text: str, roots: tuple[str, ...], about: list[tuple[str, str, str]]
) -> None:
    topology = policy(text)
    found = check(topology, HostNotes(root_links=frozenset(roots)))
    notes = []
    for title, setting, name in about:
        kind, _, link = title.replace('"', "").partition(".")
        said = f'{title}: the root file system comes by "{name}", which must not be touched'
        notes.append(Note(said, True, (kind, link, *([setting] if setting else []))))
    assert found == tuple(notes)


def test_a_root_file_system_that_comes_by_no_known_link_is_noted_where_there_is_a_topology() -> None:
    host = HostNotes(root_unknown=("nbd0",))
    (note,) = check(policy("[bridge.b]\nports = ['eth0']\n"), host)
    assert (note.error, "over the network (nbd0)" in note.sentence) == (False, True)
    assert check(policy(""), host) == ()


def test_a_port_without_a_carrier_is_named_with_what_is_left() -> None:
    bond = policy("[bond.o]\nmode = 'active-backup'\nports = ['eth0', 'eth1', 'eth7']").topology

    def found(*flags: int, lacp: tuple[int, int] | None = None) -> list[str]:
        links = {
            "o": Link(1, "o"),
            **{f"eth{i}": Link(2 + i, f"eth{i}", master=1, flags=each) for i, each in enumerate(flags)},
        }
        return list(failed_ports(bond, links.get, str, lambda _: BondPort(0, lacp)).values())

    assert found(IFF_LOWER_UP, IFF_LOWER_UP) == []
    assert found(IFF_LOWER_UP, 0) == ["eth1, a port of o, has no carrier: it lives on 1 other"]
    assert found(IFF_LOWER_UP, lacp=(0x3D, 0x3D)) == []
    (alone,) = found(IFF_LOWER_UP, lacp=(0x4D, 0))
    assert alone.startswith("eth0, a port of o, has no LACP partner (")
    assert found(0, 0) == [f"eth{i}, a port of o, has no carrier: it has no other" for i in (0, 1)]


def test_a_port_that_hears_nothing_is_named_where_the_bond_watches_by_arp() -> None:
    """It has its carrier: the path fails beyond the switch."""
    links = {"o": Link(1, "o"), **{f"eth{i}": Link(2 + i, f"eth{i}", master=1, flags=IFF_LOWER_UP) for i in (0, 1)}}
    text = "[bond.o]\nmode = 'active-backup'\nports = ['eth0', 'eth1']\n"

    def found(settings: str) -> list[str]:
        bond = policy(text + settings).topology
        return list(failed_ports(bond, links.get, str, lambda link: BondPort(2 if link.name == "eth1" else 0)).values())

    sentence = "eth1, a port of o, hears nothing from the addresses of arp_ip_target: it lives on 1 other"
    assert found("arp_interval = 100\narp_ip_target = ['192.0.2.1']") == [sentence]
    assert found("miimon = 100") == [], "the carrier is back, and the bond has not looked yet"

"""What `check` says about valid policies."""

from __future__ import annotations

import time
from dataclasses import asdict
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xennetd.model.configuration import DaemonConfig, Forward, Match, Network, Policy, Rule
from xennetd.model.value import replace
from xennetd.policy.check import Note, check, lacking
from xennetd.policy.host_notes import HostNotes
from xennetd.policy.modes import BRIDGE, ISOLATED, NAT, ROUTE

LAN = Network("lan", BRIDGE, "xenbr0")
LAB = Network(
    "lab", NAT, "xn-lab", subnet4=IPv4Network("10.77.0.0/24"), subnet6=IPv6Network("2001:db8:77::/64"), dhcp=True
)
DMZ = Network("dmz", ROUTE, subnet4=IPv4Network("192.0.2.0/28"), uplink="eth0")
NO_HOST = HostNotes()


def sentences(policy: Policy, host: HostNotes = NO_HOST) -> list[str]:
    return [note.sentence for note in check(policy, host)]


def test_the_defaults_on_a_plain_host_need_no_word() -> None:
    assert check(Policy(), HostNotes(bridges=frozenset())) == ()


def test_hooks_that_are_not_run_are_mentioned() -> None:
    host = HostNotes(hooks=("/etc/xen/scripts/vif-post.d/10-a.hook",))
    (note,) = check(Policy(), host)
    assert not note.error
    assert "/etc/xen/scripts/vif-post.d/10-a.hook" in note.sentence
    assert check(Policy(DaemonConfig(hooks=True)), host) == ()


def test_xl_devd_beside_us_is_an_error() -> None:
    assert check(Policy(DaemonConfig(devd=True)), HostNotes(xl_devd=True)) == (
        Note("daemon.devd is true while xl devd runs, which serves the same backends", True, ("daemon", "devd")),
    )
    assert check(Policy(), HostNotes(xl_devd=True)) == ()
    assert check(Policy(DaemonConfig(devd=True)), HostNotes()) == ()


def test_a_bridge_that_is_not_there_yet() -> None:
    policy = Policy(networks={"lan": LAN}, rules=(Rule("r", Match(), network=LAN),))
    assert sentences(policy, HostNotes(bridges=frozenset())) == ['network "lan": bridge "xenbr0" does not exist now']
    assert sentences(policy, HostNotes(bridges=frozenset({"xenbr0"}))) == []
    assert sentences(policy, HostNotes(bridges=None)) == []


def with_networks(*networks: Network) -> Policy:
    rules = tuple(Rule(network.name, Match(vm=network.name), network=network) for network in networks)
    return Policy(networks={network.name: network for network in networks}, rules=rules)


def test_a_bridge_of_ours_and_none_at_all_need_not_be_there() -> None:
    assert sentences(with_networks(LAB, DMZ), HostNotes(bridges=frozenset())) == []


def test_an_uplink_that_is_not_there_yet() -> None:
    policy = with_networks(replace(LAB, uplink="eth1"), DMZ)
    (note,) = check(policy, HostNotes(links=frozenset({"lo", "eth0"})))
    assert note == Note('network "lab": uplink "eth1" does not exist now', key=("network", "lab", "uplink"))
    assert check(policy, HostNotes(links=None)) == ()


def test_a_link_in_the_place_of_a_bridge_of_ours_is_an_error() -> None:
    policy = with_networks(LAB, DMZ)
    taken = HostNotes(links=frozenset({"eth0", "xn-lab"}), bridges=frozenset())
    sentence = 'network "lab": link "xn-lab" exists and is not a bridge'
    assert check(policy, taken) == (Note(sentence, True, ("network", "lab", "bridge")),)
    assert check(policy, replace(taken, bridges=frozenset({"xn-lab"}))) == ()
    assert check(policy, replace(taken, bridges=None)) == ()


@pytest.mark.parametrize(
    ("address", "overlapped"),
    [
        ("10.77.0.200/24", "10.77.0.0/24"),
        ("10.77.0.200/32", "10.77.0.0/24"),
        ("10.0.0.1/8", "10.77.0.0/24"),
        ("2001:db8:77::9/128", "2001:db8:77::/64"),
        ("10.78.0.1/24", None),
        ("2001:db8:78::9/64", None),
    ],
)
def test_a_subnet_that_the_host_is_in_already_is_an_error(address: str, overlapped: str | None) -> None:
    interface = IPv6Interface(address) if ":" in address else IPv4Interface(address)
    notes = check(
        with_networks(LAB), HostNotes(addresses={"lo": (IPv4Interface("127.0.0.1/8"),), "eth0": (interface,)})
    )
    shown = address.removesuffix("/32").removesuffix("/128")
    sentence = f'network "lab": subnet {overlapped} overlaps {shown}, an address of link "eth0"'
    assert notes == (() if overlapped is None else (Note(sentence, True, ("network", "lab", "subnets")),))
    assert check(with_networks(LAB), HostNotes(addresses={"xn-lab": (interface,)})) == ()


def test_routed_guests_may_be_of_the_uplinks_own_subnet() -> None:
    assert check(with_networks(DMZ), HostNotes(addresses={"eth0": (IPv4Interface("192.0.2.2/24"),)})) == ()


BARE = HostNotes(
    no_dnsmasq="dnsmasq is not installed: apt install dnsmasq-base",
    no_nftables="the Python module nftables is not installed: apt install python3-nftables",
)


def test_what_must_be_installed_is_one_error_that_names_the_package() -> None:
    policy = with_networks(LAN, LAB, DMZ, Network("apart", ISOLATED, "xn-apart"))
    errors = (
        Note(
            "dhcp = true (network.lab) is not available: dnsmasq is not installed: apt install dnsmasq-base", error=True
        ),
        Note(
            "modes route, nat and isolated (network.lab, network.dmz, network.apart) are not available: "
            "the Python module nftables is not installed: apt install python3-nftables",
            error=True,
        ),
    )
    assert check(policy, BARE) == lacking(policy, BARE) == errors
    assert check(policy, NO_HOST) == lacking(policy, NO_HOST) == ()
    assert check(with_networks(LAN, DMZ), replace(BARE, no_nftables="")) == ()


def test_what_a_host_lacks_and_no_network_needs_is_no_error() -> None:
    assert check(with_networks(LAN), BARE) == ()
    assert lacking(with_networks(LAN), BARE) == (
        Note("dhcp = true is not available: dnsmasq is not installed: apt install dnsmasq-base"),
        Note(
            "modes route, nat and isolated are not available: "
            "the Python module nftables is not installed: apt install python3-nftables"
        ),
    )
    assert [note.error for note in lacking(with_networks(DMZ), BARE)] == [False, True]


def test_guests_with_local_ipv6_addresses_that_nothing_translates_do_not_get_out() -> None:
    local = replace(LAB, subnet6=IPv6Network("fd77::/64"))
    assert sentences(with_networks(local)) == [
        'network "lab": guests can\'t reach the outside by IPv6: '
        "fd77::/64 is unique local, and neither nptv6 nor nat66 is set"
    ]
    for translated in (
        replace(local, nat66=True),
        replace(local, nptv6=IPv6Network("2001:db8::/64")),
        replace(local, mode=ISOLATED),
        LAB,
    ):
        assert sentences(with_networks(translated)) == []


@pytest.mark.parametrize(
    ("match", "one"),
    [
        (Match(mac="00:16:3e:00:00:07"), True),
        (Match(vm="web-1", devid=0), True),
        (Match(uuid="9f6c12ab-0123-4567-89ab-0123456789ab", devid=0), True),
        (Match(domid=7, devid=0), True),
        (Match(vm="web-1"), False),
        (Match(vm="web-?", devid=0), False),
        (Match(mac="00:16:3e:*"), False),
        (Match(devid=0), False),
        (Match(), False),
    ],
)
def test_a_fixed_address_for_several_interfaces_is_mentioned(match: Match, one: bool) -> None:
    rule = Rule("r", match, network=LAB, ips=(IPv4Address("10.77.0.5"),))
    said = sentences(Policy(networks={"lab": LAB}, rules=(rule,)))
    expected = 'policy "r" fixes an address and may match several interfaces: '
    assert [sentence.startswith(expected) for sentence in said] == ([] if one else [True])
    assert sentences(Policy(networks={"lab": LAB}, rules=(replace(rule, ips=()),))) == []


def test_a_network_nobody_gets_into() -> None:
    assert sentences(Policy(networks={"lan": LAN})) == ['network "lan": no policy uses it']


def test_a_rule_behind_one_that_takes_all_its_vifs() -> None:
    rules = (
        Rule("web", Match(vm="web-*"), deny="a"),
        Rule("web 0", Match(vm="web-*", devid=0), deny="b"),
        Rule("all", Match(), deny="c"),
        Rule("db", Match(vm="db-*"), deny="d"),
    )
    assert sentences(Policy(rules=rules)) == [
        'policy "web 0" never applies: "web" comes first and matches the same vifs',
        'policy "db" never applies: "all" comes first and matches the same vifs',
    ]


MATCHES = st.builds(
    Match,
    vm=st.sampled_from([None, "web-*", "db"]),
    mac=st.sampled_from([None, "00:*"]),
    type=st.sampled_from([None, "vif"]),
    devid=st.sampled_from([None, 0, 1]),
)


@given(st.lists(MATCHES, max_size=12))
def test_a_rule_never_decides_if_an_earlier_one_asks_for_nothing_more(matches: list[Match]) -> None:
    expected = []
    for i, match in enumerate(matches):
        for j, other in enumerate(matches[:i]):
            if all(value in (None, asdict(match)[name]) for name, value in asdict(other).items()):
                expected.append(f'policy "{i}" never applies: "{j}" comes first and matches the same vifs')
                break
    assert sentences(Policy(rules=tuple(Rule(str(i), match, deny="x") for i, match in enumerate(matches)))) == expected


def test_two_thousand_rules_hold_nobody_up() -> None:
    rules = tuple(
        Rule(str(i), Match(vm=f"vm-{i}", **({"devid": i} if i % 2 else {"mac": "00:*"})), deny="x") for i in range(2000)
    )
    took = []
    for _ in range(5):
        began = time.perf_counter()
        assert check(Policy(rules=rules), HostNotes()) == ()
        took.append(time.perf_counter() - began)
    assert min(took) < 0.05


@pytest.mark.parametrize(
    ("scripts", "named"),
    [
        (("vif-*",), "vif-bridge, vif-nat, vif-openvswitch, vif-route:"),
        (("vif-xennetd*", "vif-route"), "matches vif-route:"),
    ],
)
def test_stock_scripts_that_would_configure_beside_us_are_mentioned(scripts: tuple[str, ...], named: str) -> None:
    (note,) = check(Policy(DaemonConfig(scripts=scripts)), HostNotes())
    assert named in note.sentence
    assert not note.error


def test_stock_scripts_that_configure_nothing_are_none_of_our_business() -> None:
    """In a driver domain nobody runs them in the place of `xl devd`, and an observer configures nothing."""
    assert sentences(Policy(DaemonConfig(scripts=("vif-*",), devd=True))) == []
    (observe,) = sentences(Policy(DaemonConfig(scripts=("vif-*",), mode="observe")))
    assert observe.startswith("daemon.mode is observe")


def test_modes_that_are_not_for_every_day_are_mentioned() -> None:
    observe, stand_in = sentences(Policy(DaemonConfig(mode="observe", stand_in=True)))
    assert observe.startswith("daemon.mode is observe")
    assert stand_in.startswith("daemon.stand_in is true")


@pytest.mark.parametrize(
    ("subnet", "wide"),
    [("1.0.0.0/8", True), ("9.0.0.0/15", True), ("9.1.0.0/16", False), ("10.0.0.0/8", False), ("100.64.0.0/10", False)],
)
def test_a_subnet_that_hides_a_part_of_the_internet_is_mentioned(subnet: str, wide: bool) -> None:
    network = replace(LAB, subnet4=IPv4Network(subnet))
    remark = f'network "lab": subnet {subnet} is so wide that this host and its guests can\'t reach a part of the '
    assert sentences(with_networks(network)) == ([f"{remark}internet"] if wide else [])


@pytest.mark.parametrize(
    ("domain", "public"), [("com", True), ("Dev", True), ("lan", False), ("Internal", False), ("a.example", False)]
)
def test_a_public_domain_is_mentioned(domain: str, public: bool) -> None:
    said = sentences(with_networks(replace(LAB, domain=domain)))
    assert [f'"{domain}" may be a public top-level domain' in sentence for sentence in said] == [True] * public
    assert sentences(with_networks(replace(LAB, domain=domain, dhcp=False, mode=ISOLATED))) == []


def test_a_forward_that_takes_a_port_from_the_host_is_mentioned() -> None:
    network = replace(LAB, forwards=(Forward("tcp", 22, "web", 22), Forward("udp", 22, "web", 22)))
    host = HostNotes(listening=frozenset({("tcp", 22), ("udp", 53)}))
    [remark] = sentences(with_networks(network), host)
    assert remark.startswith('network "lab": forward of tcp port 22: a program of this host listens on this port')

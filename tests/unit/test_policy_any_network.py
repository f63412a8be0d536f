"""Whatever networks and policies are written down: a policy that keeps its promises, or problems fit to show."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from xennetd.config.grammar import address, is_domain, subnet, target
from xennetd.model.configuration import Policy
from xennetd.model.link import is_link_name
from xennetd.policy.check import check
from xennetd.policy.host_notes import HostNotes
from xennetd.policy.load import load
from xennetd.policy.modes import BRIDGE, MODES, NAT, ROUTE, keys_of, modes_with
from xennetd.policy.network_reader import unfit

TEXT = st.text("abc019.:/[]%- é\n", max_size=12)
LAB = ["10.1.0.0/16", "fd77::/64"]
SUBNETS = [
    LAB,
    LAB,
    ["192.0.2.0/30"],
    ["2001:db8::/64"],
    ["fd77::/48"],
    ["10.1.2.3/24"],
    ["fd77::/64", "fd78::/64"],
    [],
]
PREFIXES = st.sampled_from(["fd79::/64", "2001:db8::/64", "fd77::/48", "10.1.2.0/24"])
ADDRESSES = st.sampled_from(["10.1.2.3", "10.1.2.4", "10.1.0.1", "192.0.2.2", "fd77::5", "127.0.0.1"])
PORTS = st.integers(1, 9)
FLAGS = st.booleans()
NONSENSE = st.one_of(TEXT, st.integers(), st.just([]), st.just({}), st.just([[]]), FLAGS)
FORWARDS = st.fixed_dictionaries(
    {
        "proto": st.sampled_from(["tcp", "udp"]),
        "port": PORTS,
        "to": st.sampled_from(["web:80", "10.1.2.3:80", "[fd77::5]:1"]),
    }
)
NETWORKS = st.fixed_dictionaries(
    {"mode": st.sampled_from(list(MODES))},
    optional={
        "bridge": st.sampled_from(["br0", "br1", "br2", "xn-a"]),
        "subnets": st.sampled_from(SUBNETS),
        "uplink": st.sampled_from(["eth0", "xn-a"]),
        "dhcp": st.just(True),
        "ra": st.sampled_from(["slaac", "stateful", "off"]),
        "domain": st.sampled_from(["lab.internal", "lab"]),
        "nat66": st.just(False),
        "nptv6": PREFIXES,
        "forward": st.lists(FORWARDS, min_size=1, max_size=3),
        "gateway": st.sampled_from(["uplink", "link-local"]),
        "proxy": FLAGS,
        "tx_checksum": FLAGS,
    },
)
NAMES = st.sampled_from(["a", "b", "c", "c_d", "a-name-that-is-long"])
RULES = st.fixed_dictionaries(
    {"network": NAMES},
    optional={
        "ip": st.lists(ADDRESSES, min_size=1, max_size=2),
        "mac": st.just("stable"),
        "vlan": st.just("ignore"),
        "isolated": FLAGS,
        "tx_checksum": FLAGS,
        "match": st.just({"vm": "a", "devid": 0}),
    },
)


def spelled(value: object) -> str:
    """Return a value as TOML has it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
        case list():
            return f"[{', '.join(spelled(item) for item in value)}]"
        case dict():
            return f"{{ {', '.join(f'{spelled(key)} = {spelled(item)}' for key, item in value.items())} }}"
    return str(value)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Return a configuration that is often right, and else has a fault or two."""
    networks = draw(st.dictionaries(NAMES, NETWORKS, min_size=1, max_size=3))
    for network in networks.values():
        for key in [key for key in network if key != "mode" and network["mode"] not in modes_with(key)]:
            del network[key]
        if "ra" in network:
            network["dhcp"] = True
        if network["mode"] == BRIDGE.name:
            network.setdefault("bridge", "br0")
        elif network["mode"] == NAT.name or "dhcp" in network:
            network["subnets"] = network.get("subnets") or LAB
        if draw(st.integers(0, 9)) == 0:
            network[draw(st.sampled_from(["mode", *keys_of(), "other"]))] = draw(NONSENSE)
    rules = draw(st.lists(RULES, max_size=3))
    data = {"network": networks, "policy": [rule for rule in rules if rule["network"] in networks]}
    if draw(st.integers(0, 5)) == 0:
        data["daemon"] = {"devd": True}
    return "\n".join(f"{key} = {spelled(value)}" for key, value in data.items())


@settings(max_examples=200)
@given(documents())
def test_any_networks_are_a_policy_that_holds_together_or_problems(text: str) -> None:
    result = load([("x.toml", text.encode())])
    if not isinstance(result, Policy):
        assert result
        for problem in result:
            assert problem.describe().isprintable()
            assert problem.line is not None
        assert len({problem.describe() for problem in result}) == len(result)
        return
    check(result, HostNotes(no_dnsmasq="x", no_nftables="y", links=frozenset(), bridges=frozenset(), addresses={}))
    prefixes = []
    for network in result.networks.values():
        subnets = [subnet for subnet in (network.subnet4, network.subnet6) if subnet is not None]
        prefixes += subnets + ([network.nptv6] if network.nptv6 is not None else [])
        assert (network.bridge == "") if network.mode is ROUTE else is_link_name(network.bridge)
        assert subnets or not (network.dhcp or network.mode is NAT)
        assert is_domain(network.domain) or (network.domain == "" and not network.dhcp)
        assert network.ra == "off" or (network.dhcp and network.subnet6 is not None and network.subnet6.prefixlen == 64)
        assert network.subnet6 is not None or (network.nptv6 is None and not network.nat66)
        assert not network.forwards or network.mode is NAT
        for forward in network.forwards:
            assert isinstance(forward.to, str) or unfit(network, ip_network(forward.to)) is None
    assert not any(a.version == b.version and a.overlaps(b) for a, b in combinations(prefixes, 2))
    for rule in result.rules:
        assert rule.network is not None
        assert all(unfit(rule.network, ip_network(ip)) is None for ip in rule.ips)
        assert not rule.ips or rule.network.mode is not BRIDGE
    for one, other in combinations(result.rules, 2):
        apart = one.network != other.network
        assert apart or not set(one.ips) & set(other.ips)


@given(st.one_of(TEXT, PREFIXES, ADDRESSES, st.text()))
def test_a_reader_returns_a_value_or_says_in_a_phrase_what_is_wrong(text: str) -> None:
    for read in (subnet, address, target):
        phrase = ""
        try:
            read(text)
        except ValueError as error:
            phrase = str(error)
        assert phrase.isascii()
        assert phrase.isprintable()
    is_domain(text)

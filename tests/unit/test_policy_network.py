"""Networks of mode route, nat and isolated: what may be said of them, and what two of them can't both have."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

import pytest

from xennetd.model.configuration import Forward, Network, Policy
from xennetd.policy.load import load
from xennetd.policy.modes import ISOLATED, NAT, ROUTE

NAT_TABLE = "mode = 'nat'\nsubnets = ['10.77.0.0/24', 'fd77::/64']\n"
LAB = f"[network.lab]\n{NAT_TABLE}"


def policy(*texts: str) -> Policy:
    result = load([(f"{i}.toml", text.encode()) for i, text in enumerate(texts)])
    assert isinstance(result, Policy), [problem.describe() for problem in result]
    return result


def network(settings: str) -> Network:
    return policy(f"[network.lab]\n{settings}").networks["lab"]


def lines(*texts: str) -> list[str]:
    result = load([(f"{i}.toml", text.encode()) for i, text in enumerate(texts)])
    assert not isinstance(result, Policy)
    return [problem.describe() for problem in result]


def test_a_nat_network_and_its_defaults() -> None:
    assert network("mode = 'nat'\nsubnets = ['10.77.0.0/24']") == Network(
        "lab", NAT, "xn-lab", subnet4=IPv4Network("10.77.0.0/24")
    )


def test_a_nat_network_with_everything() -> None:
    loaded = network(
        """
        mode = "nat"
        bridge = "natbr0"
        subnets = ["fd77::/64", "10.77.0.0/24"]
        uplink = "eth0"
        dhcp = true
        ra = "stateful"
        domain = "lab.example.org"
        nptv6 = "2001:db8:77::/64"
        forward = [
            { proto = "tcp", port = 8080, to = "web-1:80" },
            { proto = "udp", port = 53, to = "10.77.0.5:5353" },
            { proto = "udp", port = 53, to = "[fd77::5]:5353" },
        ]
        """
    )
    assert loaded == Network(
        "lab",
        NAT,
        "natbr0",
        subnet4=IPv4Network("10.77.0.0/24"),
        subnet6=IPv6Network("fd77::/64"),
        uplink="eth0",
        dhcp=True,
        ra="stateful",
        domain="lab.example.org",
        nptv6=IPv6Network("2001:db8:77::/64"),
        forwards=(
            Forward("tcp", 8080, "web-1", 80),
            Forward("udp", 53, IPv4Address("10.77.0.5"), 5353),
            Forward("udp", 53, IPv6Address("fd77::5"), 5353),
        ),
    )
    assert loaded.gateway4 == IPv4Interface("10.77.0.1/24")
    assert loaded.gateway6 == IPv6Interface("fd77::1/64")


def test_a_routed_network() -> None:
    assert network("mode = 'route'") == Network("lab", ROUTE)
    loaded = network(
        """
        mode = "route"
        subnets = ["192.0.2.0/28"]
        uplink = "eth0"
        dhcp = true
        gateway = "link-local"
        proxy = true
        """
    )
    assert loaded == Network(
        "lab",
        ROUTE,
        subnet4=IPv4Network("192.0.2.0/28"),
        uplink="eth0",
        dhcp=True,
        domain="lab.internal",
        gateway="link-local",
        proxy=True,
    )


def test_an_isolated_network() -> None:
    loaded = network("mode = 'isolated'")
    assert loaded == Network("lab", ISOLATED, "xn-lab")
    assert (loaded.gateway4, loaded.gateway6, loaded.own) == (None, None, True)


@pytest.mark.parametrize(
    ("settings", "ra"),
    [
        ("dhcp = true\nsubnets = ['fd77::/64']", "slaac"),
        ("dhcp = true\nsubnets = ['10.0.0.0/24']", "off"),
        ("subnets = ['fd77::/64']", "off"),
        ("dhcp = true\nsubnets = ['fd77::/60']\nra = 'off'", "off"),
    ],
)
def test_router_advertisements_come_with_dhcp_where_there_is_ipv6(settings: str, ra: str) -> None:
    assert network(f"mode = 'isolated'\n{settings}").ra == ra


@pytest.mark.parametrize(
    ("mode", "key", "modes"),
    [
        ("bridge", "uplink = 'eth0'", "route and nat"),
        ("bridge", "dhcp = true", "route, nat and isolated"),
        ("isolated", "uplink = 'eth0'", "route and nat"),
        ("isolated", "forward = [{}]", "nat"),
        ("nat", "proxy = true", "route"),
        ("nat", "gateway = 'rubbish'", "route"),
        ("route", "bridge = 'br0'", "bridge, nat and isolated"),
        ("route", "nat66 = true", "nat"),
    ],
)
def test_a_key_of_another_mode_says_whose_it_is(mode: str, key: str, modes: str) -> None:
    needed = {"bridge": "bridge = 'b'", "nat": "subnets = ['10.0.0.0/24']"}.get(mode, "")
    name = key.partition(" ")[0]
    assert lines(f"[network.lab]\nmode = '{mode}'\n{needed}\n{key}") == [
        f"0.toml:4: network.lab.{name}: not a key of mode {mode}, only of {modes}"
    ]


def test_an_unknown_key_is_told_which_ones_the_mode_knows() -> None:
    assert lines("[network.lab]\nmode = 'route'\ngatewya = 'uplink'") == [
        '0.toml:3: network.lab.gatewya: unknown key; did you mean "gateway"? '
        "(allowed: mode, subnets, uplink, dhcp, ra, domain, gateway, proxy, tx_checksum)"
    ]


SUBNET = 'an IPv4 and an IPv6 network at most, such as "10.77.0.0/24" and "fd77::/64"'


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        ("mode = 'nat'", f"subnets: missing: mode nat needs one (allowed: {SUBNET})"),
        ("mode = 'isolated'\ndhcp = true", f"subnets: missing: dhcp needs one (allowed: {SUBNET})"),
        ("mode = 'route'\ndhcp = true", f"subnets: missing: dhcp needs one (allowed: {SUBNET})"),
        (
            "mode = 'route'\nsubnets = ['10.77.0.1/24']",
            'subnets[1]: not a network\'s address, which would be 10.77.0.0/24, found "10.77.0.1/24" '
            f"(allowed: {SUBNET})",
        ),
        ("mode = 'route'\nsubnets = ['10.0.0.0/31']", "subnets[1]: too small: an IPv4 subnet is a /30 or shorter"),
        ("mode = 'route'\nsubnets = ['10.0.0.0']", 'subnets[1]: not valid, found "10.0.0.0"'),
        ("mode = 'route'\nsubnets = ['10.0.0.0/255.0.0.0']", "subnets[1]: not valid"),
        ("mode = 'route'\nsubnets = ['10.0.0.0/33']", "subnets[1]: not valid"),
        ("mode = 'route'\nsubnets = ['fd77::/65']", "subnets[1]: too small: an IPv6 subnet is a /64 or shorter"),
        ("mode = 'route'\nsubnets = ['fe80::/64']", "subnets[1]: not addresses that guests can have"),
        ("mode = 'route'\nsubnets = ['127.1.0.0/16']", "subnets[1]: not addresses that guests can have"),
        ("mode = 'route'\nsubnets = ['0.0.0.0/0']", "subnets[1]: not addresses that guests can have"),
        ("mode = 'route'\nsubnets = ['::/0']", "subnets[1]: not addresses that guests can have"),
        ("mode = 'route'\nsubnets = '10.0.0.0/8'", "subnets: must be a non-empty array"),
        (
            "mode = 'route'\nsubnets = ['10.0.0.0/24', '10.0.1.0/24']",
            'subnets[2]: a second IPv4 subnet; a network has at most one of each IP version, found "10.0.1.0/24"',
        ),
        (
            "mode = 'route'\nsubnets = ['fd77::/64', 'fd77::/64']",
            "subnets[2]: a second IPv6 subnet; a network has at most one of each IP version",
        ),
        (
            "mode = 'route'\ndhcp = true\nsubnets = ['fd77::/60']",
            'subnets[1]: must be a /64 unless ra = "off": router advertisements need this length, found "fd77::/60"',
        ),
        ("mode = 'route'\nsubnets = ['fd77::/64']\nra = 'slaac'", 'ra: needs dhcp = true, found "slaac"'),
        ("mode = 'route'\ndhcp = true\nsubnets = ['10.0.0.0/8']\nra = 'slaac'", "ra: needs an IPv6 subnet"),
        ("mode = 'route'\nra = 'stateless'", 'ra: not valid, found "stateless"; did you mean "stateful"?'),
        ("mode = 'route'\ndomain = 'a_b'", 'domain: not valid, found "a_b" (allowed: a DNS domain such as "lab.inte'),
        ("mode = 'route'\ndomain = 'lab.'", 'domain: not valid, found "lab."'),
        ("mode = 'nat'\nsubnets = ['10.0.0.0/8']\nnat66 = true", "nat66: needs an IPv6 subnet, found true"),
        ("mode = 'nat'\nsubnets = ['10.0.0.0/8']\nnptv6 = 'fd78::/64'", "nptv6: needs an IPv6 subnet"),
        ("mode = 'nat'\nsubnets = ['10.0.0.0/8']\nnptv6 = '10.0.0.0/24'", "nptv6: not an IPv6 prefix, found"),
        (f"{NAT_TABLE}nptv6 = 'fd78::/60'", 'nptv6: must be a /64 as the subnet is, found "fd78::/60"'),
        (
            f"{NAT_TABLE}nptv6 = 'fd78::/64'\nnat66 = true",
            "nptv6: not together with nat66 = true; a network has at most one of the two",
        ),
        (f"{NAT_TABLE}nptv6 = 'fd77::/64'", "nptv6: overlaps fd77::/64, network.lab.subnets[2] at 0.toml:3, found"),
        ("mode = 'route'\ngateway = 'first'", 'gateway: not valid, found "first" (allowed: uplink, link-local)'),
        ("mode = 'route'\nuplink = 'lo'", 'uplink: leads nowhere: it is the host\'s loopback, found "lo"'),
        ("mode = 'route'\nuplink = 'vif3.0'", 'uplink: the name of a guest\'s interface, found "vif3.0"'),
        ("mode = 'route'\nuplink = 'all'", 'uplink: not valid, found "all" (allowed: a link\'s name'),
        (f"{NAT_TABLE}bridge = 'vif7.0'", 'bridge: the name of a guest\'s interface, found "vif7.0"'),
        (f"{NAT_TABLE}bridge = 'vif7.0-emu'", 'bridge: the name of a guest\'s interface, found "vif7.0-emu"'),
        (f"{NAT_TABLE}bridge = 'default'", 'bridge: not valid, found "default"'),
        ("mode = 'bridge'\nbridge = 'vif7.0'", "bridge: the name of a guest's interface"),
        ("mode = 'route'\nuplink = 'eth 0'", 'uplink: not valid, found "eth 0" (allowed: a link\'s name, 1 to 15 ch'),
    ],
)
def test_a_wrong_network(settings: str, reported: str) -> None:
    (line,) = lines(f"[network.lab]\n{settings}")
    assert line.partition(": network.lab.")[2].startswith(reported)


def test_a_name_that_is_too_long_for_a_bridge_or_no_domain_asks_for_one() -> None:
    assert lines("[network.a_very_long_name]\nmode = 'isolated'\ndhcp = true\nsubnets = ['10.0.0.0/8']") == [
        '0.toml:1: network.a_very_long_name.bridge: missing: "xn-a_very_long_name" would be too long for a link\'s '
        "name (allowed: a link's name, 1 to 15 characters)",
        '0.toml:1: network.a_very_long_name.domain: missing: "a_very_long_name.internal" would be no DNS domain '
        '(allowed: a DNS domain such as "lab.internal")',
    ]


def test_one_fault_is_reported_once() -> None:
    """Nothing is said of what may only be due to it."""
    assert (
        len(lines("[network.lab]\nmode = 'nat'\nsubnets = ['x']\ndhcp = true\nra = 'slaac'\nnptv6 = 'fd78::/64'")) == 1
    )
    assert len(lines(LAB.replace("/24", "/33") + "[[policy]]\nnetwork = 'lab'\nip = ['10.77.0.5']")) == 1
    assert len(lines("[network.'a b']\nmode = 'nat'\nsubnets = ['10.0.0.0/8']\ndhcp = true")) == 1


@pytest.mark.parametrize(
    ("forward", "reported"),
    [
        ("{}", "forward[1].proto: missing (allowed: tcp, udp)"),
        ("{ proto = 'icmp', port = 1, to = 'a:1' }", 'forward[1].proto: not valid, found "icmp" (allowed: tcp, udp)'),
        ("{ proto = 'tcp', port = 0, to = 'a:1' }", "forward[1].port: not valid, found 0 (allowed: a whole number"),
        ("{ proto = 'tcp', port = 65536, to = 'a:1' }", "forward[1].port: not valid, found 65536"),
        ("{ proto = 'tcp', port = 1, to = 'a:65536' }", 'forward[1].to: not valid, found "a:65536"'),
        ("{ proto = 'tcp', port = 1, to = 'a:0' }", 'forward[1].to: not valid, found "a:0"'),
        (
            "{ proto = 'tcp', port = 1, to = 'web-1' }",
            'forward[1].to: not valid, found "web-1" (allowed: a VM\'s name or',
        ),
        ("{ proto = 'tcp', port = 1, to = 'web-*:1' }", 'forward[1].to: not valid, found "web-*:1"'),
        ("{ proto = 'tcp', port = 1, to = ':1' }", 'forward[1].to: not valid, found ":1"'),
        ("{ proto = 'tcp', port = 1, to = '10.77.0.256:1' }", 'forward[1].to: not valid, found "10.77.0.256:1"'),
        ("{ proto = 'tcp', port = 1, to = 'fd77::5:80' }", 'forward[1].to: not valid, found "fd77::5:80"'),
        ("{ proto = 'tcp', port = 1, to = '[10.77.0.5]:80' }", 'forward[1].to: not valid, found "[10.77.0.5]:80"'),
        ("{ proto = 'tcp', port = 1, to = '[web]:80' }", 'forward[1].to: not valid, found "[web]:80"'),
        (
            "{ proto = 'tcp', port = 1, to = '10.78.0.5:80' }",
            'forward[1].to: not in 10.77.0.0/24, the subnet of network "lab", found "10.78.0.5:80"',
        ),
        ("{ proto = 'tcp', port = 1, to = '10.77.0.1:80' }", 'forward[1].to: the gateway of network "lab"'),
        ("{ proto = 'tcp', port = 1, to = '10.77.0.255:80' }", "forward[1].to: an address that no guest of network"),
        ("{ proto = 'tcp', prot = 1, port = 2, to = 'a:1' }", 'forward[1].prot: unknown key; did you mean "proto"?'),
        (
            "'tcp:8080:web:80'",
            'forward[1]: not valid, found "tcp:8080:web:80" (allowed: tables such as { proto = "tcp"',
        ),
    ],
)
def test_a_wrong_forward(forward: str, reported: str) -> None:
    assert lines(f"{LAB}forward = [{forward}]")[0].partition("network.lab.")[2].startswith(reported)


def test_a_forward_to_an_address_needs_a_subnet_of_its_version() -> None:
    v4 = "[network.lab]\nmode = 'nat'\nsubnets = ['10.77.0.0/24']\n"
    assert lines(f"{v4}forward = [{{ proto = 'tcp', port = 1, to = '[fd77::5]:1' }}]") == [
        '0.toml:4: network.lab.forward[1].to: network "lab" has no IPv6 subnet, found "[fd77::5]:1"'
    ]


def test_a_port_is_forwarded_once_in_each_ip_version() -> None:
    dmz = "[network.dmz]\nmode = 'nat'\nsubnets = ['10.78.0.0/24']\n[[network.dmz.forward]]\nproto = 'tcp'\n"
    first = "[[network.lab.forward]]\nproto = 'tcp'\nport = 80\nto = '{}'\n"
    again = "0.toml:{}: network.dmz.forward[1].port: tcp port 80 is forwarded already at 0.toml:4"
    for_a_vm, for_an_address = first.format("web:80"), first.format("10.77.0.5:80")
    assert lines(LAB + for_a_vm + dmz + "port = 80\nto = 'web:81'") == [again.format(13)]
    assert lines(LAB + for_an_address + dmz + "port = 80\nto = 'web:81'") == [again.format(13)]
    policy(LAB + first.format("[fd77::5]:80") + dmz + "port = 80\nto = 'web:81'")
    policy(LAB + for_a_vm + dmz + "port = 81\nto = 'web:81'")
    policy(LAB + for_a_vm + dmz.replace("tcp", "udp") + "port = 80\nto = 'web:81'")


def test_subnets_of_two_networks_that_overlap() -> None:
    wide = "[network.wide]\nmode = 'isolated'\nsubnets = ['10.0.0.0/8', 'fd78::/64']"
    assert lines(LAB, wide) == [
        "1.toml:3: network.wide.subnets[1]: overlaps 10.77.0.0/24, network.lab.subnets[1] at 0.toml:3, "
        'found "10.0.0.0/8"'
    ]
    assert lines(LAB + "nptv6 = 'fd78::/64'", wide.replace("10.0", "11.0")) == [
        '1.toml:3: network.wide.subnets[2]: overlaps fd78::/64, network.lab.nptv6 at 0.toml:4, found "fd78::/64"'
    ]
    policy(LAB, wide.replace("10.0", "11.0"))


def test_all_subnets_within_a_wide_one_are_reported() -> None:
    networks = "".join(f"[network.n{i}]\nmode = 'route'\nsubnets = ['10.{i}.0.0/16']\n" for i in range(4))
    reported = lines(f"{networks}[network.wide]\nmode = 'route'\nsubnets = ['10.0.0.0/14']\n")
    assert [line.partition(": ")[0] for line in reported] == ["0.toml:15"] * 4


def test_a_bridge_of_ours_is_one_networks_alone() -> None:
    other = "[network.other]\nmode = '{}'\nbridge = 'xn-lab'\n"
    for mode in ("bridge", "isolated"):
        assert lines(LAB, other.format(mode)) == [
            "1.toml:3: network.other.bridge: belongs to network.lab at 0.toml:1; two networks can't share it, "
            'found "xn-lab"'
        ]
        assert len(lines(other.format(mode), LAB)) == 1
    policy("[network.a]\nmode = 'bridge'\nbridge = 'b'\n[network.c]\nmode = 'bridge'\nbridge = 'b'\n")


def test_bridges_of_ours_that_would_have_one_mac() -> None:
    text = 'is too much like "{}", the bridge of network.{}: two bridges that xennetd makes must differ in more than a '
    text += 'leading "xn-", found "{}"'
    two = "[network.two]\nmode = 'isolated'\nbridge = 'lab'\n"
    assert lines(LAB, two) == ["1.toml:3: network.two.bridge: " + text.format("xn-lab", "lab at 0.toml:1", "lab")]
    assert lines(two, LAB) == ["1.toml:1: network.lab.bridge: " + text.format("lab", "two at 0.toml:1", "xn-lab")]
    policy(LAB, two.replace("isolated", "bridge"))


def test_an_isolated_network_is_no_uplink() -> None:
    assert lines("[network.priv]\nmode = 'isolated'", LAB + "uplink = 'xn-priv'") == [
        '1.toml:4: network.lab.uplink: leads nowhere: it is the bridge of network.priv at 0.toml:1, found "xn-priv"'
    ]
    policy("[network.lan]\nmode = 'bridge'\nbridge = 'xenbr0'", LAB + "uplink = 'xenbr0'")


def rule(ip: str, network: str = "lab", more: str = "") -> str:
    return f"[[policy]]\nnetwork = '{network}'\nip = [{ip}]\n{more}"


def test_fixed_addresses_and_a_stable_mac() -> None:
    (fixed,) = policy(LAB + rule("'10.77.0.5', 'fd77::5'", more="mac = 'stable'")).rules
    assert fixed.ips == (IPv4Address("10.77.0.5"), IPv6Address("fd77::5"))
    assert fixed.stable_mac
    (bridged,) = policy(
        "[network.lan]\nmode = 'bridge'\nbridge = 'b'\n[[policy]]\nnetwork = 'lan'\nmac = 'stable'"
    ).rules
    assert bridged.stable_mac


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        (LAB + rule("'10.78.0.5'"), 'ip[1]: not in 10.77.0.0/24, the subnet of network "lab", found "10.78.0.5"'),
        (LAB + rule("'10.77.0.0'"), 'ip[1]: an address that no guest of network "lab" can have, found "10.77.0.0"'),
        (LAB + rule("'10.77.0.255'"), 'ip[1]: an address that no guest of network "lab" can have'),
        (LAB + rule("'10.77.0.1'"), 'ip[1]: the gateway of network "lab", found "10.77.0.1"'),
        (LAB + rule("'fd77::1'"), 'ip[1]: the gateway of network "lab"'),
        (LAB + rule("'fd77::'"), 'ip[1]: an address that no guest of network "lab" can have'),
        (LAB + rule("'10.77.0.5/24'"), 'ip[1]: not valid, found "10.77.0.5/24" (allowed: addresses such as'),
        (LAB + rule("'10.77.0.05'"), 'ip[1]: not valid, found "10.77.0.05"'),
        (LAB + rule("'fe80::5'"), 'ip[1]: not an address that a guest can have, found "fe80::5"'),
        (LAB + rule("'fd77::5%eth0'"), 'ip[1]: not valid, found "fd77::5%eth0"'),
        (LAB + rule(""), "ip: must be a non-empty array, found an empty array"),
        (LAB + rule("'10.77.0.5', '10.77.0.5'"), "ip[2]: given already at 0.toml:6"),
        (
            LAB + "dhcp = true\n" + rule("'10.77.0.5', 'fd77::5', '10.77.0.6'"),
            'ip[3]: a second IPv4 address; with dhcp a guest has at most one of each IP version, found "10.77.0.6"',
        ),
        (LAB + rule("'10.77.0.5'", more="mac = 'random'"), 'mac: not valid, found "random" (allowed: stable)'),
        (
            "[network.lan]\nmode = 'bridge'\nbridge = 'b'\n" + rule("'10.77.0.5'", "lan"),
            "ip: only in a network of mode route, nat or isolated; network.lan is of mode bridge",
        ),
        (
            LAB + "[[policy]]\ndeny = 'no'\nip = ['10.77.0.5']",
            "ip: not with deny; this key needs network",
        ),
        (LAB + "[[policy]]\ndeny = 'no'\nmac = 'stable'", "mac: not with deny; this key needs network"),
        (
            LAB + "[[policy]]\ndeny = 'no'\nisolated = true",
            "isolated: not with deny; this key needs network",
        ),
        (LAB + "[[policy]]\nnetwork = 'lab'\nisolated = 1", "isolated: not valid, found 1 (allowed: true or false)"),
        (
            LAB + "[network.dmz]\nmode = 'route'\n" + rule("'10.77.0.5'", "dmz"),
            'ip[1]: belongs to 10.77.0.0/24, network.lab.subnets[1] at 0.toml:3, found "10.77.0.5"',
        ),
    ],
)
def test_a_wrong_policy(text: str, reported: str) -> None:
    (line,) = lines(text)
    assert line.partition("policy[1].")[2].startswith(reported)


def test_an_address_is_fixed_for_one_policy_only() -> None:
    assert lines(LAB + rule("'10.77.0.5'"), rule("'10.77.0.6', '10.77.0.5'")) == [
        '1.toml:3: policy[1].ip[2]: given already at 0.toml:6, found "10.77.0.5"'
    ]
    two = "[network.a]\nmode = '{0}'\n[network.b]\nmode = '{0}'\n" + rule("'192.0.2.5'", "a") + rule("'192.0.2.5'", "b")
    assert lines(two.format("route")) == ['0.toml:10: policy[2].ip[1]: given already at 0.toml:7, found "192.0.2.5"']
    assert len(policy(two.format("isolated")).rules) == 2  # two worlds: the host has a part in neither


def test_a_routed_guest_may_have_the_first_address_of_its_subnet() -> None:
    policy("[network.dmz]\nmode = 'route'\nsubnets = ['192.0.2.0/28']\n" + rule("'192.0.2.1', '192.0.2.2'", "dmz"))


def test_a_driver_domain_knows_addresses_but_no_names() -> None:
    forward = "forward = [{ proto = 'tcp', port = 80, to = 'web:80' }]\n"
    assert lines("[daemon]\ndevd = true\n" + LAB + forward + rule("'10.77.0.5'", more="mac = 'stable'")) == [
        "0.toml:6: network.lab.forward[1].to: a VM's name can't be read in a driver domain (daemon.devd is true); "
        'give its address, found "web"',
        "0.toml:10: policy[1].mac: needs the domain's UUID, which can't be read in a driver domain "
        "(daemon.devd is true)",
    ]
    policy("[daemon]\ndevd = true\n" + LAB + forward.replace("web", "10.77.0.5") + rule("'10.77.0.5'"))


def test_a_file_name_that_can_not_be_shown_is_escaped_wherever_it_is_named() -> None:
    result = load([("\x1b\n.toml", LAB.encode()), ("b.toml", b"[network.o]\nmode = 'route'\nsubnets = ['10.0.0.0/8']")])
    assert not isinstance(result, Policy)
    (line,) = (problem.describe() for problem in result)
    assert line.isprintable()

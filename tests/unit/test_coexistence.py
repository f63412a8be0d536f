"""Notes on links that another network manager claims, too, and what to do."""

from __future__ import annotations

import pytest

from tests.unit.test_policy_load import policy
from xennetd.config.lines import KeyPath
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.manager_claim import ManagerClaim
from xennetd.policy.check import check
from xennetd.policy.host_notes import HostNotes
from xennetd.render.topology_toml import topology_toml

INTERFACES = ("/etc/network/interfaces",)
CATCH_ALL = ("/etc/systemd/network/80-all.network",)
PROFILE = ("/etc/NetworkManager/system-connections/lan.nmconnection",)

BRIDGE = '[bridge.xenbr0]\nports = ["eth0"]\n'
ADOPTING = BRIDGE + 'addresses = "adopt"\n'
ON_A_BOND = '[bond.bond0]\nports = ["eth0"]\nmode = "802.3ad"\n' + ADOPTING.replace("eth0", "bond0")
PARENT = '[vlan."eth0.100"]\n[bridge.xenbr0]\nports = ["eth0.100"]\n'

ELSE = ", or leave it out of xennetd's configuration"
UNMANAGED = (
    "let a file in /etc/systemd/network that comes before 80-all.network have "
    '"Name={}" in its [Match] and "Unmanaged=yes" in its [Link]'
)


def notes(text: str, *claims: ManagerClaim) -> list[str]:
    found = check(policy(text), HostNotes(claims=claims))
    assert not any(note.error for note in found)
    return [note.sentence for note in found]


@pytest.mark.parametrize(
    ("claim", "sentence"),
    [
        (
            ManagerClaim("ifupdown", "xenbr0", INTERFACES, makes=True, addressing="static"),
            "bridge.xenbr0: ifupdown (/etc/network/interfaces) makes it and gives it addresses too: "
            f'remove "xenbr0" from /etc/network/interfaces{ELSE}',
        ),
        (
            ManagerClaim(
                "systemd-networkd", "xenbr0", ("/a.network", "/a.netdev"), makes=True, addressing="DHCP", master=""
            ),
            "bridge.xenbr0: systemd-networkd (/a.network, /a.netdev) makes it and gives it addresses by DHCP too: "
            f"remove /a.network and /a.netdev{ELSE}",
        ),
        (
            ManagerClaim("systemd-networkd", "xenbr0", CATCH_ALL, addressing="automatic"),
            "bridge.xenbr0: systemd-networkd (/etc/systemd/network/80-all.network) gives it automatic IPv6 addresses "
            f"too: {UNMANAGED.format('xenbr0')}{ELSE}",
        ),
        (
            ManagerClaim("NetworkManager", "xenbr0", PROFILE),
            f"bridge.xenbr0: NetworkManager ({PROFILE[0]}) configures it too: remove {PROFILE[0]}, or set "
            '"unmanaged-devices=interface-name:xenbr0" in the [keyfile] section of a file in '
            f"/etc/NetworkManager/conf.d{ELSE}",
        ),
    ],
)
def test_a_link_that_another_manager_configures_too(claim: ManagerClaim, sentence: str) -> None:
    assert notes(BRIDGE, claim) == [sentence]


@pytest.mark.parametrize(
    ("claim", "sentence"),
    [
        (
            ManagerClaim("ifupdown", "eth0", INTERFACES, addressing="DHCP"),
            'bridge.xenbr0: ifupdown (/etc/network/interfaces) gives "eth0", a port, addresses by DHCP: '
            f'write "iface eth0 inet manual" in /etc/network/interfaces{ELSE}',
        ),
        (
            ManagerClaim("ifupdown", "eth0", INTERFACES, master="br0"),
            'bridge.xenbr0: ifupdown (/etc/network/interfaces) makes "eth0" a port of br0: '
            f'remove "eth0" from /etc/network/interfaces{ELSE}',
        ),
        (
            ManagerClaim("systemd-networkd", "eth0", CATCH_ALL, master=""),
            'bridge.xenbr0: systemd-networkd (/etc/systemd/network/80-all.network) takes "eth0" out of any bridge or '
            f"bond that it is a port of: {UNMANAGED.format('eth0')}{ELSE}",
        ),
        (
            ManagerClaim("netplan", "eth0", ("/etc/netplan/a.yaml",), addressing="static"),
            'bridge.xenbr0: netplan (/etc/netplan/a.yaml) gives "eth0", a port, addresses: '
            f'remove "eth0" from /etc/netplan/a.yaml{ELSE}',
        ),
    ],
)
def test_a_port_that_another_manager_configures_otherwise(claim: ManagerClaim, sentence: str) -> None:
    assert notes(BRIDGE, claim) == [sentence]


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        (BRIDGE, ManagerClaim("ifupdown", "eth0", INTERFACES)),
        (BRIDGE, ManagerClaim("ifupdown", "eth0", INTERFACES, master="xenbr0")),
        (BRIDGE, ManagerClaim("systemd-networkd", "eth0", CATCH_ALL)),
        (BRIDGE, ManagerClaim("ifupdown", "eth1", INTERFACES, addressing="DHCP")),
        (PARENT, ManagerClaim("systemd-networkd", "eth0", CATCH_ALL, addressing="DHCP", master="")),
        ("[nic.eth0]\nmtu = 9000\n", ManagerClaim("NetworkManager", "eth0", PROFILE, addressing="DHCP")),
        (ADOPTING, ManagerClaim("ifupdown", "eth0", INTERFACES, addressing="static")),
        (ON_A_BOND, ManagerClaim("ifupdown", "eth0", INTERFACES, addressing="static")),
    ],
)
def test_what_does_not_contradict_xennetd(text: str, claim: ManagerClaim) -> None:
    assert notes(text, claim) == []


@pytest.mark.parametrize(
    "claim",
    [
        ManagerClaim("ifupdown", "eth0", INTERFACES, addressing="DHCP"),
        ManagerClaim("systemd-networkd", "eth0", CATCH_ALL, addressing="static"),
    ],
)
def test_addresses_that_come_again_are_not_adopted_once_for_all(claim: ManagerClaim) -> None:
    (sentence,) = notes(ADOPTING, claim)
    assert 'gives "eth0", a port, addresses' in sentence


def test_two_others_that_configure_one_link() -> None:
    both = (
        ManagerClaim("ifupdown", "eth0", INTERFACES, addressing="static"),
        ManagerClaim("systemd-networkd", "eth0", CATCH_ALL, addressing="DHCP"),
    )
    assert notes(PARENT, *both) == [
        '"eth0" is configured by ifupdown (/etc/network/interfaces) and systemd-networkd '
        "(/etc/systemd/network/80-all.network): leave it to one of them"
    ]
    assert notes(PARENT, ManagerClaim("ifupdown", "eth0", INTERFACES), both[1]) == []
    assert notes("", *both) == []


def test_a_note_has_the_place_of_the_link() -> None:
    on_bridge = ManagerClaim("ifupdown", "xenbr0", INTERFACES)
    on_port = ManagerClaim("ifupdown", "eth0", INTERFACES, addressing="DHCP")
    also = ManagerClaim("systemd-networkd", "eth0", CATCH_ALL, addressing="DHCP")
    assert keys(BRIDGE, on_bridge, on_port) == [("bridge", "xenbr0"), ("bridge", "xenbr0", "ports")]
    assert keys(PARENT, on_port, also) == [("vlan", "eth0.100", "parent")]
    assert keys("[nic.eth0]\n" + PARENT, on_port, also) == [("nic", "eth0")]


def keys(text: str, *claims: ManagerClaim) -> list[KeyPath]:
    return [note.key for note in check(policy(text), HostNotes(claims=claims))]


def test_an_import_names_who_configures_a_link() -> None:
    text = topology_toml(
        [HostLink("bridge", "br0"), HostLink("nic", "eth0")],
        [HostPort("eth0", "br0")],
        {},
        {},
        [
            ManagerClaim("ifupdown", "eth1", INTERFACES),
            ManagerClaim("ifupdown", "eth0", INTERFACES, master="br0"),
            ManagerClaim("systemd-networkd", "br0", ("/20-br0.network", "/20-\nx = 1.netdev")),
        ],
    )
    assert text == (
        "[bridge.br0]\n"
        "# configured by systemd-networkd: /20-br0.network, /20-\\nx = 1.netdev\n"
        "# port eth0 configured by ifupdown: /etc/network/interfaces\n"
        'ports = ["eth0"]\n'
    )

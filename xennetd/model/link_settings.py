"""The settings of bridges, bonds, VLANs and VXLANs: their names, and their attributes in rtnetlink (linux/if_link.h).

A name is that of ip-link(8). Times of a bridge are in hundredths of a second (USER_HZ), others in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Form = Literal["u8", "u16", "u32", "be16", "link", "ipv4", "ipv4 list"]
"""How the kernel writes a value. `link` is a link's index as u32, `ipv4 list` a nest of addresses."""


class Setting(NamedTuple):
    """One attribute within IFLA_INFO_DATA. `words` are ip-link(8)'s words for the values from 0 on."""

    attribute: int
    form: Form
    words: tuple[str, ...] = ()


BOND_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
LACP_RATES = ("slow", "fast")
HASH_POLICIES = ("layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac")
VXLAN_PORT = 4789
"""The UDP port of a new VXLAN (RFC 7348). The kernel's own default, 8472, is older than that."""

VLAN_PROTOCOLS = {"802.1Q": 0x8100, "802.1ad": 0x88A8}

SETTINGS: Mapping[str, Mapping[str, Setting]] = {
    "bridge": {
        "forward_delay": Setting(1, "u32"),
        "group_fwd_mask": Setting(9, "u16"),
        "mcast_querier": Setting(25, "u8"),
        "mcast_snooping": Setting(23, "u8"),
        "stp_state": Setting(5, "u32"),
        "vlan_filtering": Setting(7, "u8"),
    },
    "bond": {
        "arp_interval": Setting(7, "u32"),
        "arp_ip_target": Setting(8, "ipv4 list"),
        "lacp_rate": Setting(21, "u8", LACP_RATES),
        "miimon": Setting(3, "u32"),
        "mode": Setting(1, "u8", BOND_MODES),
        "primary": Setting(11, "link"),
        "xmit_hash_policy": Setting(14, "u8", HASH_POLICIES),
    },
    "vlan": {
        "id": Setting(1, "u16"),
        "protocol": Setting(5, "be16"),
    },
    "vxlan": {
        "id": Setting(1, "u32"),
        "group": Setting(2, "ipv4"),
        "learning": Setting(7, "u8"),
        "local": Setting(4, "ipv4"),
        "port": Setting(15, "be16"),
    },
    "dummy": {},
    "nic": {},
}
"""By kind and by name. `group` of a VXLAN is the peer's address too, as the kernel has it."""

FIXED = frozenset({"id", "port", "protocol"})
"""The settings that the kernel lets nobody change: another value needs another link."""


def setting_words(kind: str, name: str, value: object) -> str:
    """Return a setting as ip-link(8) takes it."""
    if name == "protocol":
        return f"protocol {next(word for word, number in VLAN_PROTOCOLS.items() if number == value)}"
    if kind == "vxlan":
        word = {"group": "remote", "port": "dstport"}.get(name, name)
        return ("learning" if value else "nolearning") if name == "learning" else f"{word} {value}"
    words = SETTINGS[kind][name].words
    if isinstance(value, tuple):
        return f"{name} {','.join(map(str, value))}"
    return f"{name} {words[value] if words and isinstance(value, int) and value < len(words) else value}"

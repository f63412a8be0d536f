"""The keys of the sections of the host's own topology: `[nic.NAME]`, `[bond.NAME]`, `[vlan.NAME]` and so on.

A key of `SETTINGS_OF` is a setting of the kernel's (`model.link_settings`): its name there, and its value as the kernel
has it. All other keys are attributes of `model.topology.TopologyLink`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from xennetd.config.schema import Field, Fields
from xennetd.config.topology_grammar import bus_device, host_address, mac_address, peer4, topology_link, unicast4
from xennetd.model.link import is_link_name
from xennetd.model.link_settings import BOND_MODES, HASH_POLICIES, LACP_RATES, VLAN_PROTOCOLS
from xennetd.model.value import replace

_HUNDREDTHS = 100
_RESERVED_GROUPS = 0x7
"""The bits of group_fwd_mask that the kernel refuses: STP, pause frames, LACP (BR_GROUPFWD_RESTRICTED)."""

_Mtu = Annotated[int, Meta(ge=68, le=65535)]
_Vid = Annotated[int, Meta(ge=1, le=4094)]
_Seconds = Annotated[int, Meta(ge=0, le=30)]
_Milliseconds = Annotated[int, Meta(ge=0, le=60000)]
_Vni = Annotated[int, Meta(ge=1, le=0xFFFFFF)]
_Port = Annotated[int, Meta(ge=1, le=65535)]
_Mask = Annotated[int, Meta(ge=0, le=0xFFFF)]

LINK_NAME = Field(str, "a link's name, 1 to 15 characters", is_link_name, make=topology_link)
_PORTS = replace(LINK_NAME, many=True, may_be_empty=True)
_FLAG = Field(bool, "true or false", make=int)
_MAC = Field(str, 'a MAC of one device, such as "00:16:3e:00:00:01"', make=mac_address)
_MTU = Field(_Mtu, "a whole number of bytes from 68 to 65535")
ADOPT = "adopt"
"""The value of `addresses` with which a link takes over what the links below it have."""

_ADDRESSES = Field(
    str,
    f'addresses with their prefix length, such as "192.0.2.1/24", or "{ADOPT}"',
    many=True,
    may_be_empty=True,
    alone=ADOPT,
    make=host_address,
)
_LISTED = replace(_ADDRESSES, alone="", hint='addresses with their prefix length, such as "192.0.2.1/24"')
_PAUSE = Field(_Milliseconds, "milliseconds, a whole number from 0 to 60000")


def _one_of(words: tuple[str, ...]) -> Field:
    return Field(str, accepts=words.__contains__, choices=words, make=words.index)


_COMMON: Fields = {"mac": _MAC, "mtu": _MTU, "addresses": _ADDRESSES}

SECTIONS: Mapping[str, Fields] = {
    "nic": {
        "mac": _MAC,
        "path": Field(str, 'the name of a bus device, such as "0000:01:00.0"', make=bus_device),
        "mtu": _MTU,
        "vlan_mtu": _MTU,
        "tx_checksum": replace(_FLAG, make=None),
        "addresses": _LISTED,
    },
    "bond": {
        "ports": _PORTS,
        "mode": _one_of(BOND_MODES),
        "miimon": _PAUSE,
        "arp_interval": _PAUSE,
        "arp_ip_target": Field(str, 'IPv4 addresses such as "192.0.2.1"', many=True, make=unicast4),
        "lacp_rate": _one_of(LACP_RATES),
        "xmit_hash_policy": _one_of(HASH_POLICIES),
        "primary": LINK_NAME,
        **_COMMON,
    },
    "vlan": {
        "parent": LINK_NAME,
        "id": Field(_Vid, "a VLAN's number from 1 to 4094"),
        "protocol": Field(
            Literal["802.1Q", "802.1ad"], choices=tuple(VLAN_PROTOCOLS), make=lambda word: VLAN_PROTOCOLS[word]
        ),
        **_COMMON,
    },
    "bridge": {
        "ports": _PORTS,
        "vlan_aware": _FLAG,
        "stp": _FLAG,
        "forward_delay": Field(
            _Seconds, "seconds, a whole number from 0 to 30", make=lambda seconds: seconds * _HUNDREDTHS
        ),
        "multicast_snooping": _FLAG,
        "multicast_querier": _FLAG,
        "group_fwd_mask": Field(
            _Mask,
            "a whole number from 0 to 65535 without the bits 0, 1 and 2",
            lambda mask: not mask & _RESERVED_GROUPS,
        ),
        **_COMMON,
    },
    "vxlan": {
        "parent": LINK_NAME,
        "id": Field(_Vni, "a VXLAN's number from 1 to 16777215"),
        "local": Field(str, 'an IPv4 address such as "192.0.2.1"', make=unicast4),
        "remote": Field(str, 'an IPv4 address of one host or of a multicast group, such as "192.0.2.2"', make=peer4),
        "port": Field(_Port, "a UDP port from 1 to 65535"),
        "learning": _FLAG,
        **_COMMON,
        "addresses": _LISTED,
    },
    "dummy": _COMMON,
}
"""By section, which is the kind of the link, and by key."""

_OF_BONDS = ("mode", "miimon", "arp_interval", "arp_ip_target", "lacp_rate", "xmit_hash_policy", "primary")

SETTINGS_OF: Mapping[str, Mapping[str, str]] = {
    "nic": {},
    "bond": {key: key for key in _OF_BONDS},
    "vlan": {"id": "id", "protocol": "protocol"},
    "bridge": {
        "vlan_aware": "vlan_filtering",
        "stp": "stp_state",
        "forward_delay": "forward_delay",
        "multicast_snooping": "mcast_snooping",
        "multicast_querier": "mcast_querier",
        "group_fwd_mask": "group_fwd_mask",
    },
    "vxlan": {"id": "id", "local": "local", "remote": "group", "port": "port", "learning": "learning"},
    "dummy": {},
}
"""The kernel's name of each key that is a setting of a kind of link (`model.link_settings.SETTINGS`)."""

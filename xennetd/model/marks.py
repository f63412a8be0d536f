"""The marks that tell xennetd's own objects in the kernel from all others. xennetd touches no object without a mark."""

from __future__ import annotations

from collections.abc import Collection
from zlib import crc32

ROUTE_PROTOCOL = 120
"""xennetd's number in rtm_protocol and NDA_PROTOCOL. linux/rtnetlink.h leaves those above RTPROT_STATIC to programs."""

ADDRESS_PROTOCOL = 120
"""xennetd's number in IFA_PROTO of the host's addresses on its bridges. linux/if_addr.h has numbers for the kernel's
own addresses (1 to 3). Linux before 5.18 does not keep the number: an address has no mark there."""

BRIDGE_GROUP = 0x786E
"""The link group (`ip link set group`) of bridges that xennetd made: "xn" as a number."""

TOPOLOGY_GROUP = 0x786D
"""The link group of the links that xennetd made for the host's own topology. Links that were there have no mark."""

GUEST_GROUP = 0x786F
"""The link group of routed guests' interfaces. The link's kind can't be the mark: netback's links have no kind."""

_OFFLOAD_TAG = 0x786E << 16
_OFFLOAD_ON = 1 << 15
"""The parts of `offload_tag`."""

_PORT = "xennetd:"
"""The beginning of the alias (`ip link set alias`) of a guest's interface that xennetd made a bridge's port."""

_PORT_GROUPS = 0x78 << 24
"""The first of the link groups of guests' interfaces that xennetd made a bridge's port, and that have another alias."""


def port_alias(bridge: str, index: int) -> str:
    """Return the alias of a port of this bridge.

    It is the kernel's memory of the bridge that the guest was given, also while this bridge has another name. The
    index tells the bridge from one to which somebody else has moved the port.
    """
    return f"{_PORT}{bridge}:{index}"


def port_group(alias: str) -> int:
    """Return the link group of a port whose alias is somebody else's: a number for the alias that it can't have.

    It is the memory that the alias of `port_alias` is otherwise. 24 bits of it are a checksum.
    """
    return _PORT_GROUPS | crc32(alias.encode()) & 0xFFFFFF


def is_port_group(group: int) -> bool:
    """Return whether a link group is one of `port_group`."""
    return group & ~0xFFFFFF == _PORT_GROUPS


def joined(alias: str, group: int, master: int, names: Collection[str | None]) -> bool:
    """Return whether the bridge with the index `master` had one of these names when xennetd made a link its port.

    `alias` and `group` are those of the link.
    """
    if is_port_alias(alias):
        port = port_of(alias)
        return port is not None and port[1] == master and port[0] in names
    return any(name is not None and group == port_group(port_alias(name, master)) for name in names)


def port_of(alias: str) -> tuple[str, int] | None:
    """Return the name and the index of the bridge in an alias of `port_alias`, None for any other alias."""
    name, _, index = alias.removeprefix(_PORT).rpartition(":")
    return (name, int(index)) if is_port_alias(alias) and index.isascii() and index.isdigit() else None


def is_port_alias(alias: str) -> bool:
    """Return whether an alias is from xennetd."""
    return alias.startswith(_PORT)


def offload_tag(before: int, *, on: bool) -> int:
    """Return the value of net.ipv4.conf.LINK.tag for a link whose tx checksum offload xennetd has switched.

    `before` has a bit for each of at most 15 features, set if it was wanted before; `on` is what xennetd has made of
    them. The kernel keeps the number for whoever needs one (Documentation/networking/ip-sysctl.rst), and drops it with
    the link. 0 is the value of a new link.
    """
    return _OFFLOAD_TAG | (_OFFLOAD_ON if on else 0) | before & _OFFLOAD_ON - 1


def offload_of(tag: int) -> tuple[int, bool] | None:
    """Return what `offload_tag` was given, None for any other number: somebody else's, or 0."""
    return (tag & _OFFLOAD_ON - 1, bool(tag & _OFFLOAD_ON)) if tag & ~0xFFFF == _OFFLOAD_TAG else None


TABLE = "xennetd"
"""xennetd's nftables table, of family inet. The whole table belongs to xennetd, which owns no other nftables object."""

"""The marks that tell xennetd's own objects in the kernel from all others. xennetd touches no object without a mark."""

from __future__ import annotations

ROUTE_PROTOCOL = 120
"""xennetd's number in rtm_protocol and NDA_PROTOCOL. linux/rtnetlink.h leaves those above RTPROT_STATIC to programs."""

ADDRESS_PROTOCOL = 120
"""xennetd's number in IFA_PROTO of the host's addresses on its bridges. linux/if_addr.h has numbers for the kernel's
own addresses (1 to 3). Linux before 5.18 does not keep the number: an address has no mark there."""

BRIDGE_GROUP = 0x786E
"""The link group (`ip link set group`) of bridges that xennetd made: "xn" as a number."""

GUEST_GROUP = 0x786F
"""The link group of routed guests' interfaces. The link's kind can't be the mark: netback's links have no kind."""

_PORT = "xennetd:"
"""The beginning of the alias (`ip link set alias`) of a guest's interface that xennetd made a bridge's port."""


def port_alias(bridge: str, index: int) -> str:
    """Return the alias of a port of this bridge.

    It is the kernel's memory of the bridge that the guest was given, also while this bridge has another name. The
    index tells the bridge from one to which somebody else has moved the port.
    """
    return f"{_PORT}{bridge}:{index}"


def joined(alias: str, master: int) -> str | None:
    """Return the name that the bridge with the index `master` had when xennetd made the link with `alias` its port."""
    port = port_of(alias)
    return port[0] if port is not None and port[1] == master else None


def port_of(alias: str) -> tuple[str, int] | None:
    """Return the name and the index of the bridge in an alias of `port_alias`, None for any other alias."""
    name, _, index = alias.removeprefix(_PORT).rpartition(":")
    return (name, int(index)) if is_port_alias(alias) and index.isascii() and index.isdigit() else None


def is_port_alias(alias: str) -> bool:
    """Return whether an alias is from xennetd."""
    return alias.startswith(_PORT)


TABLE = "xennetd"
"""xennetd's nftables table, of family inet. The whole table belongs to xennetd, which owns no other nftables object."""

"""The marks that tell xennetd's own objects in the kernel from all others. xennetd touches no object without a mark."""

from __future__ import annotations

ROUTE_PROTOCOL = 120
"""xennetd's number in rtm_protocol and NDA_PROTOCOL. linux/rtnetlink.h leaves those above RTPROT_STATIC to programs."""

BRIDGE_GROUP = 0x786E
"""The link group (`ip link set group`) of bridges that xennetd made: "xn" as a number."""

GUEST_GROUP = 0x786F
"""The link group of routed guests' interfaces. The link's kind can't be the mark: netback's links have no kind."""

TABLE = "xennetd"
"""xennetd's nftables table, of family inet. The whole table belongs to xennetd, which owns no other nftables object."""

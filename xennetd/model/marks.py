"""The marks by which an object in the kernel is known as one that xennetd made. Nothing without a mark is touched."""

from __future__ import annotations

ROUTE_PROTOCOL = 120
"""xennetd's number in rtm_protocol and NDA_PROTOCOL: linux/rtnetlink.h leaves those above RTPROT_STATIC to programs."""

BRIDGE_GROUP = 0x786E
"""The link group (`ip link set group`) of bridges that xennetd made: "xn" as a number."""

GUEST_GROUP = 0x786F
"""The link group of routed guests' interfaces. A link's kind does not tell them apart: netback's links have none."""

TABLE = "xennetd"
"""xennetd's nftables table, of family inet: everything in it belongs to xennetd, and nothing outside of it does."""

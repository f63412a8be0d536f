"""nfnetlink about xennetd's nftables table: its flags, and the events of transactions (linux/netfilter/nf_tables.h).

The kernel is asked directly here. nft 1.0.6 prints memory of other use in place of a table's flags, and what it prints
need not be JSON, nor text.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from xennetd.kernel import netlink
from xennetd.model.marks import TABLE

NEWGEN = 10 << 8 | 15
"""NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN: the event at the end of a transaction."""

OUR_NAME = TABLE.encode() + b"\0"
"""The name of our table, as an attribute has it."""

DORMANT = 0x1
"""NFT_TABLE_F_DORMANT: the kernel does not use the table's rules."""

_NETLINK_NETFILTER = 12
_GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES
_NEWTABLE = 10 << 8 | 0
_GETTABLE = 10 << 8 | 1
_NFTA_TABLE_NAME = 1
_NFTA_TABLE_FLAGS = 2
_NFPROTO_INET = 1
_NFGENMSG = 4
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_SO_RCVBUFFORCE = 33
_BUFFER = 4 << 20
_DATAGRAM = 1 << 16


def table_flags() -> int | None:
    """Return the flags of our table, None if it does not exist.

    Raises OSError if the kernel has no nf_tables, or if its answer can't be read (EBADMSG).
    """
    name = netlink.attribute(_NFTA_TABLE_NAME, OUR_NAME)
    body = struct.pack("=BBH", _NFPROTO_INET, 0, 0) + name
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as requests:
        requests.bind((0, 0))
        requests.send(netlink.request(_GETTABLE, netlink.NLM_F_REQUEST | netlink.NLM_F_ACK, 1, body))
        data = requests.recv(_DATAGRAM)
    try:
        return _flags(data)
    except netlink.NetlinkFormatError as error:
        raise OSError(errno.EBADMSG, f"the kernel's answer can't be read: {error}") from error


def _flags(data: bytes) -> int | None:
    for message in netlink.headers(data):
        if message.type == netlink.NLMSG_ERROR:
            code = netlink.parse_ack(data, message).errno
            if code in (0, errno.ENOENT):
                return None
            raise OSError(code, os.strerror(code))
        if message.type == _NEWTABLE:
            for kind, start, _end in netlink.attributes(data, message.start + _NFGENMSG, message.end):
                if kind == _NFTA_TABLE_FLAGS:
                    return int.from_bytes(data[start : start + 4], "big")
            return 0
    return None


def listen() -> socket.socket:
    """Return a non-blocking socket that receives the events of all nftables transactions in this namespace."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    events = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
    events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    events.bind((0, 0))
    events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, struct.pack("=I", _GROUP_NFTABLES))
    return events

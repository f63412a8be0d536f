"""Readers for the values of the host's own topology: links, MACs, bus devices and the host's addresses.

A reader returns the value or raises ValueError. The error's text is a phrase that says what is wrong, and is safe to
show.
"""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import IPv4Address, ip_interface

from xennetd.config.grammar import bridge
from xennetd.model.ip import IPInterface

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_INTERFACE = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}")
_ADDRESS = re.compile(r"[0-9.]+")
_BUS_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,62}")
_MULTICAST = 0x01


def topology_link(text: str) -> str:
    """Return the name of a link that the host's topology may have: neither lo nor a guest's interface."""
    if text == "lo":
        raise ValueError("the host's loopback")
    return bridge(text)


def mac_address(text: str) -> str:
    """Return a MAC that a device can have, in lower case."""
    mac = text.lower()
    if not _MAC.fullmatch(mac):
        raise ValueError("not valid")
    if int(mac[:2], 16) & _MULTICAST:
        raise ValueError("a multicast address, which no device can have")
    if mac == "00:00:00:00:00:00":
        raise ValueError("not valid")
    return mac


def bus_device(text: str) -> str:
    """Return the name of a device on its bus, such as 0000:01:00.0 of a PCI card."""
    if not _BUS_DEVICE.fullmatch(text):
        raise ValueError("not valid")
    return text


def host_address(text: str) -> IPInterface:
    """Return an address with its prefix length (192.0.2.1/24) that the host can have on a link."""
    if not _INTERFACE.fullmatch(text):
        raise ValueError("not valid")
    try:
        interface = ip_interface(text)
    except ValueError:
        raise ValueError("not valid") from None
    ip, network = interface.ip, interface.network
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback or (ip.version == 4 and int(ip) >> 28 == 0xF):
        raise ValueError("not an address that a link can have")
    if network.num_addresses > 2 and ip in (network.network_address, *_broadcast(interface)):
        raise ValueError(f"not an address of a host: it stands for all of {network}")
    return interface


def _broadcast(interface: IPInterface) -> tuple[object, ...]:
    return (interface.network.broadcast_address,) if interface.version == 4 else ()


def peer4(text: str) -> str:
    """Return the text of an IPv4 address of one host, or of a multicast group."""
    with suppress(ValueError):
        if _ADDRESS.fullmatch(text) and IPv4Address(text).is_multicast:
            return text
    return unicast4(text)


def unicast4(text: str) -> str:
    """Return the text of an IPv4 address of one host."""
    try:
        ip = IPv4Address(text) if _ADDRESS.fullmatch(text) else None
    except ValueError:
        ip = None
    if ip is None or ip.is_multicast or ip.is_unspecified or ip.is_loopback or int(ip) >> 28 == 0xF:
        raise ValueError("not valid")
    return str(ip)

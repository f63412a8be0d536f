"""`Wire`: what passes a link, as it is; and frames that a guest would only send who means harm."""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType

from tests.bed.netns import NetNs

ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4
SOL_PACKET = 263
PACKET_AUXDATA = 8
TP_STATUS_VLAN_VALID = 0x10
_AUXDATA = struct.Struct("=IIIHHHH")  # linux/if_packet.h: struct tpacket_auxdata
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ALL = "ff:ff:ff:ff:ff:ff"
REQUEST, REPLY = 1, 2


def mac_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


@dataclass(frozen=True, slots=True)
class Frame:
    """An Ethernet frame as it came in. Its VLAN tag is apart from it: the kernel takes the tag out of what it shows."""

    raw: bytes
    vid: int | None = None
    """The VLAN of its tag, None if it came without a tag."""

    @property
    def source(self) -> str:
        return self.raw[6:12].hex(":")

    @property
    def kind(self) -> int:
        return int.from_bytes(self.raw[12:14], "big")

    @property
    def sender(self) -> str:
        """The IP address it claims to be from, empty if it is not about IP."""
        match self.kind:
            case 0x0806:
                return str(ipaddress.ip_address(self.raw[28:32]))
            case 0x0800:
                return str(ipaddress.ip_address(self.raw[26:30]))
            case 0x86DD:
                return str(ipaddress.ip_address(self.raw[22:38]))
        return ""

    def __str__(self) -> str:
        return f"{self.source} {self.kind:04x} from {self.sender}: {self.raw[14:80].hex()}"


class Wire:
    """Hears every frame that comes in by a link of a namespace, until closed."""

    def __init__(self, namespace: NetNs, link: str = "eth0") -> None:
        with namespace:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            self._socket.bind((link, ETH_P_ALL))
        self._socket.setblocking(False)

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def frames(self, timeout: float = 0.0) -> list[Frame]:
        """All since the last call; if there is none yet, those that come first in `timeout` seconds."""
        select.select([self._socket], [], [], timeout)
        found: list[Frame] = []
        while True:
            try:
                raw, extra, _, where = self._socket.recvmsg(65536, socket.CMSG_SPACE(_AUXDATA.size))
            except BlockingIOError:
                return found
            if where[2] != PACKET_OUTGOING:
                found.append(Frame(raw, _vid(extra)))

    def until(self, mark: bytes, timeout: float = 2.0) -> list[Frame]:
        """All up to a frame with these bytes; TimeoutError if it does not come in time."""
        end = time.monotonic() + timeout
        found: list[Frame] = []
        while not any(mark in frame.raw for frame in found):
            if time.monotonic() > end:
                raise TimeoutError(f"{mark!r} was not seen, but {[str(frame) for frame in found]}")
            found += self.frames(timeout)
        return found

    def has(self, mark: bytes, timeout: float = 0.7) -> bool:
        """Whether a frame with these bytes comes in time."""
        try:
            self.until(mark, timeout)
        except TimeoutError:
            return False
        return True


def _vid(extra: list[tuple[int, int, bytes]]) -> int | None:
    """Return the VLAN of a frame from what recvmsg(2) says of it besides (packet(7), PACKET_AUXDATA)."""
    for level, kind, data in extra:
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
            status, _, _, _, _, tci, _ = _AUXDATA.unpack_from(data)
            return tci & 0xFFF if status & TP_STATUS_VLAN_VALID else None
    return None


# Frames


def ethernet(source: str, target: str, kind: int, payload: bytes) -> bytes:
    return mac_bytes(target) + mac_bytes(source) + struct.pack("!H", kind) + payload


def arp(operation: int, source: str, sender: str, target: str, wanted: str) -> bytes:
    """An ARP frame of `source`, who says to be `sender`: a REQUEST for `wanted`, or a REPLY to it."""
    known = bytes(6) if target == ALL else mac_bytes(target)
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    addresses = mac_bytes(source) + _ip(sender) + known + _ip(wanted)
    return ethernet(source, target, ARP, head + addresses)


def udp(source: str, target: str, sender: str, receiver: str, mark: bytes, port: int = 9) -> bytes:
    """A UDP packet of `source` that says to be from `sender`, with `mark` in it."""
    length = 8 + len(mark)
    ones, others = _ip(sender), _ip(receiver)
    pseudo = ones + others + struct.pack("!II", length, 17)
    datagram = struct.pack("!HHHH", port, port, length, 0) + mark
    total = _checksum(pseudo + datagram) or 0xFFFF
    datagram = datagram[:6] + struct.pack("!H", total) + datagram[8:]
    if ":" in sender:
        head = struct.pack("!IHBB", 6 << 28, length, 17, 64) + ones + others
        return ethernet(source, target, IPV6, head + datagram)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0, 64, 17, 0, ones, others)
    head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
    return ethernet(source, target, IPV4, head + datagram)


def advertisement(source: str, sender: str, receiver: str, claimed: str) -> bytes:
    """A neighbour advertisement, unasked: `claimed` is at the MAC `source`, whatever you have heard (RFC 4861)."""
    body = struct.pack("!I", 0x20000000) + _ip(claimed) + struct.pack("!BB", 2, 1) + mac_bytes(source)
    return _icmpv6(136, source, sender, receiver, body)


def router_advertisement(source: str, sender: str, receiver: str) -> bytes:
    """A router advertisement: a default route by `sender`, and addresses of 2001:db8:bad::/64 for who wants them."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 1800, 1800, 0) + _ip("2001:db8:bad::")
    return _icmpv6(134, source, sender, receiver, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + prefix)


def _icmpv6(kind: int, source: str, sender: str, receiver: str, body: bytes) -> bytes:
    ones, others = _ip(sender), _ip(receiver)
    message = struct.pack("!BBH", kind, 0, 0) + body
    total = _checksum(ones + others + struct.pack("!II", len(message), 58) + message)
    message = message[:2] + struct.pack("!H", total) + message[4:]
    head = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + ones + others
    target = "33:33:00:00:00:01" if receiver == "ff02::1" else "fe:ff:ff:ff:ff:ff"
    return ethernet(source, target, IPV6, head + message)


def _ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data + bytes(len(data) % 2)) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

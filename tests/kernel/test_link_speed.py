"""The speed of links, compared with what sysfs says of them."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from contextlib import closing
from pathlib import Path

from tests.bed.netns import Host, Tap
from xennetd.kernel.link_speed import speed_of

SIOCETHTOOL = 0x8946
ETHTOOL_GSET, ETHTOOL_SSET = 1, 2


def set_speed(name: str, speed: int) -> None:
    """What `ethtool -s` does."""
    command = ctypes.create_string_buffer(struct.pack("=I40x", ETHTOOL_GSET), 44)
    ifreq = struct.pack("@16sP16x", name.encode(), ctypes.addressof(command))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, ifreq)
        struct.pack_into("=I", command, 0, ETHTOOL_SSET)
        struct.pack_into("=H", command, 12, speed & 0xFFFF)
        struct.pack_into("=H", command, 28, speed >> 16)
        fcntl.ioctl(any_socket, SIOCETHTOOL, ifreq)


def in_sysfs(name: str) -> int:
    return int(Path(f"/sys/class/net/{name}/speed").read_text())


def test_a_speed_is_what_sysfs_says(host: Host) -> None:
    host.rtnl.add_veth("eth0", "eth1", host.fd)
    for name in ("eth0", "eth1"):
        host.rtnl.set(name, up=True)
    assert speed_of("eth0") == in_sysfs("eth0") == 10_000


def test_a_speed_may_need_more_than_16_bits(host: Host) -> None:
    with closing(Tap("tap0")):
        host.rtnl.set("tap0", up=True)
        set_speed("tap0", 400_000)
        assert speed_of("tap0") == in_sysfs("tap0") == 400_000
        set_speed("tap0", 0xFFFFFFFF)
        assert in_sysfs("tap0") == -1
        assert speed_of("tap0") is None


def test_a_link_without_a_speed_and_no_link_at_all_have_none(host: Host) -> None:
    assert speed_of("lo") is None
    assert speed_of("eth0") is None
    host.rtnl.add_veth("eth012345678901", "eth1", host.fd)
    assert speed_of("eth012345678901") == 10_000
    assert speed_of("eth0123456789012") is None

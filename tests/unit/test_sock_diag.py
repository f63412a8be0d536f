"""The sockets in recorded answers of sock_diag(7), and the same in lines of /proc/net."""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.unit.fuzz.target import recorded
from xennetd.daemon.host_sockets import listening
from xennetd.kernel.netlink import NLM_F_DUMP_INTR, NLMSG_DONE, NetlinkFormatError
from xennetd.kernel.proc_net import read_sockets
from xennetd.kernel.sock_diag import TCP_ESTABLISHED, TCP_LISTEN, DiagSocket, dump_sockets, parse_sockets

ANSWER = (
    "60000000 1400 0200 01000000 ce080000"  # nlmsghdr: 96 bytes, SOCK_DIAG_BY_FAMILY
    "0a 01 00 00 0016 93ae"  # AF_INET6, TCP_ESTABLISHED, port 22, the peer's port 37806
    "00000000 00000000 0000ffff c0000201"
    "00000000 00000000 0000ffff c0000209"
    "00000000 79100000 00000000"  # no link, cookie
    "00000000 00000000 00000000 00000000 b2850501"  # expiry, queues, root, inode 17139122
    "05000800 00000000"  # INET_DIAG_SHUTDOWN
)


@pytest.mark.skipif(sys.byteorder != "little", reason="recorded on a machine of the other byte order")
def test_a_connection_to_a_socket_of_both_ip_versions() -> None:
    data = bytes.fromhex(ANSWER.replace(" ", ""))
    (found,) = parse_sockets([data])
    assert (found.state, found.local, found.port) == (TCP_ESTABLISHED, ip_address("192.0.2.1"), 22)
    assert (found.remote, found.remote_port, found.inode) == (ip_address("192.0.2.9"), 37806, 17139122)
    for end in range(1, len(data)):
        try:
            found_of_part = parse_sockets([data[:end]])
        except NetlinkFormatError:
            continue
        assert (end, found_of_part) == (min(end, 15), [])


def test_the_recorded_sockets() -> None:
    found = parse_sockets(recorded("sock_diag"))
    assert {(str(each.local), each.port) for each in found if each.state == TCP_LISTEN} == {
        ("192.0.2.1", 22),
        ("2001:db8::1", 22),
        ("::", 80),
    }
    assert ("192.0.2.1", 80) in {(str(each.local), each.port) for each in found if each.state == TCP_ESTABLISHED}


def test_an_interrupted_dump_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's side of the socket is played: nothing makes a real kernel interrupt this dump."""

    def done(seq: int, flags: int) -> bytes:
        return struct.pack("=IHHIIi", 20, NLMSG_DONE, flags, seq, 0, 0)

    (listens, *_) = (each for each in recorded("sock_diag") if parse_sockets([each]))
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, closing(DiagSocket()) as diag:
        diag.close()
        monkeypatch.setattr(diag, "_socket", ours)
        for answer in (listens, done(1, NLM_F_DUMP_INTR), done(2, 0), done(3, 0)):
            kernel.send(answer)
        assert diag.sockets("tcp", (TCP_LISTEN,)) == []


@pytest.mark.skipif(sys.byteorder != "little", reason="the numbers of the request are in the machine's byte order")
def test_the_request_for_connections_to_an_address() -> None:
    asked = dump_sockets(7, 10, 6, (TCP_ESTABLISHED, TCP_LISTEN), ip_address("192.0.2.1"))
    assert asked.hex(" ", 4) == (
        "5c000000 14000103 07000000 00000000 "
        "0a060000 02040000 " + "00000000 " * 12 + "14000100 07101400 02200000 ffffffff c0000201"
    )


def test_an_address_of_the_kernels_tables_in_either_byte_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "   0: {}:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1113 1\n"
    for order, digits in (("little", "0100000A"), ("big", "0A000001")):
        (tmp_path / "tcp").write_text("  sl  local_address\n" + line.format(digits))
        monkeypatch.setattr(sys, "byteorder", order)
        (found,) = read_sockets("tcp", (TCP_LISTEN,), proc=tmp_path)
        assert (found.local, found.port, found.inode) == (ip_address("10.0.0.1"), 22, 1113)
        assert read_sockets("tcp", (TCP_ESTABLISHED,), proc=tmp_path) == []
        assert read_sockets("tcp", (TCP_LISTEN,), ip_address("10.0.0.2"), tmp_path) == []


def test_files_that_can_not_be_read_are_not_taken_for_empty(tmp_path: Path) -> None:
    (tmp_path / "tcp").mkdir()
    with pytest.raises(IsADirectoryError):
        read_sockets("tcp", (TCP_LISTEN,), proc=tmp_path)

    def unreadable(*_: object) -> list[object]:
        raise IsADirectoryError

    assert listening(read=unreadable) == frozenset()  # type: ignore[arg-type]

"""The host's sockets as the kernel tells them by sock_diag(7), beside the same ones in /proc/net."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing
from ipaddress import ip_address
from typing import cast

import pytest

from tests.bed.netns import Host
from tests.kernel.wait import eventually
from xennetd.daemon import host_sockets
from xennetd.daemon.host_sockets import ReadSockets, inbound, listening, sockets
from xennetd.kernel.proc_net import read_sockets
from xennetd.kernel.sock_diag import TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN, DiagSocket, InetSocket, Transport
from xennetd.model.ip import IPAddress

MINE, OTHER, MINE6 = "192.0.2.1", "192.0.2.2", "2001:db8::1"
ALL_STATES = (TCP_ESTABLISHED, TCP_LISTEN, TCP_CLOSE)


def asked(transport: Transport, states: Collection[int], local: IPAddress | None = None) -> list[InetSocket]:
    """What the kernel answers, without a way out."""
    with closing(DiagSocket()) as diag:
        return diag.sockets(transport, states, local)


def without_module(transport: Transport, states: Collection[int], local: IPAddress | None = None) -> list[InetSocket]:
    """What is found on a kernel that has no module for the protocol: this one has none for DCCP."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xennetd.kernel.sock_diag._NUMBERS", {"tcp": 33, "udp": 33})
        return sockets(transport, states, local)


both_ways = pytest.mark.parametrize("read", [asked, without_module])


class Programs:
    """Programs that listen, and connections between them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def listen(self, address: str, port: int, *, kind: int = socket.SOCK_STREAM, both: bool = False) -> socket.socket:
        """A program that waits at an address; with `both`, at `::` for both IP versions."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self._stack.enter_context(socket.socket(family, kind))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        return sock

    def connect(self, server: socket.socket, address: str) -> tuple[str, int]:
        """A client of the server, which knows it by this address. Returns the client's own address and port."""
        client = self._stack.enter_context(socket.create_connection((address, server.getsockname()[1])))
        self._stack.enter_context(server.accept()[0])
        return cast(tuple[str, int], client.getsockname()[:2])


@pytest.fixture
def programs(host: Host) -> Iterator[Programs]:
    for address in (f"{MINE}/32", f"{OTHER}/32", f"{MINE6}/128"):
        host.run("ip", "address", "add", address, "dev", "lo", *(("nodad",) if ":" in address else ()))
    eventually(lambda: host.ping(MINE6))  # It has its route some time after the address.
    with ExitStack() as stack:
        yield Programs(stack)


def test_the_kernel_tells_the_sockets_that_proc_shows(programs: Programs) -> None:
    four, six = programs.listen(MINE, 22), programs.listen(MINE6, 22)
    both = programs.listen("::", 80, both=True)
    for server, address in ((four, MINE), (six, MINE6), (both, OTHER), (both, MINE6)):
        programs.connect(server, address)
    programs.listen("0.0.0.0", 53, kind=socket.SOCK_DGRAM)
    programs.listen("::", 53, kind=socket.SOCK_DGRAM)
    programs.listen(MINE, 123, kind=socket.SOCK_DGRAM).connect((OTHER, 4711))
    for protocol, several in (("tcp", (11, {TCP_ESTABLISHED, TCP_LISTEN})), ("udp", (3, {TCP_ESTABLISHED, TCP_CLOSE}))):
        for states in (ALL_STATES, *((state,) for state in ALL_STATES)):
            for local in (None, *map(ip_address, (MINE, OTHER, MINE6, "192.0.2.3"))):
                told = asked(cast(Transport, protocol), states, local)
                assert set(told) == set(read_sockets(cast(Transport, protocol), states, local)), (states, local)
                assert len(set(told)) == len(told)
        found = asked(cast(Transport, protocol), ALL_STATES)
        assert (len(found), {each.state for each in found}) == several
    assert all(each.inode for each in asked("tcp", (TCP_LISTEN,)))


def test_a_protocol_without_a_module_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xennetd.kernel.sock_diag._NUMBERS", {"tcp": 33})
    with pytest.raises(OSError) as refused:  # noqa: PT011 - the errno is the result
        asked("tcp", ALL_STATES)
    assert refused.value.errno == errno.ENOENT


@both_ways
def test_connections_that_others_have_to_an_address(programs: Programs, read: ReadSockets) -> None:
    four, both = programs.listen("0.0.0.0", 22), programs.listen("::", 80, both=True)
    six = programs.listen(MINE6, 22)
    for server, address in ((four, MINE), (four, MINE), (both, MINE), (both, OTHER), (six, MINE6), (four, "127.0.0.1")):
        programs.connect(server, address)
    mine, other, mine6, none = map(ip_address, (MINE, OTHER, MINE6, "192.0.2.3"))
    assert inbound([mine, mine6, none], read) == {mine: 3, mine6: 1}
    assert inbound([other], read) == {other: 1}
    assert inbound([ip_address("127.0.0.1"), none], read) == {}


def test_a_connection_of_the_host_to_others_is_not_one_of_theirs(host: Host, programs: Programs) -> None:
    beyond = host.guest("beyond")
    host.rtnl.add_veth("eth0", "eth0", beyond.fd)
    beyond.rtnl.set("eth0", up=True)
    host.rtnl.set("eth0", up=True)
    host.run("ip", "address", "add", "198.51.100.1/24", "dev", "eth0")
    beyond.run("ip", "address", "add", "198.51.100.2/24", "dev", "eth0")
    address = ip_address("198.51.100.1")
    programs.listen("0.0.0.0", 22)
    with beyond:
        server = programs.listen("198.51.100.2", 80)
    client = socket.create_connection(("198.51.100.2", 80), timeout=10)
    with client, server.accept()[0]:
        assert len(asked("tcp", (TCP_ESTABLISHED,), address)) == 1
        assert inbound([address]) == {}


def test_nobody_asks_for_sockets_where_no_address_goes() -> None:
    def never(*_: object) -> list[InetSocket]:
        raise AssertionError

    assert inbound([], never) == {}


@both_ways
def test_ports_on_which_programs_listen_to_the_outside(programs: Programs, read: ReadSockets) -> None:
    listen = programs.listen
    listen("0.0.0.0", 22)
    listen(MINE6, 80)
    listen("::", 443, both=True)
    listen("127.0.0.1", 25)
    listen("::1", 26)
    listen(OTHER, 27)
    for address, port in (("0.0.0.0", 53), ("::", 54), ("127.0.0.1", 55), (OTHER, 56)):
        listen(address, port, kind=socket.SOCK_DGRAM)
    # A client of UDP waits for the answer of its server only.
    listen(MINE, 123, kind=socket.SOCK_DGRAM).connect((OTHER, 56))
    outside = {("tcp", 22), ("tcp", 80), ("tcp", 443), ("udp", 53), ("udp", 54)}
    assert listening({ip_address(OTHER)}, read) == outside
    assert listening((), read) == outside | {("tcp", 27), ("udp", 56)}


def test_without_sock_diag_the_files_are_read(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the kernel has no sock_diag at all, or a sandbox forbids it."""
    server = programs.listen(MINE, 22)
    programs.connect(server, MINE)

    def refused() -> DiagSocket:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    monkeypatch.setattr(host_sockets, "DiagSocket", refused)
    assert inbound([ip_address(MINE)]) == {ip_address(MINE): 1}
    assert listening() == {("tcp", 22)}

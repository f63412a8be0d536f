"""Links that change while they are read, each time: the daemon takes what it has read, and reads again later."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.bed.netns import Host
from tests.bed.site import ip
from xennetd.kernel import kernel as kernels
from xennetd.kernel.kernel import Kernel

BRIDGES = {f"br{number}" for number in range(200)}


class Restless:
    """The socket of the requests. Before every datagram of a dump, a link comes or goes, and an address comes."""

    def __init__(self, real: socket.socket, host: Host) -> None:
        self._real = real
        self._host = host
        self.reads = 0
        self.calm = False
        self.send = real.send
        self.close = real.close

    def recv(self, size: int) -> bytes:
        self.reads += 1
        assert self.reads < 2000, "it reads for ever"
        if not self.calm:
            if self._host.rtnl.exists("restless"):
                self._host.rtnl.delete("restless")
            else:
                self._host.rtnl.add_bridge("restless")
            self._host.rtnl.add_address("steady", f"10.9.{self.reads // 200}.{self.reads % 200 + 1}/32")
        return self._real.recv(size)


def test_a_start_and_a_look_end_and_nothing_is_missed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_SETTLE", 0.2)
    ip(host, *(f"link add {name} type bridge" for name in (*BRIDGES, "steady")))
    ip(host, "address add 10.8.0.1/24 dev br7")

    async def follow() -> None:
        kernel = Kernel(lambda changes: None, lambda: None)
        restless = Restless(kernel._requests._socket, host)
        kernel._requests._socket = restless  # type: ignore[assignment] # a socket with changes in between
        # when
        started = time.monotonic()
        kernel.start()
        # then
        assert time.monotonic() - started < 5
        assert {link.name for link in kernel.links} >= BRIDGES
        # and when the links rest, the view is right without another event
        restless.calm = True
        await asyncio.sleep(0.5)
        assert kernel.resyncs == 1
        assert not kernel._requests.unsettled
        steady = kernel.links.link("steady")
        assert steady is not None
        with host:
            listed = host.addresses("steady")
        seen = {str(address) for address in steady.addresses if address.version == 4}
        assert seen == {address for address in listed if ":" not in address}
        kernel.close()

    with host:
        asyncio.run(follow())

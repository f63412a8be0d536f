"""Proxy entries that the kernel drops while the daemon deletes them."""

from __future__ import annotations

from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

from xennetd.kernel.netlink import Ack
from xennetd.kernel.proxies import Proxies
from xennetd.model.link import Link
from xennetd.model.marks import ROUTE_PROTOCOL
from xennetd.model.objects import ProxyNeighbour

ETH0 = 2


def test_an_entry_that_is_gone_by_the_time_of_the_answer_is_no_error() -> None:
    links: Any = SimpleNamespace(link=lambda name: Link(ETH0, name), by_index=lambda index: Link(index, "eth0"))

    def ask(*request: object) -> Ack:
        proxies.follow({ETH0})  # The kernel's answer comes after the event that the uplink went down.
        return Ack(0)

    proxies = Proxies(links, ask, list)
    addresses = [IPv4Address("192.0.2.17"), IPv4Address("192.0.2.18")]
    proxies._protocols = {(ETH0, address): ROUTE_PROTOCOL for address in addresses}
    proxies.remove([ProxyNeighbour("eth0", address) for address in addresses])
    assert not proxies.list_owned()

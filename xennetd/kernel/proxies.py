"""The adapter for `ProxyNeighbour`: addresses that the host answers for, marked with xennetd's protocol number.

The kernel has no events for proxy entries. They are dumped at the start, at a reload, at a resync, and after a change
of a link that makes the kernel drop the link's entries (`layer3.Stale.proxies`). The kernel drops them after it sends
the event. If a link goes down and comes back, the dump after the second event, at the latest, shows that they are gone.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Sequence

from xennetd.kernel import netlink, rtnl_ip
from xennetd.kernel.bridges import Ask
from xennetd.kernel.links import Links
from xennetd.kernel.refused import refused
from xennetd.model.errors import HostError
from xennetd.model.ip import IPAddress
from xennetd.model.marks import ROUTE_PROTOCOL
from xennetd.model.objects import ProxyNeighbour


class Proxies:
    """All proxy ARP and proxy NDP entries, marked or not. `dump` returns the kernel's dump of them, as datagrams."""

    def __init__(self, links: Links, ask: Ask, dump: Callable[[], list[bytes]]) -> None:
        self._links = links
        self._ask = ask
        self._dump = dump
        self._protocols: dict[tuple[int, IPAddress], int] = {}

    def load(self) -> bool:
        """Read all entries again. Returns whether a marked entry has disappeared since the last time."""
        before = self._protocols
        messages = ((data, message) for data in self._dump() for message in netlink.headers(data))
        proxies = (
            rtnl_ip.parse_proxy(data, message) for data, message in messages if message.type == rtnl_ip.RTM_NEWNEIGH
        )
        self._protocols = {(proxy.index, proxy.address): proxy.protocol for proxy in proxies if proxy is not None}
        return any(protocol == ROUTE_PROTOCOL and key not in self._protocols for key, protocol in before.items())

    def follow(self, stale: Collection[int]) -> bool:
        """Read all entries again if a link with an index in `stale` has any. Returns as `load` does."""
        return bool(stale) and any(index in stale for index, _ in self._protocols) and self.load()

    def present(self, wanted: ProxyNeighbour) -> ProxyNeighbour | None:
        """Return the entry if the link answers for the address, by a marked entry or another, else None."""
        return wanted if self._key(wanted) in self._protocols else None

    def apply(self, wanted: Sequence[ProxyNeighbour]) -> None:
        """Let links answer for addresses. Raises HostError if a link does not exist."""
        for proxy in wanted:
            key = self._key(proxy)
            if key is None:
                raise HostError(
                    f'the host can\'t answer for {proxy.address} on "{proxy.link}": there is no such link',
                    errno=errno.ENODEV,
                    waits_on=frozenset({proxy.link}),
                )
            if key not in self._protocols:
                ack = self._ask(rtnl_ip.add_proxy, *key)
                if ack.errno:
                    raise refused(proxy, ack)
                self._protocols[key] = ROUTE_PROTOCOL

    def remove(self, objects: Sequence[ProxyNeighbour]) -> None:
        """Delete marked entries; others stay. A missing entry is no error."""
        for proxy in objects:
            key = self._key(proxy)
            if key is not None and self._protocols.get(key) == ROUTE_PROTOCOL:
                ack = self._ask(rtnl_ip.delete_proxy, *key)
                if ack.errno not in (0, errno.ENOENT, errno.ENODEV):
                    raise refused(proxy, ack)
                self._protocols.pop(key, None)  # The answer may have come with news that the entry is gone.

    def list_owned(self) -> Collection[ProxyNeighbour]:
        """Return all marked entries."""
        return [
            ProxyNeighbour(link.name, address)
            for (index, address), protocol in self._protocols.items()
            if protocol == ROUTE_PROTOCOL and (link := self._links.by_index(index)) is not None
        ]

    def _key(self, proxy: ProxyNeighbour) -> tuple[int, IPAddress] | None:
        link = self._links.link(proxy.link)
        return (link.index, proxy.address) if link is not None else None

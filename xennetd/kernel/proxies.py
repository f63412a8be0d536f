"""The adapter for `ProxyNeighbour`: addresses that the host answers for, with our protocol number.

The kernel has no events for these. They are dumped at the start, at a resync, and when something has happened to a link
that has some of ours with which the kernel drops them (layer3.Doubts). It does so after the event: of a link that goes
down and comes back it is the second one, at the latest, that finds them gone.
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
    """Proxy ARP and proxy NDP entries, whoever made them; `dump` asks the kernel for them all."""

    def __init__(self, links: Links, ask: Ask, dump: Callable[[], list[bytes]]) -> None:
        self._links = links
        self._ask = ask
        self._dump = dump
        self._now: dict[tuple[int, IPAddress], int] = {}

    def load(self) -> bool:
        """Read all entries anew. Returns whether one of ours is missing that was there."""
        before = self._now
        messages = ((data, message) for data in self._dump() for message in netlink.headers(data))
        found = (
            rtnl_ip.parse_proxy(data, message) for data, message in messages if message.type == rtnl_ip.RTM_NEWNEIGH
        )
        self._now = {(proxy.index, proxy.address): proxy.protocol for proxy in found if proxy is not None}
        return any(protocol == ROUTE_PROTOCOL and key not in self._now for key, protocol in before.items())

    def follow(self, doubted: Collection[int]) -> bool:
        """Look again if one of these links has entries. Returns whether one of ours is missing now."""
        return bool(doubted) and any(index in doubted for index, _ in self._now) and self.load()

    def present(self, wanted: ProxyNeighbour) -> ProxyNeighbour | None:
        """Return the entry if the link answers for the address, whoever had it do so."""
        return wanted if self._key(wanted) in self._now else None

    def apply(self, wanted: Sequence[ProxyNeighbour]) -> None:
        """Have links answer for addresses. Raises HostError where there is no such link."""
        for each in wanted:
            key = self._key(each)
            if key is None:
                raise HostError(
                    f'the host can\'t answer for {each.address} on "{each.link}": there is no such link',
                    errno=errno.ENODEV,
                    waits_on=frozenset({each.link}),
                )
            if key not in self._now:
                ack = self._ask(rtnl_ip.add_proxy, *key)
                if ack.errno:
                    raise refused(each, ack)
                self._now[key] = ROUTE_PROTOCOL

    def remove(self, objects: Sequence[ProxyNeighbour]) -> None:
        """Have links answer no longer, for what is ours."""
        for each in objects:
            key = self._key(each)
            if key is not None and self._now.get(key) == ROUTE_PROTOCOL:
                ack = self._ask(rtnl_ip.delete_proxy, *key)
                if ack.errno not in (0, errno.ENOENT, errno.ENODEV):
                    raise refused(each, ack)
                del self._now[key]

    def list_owned(self) -> Collection[ProxyNeighbour]:
        """Return all entries with our protocol number."""
        return [
            ProxyNeighbour(link.name, address)
            for (index, address), protocol in self._now.items()
            if protocol == ROUTE_PROTOCOL and (link := self._links.by_index(index)) is not None
        ]

    def _key(self, proxy: ProxyNeighbour) -> tuple[int, IPAddress] | None:
        link = self._links.link(proxy.link)
        return (link.index, proxy.address) if link is not None else None

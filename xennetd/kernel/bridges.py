"""The hands for `OwnBridge` and `HostAddress`: bridges of ours, in BRIDGE_GROUP, and the host's addresses."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Sequence

from xennetd.kernel import rtnl, rtnl_ip
from xennetd.kernel.hand import refused
from xennetd.kernel.links import Links
from xennetd.kernel.netlink import Ack
from xennetd.model.errors import HostError
from xennetd.model.ground import BRIDGE_GROUP, HostAddress, OwnBridge
from xennetd.model.link import Link

Ask = Callable[..., Ack]
"""`Kernel.ask`: makes one request of `rtnl` or `rtnl_ip` with these arguments, and takes in what it changed."""


class Bridges:
    """Bridges that the daemon makes for networks of its own."""

    def __init__(self, links: Links, ask: Ask) -> None:
        self._links = links
        self._ask = ask

    def holds(self, needed: OwnBridge) -> bool:
        """Return whether the bridge is there, ours, up, and has its own address."""
        link = self._links.link(needed.name)
        return link is not None and _is_ours(link) and link.up and link.address == needed.address

    def ensure(self, needed: Sequence[OwnBridge]) -> None:
        """Make bridges. Raises HostError for a name that something else has."""
        for bridge in needed:
            if self.holds(bridge):
                continue
            ack = self._make(bridge)
            if ack.errno == errno.ENODEV:
                ack = self._make(bridge)  # It went a moment ago, which the answer has made known.
            if ack.errno:
                raise refused(bridge, ack)

    def _make(self, bridge: OwnBridge) -> Ack:
        link = self._links.link(bridge.name)
        if link is None:
            return self._ask(rtnl.add_bridge, bridge.name, bridge.address, BRIDGE_GROUP)
        if _is_ours(link):
            return self._ask(rtnl.set_link, link.index, address=bridge.address, up=True)
        raise HostError(
            f'bridge "{bridge.name}" can\'t be made: there is a {link.kind or "link"} of that name, which '
            "xennetd did not make; remove it, or give the network another name for its bridge",
            errno=errno.EEXIST,
            waits_on=frozenset({bridge.name}),
        )

    def release(self, objects: Sequence[OwnBridge]) -> None:
        """Delete bridges, if they are ours."""
        for bridge in objects:
            link = self._links.link(bridge.name)
            if link is not None and _is_ours(link):
                ack = self._ask(rtnl.delete_link, link.index)
                if ack.errno not in (0, errno.ENODEV):
                    raise refused(bridge, ack)

    def ours(self) -> Collection[OwnBridge]:
        """Return all bridges in BRIDGE_GROUP."""
        return [OwnBridge(link.name, link.address) for link in self._links.bridges() if _is_ours(link)]


class HostAddresses:
    """Addresses of the host on bridges of ours. A link-local one is the kernel's own, unless somebody needs it."""

    def __init__(self, links: Links, ask: Ask) -> None:
        self._links = links
        self._ask = ask

    def holds(self, needed: HostAddress) -> bool:
        """Return whether the link has the address."""
        link = self._links.link(needed.link)
        return link is not None and needed.address in link.addresses

    def ensure(self, needed: Sequence[HostAddress]) -> None:
        """Add addresses, without duplicate address detection. Raises HostError where the link is not one of ours."""
        for each in needed:
            link = self._links.link(each.link)
            if link is None or not _is_ours(link):
                raise HostError(
                    f'{each.address} can\'t be given to "{each.link}": there is no bridge of xennetd of that name',
                    errno=errno.ENODEV,
                    waits_on=frozenset({each.link}),
                )
            if each.address not in link.addresses:
                self._links.doubt_addresses(link.index)
                ack = self._ask(rtnl_ip.add_address, link.index, each.address)
                if ack.errno not in (0, errno.EEXIST):
                    raise refused(each, ack)

    def release(self, objects: Sequence[HostAddress]) -> None:
        """Take addresses off links of ours."""
        for each in objects:
            link = self._links.link(each.link)
            if link is not None and _is_ours(link) and each.address in link.addresses:
                ack = self._ask(rtnl_ip.delete_address, link.index, each.address)
                if ack.errno not in (0, errno.EADDRNOTAVAIL, errno.ENODEV):
                    raise refused(each, ack)

    def ours(self) -> Collection[HostAddress]:
        """Return none: an address carries no mark of ours, and an administrator may have put one onto our bridge."""
        return ()


def _is_ours(link: Link) -> bool:
    return link.kind == "bridge" and link.group == BRIDGE_GROUP

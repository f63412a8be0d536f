"""The adapters for `ManagedBridge` and `HostAddress`: bridges in BRIDGE_GROUP, and the host's addresses on them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Sequence

from xennetd.kernel import rtnl, rtnl_ip
from xennetd.kernel.links import Links
from xennetd.kernel.netlink import Ack
from xennetd.kernel.refused import refused
from xennetd.model.errors import HostError
from xennetd.model.link import Link
from xennetd.model.marks import BRIDGE_GROUP
from xennetd.model.objects import HostAddress, ManagedBridge

Ask = Callable[..., Ack]
"""`Kernel.ask`: makes one request of `rtnl` or `rtnl_ip` with these arguments, and takes in what it changed."""


class Bridges:
    """Bridges that the daemon makes for networks of its own."""

    def __init__(self, links: Links, ask: Ask) -> None:
        self._links = links
        self._ask = ask

    def present(self, wanted: ManagedBridge) -> ManagedBridge | None:
        """Return the bridge of ours with this name as it is."""
        link = self._links.link(wanted.name)
        return _bridge(link) if link is not None and _is_ours(link) else None

    def apply(self, wanted: Sequence[ManagedBridge]) -> None:
        """Make bridges, or set the address and the state of those that are there.

        Raises HostError for a name that something else has.
        """
        for bridge in wanted:
            if self.present(bridge) == bridge:
                continue
            ack = self._make(bridge)
            if ack.errno == errno.ENODEV:
                ack = self._make(bridge)  # It went a moment ago, which the answer has made known.
            if ack.errno:
                raise refused(bridge, ack)

    def _make(self, bridge: ManagedBridge) -> Ack:
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

    def remove(self, objects: Sequence[ManagedBridge]) -> None:
        """Delete bridges, if they are ours."""
        for bridge in objects:
            link = self._links.link(bridge.name)
            if link is not None and _is_ours(link):
                ack = self._ask(rtnl.delete_link, link.index)
                if ack.errno not in (0, errno.ENODEV):
                    raise refused(bridge, ack)

    def list_owned(self) -> Collection[ManagedBridge]:
        """Return all bridges in BRIDGE_GROUP."""
        return [_bridge(link) for link in self._links.bridges() if _is_ours(link)]


class HostAddresses:
    """Addresses of the host on bridges of ours. A link-local one is the kernel's own, unless somebody needs it."""

    def __init__(self, links: Links, ask: Ask) -> None:
        self._links = links
        self._ask = ask

    def present(self, wanted: HostAddress) -> HostAddress | None:
        """Return the address if the link has it."""
        link = self._links.link(wanted.link)
        return wanted if link is not None and wanted.address in link.addresses else None

    def apply(self, wanted: Sequence[HostAddress]) -> None:
        """Add addresses, without duplicate address detection. Raises HostError where the link is not one of ours."""
        for each in wanted:
            link = self._links.link(each.link)
            if link is None or not _is_ours(link):
                raise HostError(
                    f'{each.address} can\'t be given to "{each.link}": there is no bridge of xennetd of that name',
                    errno=errno.ENODEV,
                    waits_on=frozenset({each.link}),
                )
            if each.address not in link.addresses:
                self._links.mark_addresses_stale(link.index)
                ack = self._ask(rtnl_ip.add_address, link.index, each.address)
                if ack.errno not in (0, errno.EEXIST):
                    raise refused(each, ack)

    def remove(self, objects: Sequence[HostAddress]) -> None:
        """Take addresses off links of ours."""
        for each in objects:
            link = self._links.link(each.link)
            if link is not None and _is_ours(link) and each.address in link.addresses:
                ack = self._ask(rtnl_ip.delete_address, link.index, each.address)
                if ack.errno not in (0, errno.EADDRNOTAVAIL, errno.ENODEV):
                    raise refused(each, ack)

    def list_owned(self) -> Collection[HostAddress]:
        """Return none: an address carries no mark of ours, and an administrator may have put one onto our bridge."""
        return ()


def _bridge(link: Link) -> ManagedBridge:
    return ManagedBridge(link.name, link.address, link.up)


def _is_ours(link: Link) -> bool:
    return link.kind == "bridge" and link.group == BRIDGE_GROUP

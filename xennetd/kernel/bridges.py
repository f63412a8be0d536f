"""The adapters for `ManagedBridge` and `HostAddress`: bridges in BRIDGE_GROUP, and the host's addresses on them.

"Ours" means a bridge that carries xennetd's mark, the link group BRIDGE_GROUP. A bridge stays ours if somebody takes
the mark from it while the daemon runs (`Link.unmarked`), and it is marked again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Sequence

from xennetd.kernel import rtnl, rtnl_ip
from xennetd.kernel.links import Links, is_guest_port
from xennetd.kernel.netlink import Ack
from xennetd.kernel.refused import refused
from xennetd.model.errors import HostError
from xennetd.model.ip import IPInterface
from xennetd.model.link import Link
from xennetd.model.marks import BRIDGE_GROUP
from xennetd.model.objects import HostAddress, ManagedBridge
from xennetd.model.value import replace

Ask = Callable[..., Ack]
"""`Kernel.ask`: sends one request of `rtnl` or `rtnl_ip` with these arguments, then updates the view of the links."""


class Bridges:
    """The bridges that xennetd makes for its networks."""

    def __init__(self, links: Links, ask: Ask) -> None:
        self._links = links
        self._ask = ask

    def present(self, wanted: ManagedBridge) -> ManagedBridge | None:
        """Return our bridge with the wanted name as it is now, also if it is renamed; None if there is none."""
        link = self._links.link(wanted.name)
        if link is not None:
            return _bridge(link) if link.is_own_bridge else None
        renamed = self._renamed(wanted)
        return replace(_bridge(renamed), name=wanted.name, renamed=renamed.name) if renamed is not None else None

    def _renamed(self, wanted: ManagedBridge) -> Link | None:
        renamed = (link for link in self._links.bridges() if link.is_own_bridge and link.name not in wanted.others)
        return next((link for link in renamed if link.address == wanted.address), None)

    def apply(self, wanted: Sequence[ManagedBridge]) -> None:
        """Make missing bridges, and set the name, the MAC, the mark and the up flag of existing ones.

        Raises HostError if a link without the mark has the name.
        """
        for bridge in wanted:
            if self.present(bridge) == bridge:
                continue
            ack = self._make(bridge)
            if ack.errno == errno.ENODEV:
                # The bridge was deleted a moment ago. The request has updated the view, so the bridge is made now.
                ack = self._make(bridge)
            if ack.errno:
                raise refused(bridge, ack)

    def _make(self, bridge: ManagedBridge) -> Ack:
        link = self._links.link(bridge.name)
        if link is None and (renamed := self._renamed(bridge)) is not None:
            return self._rename(renamed, bridge.name)
        if link is None:
            return self._ask(rtnl.add_bridge, bridge.name, bridge.address, BRIDGE_GROUP)
        if link.is_own_bridge:
            return self._ask(rtnl.set_link, link.index, address=bridge.address, up=True, group=BRIDGE_GROUP)
        raise HostError(
            f'bridge "{bridge.name}" can\'t be made: there is a {link.kind or "link"} of that name, which '
            "xennetd did not make; remove it, or give the network another name for its bridge",
            errno=errno.EEXIST,
            waits_on=frozenset({bridge.name}),
        )

    def _rename(self, link: Link, name: str) -> Ack:
        ack = self._ask(rtnl.set_link, link.index, name=name)
        if ack.errno == errno.EBUSY:
            # Before Linux 6.2 only a link that is down can be renamed. Its guests lose packets for a moment.
            self._ask(rtnl.set_link, link.index, up=False)
            ack = self._ask(rtnl.set_link, link.index, name=name)
            self._ask(rtnl.set_link, link.index, up=True)
        return ack

    def remove(self, objects: Sequence[ManagedBridge]) -> None:
        """Delete bridges that are ours; others stay. A bridge that does not exist is no error."""
        for bridge in objects:
            link = self._links.link(bridge.name)
            if link is not None and link.is_own_bridge:
                ack = self._ask(rtnl.delete_link, link.index)
                if ack.errno not in (0, errno.ENODEV):
                    raise refused(bridge, ack)

    def list_owned(self) -> Collection[ManagedBridge]:
        """Return all bridges that are ours, and whether they serve guests."""
        ours = [link for link in self._links.bridges() if link.is_own_bridge]
        return [replace(_bridge(link), serves=self._serves(link)) for link in ours]

    def _serves(self, bridge: Link) -> bool:
        return any(link.master == bridge.index and link.up and is_guest_port(link) for link in self._links)


class HostAddresses:
    """The host's addresses on marked bridges. Their mark is the protocol number ADDRESS_PROTOCOL.

    An address that a network wants on its own bridge is xennetd's, whoever added it, and gets the mark. All others that
    an administrator adds stay unmarked and are never touched. A kernel that keeps no protocol numbers (Linux before
    5.18) shows no mark: there xennetd removes only what an owner gives up, and finds nothing of earlier runs.
    `may_have` says which links are meant: bridges that xennetd made or, for the topology's addresses, any link.
    """

    def __init__(
        self, links: Links, ask: Ask, may_have: Callable[[Link], bool] = lambda link: link.is_own_bridge
    ) -> None:
        self._links = links
        self._ask = ask
        self._may_have = may_have

    def present(self, wanted: HostAddress) -> HostAddress | None:
        """Return the address if its link has it, with or without the mark, else None."""
        link = self._links.link(wanted.link)
        if link is None or wanted.address not in link.addresses:
            return None
        return wanted if self._is_marked(link, wanted) else replace(wanted, marked=False)

    def apply(self, wanted: Sequence[HostAddress]) -> None:
        """Add and mark addresses, without duplicate address detection.

        Raises HostError if the link is not a marked bridge.
        """
        for host_address in wanted:
            link = self._links.link(host_address.link)
            if link is None or not self._may_have(link):
                raise HostError(
                    f'{host_address.address} can\'t be given to "{host_address.link}": '
                    "xennetd has no link of that name",
                    errno=errno.ENODEV,
                    waits_on=frozenset({host_address.link}),
                )
            if host_address.address in link.addresses and self._is_marked(link, host_address):
                continue
            self._links.mark_addresses_stale(link.index)
            for other in _other_prefix_lengths(host_address.address, link):
                self._ask(rtnl_ip.delete_address, link.index, other)
            ack = self._ask(rtnl_ip.add_address, link.index, host_address.address, marked=True)
            if ack.errno not in (0, errno.EEXIST):
                raise refused(host_address, ack)

    def remove(self, objects: Sequence[HostAddress]) -> None:
        """Take marked addresses off marked bridges. A missing address or link is no error."""
        for host_address in objects:
            link = self._links.link(host_address.link)
            if link is None or not self._may_have(link):
                continue
            if host_address.address in link.addresses and self._is_marked(link, host_address):
                ack = self._ask(rtnl_ip.delete_address, link.index, host_address.address)
                if ack.errno not in (0, errno.EADDRNOTAVAIL, errno.ENODEV):
                    raise refused(host_address, ack)

    def list_owned(self) -> Collection[HostAddress]:
        """Return all marked addresses on marked bridges."""
        return [
            HostAddress(link.name, address)
            for link in self._links.bridges()
            if self._may_have(link)
            for address in sorted(self._links.marked_addresses(link.index), key=str)
        ]

    def _is_marked(self, link: Link, wanted: HostAddress) -> bool:
        """Return whether an address of a link has the mark, or can't have it in this kernel."""
        return not self._links.tells_protocols or wanted.address in self._links.marked_addresses(link.index)


def _bridge(link: Link) -> ManagedBridge:
    return ManagedBridge(link.name, link.address, link.up, marked=link.group == BRIDGE_GROUP)


def _other_prefix_lengths(address: IPInterface, link: Link) -> list[IPInterface]:
    """Return the same IPv6 address with other prefix lengths, as the link has it.

    A link has an IPv6 address only once (ipv6_chk_same_addr() in net/ipv6/addrconf.c): the kernel refuses a second one
    with EEXIST, and no request changes the length of the first.
    """
    return [other for other in link.addresses if address.version == 6 and other.ip == address.ip and other != address]

"""The adapter for `Offload`: whether a link computes the checksums of what is sent through it (`ethtool -K LINK tx`).

The offload is up to five features, by the driver; all those whose names begin with "tx-checksum-" count. What is
compared is what is wanted, since netback has a feature only while the frontend takes it. What was wanted before xennetd
switched it is in the link's own `tag` (`model.marks.offload_tag`), which a renamed link keeps and a new one lacks. So
it is given back as it was, also by another process, and nothing is given back that somebody else has switched off.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from xennetd.kernel.ethtool import EthtoolSocket
from xennetd.kernel.links import Links, is_guest_port
from xennetd.kernel.netlink import Ack
from xennetd.kernel.procsys import read_sysctl, write_sysctl
from xennetd.kernel.refused import refused
from xennetd.model.errors import HostError
from xennetd.model.link import Link
from xennetd.model.marks import offload_of, offload_tag
from xennetd.model.objects import Sysctl
from xennetd.model.offload import Offload

_PREFIX = "tx-checksum-"


class _State(NamedTuple):
    """The tx checksum features of a link, a bit for each, as `kernel.ethtool.Features`."""

    switchable: int
    wanted: int
    active: int

    def is_as(self, *, on: bool) -> bool:
        """Return whether the offload is on or off and stays so, whatever the driver can do later."""
        if not on:
            return not (self.wanted & self.switchable or self.active)
        return self.wanted & self.switchable == self.switchable and bool(self.switchable or self.active)


class Offloads:
    """The tx checksum offload of guests' interfaces and of the host's NICs. The socket is opened at the first use."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._socket: EthtoolSocket | None = None
        self._bits: list[tuple[str, int]] = []

    def close(self) -> None:
        """Close the socket, if it was opened."""
        if self._socket is not None:
            self._socket.close()

    def present(self, wanted: Offload) -> Offload | None:
        """Return the offload as it is, None if there is no such link. From now on its changes are events."""
        link = self._find(wanted)
        if link is None:
            return None
        self._links.watch_features(link.index)
        state = self._read(link)
        if state is None:
            return None
        right = state.is_as(on=wanted.tx_checksum)
        return wanted if right else Offload(wanted.link, not wanted.tx_checksum, wanted.vif)

    def apply(self, wanted: Sequence[Offload]) -> None:
        """Switch the offload, and remember first what it was, unless the link's tag is somebody else's.

        Raises HostError where the driver does not allow it.
        """
        for item in wanted:
            link = self._find(item)
            state = self._read(link) if link is not None else None
            if link is None or state is None:
                raise self._missing(item, link)
            if state.is_as(on=item.tx_checksum):
                continue
            goal = state.switchable if item.tx_checksum else 0
            after = state._replace(wanted=goal, active=state.active & (goal | ~state.switchable))
            if not after.is_as(on=item.tx_checksum):
                raise _not_switchable(item)
            tag = self._tag(link)
            found = offload_of(tag)
            before = found[0] if found is not None else state.wanted & state.switchable
            if before != goal and (tag == 0 or found is not None):
                self._remember(link, offload_tag(before, on=item.tx_checksum))
            self._switch(item, link, goal, state.switchable)
            if before == goal and found is not None:
                self._remember(link, 0)

    def remove(self, objects: Sequence[Offload]) -> None:
        """Restore what was before xennetd switched it, unless somebody else has switched it since."""
        for item in objects:
            link = self._find(item)
            if link is None:
                continue
            self._links.watch_features(link.index, watch=False)
            found = offload_of(self._tag(link))
            state = self._read(link) if found is not None else None
            if found is None or state is None:
                continue
            before, on = found
            if state.wanted & state.switchable == (state.switchable if on else 0):
                self._switch(item, link, before, state.switchable)
            self._remember(link, 0)

    def list_owned(self) -> Collection[Offload]:
        """Return the guests' interfaces whose offload xennetd has switched, an earlier run of the daemon among it."""
        return [item for link in self._links if link.parent is not None and (item := self._marked(link)) is not None]

    def of_host(self, name: str | None = None) -> Iterator[Offload]:
        """Yield the host's own links whose offload xennetd has switched; with `name`, only the link of that name."""
        for link in self._links:
            if name in (None, link.name) and not is_guest_port(link) and (item := self._marked(link)) is not None:
                yield item

    def _marked(self, link: Link) -> Offload | None:
        found = offload_of(self._tag(link))
        return Offload(link.name, found[1], link.parent) if found is not None else None

    def _find(self, item: Offload) -> Link | None:
        return self._links.of(item.vif) if item.vif is not None else self._links.link(item.link)

    def _ethtool(self) -> EthtoolSocket | None:
        """Return the socket, None where the kernel has no ethtool netlink. Raises OSError."""
        if self._socket is None:
            self._socket = EthtoolSocket()
            found = ((bit, name) for name, bit in self._socket.names.items() if name.startswith(_PREFIX))
            self._bits = [(name, 1 << bit) for bit, name in sorted(found)]
        return self._socket if self._bits else None

    def _read(self, link: Link) -> _State | None:
        """Return the state of a link, None if it is gone, or where the kernel has no ethtool netlink."""
        ethtool = self._ethtool()
        features = ethtool.read(link.index) if ethtool is not None else None
        return _State(*map(self._numbered, features)) if features is not None else None

    def _numbered(self, features: int) -> int:
        """Return the tx checksum features of a set of features, numbered from 0, as a link's tag has them."""
        return sum(1 << number for number, (_, bit) in enumerate(self._bits) if features & bit)

    def _switch(self, item: Offload, link: Link, goal: int, switchable: int) -> None:
        """Have those features of `goal` on, and all others of `switchable` off. Raises HostError."""
        ethtool = self._ethtool()
        known = [(name, 1 << number) for number, (name, _) in enumerate(self._bits) if switchable & 1 << number]
        values = {name: bool(goal & bit) for name, bit in known}
        ack = ethtool.switch(link.index, values) if ethtool is not None else Ack(errno.EOPNOTSUPP)
        if ack.errno not in (0, errno.ENODEV):
            raise refused(item, ack)

    def _tag(self, link: Link) -> int:
        return read_sysctl(4, link.name, "tag") or 0

    def _remember(self, link: Link, tag: int) -> None:
        """Write the link's tag. Raises HostError."""
        ethtool = self._ethtool()
        if ethtool is None or ethtool.index_of(link.name) != link.index:
            # The kernel has sysctls by name only. The event of the new name is on its way.
            raise HostError(f'"{link.name}" has another name since a moment ago', errno=errno.ENODEV)
        sysctl = Sysctl(4, link.name, "tag", tag)
        try:
            with suppress(FileNotFoundError):  # A link with an MTU below 68 has no sysctls of IPv4.
                write_sysctl(sysctl)
        except OSError as error:
            code = error.errno or errno.EIO
            raise HostError(f"the kernel refuses `{sysctl.describe()}`: {os.strerror(code)}", errno=code) from error

    def _missing(self, item: Offload, link: Link | None) -> HostError:
        if link is None or self._ethtool() is not None:
            return HostError(f'there is no link "{item.link}"', errno=errno.ENODEV, waits_on=frozenset({item.link}))
        return HostError(
            "tx_checksum needs a kernel with ethtool netlink (CONFIG_ETHTOOL_NETLINK), and this host's has none: "
            "take the key out of the configuration",
            errno=errno.EOPNOTSUPP,
        )


def _not_switchable(item: Offload) -> HostError:
    can = "has no tx checksum offload to switch on" if item.tx_checksum else "can't switch its tx checksum offload off"
    where = "its network and its policy" if item.vif is not None else "its [nic] section"
    return HostError(f"the driver of {item.link} {can}: take tx_checksum out of {where}", errno=errno.EOPNOTSUPP)

"""The adapter for `Sysctl`: values of net.ipv4.conf and net.ipv6.conf, and their original values.

The original value is the one before xennetd changed it.
Rule 1: the original value is saved in xennetd's nftables table before the change. There it survives the daemon. Like
the sysctl itself, it is lost when the machine restarts.
Rule 2: a sysctl that was right already is not saved, and so it is never changed back.
Rule 3: the sysctls of xennetd's own links disappear with the link; nothing is saved of them. While the link stays, a
sysctl that nobody wants any more gets the value that the kernel gives a new link (`conf/default`). Any other value on
one of xennetd's bridges counts as xennetd's: that of a network that was changed while no daemon ran.
Rule 4: net.ipv6.conf.all.forwarding sets the `forwarding` of every link and of `default`. Their original values are
saved as well. The links that forwarded are restored in the end; until then the others forward to guests only.
Rule 5: a value is saved under the index of its link, so that a renamed link gets its own value back.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from xennetd.kernel.links import Links, is_guest_port
from xennetd.kernel.procsys import read_sysctl, write_sysctl
from xennetd.model.errors import HostError
from xennetd.model.objects import RULESET, Sysctl
from xennetd.render.nft_ruleset import GUEST_ONLY_LINKS

_SETTINGS = (
    "forwarding",
    "force_forwarding",
    "rp_filter",
    "proxy_arp",
    "proxy_ndp",
    "accept_ra",
    "disable_ipv6",
    "accept_dad",
)
"""The settings that xennetd may change on foreign links. Their positions are saved: add new ones at the end only."""

_ALL6 = Sysctl(6, "all", "forwarding", 1)
_FORWARDED = str(6 << 8 | 0xFF)
"""The number under which a link's own `forwarding` is saved when net.ipv6.conf.all.forwarding is switched on."""

_ON_OWN_BRIDGES = ((4, "forwarding"), (4, "rp_filter"), (6, "forwarding"), (6, "force_forwarding"))
"""The sysctls of xennetd's bridges that depend on their networks' modes and subnets: (IP version, setting)."""

_U32 = 1 << 32
_NO_LINKS = {"all": 0, "default": _U32 - 1}
"""The numbers that stand for a link's index where the sysctl belongs to no link."""


Number = tuple[str, str]
"""The key of a saved value: the link's index, and a number for IP version and setting, both in decimal."""

Saved = tuple[Number, int, str | None]
"""A key, the original value, and the set of GUEST_ONLY_LINKS that the link must join, if any."""


class SavedSysctls(Protocol):
    """Keeps the original values of sysctls beyond the daemon's life (`nft.table`)."""

    def saved(self) -> Mapping[Number, int]:
        """Return all saved values by key."""
        ...

    def save(self, values: Iterable[Saved]) -> None:
        """Save all values or none. Raises HostError."""
        ...

    def forget(self, key: Number, guest_only: str | None) -> None:
        """Delete a saved value, and take its link out of the set `guest_only`. Raises HostError."""
        ...


class Sysctls:
    """Sysctls that have xennetd's value while they have an owner, and their original value afterwards."""

    def __init__(self, links: Links, saved: SavedSysctls) -> None:
        self._links = links
        self._saved = saved

    def present(self, wanted: Sysctl) -> Sysctl | None:
        """Return the sysctl with its current value, None if the kernel does not have it.

        A value in `wanted.unless` counts as the wanted one. So does a missing sysctl, if `unless` is not empty.
        """
        value = read_sysctl(wanted.version, wanted.link, wanted.setting)
        if value is None:
            return wanted if wanted.unless else None
        right = value == wanted.value or value in wanted.unless
        return wanted if right else Sysctl(wanted.version, wanted.link, wanted.setting, value)

    def apply(self, wanted: Sequence[Sysctl]) -> None:
        """Set values, and save the original ones first.

        Raises HostError if the kernel lacks the sysctl or refuses the value, or if the original can't be saved.
        """
        for sysctl in wanted:
            before = self.present(sysctl)
            if before == sysctl:
                continue
            key = _key(sysctl)
            if before is None or key is None:
                raise HostError(
                    f"the host has no setting {sysctl.path}: the link is gone, or the kernel lacks this setting",
                    errno=errno.ENOENT,
                    waits_on=frozenset({sysctl.link}),
                )
            if not self._goes_with_its_link(key) and key not in self._saved.saved():
                guest_only = _guest_only(sysctl) if sysctl.value else None
                links = self._forwarding() if sysctl == _ALL6 else []
                self._saved.save([(key, before.value % _U32, guest_only), *links])
            _write(sysctl)

    def remove(self, objects: Sequence[Sysctl]) -> None:
        """Restore original values, and forget them. A value that another program has changed since is left alone."""
        for sysctl in objects:
            key = _key(sysctl)
            if key is None:
                continue
            unchanged = read_sysctl(sysctl.version, sysctl.link, sysctl.setting) == sysctl.value
            if self._goes_with_its_link(key):
                default = read_sysctl(sysctl.version, "default", sysctl.setting)
                if unchanged and default is not None:
                    _restore(sysctl, default)
                continue
            before = self._saved.saved().get(key)
            if before is None:
                continue
            if unchanged:
                _restore(sysctl, before - _U32 if before >= _U32 >> 1 else before)
            if sysctl.key == _ALL6.key:
                self._forget_forwarding(restore=unchanged)
            self._saved.forget(key, _guest_only(sysctl))

    def list_owned(self) -> Collection[Sysctl]:
        """Return the sysctls with a saved value, and those of xennetd's bridges, with their current values.

        Values of deleted links are forgotten. A link may forward because of its sysctl, so it must not lose the filter
        before.
        """
        owned = list(self._of_own_bridges())
        for key in self._saved.saved():
            index, number = int(key[0]), int(key[1])
            link = _name(index)
            if link is None:
                with suppress(HostError):  # The next call tries again.
                    self._saved.forget(key, None)
                    for guest_only in GUEST_ONLY_LINKS.values():
                        self._saved.forget(key, guest_only)
            elif key[1] != _FORWARDED and number & 0xFF < len(_SETTINGS):  # A newer xennetd may know more settings.
                version, setting = number >> 8, _SETTINGS[number & 0xFF]
                now = read_sysctl(version, link, setting)
                if now is not None:
                    owned.append(Sysctl(version, link, setting, now, after=frozenset({RULESET})))
        return owned

    def _of_own_bridges(self) -> Iterator[Sysctl]:
        for link in self._links.bridges():
            if not link.is_own_bridge:
                continue
            for version, setting in _ON_OWN_BRIDGES:
                now = read_sysctl(version, link.name, setting)
                if now is not None and now != read_sysctl(version, "default", setting):
                    yield Sysctl(version, link.name, setting, now, after=frozenset({RULESET}))

    def _forwarding(self) -> list[Saved]:
        """Return the `forwarding` of `default` and of every foreign link, to save before that of `all` is set."""
        foreign = [link for link in self._links if not is_guest_port(link) and not link.is_own]
        indexes = {"default": _NO_LINKS["default"], **{link.name: link.index for link in foreign}}
        values: list[Saved] = []
        for link, index in indexes.items():
            before = read_sysctl(6, link, "forwarding")
            if before is not None:
                key = (str(index), _FORWARDED)
                values.append((key, before, _forwards_to_guests_only(key, before)))
        return values

    def _forget_forwarding(self, *, restore: bool) -> None:
        for key, before in self._saved.saved().items():
            if key[1] != _FORWARDED:
                continue
            link = _name(int(key[0]))
            if restore and before and link is not None:
                with suppress(HostError):  # The link may be gone.
                    _write(Sysctl(6, link, "forwarding", before))
            self._saved.forget(key, _forwards_to_guests_only(key, before))

    def _goes_with_its_link(self, key: Number) -> bool:
        link = self._links.by_index(int(key[0]))
        return link is not None and link.is_own


def _key(sysctl: Sysctl) -> Number | None:
    """Return the key of a saved value, None if there is no such link.

    The kernel says which link has the name now, and the file below /proc/sys belongs to that link. The view of the
    links may be older.
    """
    index = _NO_LINKS.get(sysctl.link)
    if index is None:
        try:
            index = socket.if_nametoindex(sysctl.link)
        except OSError:
            return None
    return str(index), str(sysctl.version << 8 | _SETTINGS.index(sysctl.setting))


def _name(index: int) -> str | None:
    for name, number in _NO_LINKS.items():
        if number == index:
            return name
    try:
        return socket.if_indextoname(index)
    except OSError:
        return None


def _write(sysctl: Sysctl) -> None:
    try:
        write_sysctl(sysctl)
    except OSError as error:
        code = error.errno or errno.EIO
        raise HostError(f"the kernel refuses `{sysctl.describe()}`: {os.strerror(code)}", errno=code) from error


def _restore(sysctl: Sysctl, value: int) -> None:
    """Write a value in place of xennetd's. A link that has gone meanwhile is no error."""
    try:
        _write(Sysctl(sysctl.version, sysctl.link, sysctl.setting, value))
    except HostError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def _forwards_to_guests_only(key: Number, before: int) -> str | None:
    """Return the set for a link that did not forward IPv6 originally; None if it did, or for `all` and `default`."""
    return GUEST_ONLY_LINKS[6] if not before and int(key[0]) not in _NO_LINKS.values() else None


def _guest_only(sysctl: Sysctl) -> str | None:
    """Return the set of links that forward only because of xennetd, if this sysctl makes its link one of them."""
    if (sysctl.version, sysctl.setting) in ((4, "forwarding"), (6, "force_forwarding")):
        return GUEST_ONLY_LINKS[sysctl.version]
    return None

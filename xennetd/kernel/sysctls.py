"""The adapter for `Sysctl`: values of net.ipv4.conf and net.ipv6.conf, and what they were before us.

Rule 1: what a value was is saved, in our nftables table, before it is changed; there it outlives us, and goes with the
machine, as the value does.
Rule 2: a value that was right before us is not saved, and so never changed back.
Rule 3: the values of a link of ours go with the link; nothing is saved of them.
Rule 4: net.ipv6.conf.all.forwarding sets that of every link and of `default`. What these were is saved as well: those
that were on are on again afterwards, and the others forward to guests only.
Rule 5: what is saved of a link is saved by its index, so that it goes back to the same link under whatever name.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from xennetd.kernel.links import Links, is_guest_port
from xennetd.kernel.procsys import read_sysctl, write_sysctl
from xennetd.model.errors import HostError
from xennetd.model.marks import BRIDGE_GROUP, GUEST_GROUP
from xennetd.model.objects import Sysctl
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
"""What may be changed on links that are not ours. Their places here are saved: only ever add to the end."""

_ALL6 = Sysctl(6, "all", "forwarding", 1)
_FORWARDED = str(6 << 8 | 0xFF)
"""By what a link's own `forwarding` is saved when that of all is switched on."""

_OURS = (BRIDGE_GROUP, GUEST_GROUP)
_U32 = 1 << 32
_NO_LINKS = {"all": 0, "default": _U32 - 1}
"""What is saved by a number that is no link's index."""


Number = tuple[str, str]
"""What a value is saved by: a link's index, and the IP version and the setting as a number."""

Saved = tuple[Number, int, str | None]
"""A value that is saved, and the set of links that forward to guests only that its link is in."""


class SavedSysctls(Protocol):
    """Keeps what sysctls were before us, for longer than we live (`nft.table`)."""

    def saved(self) -> Mapping[Number, int]:
        """Return what is saved."""
        ...

    def save(self, values: Iterable[Saved]) -> None:
        """Save values, all of them or none. Raises HostError."""
        ...

    def forget(self, key: Number, guest_only: str | None) -> None:
        """Forget a value. Raises HostError."""
        ...


class Sysctls:
    """Values that are set while somebody wants them."""

    def __init__(self, links: Links, saved: SavedSysctls) -> None:
        self._links = links
        self._saved = saved

    def present(self, wanted: Sysctl) -> Sysctl | None:
        """Return the value as it is, None where the kernel has no such thing."""
        value = read_sysctl(wanted.version, wanted.link, wanted.setting)
        if value is None:
            return wanted if wanted.unless else None
        right = value == wanted.value or value in wanted.unless
        return wanted if right else Sysctl(wanted.version, wanted.link, wanted.setting, value)

    def apply(self, wanted: Sequence[Sysctl]) -> None:
        """Set values. Raises HostError for one that the kernel does not have or take, or that can't be saved."""
        for sysctl in wanted:
            before = self.present(sysctl)
            if before == sysctl:
                continue
            key = _key(sysctl)
            if before is None or key is None:
                raise HostError(
                    f"the host has no setting {sysctl.path}: the link is gone, or the kernel is without it",
                    errno=errno.ENOENT,
                    waits_on=frozenset({sysctl.link}),
                )
            if not self._goes_with_its_link(key) and key not in self._saved.saved():
                guest_only = _guest_only(sysctl) if sysctl.value else None
                links = self._forwarding() if sysctl == _ALL6 else []
                self._saved.save([(key, before.value % _U32, guest_only), *links])
            _write(sysctl)

    def remove(self, objects: Sequence[Sysctl]) -> None:
        """Set back what was different before us, unless somebody has changed it again since; and forget it."""
        for sysctl in objects:
            key = _key(sysctl)
            before = self._saved.saved().get(key) if key is not None else None
            if key is None or before is None:
                continue
            ours = read_sysctl(sysctl.version, sysctl.link, sysctl.setting) == sysctl.value
            if ours:
                value = before - _U32 if before >= _U32 >> 1 else before
                _write(Sysctl(sysctl.version, sysctl.link, sysctl.setting, value))
            if sysctl.key == _ALL6.key:
                self._forget_forwarding(restore=ours)
            self._saved.forget(key, _guest_only(sysctl))

    def list_owned(self) -> Collection[Sysctl]:
        """Return what is saved, with the values of now. What is saved of links that have gone is forgotten."""
        found = []
        for key in self._saved.saved():
            index, number = int(key[0]), int(key[1])
            link = _name(index)
            if link is None:
                self._saved.forget(key, None)
                for guest_only in GUEST_ONLY_LINKS.values():
                    self._saved.forget(key, guest_only)
            elif key[1] != _FORWARDED:
                version, setting = number >> 8, _SETTINGS[number & 0xFF]
                now = read_sysctl(version, link, setting)
                if now is not None:
                    found.append(Sysctl(version, link, setting, now))
        return found

    def _forwarding(self) -> list[Saved]:
        """Return what is to be saved of every link before that of all is switched on."""
        theirs = [link for link in self._links if not is_guest_port(link) and link.group not in _OURS]
        indexes = {"default": _NO_LINKS["default"], **{link.name: link.index for link in theirs}}
        found: list[Saved] = []
        for link, index in indexes.items():
            before = read_sysctl(6, link, "forwarding")
            if before is not None:
                key = (str(index), _FORWARDED)
                found.append((key, before, _forwards_to_guests_only(key, before)))
        return found

    def _forget_forwarding(self, *, restore: bool) -> None:
        for key, before in self._saved.saved().items():
            if key[1] != _FORWARDED:
                continue
            link = _name(int(key[0]))
            if restore and before and link is not None:
                with suppress(HostError):  # the link has gone
                    _write(Sysctl(6, link, "forwarding", before))
            self._saved.forget(key, _forwards_to_guests_only(key, before))

    def _goes_with_its_link(self, key: Number) -> bool:
        link = self._links.by_index(int(key[0]))
        return link is not None and link.group in _OURS


def _key(sysctl: Sysctl) -> Number | None:
    """Return what a value is saved by; None: there is no such link.

    The kernel says which link has the name, not the view, which may be behind: the file below /proc/sys is that link's.
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


def _forwards_to_guests_only(key: Number, before: int) -> str | None:
    """Return the set for a link that did not forward IPv6 before all did; None for what is no link."""
    return GUEST_ONLY_LINKS[6] if not before and int(key[0]) not in _NO_LINKS.values() else None


def _guest_only(sysctl: Sysctl) -> str | None:
    """Return the set of links that forward only because of us, if this is what makes one of them."""
    if (sysctl.version, sysctl.setting) in ((4, "forwarding"), (6, "force_forwarding")):
        return GUEST_ONLY_LINKS[sysctl.version]
    return None

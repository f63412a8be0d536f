"""The hand for `Setting`: values of net.ipv4.conf and net.ipv6.conf, and what they were before us.

Rule 1: what a setting was is written down, in our nftables table, before it is changed; there it outlives us, and goes
with the machine, as the setting does.
Rule 2: a setting that was right before us is not written down, and so never changed back.
Rule 3: the settings of a link of ours go with the link; nothing is written down of them.
Rule 4: net.ipv6.conf.all.forwarding sets that of every link and of `default`. What these were is written down as well:
those that were on are on again afterwards, and the others forward to guests only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Sequence
from contextlib import suppress

from xennetd.kernel.execute import write_setting
from xennetd.kernel.firewall import Firewall
from xennetd.kernel.links import Links, is_guest_port
from xennetd.kernel.nft import Key
from xennetd.model.errors import HostError
from xennetd.model.ground import BRIDGE_GROUP, GUEST_GROUP, Setting
from xennetd.policy.firewall import OPENED

_KEYS = (
    "forwarding",
    "force_forwarding",
    "rp_filter",
    "proxy_arp",
    "proxy_ndp",
    "accept_ra",
    "disable_ipv6",
    "accept_dad",
)
"""What may be changed on links that are not ours. Their places here are written down: only ever add to the end."""

_ALL6 = Setting(6, "all", "forwarding", 1)
_FORWARDED = str(6 << 8 | 0xFF)
"""By what a link's own `forwarding` is written down when that of all is switched on."""

_OURS = (BRIDGE_GROUP, GUEST_GROUP)
_U32 = 1 << 32


class Settings:
    """Values that are set while somebody needs them."""

    def __init__(self, links: Links, firewall: Firewall) -> None:
        self._links = links
        self._firewall = firewall

    def holds(self, needed: Setting) -> bool:
        """Return whether the value is so."""
        return self._read(needed) == needed.value

    def ensure(self, needed: Sequence[Setting]) -> None:
        """Set values. Raises HostError for one that the kernel does not have or take, or that can't be written down."""
        for setting in needed:
            before = self._read(setting)
            if before is None:
                raise HostError(
                    f"the host has no setting {setting.path}: the link is gone, or the kernel is without it",
                    errno=errno.ENOENT,
                    waits_on=frozenset({setting.link}),
                )
            if before == setting.value:
                continue
            key = _key(setting)
            if not self._goes_with_its_link(setting) and key not in self._firewall.remembered():
                self._firewall.remember(key, before % _U32, _opened(setting))
                if setting == _ALL6:
                    self._remember_forwarding()
            _write(setting)

    def release(self, objects: Sequence[Setting]) -> None:
        """Set back what was different before us, unless somebody has changed it again since; and forget it."""
        for setting in objects:
            key = _key(setting)
            before = self._firewall.remembered().get(key)
            if before is None:
                continue
            if self.holds(setting):
                value = before - _U32 if before >= _U32 >> 1 else before
                _write(Setting(setting.version, setting.link, setting.key, value))
            self._firewall.forget(key, _opened(setting))
            if setting == _ALL6:
                self._restore_forwarding()

    def _remember_forwarding(self) -> None:
        theirs = [link.name for link in self._links if not is_guest_port(link) and link.group not in _OURS]
        for link in ("default", *theirs):
            before = self._links.setting(6, link, "forwarding")
            if before is not None:
                self._firewall.remember((link, _FORWARDED), before, None if before else OPENED[6])

    def _restore_forwarding(self) -> None:
        for (link, number), before in self._firewall.remembered().items():
            if number != _FORWARDED:
                continue
            if before:
                with suppress(HostError):  # the link has gone
                    _write(Setting(6, link, "forwarding", before))
            self._firewall.forget((link, number), None if before else OPENED[6])

    def ours(self) -> Collection[Setting]:
        """Return what is written down, with the values of now; for a link that is gone, with what it was."""
        remembered = self._firewall.remembered().items()
        return [_setting(key, self._links, before) for key, before in remembered if key[1] != _FORWARDED]

    def _read(self, setting: Setting) -> int | None:
        return self._links.setting(setting.version, setting.link, setting.key)

    def _goes_with_its_link(self, setting: Setting) -> bool:
        link = self._links.link(setting.link)
        return link is not None and link.group in _OURS


def _write(setting: Setting) -> None:
    try:
        write_setting(setting)
    except OSError as error:
        code = error.errno or errno.EIO
        raise HostError(f"the kernel refuses `{setting.describe()}`: {os.strerror(code)}", errno=code) from error


def _opened(setting: Setting) -> str | None:
    """Return the set of links that forward only because of us, if this setting makes one of them."""
    if (setting.version, setting.key) in ((4, "forwarding"), (6, "force_forwarding")) and setting.value:
        return OPENED[setting.version]
    return None


def _key(setting: Setting) -> Key:
    """Return what a setting is written down by: the link, and the version and the key as a number."""
    return setting.link, str(setting.version << 8 | _KEYS.index(setting.key))


def _setting(key: Key, links: Links, before: int) -> Setting:
    link, number = key
    version, name = int(number) >> 8, _KEYS[int(number) & 0xFF]
    now = links.setting(version, link, name)
    return Setting(version, link, name, before if now is None else now)

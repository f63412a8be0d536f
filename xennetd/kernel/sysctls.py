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
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

from xennetd.kernel.guest_only import SWITCHES, GuestOnly
from xennetd.kernel.link_names import index_of
from xennetd.kernel.links import Links, is_guest_port
from xennetd.kernel.procsys import read_sysctl, write_sysctl
from xennetd.kernel.saved_sysctls import (
    FORWARDED,
    NO_LINKS,
    SETTINGS,
    U32,
    SavedKey,
    SavedSysctls,
    SavedValue,
    number,
)
from xennetd.model.errors import HostError
from xennetd.model.objects import RULESET, Sysctl
from xennetd.model.value import replace
from xennetd.render.nft_ruleset import GUEST_ONLY_LINKS

_ALL6 = Sysctl(6, "all", "forwarding", 1)
_ON_OWN_BRIDGES = ((4, "forwarding"), (4, "rp_filter"), (6, "forwarding"), (6, "force_forwarding"))
"""The sysctls of xennetd's bridges that depend on their networks' modes and subnets: (IP version, setting)."""

_GIVEN = {"forwarding": 1, "force_forwarding": 1, "proxy_ndp": 1, "accept_ra": 2}
"""The values that xennetd gives to settings of foreign links."""


class Sysctls:
    """Sysctls that have xennetd's value while they have an owner, and their original value afterwards."""

    def __init__(self, links: Links, saved: SavedSysctls) -> None:
        self._links = links
        self._saved = saved
        self._guest_only = GuestOnly(links, saved)
        self._marked_at = -1

    def start(self) -> None:
        """Find out what forwards because of an earlier xennetd. The links and the nftables table have been read."""
        self._guest_only.start()

    def notes(self) -> Iterator[str]:
        """Yield what an administrator should know of links that forward."""
        return self._guest_only.notes()

    def present(self, wanted: Sysctl) -> Sysctl | None:
        """Return the sysctl with its current value, None if the kernel does not have it.

        A value in `wanted.unless` counts as the wanted one. So does a missing sysctl, if `unless` is not empty. A link
        that forwards, and is wrongly in a set of GUEST_ONLY_LINKS or not in it, lacks its mark.
        """
        value = read_sysctl(wanted.version, wanted.link, wanted.setting)
        if value is None:
            return wanted if wanted.unless else None
        if value != wanted.value and value not in wanted.unless:
            return Sysctl(wanted.version, wanted.link, wanted.setting, value)
        if wanted.key == _ALL6.key:
            right = self._saved.known and self._links_are_marked()
            return wanted if right else replace(wanted, marked=False)
        if not _opens(wanted):
            return wanted
        link = self._links.link(wanted.link)
        if link is None or link.is_own:
            return wanted
        # While the memory is unknown, the mark counts as missing: `apply` reads the memory, or says why it can't.
        if self._saved.known and self._guest_only.is_right(wanted.version, str(link.index)):
            return wanted
        return replace(wanted, marked=False)

    def apply(self, wanted: Sequence[Sysctl]) -> None:
        """Set values, and save the original ones first. Let links join and leave GUEST_ONLY_LINKS.

        Raises HostError if the kernel lacks the sysctl or refuses the value, or if the original can't be saved.
        """
        self.forget_deleted()
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
            if not self._goes_with_its_link(key):
                if _opens(sysctl):
                    self._guest_only.follow(sysctl.version)
                    self._guest_only.adopt(sysctl.version, key)
                if before.value != sysctl.value and (values := self._to_save(sysctl, key, before.value % U32)):
                    self._saved.save(values)
                elif not before.marked and sysctl.key == _ALL6.key:
                    self._mark_links()
            if before.value != sysctl.value:
                _write(sysctl)

    def remove(self, objects: Sequence[Sysctl]) -> None:
        """Restore original values, and forget them. A value that another program has changed since is left alone."""
        self.forget_deleted()
        for sysctl in objects:
            key = _key(sysctl)
            if key is None:
                continue
            now = read_sysctl(sysctl.version, sysctl.link, sysctl.setting)
            if self._goes_with_its_link(key):
                default = read_sysctl(sysctl.version, "default", sysctl.setting)
                if now == sysctl.value and default is not None:
                    _restore(sysctl, default)
                continue
            if _opens(sysctl):
                self._guest_only.follow(sysctl.version)
            saved = self._saved.original(key)
            if saved is None:
                continue
            before = saved - U32 if saved >= U32 >> 1 else saved
            unchanged = now in (sysctl.value, before)  # `before`: a daemon was killed after it had restored the value.
            if unchanged:
                _restore(sysctl, before)
            if _key(sysctl) != key:
                continue  # The link was renamed meanwhile: it has its value still, and is restored under its new name.
            keys, marks = [key], [(GUEST_ONLY_LINKS[sysctl.version], key[0])] if _opens(sysctl) else []
            if sysctl.key == _ALL6.key:
                forwarded = self._restore_forwarding(restore=unchanged)
                keys += forwarded
                marks += [(GUEST_ONLY_LINKS[6], index) for index, _ in forwarded]
            # At once: a value of `all` without the marks of its links would let these forward unmarked the next time.
            self._saved.forget(keys, marks)
            if _opens(sysctl):
                self._guest_only.follow(sysctl.version)

    def list_owned(self) -> Collection[Sysctl]:
        """Return the sysctls with a saved value, and those of xennetd's bridges.

        The value is the one that xennetd gives the sysctl, where it always gives the same one, else the current value.
        Values of deleted links are forgotten, and links leave GUEST_ONLY_LINKS that are in there without a reason. A
        link may forward because of its sysctl, so it must not lose the filter before.
        """
        with suppress(HostError):  # The next call tries again.
            self.forget_deleted()
            self._forget_gone()
            for version in SWITCHES:
                self._guest_only.follow(version)
        owned = list(self._of_own_bridges())
        for index, what in self._saved.saved():
            link, version, position = _name(int(index)), int(what) >> 8, int(what) & 0xFF
            if link is None or position >= len(SETTINGS):  # Its values of `all`, or those of a newer xennetd.
                continue
            setting = SETTINGS[position]
            now = read_sysctl(version, link, setting)
            if now is not None:
                owned.append(Sysctl(version, link, setting, _GIVEN.get(setting, now), after=frozenset({RULESET})))
        return owned

    def forget_deleted(self, *, observes: bool = False) -> None:
        """Forget the values and marks of links that were deleted (`Links.gone`), before others get their indexes.

        While the daemon `observes`, remember these links only. Raises HostError; the next call then tries again.
        """
        gone = self._links.gone
        if not gone:
            return
        keys = [key for key in self._saved.saved() if int(key[0]) in gone]
        sets = GUEST_ONLY_LINKS.values()
        marks = [(name, index) for name in sets for index in self._saved.marked(name) if int(index) in gone]
        gone &= {int(index) for index, _ in keys} | {int(index) for _, index in marks}
        if gone and not observes:
            self._saved.forget(keys, marks)
            gone.clear()
            for version in SWITCHES:
                self._guest_only.follow(version)

    def _forget_gone(self) -> None:
        """Forget the values of links that were deleted while no daemon ran, if no other link has their index."""
        gone = [key for key in self._saved.saved() if _name(int(key[0])) is None]
        if gone:
            self._saved.forget(gone)

    def _of_own_bridges(self) -> Iterator[Sysctl]:
        for link in self._links.bridges():
            if not link.is_own_bridge:
                continue
            for version, setting in _ON_OWN_BRIDGES:
                now = read_sysctl(version, link.name, setting)
                if now is not None and now != read_sysctl(version, "default", setting):
                    yield Sysctl(version, link.name, setting, now, after=frozenset({RULESET}))

    def _to_save(self, sysctl: Sysctl, key: SavedKey, before: int) -> list[SavedValue]:
        """Return what is not saved yet and must be, before a sysctl with the value `before` is set."""
        values = self._forwarding() if sysctl.key == _ALL6.key and sysctl.value else []
        if self._saved.original(key) is None:
            opens = _opens(sysctl)
            values += self._guest_only.opening(sysctl.version, key, before) if opens else [(key, before, None)]
        return values

    def _links_are_marked(self) -> bool:
        """Return whether every link is marked that forwards IPv6 because xennetd switched net.ipv6.conf.all.forwarding.

        Links appear while it is on. Whether one lacks its mark is examined again when another link has appeared.
        """
        if self._saved.original((str(NO_LINKS["all"]), number(6, "forwarding"))) is None:
            return True
        if self._marked_at != self._links.generations and not self._forwarding():
            self._marked_at = self._links.generations
        return self._marked_at == self._links.generations

    def _mark_links(self) -> None:
        """Save and mark what `_links_are_marked` misses, and forget the links that have gone meanwhile."""
        self._forget_gone()
        if values := self._forwarding():
            self._saved.save(values)
        self._guest_only.follow(6)

    def _forwarding(self) -> list[SavedValue]:
        """Return the `forwarding` of `default` and of every foreign link, as far as it is not saved.

        It is saved before that of `all` is set. A link that appears while xennetd's `all` is on would otherwise have
        the value that `default` had before.
        """
        foreign = [link for link in self._links if not is_guest_port(link) and not link.is_own]
        indexes = {"default": NO_LINKS["default"], **{link.name: link.index for link in foreign}}
        default = self._saved.original((str(NO_LINKS["default"]), FORWARDED))
        if not read_sysctl(6, "all", "forwarding"):
            default = None  # Somebody has switched it off, so that every link has its own value.
        values: list[SavedValue] = []
        for link, index in indexes.items():
            key = (str(index), FORWARDED)
            now = read_sysctl(6, link, "forwarding") if self._saved.original(key) is None else None
            if now is not None:
                before = now if default is None else default
                values.append((key, before, _forwards_to_guests_only(key, before)))
        return values

    def _restore_forwarding(self, *, restore: bool) -> list[SavedKey]:
        """Restore the links' own `forwarding`, if `restore`. Returns the keys of the saved values."""
        saved = {key: before for key, before in self._saved.saved().items() if key[1] == FORWARDED}
        for key, before in saved.items():
            link = _name(int(key[0]))
            if restore and before and link is not None:
                with suppress(HostError):  # The link may be gone.
                    _write(Sysctl(6, link, "forwarding", before))
        return list(saved)

    def _goes_with_its_link(self, key: SavedKey) -> bool:
        link = self._links.by_index(int(key[0]))
        return link is not None and link.is_own


def _key(sysctl: Sysctl) -> SavedKey | None:
    """Return the key of a saved value, None if there is no such link. Raises OSError.

    The kernel says which link has the name now, and the file below /proc/sys belongs to that link. The view of the
    links may be older.
    """
    index = NO_LINKS.get(sysctl.link)
    if index is None:
        index = index_of(sysctl.link)
    if index is None:
        return None
    return str(index), number(sysctl.version, sysctl.setting)


def _name(index: int) -> str | None:
    for name, stands_for in NO_LINKS.items():
        if stands_for == index:
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


def _forwards_to_guests_only(key: SavedKey, before: int) -> str | None:
    """Return the set for a link that did not forward IPv6 originally; None if it did, or for `all` and `default`."""
    return GUEST_ONLY_LINKS[6] if not before and int(key[0]) not in NO_LINKS.values() else None


def _opens(sysctl: Sysctl) -> bool:
    """Return whether this sysctl lets one link forward."""
    return bool(sysctl.value) and SWITCHES.get(sysctl.version) == sysctl.setting and sysctl.link not in NO_LINKS

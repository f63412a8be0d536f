"""The links that forward only because of xennetd: the sets GUEST_ONLY_LINKS, kept as the sysctls are.

A packet that comes in by such a link goes on to guests and nowhere else.
Rule 1: a link is in its set before it forwards, and until it forwards no more. A kill between two writes leaves a link
too many in a set until the next start, never a link too few.
Rule 2: where an administrator makes the host a router, links forward because of him, and leave the sets. He does so by
the settings of `all`, which set those of every link. The value of `all` from before xennetd let the first link forward
is saved, so that his change can be told from xennetd's own. After his change the links' original values are forgotten.
Rule 3: with net.ipv6.conf.all.forwarding every link forwards IPv6, whatever its own setting is.
"""

from __future__ import annotations

from xennetd.kernel.links import Links
from xennetd.kernel.procsys import read_sysctl
from xennetd.kernel.saved_sysctls import FORWARDED, NO_LINKS, Mark, SavedKey, SavedSysctls, SavedValue, number
from xennetd.render.nft_ruleset import GUEST_ONLY_LINKS

SWITCHES = {4: "forwarding", 6: "force_forwarding"}
"""The setting of a link, and of `all`, that lets a link forward, by IP version."""

_OPENED = {version: number(version, setting) for version, setting in SWITCHES.items()}
_BEFORE = {4: (str(NO_LINKS["all"]), str(4 << 8 | 0xFF)), 6: (str(NO_LINKS["all"]), str(6 << 8 | 0xFE))}
"""The keys of the saved values of `all`, by IP version."""

_ALL6 = (str(NO_LINKS["all"]), number(6, "forwarding"))
_NO_INDEXES = frozenset(str(index) for index in NO_LINKS.values())


class GuestOnly:
    """The sets GUEST_ONLY_LINKS of the host."""

    def __init__(self, links: Links, saved: SavedSysctls) -> None:
        self._links = links
        self._saved = saved
        self._switches = (-1, {4: False, 6: False}, False)

    def is_right(self, version: int, index: str) -> bool:
        """Return whether a link that forwards is in the set of this IP version if and only if it must be.

        Every look at a routed guest asks this. So the sysctls of `all` are read only after an event about them.
        """
        if self._switches[0] != self._links.news_of_all:
            switches = {of: bool(read_sysctl(of, "all", setting)) for of, setting in SWITCHES.items()}
            self._switches = (self._links.news_of_all, switches, bool(read_sysctl(6, "all", "forwarding")))
        _, switches, routes_ipv6 = self._switches
        before = self._saved.original(_BEFORE[version])
        if before is not None and bool(before) != switches[version]:
            return False
        marked = index in self._saved.marked(GUEST_ONLY_LINKS[version])
        return marked == self._must_hold(version, index, routes_ipv6=routes_ipv6)

    def opening(self, version: int, key: SavedKey, before: int) -> list[SavedValue]:
        """Return what to save before a link with the value `before` is made to forward: this value, and that of `all`.

        `follow` must have been called.
        """
        forwards_all = (
            version == 6 and self._saved.original(_ALL6) is None and bool(read_sysctl(6, "all", "forwarding"))
        )
        marked = not before and not forwards_all
        values: list[SavedValue] = [(key, before, GUEST_ONLY_LINKS[version] if marked else None)]
        if self._saved.original(_BEFORE[version]) is None:
            values.append((_BEFORE[version], read_sysctl(version, "all", SWITCHES[version]) or 0, None))
        return values

    def follow(self, version: int) -> None:
        """Bring the set of this IP version in line with the sysctls. Raises HostError."""
        saved, marks = self._saved.saved(), set(self._saved.marked(GUEST_ONLY_LINKS[version]))
        opened = [key for key in saved if key[1] == _OPENED[version]]
        before, now = saved.get(_BEFORE[version]), read_sysctl(version, "all", SWITCHES[version])
        if before == 0 and now:  # Rule 2
            self._saved.forget([*opened, _BEFORE[version]], self._marks(version, {index for index, _ in opened}))
        elif before is not None and not opened:
            self._saved.forget([_BEFORE[version]])
        elif (before and not now) or (before is None and opened):
            self._saved.save([(_BEFORE[version], now or 0, None)])
        known = {index for index, _ in self._saved.saved()} - _NO_INDEXES
        routes_ipv6 = bool(read_sysctl(6, "all", "forwarding"))
        must = {index for index in known if self._must_hold(version, index, routes_ipv6=routes_ipv6)}
        marks = set(self._saved.marked(GUEST_ONLY_LINKS[version]))
        if missing := must - marks:
            self._saved.save([], self._marks(version, missing))
        if surplus := marks - must:
            self._saved.forget([], self._marks(version, surplus))

    def _must_hold(self, version: int, index: str, *, routes_ipv6: bool) -> bool:
        """Return whether a link forwards only because of xennetd. `routes_ipv6`: all links forward IPv6 (rule 3)."""
        if version == 6:
            if self._saved.original((index, FORWARDED)) == 0:
                return True
            if routes_ipv6 and self._saved.original(_ALL6) is None:
                return False
        return self._saved.original((index, _OPENED[version])) == 0

    @staticmethod
    def _marks(version: int, indexes: set[str]) -> list[Mark]:
        return [(GUEST_ONLY_LINKS[version], index) for index in sorted(indexes)]

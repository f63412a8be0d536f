"""The links that forward only because of xennetd: the sets GUEST_ONLY_LINKS, kept as the sysctls are.

A packet that comes in by such a link goes on to guests and nowhere else.
Rule 1: a link is in its set before it forwards, and until it forwards no more. A kill between two writes leaves a link
too many in a set until the next start, never a link too few.
Rule 2: where an administrator makes the host a router, links forward because of him, and leave the sets. He does so by
the settings of `all`, which set those of every link. The value of `all` from before xennetd let the first link forward
is saved, so that his change can be told from xennetd's own. After his change the links' original values are forgotten.
Rule 3: with net.ipv6.conf.all.forwarding every link forwards IPv6, whatever its own setting is. Before Linux 6.17 it is
what xennetd switches. An administrator who writes 1 while it is 1 already because of xennetd changes no value, and the
kernel sends no RTM_NEWNETCONF: links, `default` and `all` are 1 before and after. Neither an event nor a look can tell.
Rule 4: what is left of the memory stands for what is lost of it. A link is in its set only if it did not forward
originally: a link that forwards, and is in the set without a saved value, has the original value 0. Where all is lost
while links of xennetd's are there, and the host forwards by single links, xennetd has opened these links. Where it
forwards by `all`, as a router does, an administrator has.
"""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from xennetd.kernel.links import Links, is_guest_port
from xennetd.kernel.procsys import read_sysctl
from xennetd.kernel.saved_sysctls import FORWARDED, NO_LINKS, Mark, SavedKey, SavedSysctls, SavedValue, number
from xennetd.render.nft_ruleset import GUEST_ONLY_LINKS

SWITCHES = {4: "forwarding", 6: "force_forwarding"}
"""The setting of a link, and of `all`, that lets a link forward, by IP version."""

SYSCTLS_OF_ROUTERS = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
"""What makes the host a router, by IP version."""

_OPENED = {version: number(version, setting) for version, setting in SWITCHES.items()}
_BEFORE = {4: (str(NO_LINKS["all"]), str(4 << 8 | 0xFF)), 6: (str(NO_LINKS["all"]), str(6 << 8 | 0xFE))}
"""The keys of the saved values of `all`, by IP version."""

_ALL6 = (str(NO_LINKS["all"]), number(6, "forwarding"))
_DEFAULT6 = (str(NO_LINKS["default"]), FORWARDED)
_NO_INDEXES = frozenset(str(index) for index in NO_LINKS.values())

_log = structlog.get_logger()


class GuestOnly:
    """The sets GUEST_ONLY_LINKS of the host."""

    def __init__(self, links: Links, saved: SavedSysctls) -> None:
        self._links = links
        self._saved = saved
        self._switches = (-1, {4: False, 6: False}, False)
        self._forgotten: set[tuple[int, str]] | None = None
        """The links, by IP version and index, that forward because of an earlier xennetd whose memory is lost."""
        self._adopted: set[tuple[int, str]] = set()
        """Those of them that guests need."""

    def start(self) -> None:
        """Note which links forward now. What forwards later on its own is the administrator's."""
        if self._saved.known:
            self._forgotten = self._find_forgotten()

    def notes(self) -> Iterator[str]:
        """Yield a sentence for each link that may forward because of an administrator, and is treated as ours."""
        for version, index in sorted(self._adopted):
            link = self._links.by_index(int(index))
            if link is not None and index in self._saved.marked(GUEST_ONLY_LINKS[version]):
                yield (
                    f"{link.name} forwards IPv{version} to guests only, and stops when no guest needs it any more: the "
                    "nftables table of xennetd was lost while no xennetd ran, so xennetd takes its forwarding for its "
                    f"own. If the host is to route for others, set {SYSCTLS_OF_ROUTERS[version]} = 1"
                )

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
        if not switches[version] and self._is_forgotten(version, index):
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
        self._recover(version)
        if self._forgotten is not None:  # A link whose value is saved was adopted. Later it forwards for somebody else.
            self._forgotten = {(of, index) for of, index in self._forgotten if self._is_forgotten(of, index)}
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

    def adopt(self, version: int, key: SavedKey) -> None:
        """Save 0 as the original value of a link that an earlier xennetd opened. Raises HostError."""
        if self._is_forgotten(version, key[0]) and not read_sysctl(version, "all", SWITCHES[version]):
            self._saved.save(self.opening(version, key, 0))
            self._adopted.add((version, key[0]))

    def _is_forgotten(self, version: int, index: str) -> bool:
        """Return whether an earlier xennetd opened a link, and no original value is saved."""
        if self._forgotten is None:
            self._forgotten = self._find_forgotten()
        return (version, index) in self._forgotten and self._saved.original((index, _OPENED[version])) is None

    def _find_forgotten(self) -> set[tuple[int, str]]:
        """Return the links that forward on their own, by IP version and index, and log a warning about them.

        There are none unless the memory is lost and links of xennetd's show that there was one.
        """
        if not (self._saved.lost and self._links.found_own):
            return set()
        foreign = [link for link in self._links if not link.is_own and not is_guest_port(link)]
        found: dict[tuple[int, str], str] = {}
        for version, setting in SWITCHES.items():
            if not any(read_sysctl(version, name, setting) for name in NO_LINKS):
                opened = [link for link in foreign if read_sysctl(version, link.name, setting)]
                found |= {(version, str(link.index)): link.name for link in opened}
        if found:
            _log.warning(
                "the nftables table of xennetd was lost while no xennetd ran: a link that guests need, and that "
                "forwards on its own, forwards to guests only, and stops when no guest needs it any more",
                links=", ".join(sorted(set(found.values()))),
            )
        return set(found)

    def _recover(self, version: int) -> None:
        """Save the original values that were lost alone, as far as the rest of the memory tells them (rule 4)."""
        original, values = self._saved.original, list[SavedValue]()
        lone = [key for key in self._marked(version, _OPENED[version]) if original(key) is None]
        if not read_sysctl(version, "all", SWITCHES[version]):
            values = [(key, 0, None) for key in lone if self._forwards(version, key[0])]
        if version == 6 and read_sysctl(6, "all", "forwarding"):
            known = [key for key in self._saved.saved() if key[1] == FORWARDED]
            # A kernel with `force_forwarding` has marks without `all`, so a mark alone does not prove that `all` was
            # off.
            if original(_ALL6) is not None or known or (lone and not self._links.forces_ipv6):
                keys = [_ALL6, _DEFAULT6, *((index, FORWARDED) for index, _ in lone)]
                values += [(key, 0, None) for key in keys if original(key) is None]
        if values:
            self._saved.save(values)

    def _marked(self, version: int, what: str) -> list[SavedKey]:
        return [(index, what) for index in self._saved.marked(GUEST_ONLY_LINKS[version])]

    def _forwards(self, version: int, index: str) -> bool:
        link = self._links.by_index(int(index))
        return link is not None and bool(read_sysctl(version, link.name, SWITCHES[version]))

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

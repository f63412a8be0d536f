"""The memory of sysctls' original values: their keys, and the contract of the place that keeps them (`nft.table`).

A key is the index of the link and a number for IP version and setting, so that a renamed link gets its own value back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

SETTINGS = (
    "forwarding",
    "force_forwarding",
    "rp_filter",
    "proxy_arp",
    "proxy_ndp",
    "accept_ra",
    "disable_ipv6",
    "accept_dad",
    "promote_secondaries",
)
"""The settings that xennetd may change on foreign links. Their positions are saved: add new ones at the end only."""

U32 = 1 << 32
NO_LINKS = {"all": 0, "default": U32 - 1}
"""The numbers that stand for a link's index where the sysctl belongs to no link."""

SavedKey = tuple[str, str]
"""The key of a saved value: the link's index, and a number for IP version and setting, both in decimal."""

SavedValue = tuple[SavedKey, int, str | None]
"""A key, the original value, and the set of GUEST_ONLY_LINKS that the link must join, if any."""

Mark = tuple[str, str]
"""A set of GUEST_ONLY_LINKS, and the index of a link in it."""


def number(version: int, setting: str) -> str:
    """Return the number of a setting in the keys of saved values."""
    return str(version << 8 | SETTINGS.index(setting))


FORWARDED = str(6 << 8 | 0xFF)
"""The number under which a link's own `forwarding` is saved when net.ipv6.conf.all.forwarding is switched on."""


class SavedSysctls(Protocol):
    """Keeps the original values of sysctls, and the sets GUEST_ONLY_LINKS, beyond the daemon's life (`nft.table`)."""

    @property
    def known(self) -> bool:
        """Whether the memory has been read. Until then every method reads it, or raises HostError."""
        ...

    @property
    def lost(self) -> bool:
        """Whether what an earlier daemon saved is lost. A host on which there was none has lost nothing, but looks so.

        False until the memory has been read.
        """
        ...

    def saved(self) -> Mapping[SavedKey, int]:
        """Return all saved values by key."""
        ...

    def original(self, key: SavedKey) -> int | None:
        """Return one saved value, None if there is none."""
        ...

    def marked(self, guest_only: str) -> Collection[str]:
        """Return the indexes of the links in a set of GUEST_ONLY_LINKS."""
        ...

    def save(self, values: Iterable[SavedValue], marks: Iterable[Mark] = ()) -> None:
        """Save all values and add all marks, or none. Raises HostError."""
        ...

    def forget(self, keys: Iterable[SavedKey], marks: Iterable[Mark] = ()) -> None:
        """Delete all these values and marks, or none. Raises HostError."""
        ...

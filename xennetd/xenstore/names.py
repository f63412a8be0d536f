"""The watches on domains' names. `xl rename` writes `/local/domain/D/name`, of which the watch on vifs does not tell.

Rule 1: dom0 only. A driver domain can't read the name, and its quota of 128 watches is needed elsewhere.
Rule 2: only dom0 may write the node, so no guest can flood us with its events.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from itertools import islice
from typing import Final

import structlog

from xennetd.xenstore.client import XenstoreClient

BATCH: Final = 16
"""Watches set, and taken away, together: a vif that comes meanwhile waits for no more than these."""


class NameWatches:
    """A watch for each domain whose name is followed. `event` is called with the path of each event."""

    def __init__(
        self, client: XenstoreClient, event: Callable[[str], None], log: structlog.typing.FilteringBoundLogger
    ) -> None:
        self._client = client
        self._event = event
        self._log = log
        self._domids: set[int] = set()

    def forget(self) -> None:
        """Take note that the connection is a new one, which has no watches."""
        self._domids.clear()

    async def follow(self, domids: Set[int]) -> bool:
        """Come one batch closer to watching the names of these domains and of no others. Returns whether that is so."""
        gone = set(islice(self._domids - domids, BATCH))
        await self._client.unwatch_many([_path(domid) for domid in gone])
        self._domids -= gone
        new = set(islice(domids - self._domids, BATCH))
        for refusal in await self._client.watch_many([_path(domid) for domid in new], self._event):
            # The name is still read with each state of the domain's vifs.
            self._log.warning("a domain's new name will be seen late", reason=refusal.sentence)
        self._domids |= new
        return self._domids == domids


def _path(domid: int) -> str:
    return f"/local/domain/{domid}/name"

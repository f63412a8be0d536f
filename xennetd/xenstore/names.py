"""The watches on domains' names. `xl rename` writes `/local/domain/D/name`, which the watch on vifs does not cover.

Rule 1: names are watched in dom0 only. A driver domain can't read them, and needs its quota of 128 watches elsewhere.
Rule 2: only dom0 may write the node, so no guest can flood the daemon with events.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from itertools import islice
from typing import Final

import structlog

from xennetd.xenstore.client import XenstoreClient

BATCH: Final = 16
"""The number of watches that are set or removed at once. A new vif waits for one such batch at most."""


class NameWatches:
    """One watch per domain whose name is followed. `event` is called with the path of every event."""

    def __init__(
        self, client: XenstoreClient, event: Callable[[str], None], log: structlog.typing.FilteringBoundLogger
    ) -> None:
        self._client = client
        self._event = event
        self._log = log
        self._domids: set[int] = set()

    def forget(self) -> None:
        """Note that the connection is new, and so has no watches."""
        self._domids.clear()

    async def follow(self, domids: Set[int]) -> bool:
        """Set and remove one batch of watches. Returns whether exactly the names of `domids` are watched now."""
        gone = set(islice(self._domids - domids, BATCH))
        await self._client.unwatch_many([_path(domid) for domid in gone])
        self._domids -= gone
        new = set(islice(domids - self._domids, BATCH))
        for refusal in await self._client.watch_many([_path(domid) for domid in new], self._event):
            # The name is still read together with the state of the domain's vifs.
            self._log.warning(
                "xenstored refuses a watch on a domain's name, so xennetd notices a new name late",
                reason=refusal.sentence,
            )
        self._domids |= new
        return self._domids == domids


def _path(domid: int) -> str:
    return f"/local/domain/{domid}/name"

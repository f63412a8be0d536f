"""Foresees what a new configuration on a planned host would change for the guests. Nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from xennetd.daemon.reconcile.observe import Observer
from xennetd.daemon.record import Record
from xennetd.kernel.links import Links
from xennetd.model.configuration import Policy
from xennetd.model.link import HostView, Link
from xennetd.model.vif import VifId
from xennetd.plan.decide import decide
from xennetd.plan.guest_change import grouped, guest_change


class Foresight:
    """Decides about all vifs as if another policy were in force on another host.

    Each vif is judged beside what the other guests have now: of two guests that exchange an address, the plan says that
    it is in use.
    """

    def __init__(
        self,
        records: Mapping[VifId, Record],
        links: Links,
        observer: Observer,
        tap_of: Callable[[Record], Link | None],
        leaving: Callable[[Link, VifId], bool],
    ) -> None:
        self._records = records
        self._links = links
        self._observer = observer
        self._tap_of = tap_of
        self._leaving = leaving

    async def changes(self, policy: Policy, host: HostView) -> list[str]:
        """Return a line for each change, with the guests that it concerns. Others are served meanwhile."""
        changes = []
        for vif in sorted(self._records):
            await asyncio.sleep(0)
            record = self._records.get(vif)
            if record is None:
                continue
            link, tap = self._links.of(vif), self._tap_of(record)
            leaves = partial(self._leaves, vif)
            seen, _ = self._observer.observe(record, link, tap, policy, leaves, host)
            change = guest_change(seen, decide(seen), record.error)
            if change is not None:
                changes.append((record.title, change))
        return grouped(changes)

    def _leaves(self, asking: VifId, holder: Link) -> bool:
        return self._leaving(holder, asking)

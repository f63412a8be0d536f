"""Foresees what a new configuration on a planned host would change for the guests. Nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import partial

from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.observe import Observer
from xennetd.daemon.record import Record
from xennetd.kernel.links import Links
from xennetd.model.attachment import Attachment
from xennetd.model.configuration import Policy
from xennetd.model.link import HostView, Link
from xennetd.model.placement import BridgePort
from xennetd.model.vif import VifId
from xennetd.plan.decide import decide
from xennetd.plan.guest_change import grouped, guest_change

_KEYS = {"subnet4": "subnets", "subnet6": "subnets", "forwards": "forward"}
"""The configuration's names of attributes of a Network that have others there."""


class Foresight:
    """Decides about all vifs as if another policy were in force on another host.

    Each vif is judged beside what the other guests have now: of two guests that exchange an address, the plan says that
    it is in use.
    """

    def __init__(
        self,
        in_force: InForce,
        records: Mapping[VifId, Record],
        links: Links,
        observer: Observer,
        tap_of: Callable[[Record], Link | None],
        leaving: Callable[[Link, VifId], bool],
    ) -> None:
        self._in_force = in_force
        self._records = records
        self._links = links
        self._observer = observer
        self._tap_of = tap_of
        self._leaving = leaving

    async def changes(self, policy: Policy, host: HostView) -> list[str]:
        """Return a line for each change, with the guests that it concerns. Others are served meanwhile."""
        changes = []
        networks = _network_changes(self._in_force.policy, policy)
        for vif in sorted(self._records):
            await asyncio.sleep(0)
            record = self._records.get(vif)
            if record is None:
                continue
            link, tap = self._links.of(vif), self._tap_of(record)
            leaves = partial(self._leaves, vif)
            seen, _ = self._observer.observe(record, link, tap, policy, leaves, host)
            around = tuple(self._around(seen.before, networks, host))
            change = guest_change(seen, decide(seen), record.error, around)
            if change is not None:
                changes.append((record.title, change))
        return grouped(changes)

    def _around(self, before: Attachment | None, networks: Mapping[str | None, str], host: HostView) -> Iterator[str]:
        """Yield what changes of the network and the bridge that a guest is in."""
        if before is None:
            return
        if before.network in networks:
            yield f"its network: {networks[before.network]}"
        if isinstance(before.placement, BridgePort):
            bridge = before.placement.index
            lost = {link.name for link in self._links.uplinks(bridge)} - {link.name for link in host.uplinks(bridge)}
            if lost:
                yield f"its bridge loses {', '.join(sorted(lost))}"

    def _leaves(self, asking: VifId, holder: Link) -> bool:
        return self._leaving(holder, asking)


def _network_changes(before: Policy, after: Policy) -> dict[str | None, str]:
    """Return which keys differ of the networks that both policies have, by the networks' names."""
    found: dict[str | None, str] = {}
    for name, old in before.networks.items():
        new = after.networks.get(name)
        names = [each.name for each in fields(old)] if new is not None else []
        differs = [_KEYS.get(each, each) for each in names if getattr(old, each) != getattr(new, each)]
        if differs:
            found[name] = ", ".join(dict.fromkeys(differs))
    return found

"""`Eviction`: takes guests off their networks before the networks change.

A guest that a configuration denies is looked at in its turn, and networks are made before. Until its look it would have
what the configuration gives its network: a way out, a subnet, a forwarded port. So its port goes down first.
Rule 1: nothing is awaited between the moment at which a policy comes into force, `finish`, and the change of networks.
Rule 2: only ports go down, and only what surely is a port of the guest. The look in its turn does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import structlog

from xennetd.daemon.reconcile.taps import is_guests_tap, tap_by_name
from xennetd.daemon.shortage import Shortage
from xennetd.dnsmasq.slices import in_slices
from xennetd.kernel.execute import StepRefused
from xennetd.kernel.kernel import Kernel
from xennetd.model.configuration import Policy
from xennetd.model.link import Link
from xennetd.model.vif import Vif, VifId
from xennetd.plan.port import stop
from xennetd.policy.resolve import forbids
from xennetd.xenstore.directory import Directory

_log = structlog.get_logger(__name__)

_JUDGED_AT_ONCE = 2
"""Vifs for which the rules are evaluated before others have the loop: two thousand rules take 2 ms."""

_ATTEMPTS = 3
"""Attempts to take a port down that the kernel leaves up, because it is short of memory for example."""


class Eviction:
    """The guests to which a policy leaves no network (`policy.resolve.forbids`).

    `known_tap` returns the tap of a vif that has a record, None if it has none or no record.
    """

    def __init__(
        self, policy: Policy, directory: Directory, kernel: Kernel, known_tap: Callable[[VifId], Link | None]
    ) -> None:
        self._policy = policy
        self._directory = directory
        self._kernel = kernel
        self._known_tap = known_tap
        self._judged: dict[VifId, tuple[Vif, bool]] = {}

    async def find(self) -> None:
        """Find out who must go, and let others have the loop meanwhile."""
        async for vif in in_slices(tuple(self._directory), _JUDGED_AT_ONCE):
            self._must_go(vif)

    async def begin(self) -> None:
        """Take ports down in slices, while nothing else is done about guests: the kernel takes a millisecond for each.

        `finish` must follow.
        """
        await self.find()
        async for vif in in_slices(self._evicted(), 1):
            self._take_down([vif])

    def finish(self) -> None:
        """Take all ports down that are up, also those of vifs that have come or changed since `find`."""
        evicted = self._evicted()
        for _ in range(_ATTEMPTS):
            if not self._take_down(evicted):
                return

    def _evicted(self) -> list[VifId]:
        return [vif for vif in self._directory if self._must_go(vif)]

    def _take_down(self, vifs: Iterable[VifId]) -> bool:
        """Try to take the ports of vifs down. Returns whether one was up. A failure costs nobody else anything."""
        found = False
        for vif in vifs:
            for link in self._ports(vif):
                found = True
                try:
                    self._kernel.execute(stop(link))
                except (StepRefused, *Shortage) as error:
                    text = "the port of a denied guest could not be taken down; xennetd tries again"
                    _log.warning(text, vif=str(vif), why=str(error))
                except Exception as error:
                    _log.exception("a defect in xennetd, please report it", vif=str(vif), exc_info=error)
        return found

    def _must_go(self, vif_id: VifId) -> bool:
        """Return whether a guest that may have a port that is up must go. The answer holds until its vif changes."""
        vif, link = self._directory.get(vif_id), self._kernel.links.of(vif_id)
        if vif is None or not (vif.type == "vif_ioemu" or (link is not None and link.up)):
            return False
        judged = self._judged.get(vif_id)
        if judged is None or judged[0] is not vif:
            judged = self._judged[vif_id] = vif, self._forbids(vif)
        return judged[1]

    def _forbids(self, vif: Vif) -> bool:
        try:
            return forbids(self._policy, vif)
        except Exception as error:
            _log.exception("a defect in xennetd, please report it", vif=str(vif.id), exc_info=error)
            return False

    def _ports(self, vif_id: VifId) -> Iterator[Link]:
        """Yield those links of a vif that are up: its own, and its tap."""
        vif = self._directory.get(vif_id)
        if vif is not None:
            for link in (self._kernel.links.of(vif_id), self._known_tap(vif_id) or self._tap(vif)):
                if link is not None and link.up:
                    yield link

    def _tap(self, vif: Vif) -> Link | None:
        """Return the tap that surely is the vif's, when nothing is remembered of it.

        A tap of a name from a `vifname` may be another program's, or that of another vif with the same `vifname`.
        """
        tap = tap_by_name(vif, self._kernel.links)
        if tap is None or tap.name == vif.id.tap:
            return tap
        others_stay = any(other.tap_name == vif.tap_name and not self._must_go(other.id) for other in self._others(vif))
        return tap if is_guests_tap(vif, tap) and not others_stay else None

    def _others(self, vif: Vif) -> Iterator[Vif]:
        for other in self._directory:
            known = self._directory.get(other)
            if known is not None and known.id != vif.id and known.type == "vif_ioemu":
                yield known

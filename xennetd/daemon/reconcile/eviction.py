"""`Eviction`: takes guests off their networks before the networks change.

A guest that a configuration denies, or moves, is looked at in its turn, and networks are made before. Until its look it
would have what the configuration gives its former network: a way out, a subnet, a forwarded port. So its ports go down
first. That takes the kernel a millisecond each, so others have the loop in between.
Rule: nothing is awaited between the moment at which a policy comes into force, `finish`, and the change of networks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import structlog

from xennetd.daemon.shortage import Shortage
from xennetd.dnsmasq.slices import in_slices
from xennetd.kernel.execute import StepRefused
from xennetd.kernel.kernel import Kernel
from xennetd.model.configuration import Policy
from xennetd.model.link import Link
from xennetd.model.vif import Vif, VifId
from xennetd.plan.port import stop
from xennetd.policy.addresses import OtherGuests
from xennetd.policy.resolve import forbids, keeps
from xennetd.xenstore.directory import Directory

_log = structlog.get_logger(__name__)

_AT_A_TIME = 2
"""Vifs for which the rules are evaluated before others have the loop: two thousand rules take 2 ms."""

_ATTEMPTS = 3
"""Attempts to take ports down that the kernel leaves up, because it is short of memory for example."""


class Eviction:
    """The guests that a policy leaves no network.

    With `movers`, those too whose link is not where the policy puts it: where no earlier policy is known, a guest's
    former network may have changed as well (`policy.transition` is for the way between two policies). No vif in
    `leaving` may be reconciled: the policy that is still in force would bring its port up again.
    """

    def __init__(  # it needs most of what a reconciliation needs
        self,
        policy: Policy,
        directory: Directory,
        kernel: Kernel,
        others: OtherGuests,
        leaving: set[VifId],
        *,
        movers: bool,
    ) -> None:
        self._policy = policy
        self._directory = directory
        self._kernel = kernel
        self._others = others
        self._leaving = leaving
        self._movers = movers
        self._judged: dict[VifId, tuple[Vif, Link | None, bool]] = {}
        self._tap_names: Counter[str] = Counter()

    async def begin(self) -> None:
        """Take the ports down of all who must go, before the policy comes into force."""
        self._read_names()
        async for vif in in_slices(tuple(self._directory), _AT_A_TIME):
            if self._must_go(vif):
                self._leaving.add(vif)
                self._take_down([vif])

    def finish(self) -> None:
        """Take those ports down that are up again, and those of vifs that have come or changed since `begin`."""
        self._read_names()
        evicted = [vif for vif in self._directory if self._must_go(vif)]
        for _ in range(_ATTEMPTS):
            if not self._take_down(evicted):
                break
        self.end()

    def end(self) -> None:
        """Let all vifs be reconciled again."""
        self._leaving.clear()

    def _take_down(self, vifs: Iterable[VifId]) -> bool:
        """Try to take the ports of vifs down. Returns whether one was up."""
        ports = [link for vif in vifs for link in self._ports(vif)]
        if ports:
            try:
                self._kernel.execute(tuple(step for link in ports for step in stop(link)))
            except (StepRefused, *Shortage) as error:
                _log.warning("the port of a guest that loses its network could not be taken down", why=str(error))
        return bool(ports)

    def _must_go(self, vif_id: VifId) -> bool:
        """Return whether a guest with a port that is up must go. The answer holds until its vif or its link changes."""
        vif, link = self._directory.get(vif_id), self._kernel.links.of(vif_id)
        if vif is None or next(self._ports(vif_id), None) is None:
            return False
        judged = self._judged.get(vif_id)
        if judged is None or judged[0] is not vif or (self._movers and judged[1] is not link):
            judged = self._judged[vif_id] = vif, link, self._is_out_of_place(vif, link)
        return judged[2]

    def _is_out_of_place(self, vif: Vif, link: Link | None) -> bool:
        """Return whether the policy puts the vif elsewhere. A defect in this costs nobody the network."""
        try:
            return self._policy_forbids(vif, link)
        except Exception as error:
            _log.exception("a defect in xennetd, please report it", vif=str(vif.id), exc_info=error)
            return False

    def _policy_forbids(self, vif: Vif, link: Link | None) -> bool:
        if forbids(self._policy, vif):
            return True
        if not self._movers or link is None or not link.up:
            return False
        master = self._kernel.links.by_index(link.master) if link.master else None
        return not keeps(
            self._policy, vif, self._kernel.links, self._others, link, master.name if master is not None else None
        )

    def _ports(self, vif_id: VifId) -> Iterator[Link]:
        """Yield those links of a vif that are up: its own, and its tap."""
        vif = self._directory.get(vif_id)
        for link in (self._kernel.links.of(vif_id), self._tap(vif) if vif is not None else None):
            if link is not None and link.up:
                yield link

    def _tap(self, vif: Vif) -> Link | None:
        """Return the tap that is certainly the vif's. A renamed one may be that of a vif with the same `vifname`."""
        if vif.type != "vif_ioemu":
            return None
        for name in (vif.id.tap, vif.tap_name):
            tap = self._kernel.links.link(name)
            if tap is not None and tap.kind == "tun" and (name == vif.id.tap or self._tap_names[name] == 1):
                return tap
        return None

    def _read_names(self) -> None:
        vifs = map(self._directory.get, self._directory)
        self._tap_names = Counter(vif.tap_name for vif in vifs if vif is not None and vif.type == "vif_ioemu")

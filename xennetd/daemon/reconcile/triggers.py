"""Which vifs must be reconciled after a change: of xenstore, of a link, of another vif's claims, of what vifs wait for.

A hint names the vif to reconcile and nothing else. One hint too many costs a decision; a missing one leaves a vif
unattached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from xennetd.daemon.reconcile.queue import WorkQueue
from xennetd.daemon.reconcile.registry import Affected, GuestRegistry
from xennetd.daemon.reconcile.waiters import LinkWaiters
from xennetd.daemon.record import Record
from xennetd.kernel.links import LinkChange, Links, is_guest_port
from xennetd.model.ip import IPNetwork
from xennetd.model.value import replace
from xennetd.model.vif import VifId
from xennetd.xenstore.directory import Directory


class Triggers:
    """Puts hints into the queue of a `Reconciler`, whose `records` it reads."""

    def __init__(
        self,
        queue: WorkQueue,
        waiters: LinkWaiters,
        registry: GuestRegistry,
        directory: Directory,
        links: Links,
        records: Mapping[VifId, Record],
    ) -> None:
        self._queue = queue
        self._waiters = waiters
        self._registry = registry
        self._directory = directory
        self._links = links
        self._records = records

    def hint(self, vif: VifId) -> None:
        """Ask for the reconciliation of one vif."""
        self._queue.hint(vif)

    def try_again(self, vif: VifId) -> None:
        """Forget a vif's failures, and ask for its reconciliation."""
        record = self._records.get(vif)
        if record is not None:
            record.broken_until = 0.0
            memory = record.memory
            record.memory = replace(
                memory, port=replace(memory.port, failure=None), tap=replace(memory.tap, failure=None)
            )
        self.hint(vif)

    def vif_changed(self, vif: VifId, heard_at: float | None = None) -> None:
        """Take a hint from the directory of vifs. `heard_at` is the time of its event, None for now.

        The claims of a vif that is being removed end now, before its reconciliation. A new vif of the same batch of
        events may be reconciled first, and must not be refused because of these claims.
        """
        self._queue.hint(vif, heard_at)
        known = self._directory.get(vif)
        if known is None or known.removing:
            self.claims_changed(self._registry.drop(vif))

    def links_changed(self, changes: Iterable[LinkChange]) -> None:
        """Take changed links from the kernel's view as hints.

        Vifs whose own link or tap changed get a hint. Vifs that wait for such a change are tried again.
        Vifs whose address the host has taken get a hint.
        """
        for change in changes:
            for link in (change.old, change.new):
                if link is not None:
                    for vif in self._waiters.vifs_of(link):
                        self.hint(vif)
            for vif in self._waiters.waiting_for(change, self._links):
                self.try_again(vif)
            for address in _new_host_addresses(change):
                for vif in self._registry.claimants(address):
                    self.hint(vif)

    def claims_changed(self, change: Affected) -> None:
        """Have the vifs reconciled that a change of claims concerns."""
        for vif in change.rivals:
            self.hint(vif)
        self.wake(change.freed)

    def wake(self, names: Iterable[str]) -> None:
        """Try vifs again that wait for one of these names (an error's `waits_on`)."""
        for vif in self._waiters.waiting_on(names):
            self.try_again(vif)


def _new_host_addresses(change: LinkChange) -> tuple[IPNetwork, ...]:
    old, new = change.old, change.new
    if new is None or not new.addresses or (old is not None and old.addresses == new.addresses) or is_guest_port(new):
        return ()
    had = old.addresses if old is not None else ()
    return tuple(ip_network(address.ip) for address in new.addresses if address not in had)

"""What waits to be run for hooks is bounded; that they run, and in which order, is the kernel lane's."""

from __future__ import annotations

from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.journal import Journal
from xennetd.daemon.toolstack.hooks import Hooks
from xennetd.model.event import EventKind
from xennetd.model.vif import Vif, VifId, XenbusState


def vif(domid: int) -> Vif:
    return Vif(VifId(domid, 0), XenbusState.CONNECTED, online=True)


def test_when_too_many_wait_the_next_are_not_run_and_that_is_audited() -> None:
    audit = Audit(Journal("/nonexistent"))
    hooks = Hooks(audit, enabled=True)
    for number in range(4096):
        hooks.run("online", vif(number // 2), f"vif{number // 2}.0")
    assert audit.recent() == []
    hooks.run("offline", vif(7), "vif7.0")
    (event,) = audit.recent()
    assert (event.kind, event.vif) == (EventKind.HOOK, VifId(7, 0))
    assert event.message == "the offline hooks of vif7.0 were not run: 4096 runs wait already"

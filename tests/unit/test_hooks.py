"""What waits to be run for hooks is bounded, and what can't be run is told; all else of hooks is the kernel lane's."""

from __future__ import annotations

import asyncio

import pytest

from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.journal import Journal
from xennetd.daemon.toolstack import hooks as module
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


def audited_of_one_run() -> str:
    """Run the hooks for one vif, and return what is audited."""
    audit = Audit(Journal("/nonexistent"))
    hooks = Hooks(audit, enabled=True)

    async def scenario() -> None:
        hooks.run("online", vif(7), "vif7.0")
        working = asyncio.create_task(hooks.work())
        for _ in range(500):
            await asyncio.sleep(0.01)
            if audit.recent():
                break
        working.cancel()

    asyncio.run(scenario())
    (event,) = audit.recent()
    return event.message


def test_a_run_that_can_not_start_is_told_as_it_is_and_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_hooks", lambda: ("/etc/x.hook",))
    monkeypatch.setattr(module, "_BASH", "/nonexistent/bash")
    said = "the online hooks of vif7.0 could not be run: No such file or directory (/nonexistent/bash)"
    assert audited_of_one_run() == said


def test_a_run_that_a_signal_ends_is_told_with_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_hooks", lambda: ("kill -SEGV $$",))
    monkeypatch.setattr(module, "_RUNNER", "-c")
    assert audited_of_one_run() == "the online hooks of vif7.0 failed with signal SIGSEGV"

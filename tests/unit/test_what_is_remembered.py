"""What the daemon keeps in memory of a vif: no more than the next decision needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from tests.unit.test_interleavings import NO_POLICY, SimulatedBackend
from tests.unit.test_kept_guests import OTHER, Host, play
from xennetd.daemon.reconcile import observe
from xennetd.model.configuration import Policy
from xennetd.model.errors import ToolstackError
from xennetd.model.status import VifState
from xennetd.model.vif import Vif, VifId
from xennetd.policy.resolve import Resolution, resolve


async def born(host: Host) -> None:
    """Let a vif appear, and let the daemon look at it once."""
    host.born(OTHER, 1)
    host.kernel.poll()
    host.directory.poll()
    await host.reconciler.look_at_all()


@contextmanager
def asked_about() -> Iterator[list[VifId]]:
    """Yield the list of the vifs that policy is asked about meanwhile."""
    vifs: list[VifId] = []

    def asked(policy: Policy, vif: Vif, *others: Any) -> Resolution:
        vifs.append(vif.id)
        return resolve(policy, vif, *others)

    with mock.patch.object(observe, "resolve", asked):
        yield vifs


def test_the_answers_that_policy_got_are_forgotten_once_the_vif_is_connected() -> None:
    async def scenario(host: Host) -> None:
        await born(host)
        record = host.reconciler.records[OTHER]
        assert record.state is VifState.CONNECTED
        assert record.resolved is None

    play(NO_POLICY, scenario)


def test_policy_is_not_asked_again_about_a_vif_whose_verdict_xenstore_refuses() -> None:
    async def refuse(*_: object, **__: object) -> bool:
        raise ToolstackError("xenstored refuses the write")

    async def scenario(host: Host) -> None:
        with mock.patch.object(SimulatedBackend, "write_verdict", refuse):
            await born(host)
            assert host.reconciler.records[OTHER].state is VifState.ERROR
            with asked_about() as vifs:
                await host.reconciler.look_at_all()
        assert OTHER not in vifs

    play(NO_POLICY, scenario)

"""What the daemon keeps in memory of a vif: no more than the next decision needs."""

from __future__ import annotations

from tests.unit.test_interleavings import NO_POLICY
from tests.unit.test_kept_guests import OTHER, Host, play
from xennetd.model.status import VifState


def test_the_answers_that_policy_got_are_forgotten_once_the_vif_is_connected() -> None:
    async def scenario(host: Host) -> None:
        host.born(OTHER, 1)
        host.kernel.poll()
        host.directory.poll()
        await host.reconciler.look_at_all()
        record = host.reconciler.records[OTHER]
        assert record.state is VifState.CONNECTED
        assert record.resolved is None

    play(NO_POLICY, scenario)

"""The order in which networks and guests follow a new policy."""

from __future__ import annotations

from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.networks import Networks
from xennetd.daemon.reconcile.reconciler import Reconciler
from xennetd.model.configuration import Policy
from xennetd.model.vif import VifId
from xennetd.policy.check import Notes
from xennetd.policy.transition import transition


async def begin(in_force: InForce, networks: Networks, reconciler: Reconciler) -> None:
    """Make what networks need, at a start. Guests may still have their networks of an earlier configuration."""
    denied = await _denied(in_force.policy, reconciler)
    async with networks.changing(denied):
        await reconciler.take_off(denied)
        await networks.look()


async def follow(  # a reload concerns all of these
    policy: Policy, notes: Notes, in_force: InForce, host: HostState, networks: Networks, reconciler: Reconciler
) -> None:
    """Put a policy into force.

    The guests that it denies are taken off, what networks need is made, the guests move, and what only the old policy
    needed is removed. After a defect, and if the reload is cancelled, the policy is in force all the same, and
    everything is looked at again.
    """
    denied = await _denied(policy, reconciler)
    before = in_force.enforced if in_force.enforced is not None else in_force.policy
    try:
        for stage in transition(before, policy):
            with host.hold():
                async with networks.changing(denied):
                    in_force.put(stage, notes)
                    host.supersede()
                    await reconciler.take_off(denied)
                    await networks.follow_policy()
                await reconciler.follow_policy()
            if not in_force.observes:
                await host.release()
            await networks.retire()
    except BaseException:
        in_force.put(policy, notes)
        networks.give_up_move()
        for vif in list(reconciler.records):
            reconciler.triggers.hint(vif)
        raise


async def _denied(policy: Policy, reconciler: Reconciler) -> list[VifId]:
    """Return the vifs to take off before networks change: they would have what the policy gives others meanwhile."""
    return [] if policy.daemon.mode == "observe" else await reconciler.denied(policy)

"""The order in which networks and guests follow a new policy."""

from __future__ import annotations

from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.networks import Networks
from xennetd.daemon.reconcile.reconciler import Reconciler
from xennetd.model.configuration import Policy
from xennetd.policy.check import Notes
from xennetd.policy.transition import transition


async def begin(in_force: InForce, networks: Networks, reconciler: Reconciler) -> None:
    """Make what networks need, at a start. Guests may still be in networks of an earlier configuration.

    Until this returns no vif may be reconciled, and no other policy may come into force.
    """
    if not in_force.observes:
        eviction = reconciler.eviction(in_force.policy)
        await eviction.begin()
        eviction.finish()
    await networks.look()


async def follow(  # a reload concerns all of these
    policy: Policy, notes: Notes, in_force: InForce, host: HostState, networks: Networks, reconciler: Reconciler
) -> None:
    """Put a policy into force.

    The ports of guests that it denies go down, what networks need is made, the guests move, and what only the
    old policy needed is removed. After a defect, and if the reload is cancelled, the policy is in force all the same,
    and everything is looked at again.
    """
    before = in_force.enforced if in_force.enforced is not None else in_force.policy
    eviction = reconciler.eviction(policy)
    try:
        if policy.daemon.mode != "observe":
            await (eviction.begin() if in_force.observes else eviction.find())
        stages = transition(before, policy)
        for stage in stages:
            in_force.put(stage, notes)
            host.supersede()
            if stage is stages[0] and not in_force.observes:
                eviction.finish()
            with host.hold():
                await networks.follow_policy()
                await reconciler.follow_policy()
            if not in_force.observes:
                await host.release()
            await networks.retire()
    except BaseException:
        in_force.put(policy, notes)
        host.supersede()
        networks.give_up_move()
        for vif in list(reconciler.records):
            reconciler.triggers.hint(vif)
        raise

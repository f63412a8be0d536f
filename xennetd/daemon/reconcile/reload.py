"""The order in which networks and guests follow a new policy."""

from __future__ import annotations

from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.networks import Networks
from xennetd.daemon.reconcile.reconciler import Reconciler
from xennetd.model.configuration import Policy
from xennetd.policy.check import Notes
from xennetd.policy.transition import transition


async def follow(  # a reload concerns all of these
    policy: Policy, notes: Notes, in_force: InForce, host: HostState, networks: Networks, reconciler: Reconciler
) -> None:
    """Put a policy into force: make what networks need, move the guests, remove what only the old policy needed.

    After a defect, and if the reload is cancelled, the policy is in force all the same, and everything is looked at
    again.
    """
    before = in_force.enforced if in_force.enforced is not None else in_force.policy
    try:
        for stage in transition(before, policy):
            in_force.put(stage, notes)
            host.supersede()
            with host.hold():
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

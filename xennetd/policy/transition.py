"""The way from one policy to the next: no guest may be in a bridge whose filter is gone already."""

from __future__ import annotations

from dataclasses import replace

from xennetd.model.configuration import Policy
from xennetd.policy.network_needs import compile_ruleset


def transition(old: Policy, new: Policy) -> tuple[Policy, ...]:
    """Return the policies to put into force one after the other: `new`, and before it what guests need to move to it.

    The filter is one object for all networks. Where `new` has no use for a bridge of xennetd's, guests are in that
    bridge until they have been moved, so the first policy is `new` with the old bridge's filter beside its own.
    """
    kept = {network.bridge for network in new.networks.values() if network.own}
    left = tuple(network for network in old.networks.values() if network.own and network.bridge not in kept)
    if not left:
        return (new,)
    both = compile_ruleset((*new.networks.values(), *left))
    return replace(new, ruleset=both), new

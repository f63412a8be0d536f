"""The way from one policy to the next: no guest may be in a bridge whose filter is gone or opened already."""

from __future__ import annotations

from xennetd.model.configuration import Mode, Network, Policy
from xennetd.model.value import replace
from xennetd.policy.modes import module_of
from xennetd.policy.network_needs import compile_ruleset
from xennetd.render.nft_ruleset import closing


def transition(old: Policy, new: Policy) -> tuple[Policy, ...]:
    """Return the policies to put into force one after the other: `new`, or a policy for the move and then `new`.

    The filter is one object for all networks, and guests are in the bridges of `old` until they have been moved. The
    policy for the move is `new` with another filter. Bridges that `new` has no use for keep their filter of `old`. A
    bridge with another way out in `new` is closed: neither a guest that leaves the bridge nor one that joins it may use
    a way that only the other policy allows.
    """
    kept = {network.bridge: network for network in new.networks.values() if network.own}
    before = [network for network in old.networks.values() if network.own]
    left = tuple(network for network in before if network.bridge not in kept)
    stayed = [network for network in before if network.bridge in kept]
    changed = [network for network in stayed if _way_out(network) != _way_out(kept[network.bridge])]
    if not left and not changed:
        return (new,)
    closed = tuple(closing(network.bridge, module_of(network).firewall(network)) for network in changed)
    return replace(new, ruleset=compile_ruleset((*new.networks.values(), *left), closed)), new


def _way_out(network: Network) -> tuple[Mode, str | None]:
    return network.mode, network.uplink

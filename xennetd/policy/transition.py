"""The way from one policy to the next: no guest may be in a bridge whose filter is gone or opened already."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from xennetd.model.configuration import Mode, Network, Policy
from xennetd.model.value import replace
from xennetd.policy.modes import module_of
from xennetd.policy.network_needs import compile_ruleset
from xennetd.render.nft_ruleset import NetworkRules, closing, ways_out


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
    return replace(new, ruleset=compile_ruleset((*new.networks.values(), *left), _closed(changed))), new


def transition_at_start(new: Policy, exists: Callable[[str], bool], in_force: Callable[[str], bool]) -> Policy:
    """Return the policy to put into force until every guest has been looked at: `new`, or one with another filter.

    The policy before is not known, but its filter is. A bridge that exists and has none of its ways out in that filter
    gets a way out. It is closed, as in `transition`. Bridges that `new` has no use for are closed by the filter of any
    policy. `exists` says whether xennetd has made a bridge of this name, `in_force` whether the filter has a rule.
    """
    made = [network for network in new.networks.values() if network.own and exists(network.bridge)]
    opened = [network for network in made if (ways := _ways_out(network)) and not any(map(in_force, ways))]
    if not opened:
        return new
    return replace(new, ruleset=compile_ruleset(tuple(new.networks.values()), _closed(opened)))


def _closed(networks: Iterable[Network]) -> tuple[NetworkRules, ...]:
    return tuple(closing(network.bridge, module_of(network).firewall(network)) for network in networks)


def _ways_out(network: Network) -> tuple[str, ...]:
    return ways_out(network.bridge, module_of(network).firewall(network).leaves)


def _way_out(network: Network) -> tuple[Mode, str | None]:
    return network.mode, network.uplink

"""What the host itself must have for a network, whichever guests there are in it."""

from __future__ import annotations

from functools import lru_cache

from xennetd.model.configuration import Network, Policy
from xennetd.model.errors import PolicyError
from xennetd.model.link import HostView
from xennetd.model.marks import BRIDGE_GROUP
from xennetd.model.objects import HostObject, Ruleset
from xennetd.policy.modes import module_of
from xennetd.render import nft_ruleset


def needs(policy: Policy, network: Network, host: HostView) -> tuple[HostObject, ...]:
    """Return what a network needs. Raises PolicyError for a subnet or an uplink that this host can't give it."""
    module = module_of(network)
    if not module.filtered():
        return ()
    network = usable(network, host)
    _check(network, host)
    return (ruleset(policy), *module.host_objects(network, host))


def usable(network: Network, host: HostView) -> Network:
    """Return the network as this host can have it: without IPv6 where the kernel has none.

    Raises PolicyError if nothing is left of it.
    """
    if host.has_ipv6 or network.subnet6 is None:
        return network
    if network.subnet4 is None:
        raise PolicyError(f'network "{network.name}" has an IPv6 subnet alone, and this host\'s kernel has no IPv6')
    return network.without_ipv6()


def lacks(network: Network, host: HostView) -> str | None:
    """Return what a network that this host can have must do without, in a sentence; None if it has everything."""
    if host.has_ipv6 or network.subnet6 is None or network.subnet4 is None:
        return None
    return (
        f'network "{network.name}" has IPv4 only: this host\'s kernel has no IPv6 (ipv6.disable=1?), so its guests do '
        f"without {network.subnet6}"
    )


def named_links(policy: Policy) -> frozenset[str]:
    """Return the names of the links that networks of ours consist of, or lead through."""
    networks = [network for network in policy.networks.values() if module_of(network).filtered()]
    names = {name for each in networks for name in (each.bridge, each.served_link, each.uplink)}
    return frozenset(name for name in names if name)


def ruleset(policy: Policy) -> Ruleset:
    """Return the whole filter that holds while the policy does, whichever guests there are."""
    return policy.ruleset if policy.ruleset is not None else compile_ruleset(tuple(policy.networks.values()))


@lru_cache(maxsize=2)
def compile_ruleset(networks: tuple[Network, ...]) -> Ruleset:
    """Return the filter for these networks, in an order that does not change when a network gets another name."""
    ordered = sorted(networks, key=lambda network: (network.served_link, network.name))
    return nft_ruleset.ruleset([module_of(network).firewall(network) for network in ordered])


def _check(network: Network, host: HostView) -> None:
    if network.uplink is not None and host.link(network.uplink) is None:
        raise PolicyError(
            f'network "{network.name}": uplink "{network.uplink}" does not exist: create it, or correct '
            f"network.{network.name}.uplink in xennetd's configuration",
            waits_on=frozenset({network.uplink}),
        )
    bridge = host.link(network.bridge)
    if not network.own or (bridge is not None and bridge.group == BRIDGE_GROUP):
        # Guests that are routed may well have addresses of the uplink's subnet. And a network that stands is not taken
        # from its guests because another link has got an address there since: anybody's router could do that to it.
        return
    for subnet in network.subnets:
        other = host.neighbouring(subnet)
        if other is not None:
            raise PolicyError(
                f'network "{network.name}": subnet {subnet} is in use on this host already, on link "{other.name}"',
                waits_on=frozenset({other.name}),
            )

"""The host objects that a network needs, apart from its guests' needs."""

from __future__ import annotations

from functools import lru_cache

from xennetd.model.configuration import Network, Policy
from xennetd.model.errors import PolicyError
from xennetd.model.link import HostView
from xennetd.model.objects import HostObject, ManagedBridge, Ruleset
from xennetd.model.value import replace
from xennetd.policy.modes import module_of
from xennetd.render import nft_ruleset


def needs(
    policy: Policy, network: Network, host: HostView, bridges: frozenset[str] = frozenset()
) -> tuple[HostObject, ...]:
    """Return the host objects that a network needs, also if there is an `obstacle` to make them now.

    `bridges` are the names of all bridges of the policy's (`made_bridges`).
    A network that the host can't provide at all (`usable`) needs none.
    """
    module = module_of(network)
    try:
        network = usable(network, host)
    except PolicyError:
        return ()
    filters = (ruleset(policy),) if module.filtered() else ()
    objects = module.host_objects(network, host)
    return (*filters, *(replace(item, others=bridges) if isinstance(item, ManagedBridge) else item for item in objects))


def obstacle(network: Network, host: HostView) -> PolicyError | None:
    """Return why the network can't be made now: a subnet or an uplink that it can't have. None if it can."""
    try:
        _check(usable(network, host), host)
    except PolicyError as error:
        return error
    return None


def usable(network: Network, host: HostView) -> Network:
    """Return the part of the network that this host can provide: without IPv6 if the kernel has none.

    Raises PolicyError if the network has no IPv4 subnet then.
    """
    if host.has_ipv6 or network.subnet6 is None:
        return network
    if network.subnet4 is None:
        raise PolicyError(f'network "{network.name}" has only an IPv6 subnet, and this host\'s kernel has no IPv6')
    return network.without_ipv6()


def lacks(network: Network, host: HostView) -> str | None:
    """Return a sentence that says what a usable network lacks on this host, None if it lacks nothing."""
    if host.has_ipv6 or network.subnet6 is None or network.subnet4 is None:
        return None
    return (
        f'network "{network.name}" has IPv4 only: this host\'s kernel has no IPv6 (ipv6.disable=1?), so its guests get '
        f"no address of {network.subnet6}"
    )


def named_links(policy: Policy) -> frozenset[str]:
    """Return the names of the links that xennetd makes for networks, and of the networks' uplinks."""
    names = {name for network in policy.networks.values() for name in (network.served_link, network.uplink)}
    return frozenset(name for name in names if name)


def made_bridges(policy: Policy) -> frozenset[str]:
    """Return the names of the bridges that xennetd makes for networks."""
    return frozenset(network.served_link for network in policy.networks.values() if network.served_link)


def ruleset(policy: Policy) -> Ruleset:
    """Return the whole filter of the policy. It does not depend on the guests."""
    return policy.ruleset if policy.ruleset is not None else compile_ruleset(tuple(policy.networks.values()))


@lru_cache(maxsize=2)
def compile_ruleset(networks: tuple[Network, ...], closing: tuple[nft_ruleset.NetworkRules, ...] = ()) -> Ruleset:
    """Return the filter for these networks. The order of its rules stays the same when a network is renamed.

    The rules `closing` precede those of the networks in each stage.
    """
    ordered = sorted(networks, key=lambda network: (network.served_link, network.name))
    return nft_ruleset.ruleset([*closing, *(module_of(network).firewall(network) for network in ordered)])


def _check(network: Network, host: HostView) -> None:
    if network.uplink is not None and host.link(network.uplink) is None:
        raise PolicyError(
            f'network "{network.name}": uplink "{network.uplink}" does not exist: create it, or correct '
            f"network.{network.name}.uplink in xennetd's configuration",
            waits_on=frozenset({network.uplink}),
        )
    bridge = host.link(network.bridge)
    if not network.own or (bridge is not None and bridge.is_own_bridge):
        # Routed guests may have addresses of the uplink's subnet. And guests keep a network that exists, even if
        # another link has got an address in its subnet since: else a foreign DHCP server could cut them off.
        return
    for subnet in network.subnets:
        other = host.neighbouring(subnet)
        if other is not None:
            raise PolicyError(
                f'network "{network.name}": subnet {subnet} is in use on this host already, on link "{other.name}"',
                waits_on=frozenset({other.name}),
            )

"""The rules of the nftables table, as far as no link of the kernel lane shows a mistake in them."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from xennetd.model.configuration import Network, Policy
from xennetd.policy.modes import ISOLATED, NAT
from xennetd.policy.network_needs import ruleset

NETWORKS = (
    Network("lab", NAT, bridge="xn-lab", subnet4=IPv4Network("10.77.0.0/24"), uplink="eth0"),
    Network("free", NAT, bridge="xn-free", subnet6=IPv6Network("fd77::/64"), nptv6=IPv6Network("2001:db8:77::/64")),
    Network("store", ISOLATED, bridge="xn-store"),
)


def test_no_rule_relies_on_the_kind_of_a_link_that_has_none() -> None:
    """A physical interface has no kind, and `iifkind != "bridge"` does not match it."""
    rules = [
        rule
        for chain in ruleset(Policy(networks={network.name: network for network in NETWORKS})).chains
        for rule in chain.rules
    ]
    assert [rule for rule in rules if "kind" in rule]
    assert not [rule for rule in rules if "kind !=" in rule]

"""From one policy to the next: which filters and flags are in force while guests move."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest

from xennetd.model.configuration import Network, Policy
from xennetd.model.value import replace
from xennetd.policy.modes import ISOLATED, NAT
from xennetd.policy.network_needs import ruleset
from xennetd.policy.transition import transition

LAB = Network("lab", NAT, bridge="xn-lab", subnet4=IPv4Network("10.77.0.0/24"), uplink="wg0")
CLOSED = replace(LAB, mode=ISOLATED, uplink=None)
DROPPED = {'iifname "xn-lab" drop', 'oifname "xn-lab" drop'}


def policy(*networks: Network) -> Policy:
    return Policy(networks={network.name: network for network in networks})


def passing(policy: Policy) -> list[str]:
    """Return the rules about forwarded packets, in their order."""
    return [rule for chain in ruleset(policy).chains if chain.name == "passing" for rule in chain.rules]


@pytest.mark.parametrize(
    ("before", "after"),
    [(CLOSED, LAB), (LAB, CLOSED), (LAB, replace(LAB, uplink="eth0")), (LAB, replace(LAB, uplink=None))],
    ids=["isolated to nat", "nat to isolated", "another uplink", "no uplink named"],
)
def test_a_bridge_that_gets_another_way_out_is_closed_while_guests_move(before: Network, after: Network) -> None:
    new = policy(after)
    moving, then = transition(policy(before), new)
    assert then is new
    rules = passing(moving)
    ways_out = [
        rule for rule in rules if rule.startswith('iifname "xn-lab"') and "accept" in rule and "oifname" in rule
    ]
    leaving = [rule for rule in ways_out if 'oifname "xn-lab"' not in rule]
    first_drop = min(rules.index(rule) for rule in DROPPED)
    assert all(first_drop < rules.index(rule) for rule in leaving)
    assert set(rules) >= DROPPED
    if before is CLOSED:
        arriving = next(chain for chain in ruleset(moving).chains if chain.name == "arriving").rules
        assert any('iifname "xn-lab"' in rule and "10.77.0.1 drop" in rule for rule in arriving)


@pytest.mark.parametrize(
    "after",
    [
        LAB,
        replace(LAB, name="office"),
        replace(LAB, subnet6=IPv6Network("fd77::/64")),
        replace(LAB, dhcp=True, domain="lab.internal"),
    ],
    ids=["nothing", "its name", "a second subnet", "dhcp"],
)
def test_guests_that_stay_lose_nothing_for_other_changes(after: Network) -> None:
    assert transition(policy(LAB), policy(after)) == (policy(after),)


def test_a_bridge_that_goes_keeps_its_filter_until_its_guests_have_left() -> None:
    new = policy(replace(LAB, bridge="xn-new"))
    moving, _ = transition(policy(LAB), new)
    assert set(passing(moving)) >= set(passing(policy(LAB)))

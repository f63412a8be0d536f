"""Guests that are routed, and guests of networks of our own: addresses, gateways, what the host must have."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_interface
from typing import Any

import pytest

from tests.unit.hosts import TableHost, nobody
from xennetd.daemon.reconcile.registry import GuestRegistry
from xennetd.model.attachment import Attachment
from xennetd.model.configuration import Forward, Match, Network, Policy, Rule
from xennetd.model.errors import GuestError, HostError, PolicyError, XennetdError
from xennetd.model.link import Link, Neighbour
from xennetd.model.marks import BRIDGE_GROUP
from xennetd.model.objects import DhcpHost, ProxyNeighbour, Ruleset, SetElement, Sysctl, sysctl_key
from xennetd.model.placement import BridgePort, Routed
from xennetd.model.value import replace
from xennetd.model.vif import Fault, Vif, VifId, XenbusState
from xennetd.policy.modes import NAT, ROUTE
from xennetd.policy.resolve import resolve

MAC = "00:16:3e:00:00:07"
VIF = Vif(
    VifId(7, 0),
    XenbusState.INIT_WAIT,
    online=True,
    script="/etc/xen/scripts/vif-xennetd-route",
    mac=MAC,
    bridge="xenbr0",
    vm="web-1",
    uuid="9f6c12ab-0123-4567-89ab-0123456789ab",
)
ETH0 = Link(4, "eth0", addresses=(IPv4Interface("192.0.2.10/24"), IPv6Interface("2001:db8::10/64")))
IPV6 = {(6, "all", "forwarding"): 0}
HOST = TableHost((ETH0,), IPV6, {4: "eth0", 6: "eth0"})
DMZ = Network("dmz", ROUTE, gateway="link-local", uplink="eth0")
LAB = Network(
    "lab",
    NAT,
    bridge="xn-lab",
    subnet4=IPv4Network("10.77.0.0/24"),
    subnet6=IPv6Network("fd77::/64"),
    dhcp=True,
    ra="slaac",
    domain="lab.internal",
    forwards=(Forward("tcp", 8080, "web-1", 80),),
)
NO_POLICY = Policy()
XN_LAB = Link(9, "xn-lab", "bridge", group=BRIDGE_GROUP)


def ips(*texts: str) -> Any:
    return tuple(ip_interface(text) for text in texts)


def to(network: Network, **rule: Any) -> Policy:
    return Policy(networks={network.name: network}, rules=(Rule("p", Match(), network=network, **rule),))


def got(
    policy: Policy = NO_POLICY, vif: Vif = VIF, host: TableHost = HOST, others: GuestRegistry | None = None
) -> Attachment:
    outcome = resolve(policy, vif, host, others or nobody()).outcome
    assert isinstance(outcome, Attachment), outcome
    return outcome


def routed(attachment: Attachment) -> Routed:
    assert isinstance(attachment.placement, Routed)
    return attachment.placement


def error(
    policy: Policy = NO_POLICY, vif: Vif = VIF, host: TableHost = HOST, others: GuestRegistry | None = None
) -> XennetdError:
    outcome = resolve(policy, vif, host, others or nobody()).outcome
    assert isinstance(outcome, XennetdError)
    return outcome


def test_without_configuration_a_route_is_what_the_stock_script_makes_of_it() -> None:
    found = got(vif=replace(VIF, ips=ips("198.51.100.7")))
    placement = routed(found)
    assert (found.assignment.mode, found.bridge, placement.uplink) == ("route", None, "eth0")
    assert placement.gateways == ips("192.0.2.10/32")
    assert placement.source == IPv4Address("192.0.2.10")
    assert placement.destinations == (IPv4Network("198.51.100.7/32"),)
    assert placement.neighbours == {Neighbour(IPv4Address("198.51.100.7"), MAC)}
    assert {(4, "forwarding", 1), (4, "rp_filter", 1), (4, "proxy_arp", 1)} <= set(placement.sysctls)
    assert found.where == "a route via eth0"
    assert Sysctl(4, "eth0", "forwarding", 1) in found.needs
    assert not any(isinstance(each, ProxyNeighbour) for each in found.needs)


def test_an_address_of_the_uplinks_subnet_is_answered_for_there() -> None:
    found = got(vif=replace(VIF, ips=ips("192.0.2.77", "2001:db8::77")))
    proxies = {each for each in found.needs if isinstance(each, ProxyNeighbour)}
    assert proxies == {
        ProxyNeighbour("eth0", IPv4Address("192.0.2.77")),
        ProxyNeighbour("eth0", IPv6Address("2001:db8::77")),
    }
    assert Sysctl(6, "eth0", "proxy_ndp", 1) in found.needs


def test_ipv6_forwarding_keeps_the_hosts_own_default_route() -> None:
    found = got(vif=replace(VIF, ips=ips("2001:db8:7::7")))
    sysctls = {each.key: each for each in found.needs if isinstance(each, Sysctl)}
    heeding, forwarding = sysctls[sysctl_key(6, "eth0", "accept_ra")], sysctls[sysctl_key(6, "all", "forwarding")]
    assert (heeding.value, heeding.unless) == (2, (0,)), "a link that heeds no router advertisements goes on so"
    assert (forwarding.value, forwarding.unless) == (1, ())
    assert heeding.key in forwarding.requires
    for value in range(3):
        host = TableHost((ETH0,), IPV6 | {(6, "eth0", "accept_ra"): value}, HOST.ways_out)
        assert got(vif=replace(VIF, ips=ips("2001:db8:7::7")), host=host).needs == found.needs


def test_ipv6_is_forwarded_link_by_link_where_the_kernel_can() -> None:
    host = TableHost((ETH0,), IPV6 | {(6, "default", "force_forwarding"): 0}, HOST.ways_out)
    found = got(vif=replace(VIF, ips=ips("2001:db8:7::7")), host=host)
    assert Sysctl(6, "eth0", "force_forwarding", 1) in found.needs
    assert Sysctl(6, "all", "forwarding", 1) not in found.needs
    assert (6, "force_forwarding", 1) in routed(found).sysctls


def test_a_kernel_without_ipv6_is_an_error_only_for_who_needs_it() -> None:
    host = TableHost((ETH0,), {}, {4: "eth0"})
    assert got(vif=replace(VIF, ips=ips("198.51.100.7")), host=host).assignment.mode == "route"
    refused = error(vif=replace(VIF, ips=ips("198.51.100.7", "2001:db8:7::7")), host=host)
    assert isinstance(refused, HostError)
    assert "no IPv6" in refused.sentence


def test_without_ipv6_the_rules_addresses_still_replace_those_of_the_vif_line() -> None:
    host = TableHost((ETH0,), {}, {4: "eth0"})
    vif = replace(VIF, ips=ips("198.51.100.7"))
    four, six = IPv4Address("198.51.100.9"), IPv6Address("2001:db8:7::9")
    found = got(to(DMZ, ips=(four, six)), vif, host)
    assert found.ips == (IPv4Network("198.51.100.9"),)
    assert str(six) in "".join(found.warnings)
    assert "no IPv6" in error(to(DMZ, ips=(six,)), vif, host).sentence


def test_a_link_local_gateway_is_the_same_for_everyone() -> None:
    found = got(to(DMZ), replace(VIF, ips=ips("198.51.100.7", "2001:db8:7::7")))
    assert routed(found).gateways == ips("169.254.1.1/32", "fe80::1/64")
    assert routed(found).source == IPv4Address("169.254.1.1")


@pytest.mark.parametrize(
    ("written", "destination"),
    [
        ("10.1.0.5", "10.1.0.5/32"),
        ("10.1.0.5/24", "10.1.0.5/32"),
        ("10.1.0.16/28", "10.1.0.16/28"),
        ("2001:db8:7::/64", "2001:db8:7::/64"),
    ],
)
def test_an_address_is_routed_and_so_is_a_prefix(written: str, destination: str) -> None:
    found = got(vif=replace(VIF, ips=ips(written)))
    assert [str(each) for each in routed(found).destinations] == [destination]


def test_rubbish_beside_good_addresses_leaves_nothing_half_applied() -> None:
    vif = replace(VIF, ips=ips("10.1.0.5"), faults=(Fault("ip", 'ip "10.1.0.5 bogus" is no address'),))
    assert isinstance(error(vif=vif), GuestError)


def test_the_stock_numbering_of_nat() -> None:
    found = got(vif=replace(VIF, id=VifId(300, 1), script="vif-xennetd-nat"))
    assert found.assignment.mode == "nat"
    assert found.ips == (IPv4Network("10.1.44.2/32"),)
    assert routed(found).gateways == ips("10.1.44.129/32")
    assert SetElement("masquerade4", ("10.1.44.2", str(ETH0.index))) in found.needs
    assert found.where == "a NAT route via eth0"


@pytest.mark.parametrize(
    ("guest", "gateway"), [("10.0.0.127", "10.0.0.254"), ("10.0.0.128", "10.0.0.1"), ("10.0.0.254", "10.0.0.127")]
)
def test_the_stock_gateway_does_not_overflow(guest: str, gateway: str) -> None:
    found = got(vif=replace(VIF, script="vif-xennetd-nat", ips=ips(guest)))
    assert routed(found).gateways == ips(gateway)


def test_no_uplink_is_an_error_that_ends_when_there_is_a_default_route() -> None:
    refused = error(host=TableHost((ETH0,), IPV6, {}))
    assert "no default route" in refused.sentence
    assert refused.waits_on == {"default route"}
    assert got(vif=replace(VIF, gatewaydev="eth0"), host=TableHost((ETH0,), IPV6, {})).assignment.mode == "route"
    missing = error(vif=replace(VIF, gatewaydev="eth9"))
    assert missing.sentence.startswith('uplink "eth9" does not exist')


def test_an_address_of_the_host_itself_is_refused() -> None:
    assert "the host's own" in error(vif=replace(VIF, ips=ips("192.0.2.10"))).sentence


@pytest.mark.parametrize("wanted", ["192.0.2.1", "192.0.2.0/29"])
def test_an_address_of_the_hosts_router_is_refused_as_long_as_it_is_that(wanted: str) -> None:
    host = TableHost((ETH0,), IPV6, HOST.ways_out, routers=(IPv4Address("192.0.2.1"),))
    refused = error(vif=replace(VIF, ips=ips(wanted)), host=host)
    assert refused.sentence.startswith("address 192.0.2.1 is that of the host's router")
    assert refused.waits_on == {"default route"}
    assert routed(got(vif=replace(VIF, ips=ips(wanted)))).uplink == "eth0"


def test_a_guest_of_a_nat_network_is_told_its_address_and_gets_its_ports() -> None:
    found = got(to(LAB), host=TableHost((ETH0, XN_LAB), IPV6, HOST.ways_out))
    (address,) = found.ips
    assert isinstance(address, IPv4Network)
    assert address.subnet_of(IPv4Network("10.77.0.0/24"))
    assert found.needs == (
        DhcpHost("xn-lab", MAC, (address.network_address,), "web-1.lab.internal"),
        SetElement("forward4", ("tcp", "8080"), (str(address.network_address), "80")),
    )
    assert found.placement == BridgePort("xn-lab", 9, 1500)
    assert found.assignment.mode == "nat"
    again = got(to(LAB), replace(VIF, id=VifId(12, 0)), host=TableHost((ETH0, XN_LAB), IPV6, HOST.ways_out))
    assert again.ips == found.ips, "the same domain gets the same address under another domid"


def test_a_network_whose_bridge_is_not_there_is_not_ready() -> None:
    assert isinstance(error(to(LAB)), PolicyError)
    foreign = replace(XN_LAB, group=0)
    assert "not ready" in error(to(LAB), host=TableHost((ETH0, foreign), IPV6, {})).sentence


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.78.0.5", "ip 10.78.0.5: not in 10.77.0.0/24"),
        ("10.77.0.0", "no guest"),
        ("10.77.0.255", "no guest"),
        ("10.77.0.1", "the gateway"),
    ],
)
def test_an_address_that_no_guest_of_the_network_can_have(address: str, why: str) -> None:
    refused = error(to(LAB), replace(VIF, ips=ips(address)), TableHost((ETH0, XN_LAB), IPV6, {}))
    assert isinstance(refused, GuestError)
    assert why in refused.sentence


def claimed(*vifs: Vif, policy: Policy, host: TableHost) -> GuestRegistry:
    claims = nobody()
    for vif in vifs:
        claims.meet(vif.id, connected=True, in_service=True)
        claims.set(vif, f"{vif.id} of {vif.vm}", got(policy, vif, host, claims), connected=True)
    return claims


def test_an_address_that_another_guest_has_is_refused_without_naming_it_to_the_guest() -> None:
    first = replace(VIF, id=VifId(3, 0), vm="db-1", uuid="other", ips=ips("198.51.100.7"))
    claims = claimed(first, policy=Policy(), host=HOST)
    refused = error(vif=replace(VIF, ips=ips("198.51.100.7")), others=claims)
    assert refused.sentence == "address 198.51.100.7 is in use by another guest"
    assert "vif3.0 of db-1" in refused.detail
    wider = error(vif=replace(VIF, ips=ips("198.51.100.0/28")), others=claims)
    assert "another guest" in wider.sentence
    assert claims.drop(VifId(3, 0)).freed == refused.waits_on
    assert got(vif=replace(VIF, ips=ips("198.51.100.7")), others=claims).ips


def test_in_a_handover_the_later_vif_of_a_domain_has_its_addresses() -> None:
    old = replace(VIF, ips=ips("198.51.100.7"))
    new = replace(old, id=VifId(8, 0))
    claims = claimed(old, new, policy=Policy(), host=HOST)
    winner, loser = got(vif=new, others=claims), got(vif=old, others=claims)
    assert routed(winner).destinations == (IPv4Network("198.51.100.7/32"),)
    assert (routed(loser).destinations, routed(loser).neighbours) == ((), frozenset())
    assert "belongs to a later vif" in loser.warnings[-1]


def test_a_full_pool_says_so_and_waits_for_an_address() -> None:
    tiny = replace(LAB, subnet4=IPv4Network("10.77.0.0/30"), forwards=())
    host = TableHost((ETH0, XN_LAB), IPV6, {})
    claims = claimed(replace(VIF, id=VifId(3, 0), uuid="other", vm="db"), policy=to(tiny), host=host)
    refused = error(to(tiny), host=host, others=claims)
    assert refused.sentence == 'network "lab" has no free address left in 10.77.0.0/30'
    assert claims.drop(VifId(3, 0)).freed >= refused.waits_on


def test_addresses_that_a_policy_fixes_are_given_to_nobody_else() -> None:
    tiny = replace(LAB, subnet4=IPv4Network("10.77.0.0/30"), forwards=())
    rules = (
        Rule("db", Match(vm="db"), network=tiny, ips=(IPv4Address("10.77.0.2"),)),
        Rule("rest", Match(), network=tiny),
    )
    host = TableHost((ETH0, XN_LAB), IPV6, {})
    assert "no free address" in error(Policy(networks={"lab": tiny}, rules=rules), host=host).sentence
    assert got(Policy(networks={"lab": tiny}, rules=rules), replace(VIF, vm="db"), host).ips == (
        IPv4Network("10.77.0.2/32"),
    )


def test_a_lease_is_kept() -> None:
    claims = GuestRegistry(
        lambda instance, mac: [IPv4Address("10.77.0.99")] if (instance, mac) == ("xn-lab", MAC) else [],
        lambda instance, address: False,
        lambda network: None,
    )
    found = got(to(LAB), host=TableHost((ETH0, XN_LAB), IPV6, {}), others=claims)
    assert found.ips == (IPv4Network("10.77.0.99/32"),)


def test_a_stable_mac_follows_from_the_domain_and_stays() -> None:
    host = TableHost((ETH0, XN_LAB), IPV6, {})
    found = got(to(LAB, stable_mac=True), host=host)
    assert found.mac is not None
    assert found.mac.startswith("00:16:3e:")
    assert found.mac != MAC
    assert got(to(LAB, stable_mac=True), replace(VIF, id=VifId(9, 0), mac="00:16:3e:aa:aa:aa"), host).mac == found.mac
    late = got(to(LAB, stable_mac=True), replace(VIF, state=XenbusState.CONNECTED), host)
    assert late.mac == MAC
    assert "until it starts anew" in late.warnings[0]


def test_the_same_mac_on_one_bridge_is_a_warning_but_no_handover_is() -> None:
    xenbr0 = Link(2, "xenbr0", "bridge")
    host = TableHost((xenbr0,))
    vif = replace(VIF, script="vif-xennetd")
    claims = claimed(replace(vif, id=VifId(3, 0), vm="db-1", uuid="other"), policy=Policy(), host=host)
    (warning,) = got(vif=vif, host=host, others=claims).warnings
    assert "vif3.0 of db-1" in warning
    claims = claimed(replace(vif, id=VifId(6, 0)), policy=Policy(), host=host)
    assert got(vif=vif, host=host, others=claims).warnings == ()


def test_a_mac_of_some_vendor_is_worth_a_word() -> None:
    host = TableHost((Link(2, "xenbr0", "bridge"),))
    (warning,) = got(vif=replace(VIF, script="vif-xennetd", mac="00:1b:21:00:00:01"), host=host).warnings
    assert "neither locally administered nor Xen's" in warning
    assert got(vif=replace(VIF, script="vif-xennetd", mac="02:1b:21:00:00:01"), host=host).warnings == ()


def test_the_rules_are_the_same_whoever_needs_them() -> None:
    one = got(to(DMZ), replace(VIF, ips=ips("198.51.100.7")))
    other = got(to(DMZ), replace(VIF, id=VifId(8, 0), uuid="other", ips=ips("198.51.100.8")))
    assert [each for each in one.needs if isinstance(each, Ruleset)] == [
        each for each in other.needs if isinstance(each, Ruleset)
    ]

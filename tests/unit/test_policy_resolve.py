"""What one vif is attached to: the policy's word first, then the stock script's rules."""

from errno import ENODEV, EOPNOTSUPP
from ipaddress import IPv4Interface, IPv6Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.hosts import TableHost, nobody
from xennetd.daemon.reconcile.registry import GuestRegistry
from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import DaemonConfig, Match, Network, Policy, Rule
from xennetd.model.errors import Denied, GuestError, HostError, PolicyError, XennetdError
from xennetd.model.link import Link, is_link_name
from xennetd.model.marks import BRIDGE_GROUP
from xennetd.model.placement import BridgePort, Routed
from xennetd.model.value import replace
from xennetd.model.vif import Fault, Vif, VifId, XenbusState
from xennetd.policy.bridged import ANY_BRIDGE
from xennetd.policy.load import load
from xennetd.policy.modes import BRIDGE, ISOLATED, NAT, ROUTE
from xennetd.policy.resolve import Resolution, forbids, owned
from xennetd.policy.resolve import resolve as resolve_among
from xennetd.policy.routed import DEFAULT_ROUTE

VIF = Vif(
    VifId(7, 0),
    XenbusState.INIT_WAIT,
    online=True,
    script="/etc/xen/scripts/vif-xennetd",
    mac="00:16:3e:00:00:07",
    bridge="xenbr0",
    ips=(IPv4Interface("10.0.0.7"),),
    vm="web-1",
    uuid="9f6c12ab-0123-4567-89ab-0123456789ab",
)
XENBR0 = Link(2, "xenbr0", "bridge")
XENBR1 = Link(3, "xenbr1", "bridge", mtu=9000)
ETH0 = Link(4, "eth0", master=2)
LAN = Network("lan", BRIDGE, "xenbr1")


def Host(links: tuple[Link, ...] = (XENBR0, XENBR1, ETH0)) -> TableHost:
    """A host's links as a table."""
    return TableHost(links)


HOST = Host()


def resolution(policy: Policy, vif: Vif, host: TableHost = HOST) -> Resolution:
    return resolve_among(policy, vif, host, nobody())


def resolve(policy: Policy, vif: Vif, host: TableHost = HOST) -> Attachment:
    outcome = resolution(policy, vif, host).outcome
    assert isinstance(outcome, Attachment), outcome
    return outcome


def port(policy: Policy, vif: Vif, host: TableHost = HOST) -> BridgePort:
    placement = resolve(policy, vif, host).placement
    assert isinstance(placement, BridgePort)
    return placement


def error(policy: Policy, vif: Vif, host: TableHost = HOST) -> XennetdError:
    outcome = resolution(policy, vif, host).outcome
    assert isinstance(outcome, XennetdError)
    return outcome


def rules(*rules: Rule) -> Policy:
    return Policy(networks={"lan": LAN}, rules=rules)


def test_without_configuration_the_vif_line_decides() -> None:
    assert resolve(Policy(), VIF, HOST) == Attachment(
        VIF.id,
        Assignment("bridge", bridge="xenbr0"),
        BridgePort("xenbr0", 2, 1500),
        mtu=1500,
        mac=VIF.mac,
    )


def test_a_policy_decides_over_the_vif_line_and_the_script() -> None:
    vif = replace(VIF, script="vif-xennetd-route")
    expected = Attachment(
        VIF.id,
        Assignment("bridge", network="lan", policy="web", bridge="xenbr1"),
        BridgePort("xenbr1", 3, 9000),
        mtu=9000,
        mac=VIF.mac,
    )
    assert resolve(rules(Rule("web", Match(vm="web-*"), network=LAN)), vif, HOST) == expected


def test_the_first_rule_that_matches_wins() -> None:
    policy = rules(
        Rule("other", Match(vm="db-*"), deny="x"), Rule("web", Match(), network=LAN), Rule("rest", Match(), deny="y")
    )
    assert resolve(policy, VIF, HOST).assignment.policy == "web"


def test_an_unreadable_name_admits_nobody_and_cuts_off_nobody() -> None:
    nameless = replace(VIF, vm=None)
    web = Rule("web", Match(vm="web-*"), network=LAN)
    port = Link(9, "vif7.0", flags=1)
    for policy, kept in [
        (rules(web), {"xenbr0", "xenbr1"}),
        (rules(web, Rule("rest", Match(), deny="no")), {"xenbr1"}),
        (rules(Rule("bad", Match(vm="bad-*"), deny="no"), Rule("rest", Match(), network=LAN)), {"xenbr1"}),
        (rules(Rule("bad", Match(vm="bad-*"), deny="no"), Rule("rest", Match(), deny="no")), set()),
    ]:
        found = resolution(policy, nameless)
        assert isinstance(found.outcome, PolicyError)
        assert {bridge for bridge in ("xenbr0", "xenbr1") if found.keeps(port, bridge)} == kept


def test_a_denied_guest_is_told_the_reason_but_not_the_policys_name() -> None:
    denied = error(rules(Rule("quarantine", Match(vm="web-*"), deny="you are in quarantine")), VIF)
    assert isinstance(denied, Denied)
    assert denied.sentence == "denied by policy: you are in quarantine"
    assert denied.detail == 'denied by policy: you are in quarantine (policy "quarantine")'


@pytest.mark.parametrize(
    "match",
    [
        Match(vm="web-[0-9]"),
        Match(uuid="9f6c*"),
        Match(mac="00:16:3e:*"),
        Match(bridge="xenbr?"),
        Match(script="vif-xennetd"),
        Match(type="vif"),
        Match(devid=0),
        Match(domid=7),
        Match(vm="*", mac="*07", devid=0),
    ],
)
def test_a_match(match: Match) -> None:
    vif = replace(VIF, mac="00:16:3E:00:00:07", uuid=str(VIF.uuid).upper())
    assert resolve(rules(Rule("r", match, network=LAN)), vif, HOST).assignment.policy == "r"


@pytest.mark.parametrize(
    "match",
    [
        Match(vm="WEB-*"),
        Match(vm="web"),
        Match(uuid="9f6d*"),
        Match(mac="00:16:3f:*"),
        Match(bridge="xenbr1"),
        Match(script="/etc/xen/scripts/*"),
        Match(type="vif_ioemu"),
        Match(devid=1),
        Match(domid=0),
        Match(vm="web-1", domid=70),
    ],
)
def test_no_match(match: Match) -> None:
    assert resolve(rules(Rule("r", match, network=LAN)), VIF, HOST).assignment.policy is None


def test_an_absent_node_matches_as_an_empty_one() -> None:
    vif = replace(VIF, bridge=None, mac=None)
    policy = rules(Rule("r", Match(bridge="?*"), deny="x"), Rule("s", Match(mac="*"), network=LAN))
    assert resolve(policy, vif, HOST).assignment.policy == "s"


def test_a_rule_on_a_name_that_can_not_be_read_keeps_the_port_shut() -> None:
    unnamed = replace(VIF, vm=None)
    policy = rules(Rule("quarantine", Match(vm="*-quarantine"), deny="x"), Rule("rest", Match(), network=LAN))
    unread = error(policy, unnamed)
    assert isinstance(unread, PolicyError)
    assert "quarantine" not in unread.sentence
    assert "quarantine" in unread.detail
    assert resolve(policy, VIF, HOST).assignment.policy == "rest"
    other = Match(vm="*-quarantine", devid=1)
    narrower = rules(Rule("quarantine", other, deny="x"), Rule("rest", Match(), network=LAN))
    assert resolve(narrower, unnamed, HOST).assignment.policy == "rest"


def test_faults_are_the_guests_and_come_first_except_for_a_deny() -> None:
    faulty = replace(VIF, faults=(Fault("mac", "mac is no MAC"), Fault("mtu", "mtu is no number")))
    fault = error(rules(Rule("r", Match(), network=LAN)), faulty)
    assert isinstance(fault, GuestError)
    assert (fault.sentence, fault.detail) == ("mac is no MAC", "mac is no MAC; mtu is no number")
    # An established guest keeps its network in spite of a fault, and must lose it to a deny.
    denied = error(rules(Rule("r", Match(), deny="x")), faulty)
    assert isinstance(denied, Denied)
    assert forbids(rules(Rule("r", Match(), deny="x")), faulty)


def test_who_loses_the_network_is_known_without_the_host() -> None:
    deny, allow = Rule("quarantine", Match(vm=VIF.vm), deny="x"), Rule("rest", Match(), network=LAN)
    assert forbids(rules(deny, allow), VIF)
    assert not forbids(rules(allow, deny), VIF)
    assert not forbids(rules(deny), replace(VIF, vm="another"))
    for spared in (
        replace(VIF, vm=None),
        replace(VIF, pinned=True),
        replace(VIF, script="/etc/xen/scripts/other"),
    ):
        assert not forbids(rules(deny, allow), spared)
    assert forbids(rules(allow), replace(VIF, online=False)), "it is being removed"
    assert forbids(rules(deny, Rule("all", Match(), deny="x")), replace(VIF, vm=None)), "whatever its name is"


def test_without_a_bridge_node_the_first_bridge_serves() -> None:
    host = Host((XENBR1, XENBR0, ETH0))
    assert resolve(Policy(), replace(VIF, bridge=None), host).bridge == "xenbr0"
    assert resolve(Policy(), replace(VIF, bridge=""), host).bridge == "xenbr0"


def test_without_any_bridge_the_first_that_appears_is_waited_for() -> None:
    none = error(Policy(), replace(VIF, bridge=None), Host((ETH0,)))
    assert isinstance(none, HostError)
    assert none.waits_on == {ANY_BRIDGE}


def test_xenbr_may_be_called_eth_nowadays() -> None:
    ethernet = Host((Link(5, "eth7", "bridge"),))
    assert port(Policy(), replace(VIF, bridge="xenbr7"), ethernet).index == 5


def test_xenbr_stays_xenbr_where_it_exists_or_eth_is_no_bridge() -> None:
    both = Host((XENBR0, Link(5, "eth0", "bridge")))
    assert resolve(Policy(), VIF, both).bridge == "xenbr0"
    missing = error(Policy(), VIF, Host((ETH0,)))
    assert isinstance(missing, HostError)
    assert missing.errno == ENODEV
    assert missing.waits_on == {"xenbr0", "eth0"}


@pytest.mark.parametrize("network", [LAN, Network("wire", ISOLATED, "xn-wire")])
def test_a_bridge_without_subnets_has_no_use_for_the_guests_addresses_and_none_for_ipv6(network: Network) -> None:
    host = Host((XENBR1, Link(5, "xn-wire", "bridge", group=BRIDGE_GROUP)))
    assert not host.has_ipv6
    policy = Policy(networks={network.name: network}, rules=(Rule("all", Match(), network=network),))
    vif = replace(VIF, ips=(IPv6Interface("2001:db8::5"),))
    assert resolve(policy, vif, host).bridge == network.bridge


def test_a_missing_bridge_of_the_vif_line() -> None:
    missing = error(Policy(), replace(VIF, bridge="br7"))
    assert isinstance(missing, HostError)
    assert missing.sentence == 'bridge "br7" does not exist: create it, or correct bridge= in the domain\'s vif line'
    assert missing.waits_on == {"br7"}


def test_a_missing_bridge_of_a_network() -> None:
    missing = error(rules(Rule("web", Match(), network=LAN)), VIF, Host((XENBR0,)))
    assert isinstance(missing, PolicyError)
    assert missing.sentence == (
        'bridge "xenbr1" of network "lan" does not exist: '
        "create it, or correct network.lan.bridge in xennetd's configuration"
    )
    assert missing.waits_on == {"xenbr1"}


def test_a_link_that_is_no_bridge() -> None:
    own = error(Policy(), replace(VIF, bridge="eth0"))
    assert isinstance(own, HostError)
    assert own.errno == EOPNOTSUPP
    assert own.sentence == '"eth0" is not a bridge: make it a bridge, or correct bridge= in the domain\'s vif line'
    assert own.waits_on == {"eth0"}
    policy = rules(Rule("web", Match(), network=LAN))
    networks = error(policy, VIF, Host((Link(3, "xenbr1", "openvswitch"),)))
    assert isinstance(networks, PolicyError)
    assert networks.sentence.startswith('"xenbr1" is an Open vSwitch bridge, not one of the kernel\'s: ')
    assert networks.waits_on == {"xenbr1"}


@pytest.mark.parametrize("bridge", ["a/b", "sixteen-letters-", "ovs0:10:20", "x\n\x1b[2J", "..", "ü"])
def test_what_can_not_be_a_bridges_name(bridge: str) -> None:
    wrong = error(Policy(), replace(VIF, bridge=bridge))
    assert isinstance(wrong, GuestError)
    assert wrong.sentence.isprintable()
    assert wrong.sentence.isascii()
    assert "correct bridge= in the domain's vif line" in wrong.sentence


def test_open_vswitchs_grammar_is_explained() -> None:
    assert "Open vSwitch's grammar" in error(Policy(), replace(VIF, bridge="ovs0.20:30")).sentence
    assert "Open vSwitch's grammar" in error(Policy(), replace(VIF, bridge="xenbr0.20")).sentence
    dotted = Host((Link(9, "br.20", "bridge"),))
    assert port(Policy(), replace(VIF, bridge="br.20"), dotted).index == 9


@pytest.mark.parametrize("script", ["vif-xennetd", "vif-xennetd-bridge", "/usr/lib/xen/vif-bridge", "vif-ours"])
def test_scripts_that_mean_a_bridge(script: str) -> None:
    assert resolve(Policy(), replace(VIF, script=script), HOST).assignment.mode == "bridge"
    assert port(Policy(), replace(VIF, script=script), HOST).bridge == "xenbr0"


@pytest.mark.parametrize("mode", ["openvswitch"])
@pytest.mark.parametrize("script", ["/etc/xen/scripts/vif-xennetd-", "vif-"])
def test_scripts_of_modes_that_are_not_known(script: str, mode: str) -> None:
    unknown = error(Policy(), replace(VIF, script=script + mode))
    assert isinstance(unknown, PolicyError)
    assert f"asks for mode {mode}, which this xennetd does not support yet" in unknown.sentence


def test_the_mtu_is_the_nodes_then_the_uplinks_then_the_bridges() -> None:
    slow = Link(5, "eth1", master=2, mtu=1400)
    guests = Link(6, "vif1.0", master=2, mtu=1280)
    assert resolve(Policy(), replace(VIF, mtu=1300), HOST).mtu == 1300
    assert resolve(Policy(), VIF, Host((XENBR0, ETH0, slow, guests))).mtu == 1400
    assert resolve(Policy(), VIF, Host((replace(XENBR0, mtu=1450), guests))).mtu == 1450


def test_an_mtu_above_the_bridges_is_a_warning() -> None:
    assert resolve(Policy(), replace(VIF, mtu=9000), HOST).warnings == (
        'mtu 9000 is above the 1500 of bridge "xenbr0": larger frames may be dropped on the way',
    )
    assert resolve(Policy(), replace(VIF, mtu=1500), HOST).warnings == ()


def test_owned_is_what_names_our_script() -> None:
    assert owned(Policy(), VIF)
    assert owned(Policy(), replace(VIF, script="vif-xennetd-route"))
    assert not owned(Policy(), replace(VIF, script="/etc/xen/scripts/vif-bridge"))
    assert not owned(Policy(), replace(VIF, script="/vif-xennetd/block"))
    assert not owned(Policy(), replace(VIF, script=""))
    assert owned(Policy(DaemonConfig(scripts=("vif-bridge",))), replace(VIF, script="/etc/xen/scripts/vif-bridge"))


def test_in_observe_mode_stock_scripts_are_looked_at_too() -> None:
    observing = Policy(DaemonConfig(mode="observe"))
    assert owned(observing, VIF)
    assert owned(observing, replace(VIF, script="/etc/xen/scripts/vif-bridge"))
    assert not owned(observing, replace(VIF, script="/etc/xen/scripts/vif-custom"))


NAMES = st.one_of(st.sampled_from(["xenbr0", "xenbr1", "eth0", "eth1", "br.1", "a:b", ""]), st.text(max_size=20))
LINKS = st.builds(
    Link,
    index=st.integers(1, 5),
    name=NAMES,
    kind=st.sampled_from(["", "bridge", "openvswitch", "veth"]),
    master=st.integers(0, 5),
    mtu=st.integers(0, 65536),
)
GLOBS = st.none() | st.text("*?[]!-abvifxen0", max_size=5)
MATCHES = st.builds(
    Match, vm=GLOBS, uuid=GLOBS, mac=GLOBS, bridge=GLOBS, script=GLOBS, type=GLOBS, devid=st.none() | st.integers(0, 1)
)
VIFS = st.builds(
    Vif,
    id=st.builds(VifId, st.integers(0, 2), st.integers(0, 2)),
    state=st.sampled_from(XenbusState),
    online=st.booleans(),
    script=st.sampled_from(["", "/x/vif-xennetd", "vif-nat", "/"]) | st.text(max_size=5),
    type=st.text(max_size=3),
    mac=st.none() | st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":")),
    bridge=st.none() | NAMES,
    mtu=st.none() | st.integers(68, 65535),
    vm=st.none() | st.text(max_size=5),
    uuid=st.none() | st.text(max_size=5),
    faults=st.just(()) | st.just((Fault("mac", "wrong"),)),
)
NETWORKS = st.builds(Network, st.just("n"), st.just(BRIDGE), st.sampled_from(["xenbr0", "eth1"]))
RULES = st.one_of(
    st.builds(Rule, st.just("r"), MATCHES, network=NETWORKS), st.builds(Rule, st.just("d"), MATCHES, deny=st.just("no"))
)


@given(
    st.lists(RULES, max_size=3),
    VIFS,
    st.lists(LINKS, max_size=5, unique_by=lambda link: link.name).map(lambda links: Host(tuple(links))),
)
def test_any_vif_on_any_host_is_attached_to_a_bridge_or_gets_an_error_fit_to_show(
    rules: list[Rule], vif: Vif, host: TableHost
) -> None:
    found = resolution(Policy(rules=tuple(rules)), vif, host)
    if isinstance(found.outcome, Attachment):
        assert found.outcome.assignment == found.assignment
        placement = found.outcome.placement
        if isinstance(placement, Routed):
            assert host.link(placement.uplink) is not None
            return
        bridge = host.link(placement.bridge)
        assert bridge is not None
        assert bridge.kind == "bridge"
        assert bridge.index == placement.index
        return
    refused = found.outcome
    assert isinstance(refused, XennetdError)
    assert found.assignment is not None or isinstance(refused, PolicyError)
    assert refused.sentence.isprintable()
    assert refused.sentence.isascii()
    # A link that is waited for must be one that can come, and whose coming can help.
    assert all(name in (ANY_BRIDGE, DEFAULT_ROUTE) or is_link_name(name) for name in refused.waits_on)
    if "uplink" in refused.sentence:
        return
    for name in refused.waits_on:
        there = host.bridges() if name == ANY_BRIDGE else [link for link in host.links if link.name == name]
        assert all(link.kind != "bridge" for link in there)


@given(VIFS, st.booleans())
def test_owning_is_total(vif: Vif, observe: bool) -> None:
    assert isinstance(owned(Policy(DaemonConfig(mode="observe" if observe else "enforce")), vif), bool)


def test_text_to_attachment() -> None:
    text = """
        [network.lan]
        mode = "bridge"
        bridge = "xenbr1"
        [[policy]]
        match = { mac = "00:16:3E:*" }
        network = "lan"
        """
    policy = load([("x.toml", text.encode())])
    assert isinstance(policy, Policy)
    assert resolve(policy, VIF, HOST).network == "lan"


@pytest.mark.parametrize("script", ["vif-bridge", "vif-route", "vif-nat", "vif-openvswitch"])
def test_in_the_place_of_xl_devd_the_stock_scripts_backends_are_ours(script: str) -> None:
    vif = replace(VIF, script=f"/etc/xen/scripts/{script}")
    assert not owned(Policy(), vif)
    assert owned(Policy(daemon=DaemonConfig(devd=True)), vif)


@pytest.mark.parametrize("node", ["gatewaydev", "ip"])
def test_what_a_bridge_has_no_use_for_is_a_warning_only(node: str) -> None:
    faulty = replace(VIF, faults=(Fault(node, f"{node} is rubbish"),))
    assert resolve(Policy(), faulty, HOST).warnings == (f"{node} is rubbish; it is not used",)


@pytest.mark.parametrize("vif", [replace(VIF, vlan="20"), replace(VIF, faults=(Fault("vlan", "vlan is rubbish"),))])
def test_a_vlan_that_can_not_be_applied_is_refused_unless_a_policy_says_to_ignore_it(vif: Vif) -> None:
    for policy in (Policy(), rules(Rule("lan", Match(), network=LAN))):
        assert error(policy, vif).sentence.startswith(("vlan=20 can't be applied", "vlan is rubbish"))
    attached = resolve(rules(Rule("lan", Match(), network=LAN, ignores_vlan=True)), vif, HOST)
    assert attached.bridge == "xenbr1"
    assert attached.warnings == (("vlan is rubbish; it is not used",) if vif.faults else ())


QUARANTINE = rules(Rule("quarantine", Match(), deny="x"))
INTO_LAN = rules(Rule("web", Match(), network=LAN))
INTO_LAB = rules(Rule("web", Match(), network=Network("lab", NAT, "xn-lab")))
INTO_DMZ = rules(Rule("web", Match(), network=Network("dmz", ROUTE, uplink="eth9")))


@pytest.mark.parametrize(
    ("policy", "vif", "refusal", "assignment"),
    [
        (QUARANTINE, VIF, Denied, Assignment("bridge", policy="quarantine", bridge="xenbr0")),
        (QUARANTINE, replace(VIF, script="vif-xennetd-nat"), Denied, Assignment("nat", policy="quarantine")),
        (INTO_LAN, VIF, PolicyError, Assignment("bridge", "lan", "web", "xenbr1")),
        (
            INTO_LAN,
            replace(VIF, faults=(Fault("mac", "wrong"),)),
            GuestError,
            Assignment("bridge", "lan", "web", "xenbr1"),
        ),
        (INTO_LAB, VIF, PolicyError, Assignment("nat", "lab", "web", "xn-lab")),
        (INTO_DMZ, VIF, PolicyError, Assignment("route", "dmz", "web")),
        (Policy(), VIF, HostError, Assignment("bridge", bridge="xenbr0")),
        (Policy(), replace(VIF, bridge="a/b"), GuestError, Assignment("bridge", bridge="a/b")),
        (Policy(), replace(VIF, script="vif-route"), HostError, Assignment("route")),
    ],
)
def test_who_is_denied_or_can_not_be_attached_is_assigned_all_the_same(
    policy: Policy, vif: Vif, refusal: type[XennetdError], assignment: Assignment
) -> None:
    found = resolution(policy, vif, Host((ETH0,)))
    assert type(found.outcome) is refusal
    assert found.assignment == assignment


def test_a_network_that_the_host_can_not_have_now_is_assigned_all_the_same() -> None:
    problem = PolicyError('network "lab": subnet 10.0.0.0/8 is in use', waits_on=frozenset({"eth0"}))
    others = GuestRegistry(lambda instance, mac: (), lambda instance, address: False, {"lab": problem}.get)
    found = resolve_among(INTO_LAB, VIF, HOST, others)
    assert found.outcome is problem
    assert found.assignment == Assignment("nat", "lab", "web", "xn-lab")
    assert isinstance(resolve_among(INTO_LAN, VIF, HOST, others).outcome, Attachment)


def test_nothing_is_assigned_where_not_even_the_policy_can_be_told() -> None:
    found = resolution(rules(Rule("web", Match(vm="web-*"), network=LAN)), replace(VIF, vm=None))
    assert type(found.outcome) is PolicyError
    assert found.assignment is None


ON, OFF = (("isolated", True),), (("isolated", False),)


@pytest.mark.parametrize(
    ("written", "web", "other"),
    [("isolated = true", ON, OFF), ("isolated = false", OFF, OFF), ("", (), ())],
)
def test_a_flag_that_any_policy_names_is_decided_for_every_guest(
    written: str, web: tuple[tuple[str, bool], ...], other: tuple[tuple[str, bool], ...]
) -> None:
    text = (
        f"[network.lan]\nmode = 'bridge'\nbridge = 'xenbr1'\n[[policy]]\nmatch.vm = 'web'\nnetwork = 'lan'\n{written}\n"
    )
    policy = load([("x.toml", text.encode())])
    assert isinstance(policy, Policy)
    assert port(policy, replace(VIF, vm="web")).flags == web
    assert port(policy, replace(VIF, vm="other")).flags == other


def test_a_flag_that_no_policy_names_is_left_alone() -> None:
    assert port(Policy(), VIF).flags == ()

"""`tx_checksum`: what the configuration says of it, the words of its Steps, its mark, and ethtool netlink's codec."""

from __future__ import annotations

import struct
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fuzz.target import recorded
from tests.unit.test_policy_load import lines, policy
from tests.unit.test_policy_resolve import HOST, VIF, resolve
from tests.unit.test_rtnl import attribute, fed, link_message
from xennetd.kernel import netlink, offloads
from xennetd.kernel.ethtool import Features, parse_family, parse_features, parse_names, set_features
from xennetd.kernel.links import LinkChange
from xennetd.model.errors import HostError
from xennetd.model.link_objects import HostLink
from xennetd.model.marks import offload_of, offload_tag
from xennetd.model.objects import link_key
from xennetd.model.offload import Offload
from xennetd.model.value import replace
from xennetd.plan.difference import Remove, by_key, difference
from xennetd.policy.topology_objects import TopologyFacts, topology_objects

NETWORK = "[network.lan]\nmode = 'bridge'\nbridge = 'xenbr1'\n"
RULE = "[[policy]]\nnetwork = 'lan'\n"
FALSE, TRUE = "tx_checksum = false\n", "tx_checksum = true\n"
OFF = Offload("vif7.0", False, VIF.id)


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("", ()),
        (NETWORK + RULE, ()),
        (NETWORK + FALSE + RULE, (OFF,)),
        (NETWORK + RULE + FALSE, (OFF,)),
        (NETWORK + FALSE + RULE + TRUE, (replace(OFF, tx_checksum=True),)),
        (NETWORK + TRUE + RULE + FALSE, (OFF,)),
    ],
)
def test_the_policys_word_counts_before_the_networks(text: str, needs: tuple[Offload, ...]) -> None:
    assert resolve(policy(text), VIF, HOST).needs == needs


def test_a_guest_is_known_by_its_vif_and_named_as_its_link_will_be() -> None:
    (renamed,) = resolve(policy(NETWORK + FALSE + RULE), replace(VIF, vifname="web-lan"), HOST).needs
    assert (renamed.key, renamed.describe()) == (OFF.key, "ethtool -K web-lan tx off")


@pytest.mark.parametrize(
    "mode",
    ["mode = 'nat'\nsubnets = ['10.77.0.0/24']\n", "mode = 'route'\n", "mode = 'isolated'\n"],
)
def test_networks_of_every_mode_can_have_it(mode: str) -> None:
    assert policy(f"[network.lan]\n{mode}{FALSE}").networks["lan"].tx_checksum is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NETWORK + "tx_checksum = 'no'", '0.toml:4: network.lan.tx_checksum: not valid, found "no" (allowed: true or '),
        (NETWORK + RULE + "tx_checksum = 0", "0.toml:6: policy[1].tx_checksum: not valid, found 0 (allowed: true or "),
        ("[nic.eth0]\ntx_checksum = 'no'", '0.toml:2: nic.eth0.tx_checksum: not valid, found "no" (allowed: true or '),
        ("[bridge.b]\ntx_checksum = false", "0.toml:2: bridge.b.tx_checksum: unknown key"),
        ("[[policy]]\ndeny = 'x'\ntx_checksum = false", "0.toml:3: policy[1].tx_checksum: not with deny"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    (line,) = lines(text)
    assert line.startswith(said)


def test_a_nic_of_the_topology_has_it_under_the_kernels_name() -> None:
    topology = policy("[nic.lan0]\nmac = '52:54:00:00:00:01'\ntx_checksum = false\n[nic.eth1]\n").topology
    objects = topology_objects(topology, TopologyFacts(names={"lan0": "enp1s0"}))
    offload = Offload("enp1s0", False)
    assert [each for each in objects if not isinstance(each, HostLink)] == [offload]
    assert offload.requires == {link_key("enp1s0")}


def test_the_words_are_those_of_ethtool_also_where_it_is_given_back() -> None:
    nic = Offload("eth0", False)
    (change,) = difference(by_key([nic]), by_key([replace(nic, tx_checksum=True)]))
    assert change.describe() == "ethtool -K eth0 tx off"
    assert Remove(nic).describe() == "ethtool -K eth0 tx on"
    assert Remove(replace(nic, tx_checksum=True)).describe() == "ethtool -K eth0 tx off"


@given(st.integers(0, (1 << 15) - 1), st.booleans())
def test_a_tag_says_what_was_before_and_fits_into_a_sysctl(before: int, on: bool) -> None:
    tag = offload_tag(before, on=on)
    assert offload_of(tag) == (before, on)
    assert 0 < tag < 1 << 31


@pytest.mark.parametrize("tag", [0, 1, 42, -1, -(1 << 31), 0x786F0001, 0x786D8001])
def test_any_other_tag_is_somebody_elses(tag: int) -> None:
    assert offload_of(tag) is None


def test_the_answers_of_a_kernel_are_read() -> None:
    messages = [(data, next(iter(netlink.headers(data)))) for data in recorded("ethtool_answers")]
    family = next(message for message in messages if message[1].type == 16)
    names = max(messages, key=lambda message: len(message[0]))
    assert parse_family(*family) == names[1].type
    bits = parse_names(*names)
    generic, sctp = 1 << bits["tx-checksum-ip-generic"], 1 << bits["tx-checksum-sctp"]
    bridge, veth = (parse_features(*each) for each in messages if each not in (family, names))
    assert all(each.switchable & generic and each.wanted & generic for each in (bridge, veth))
    assert all(veth_has & sctp and not bridge_has & sctp for veth_has, bridge_has in zip(veth, bridge, strict=True))
    with pytest.raises(netlink.NetlinkFormatError):
        parse_features(*family)


def test_a_bitmap_longer_than_a_word_is_read_whole() -> None:
    def bitset(kind: int, value: int) -> bytes:
        return attribute(kind, attribute(4, value.to_bytes(12, "little")))

    body = bytes(4) + bitset(2, 1 << 70) + bitset(3, 1 << 33 | 1) + bitset(4, 0)
    message = netlink.request(20, 0, 1, body)
    assert parse_features(message, next(iter(netlink.headers(message)))) == Features(1 << 70, 1 << 33 | 1, 0)


def test_a_request_names_what_is_switched_and_nothing_else() -> None:
    message = set_features(1, 20, 5, {"tx-checksum-ipv4": False, "tx-checksum-sctp": True})
    assert message.count(b"tx-checksum-") == 2
    (header,) = netlink.headers(message)
    ((at, stop),) = [
        (at, stop) for kind, at, stop in netlink.attributes(message, header.start + 4, header.end) if kind == 3
    ]
    ((_, at, stop),) = netlink.attributes(message, at, stop)
    values = {}
    for _, first, end in netlink.attributes(message, at, stop):
        found = {kind: netlink.text_of(message, at, stop) for kind, at, stop in netlink.attributes(message, first, end)}
        values[found[2]] = 3 in found
    assert values == {"tx-checksum-ipv4": False, "tx-checksum-sctp": True}


FEATURES = attribute(44, struct.pack("=I", 2))
"""IFLA_EVENT_FEATURES in IFLA_EVENT."""


def test_only_the_features_of_watched_links_are_news() -> None:
    links = fed(link_message(3, "eth0"), link_message(4, "eth1"))
    news = link_message(3, "eth0", FEATURES), link_message(4, "eth1", FEATURES)
    assert links.feed(news) == []
    links.watch_features(3)
    eth0 = links.link("eth0")
    assert links.feed(news) == [LinkChange(eth0, eth0)]
    assert links.feed([link_message(3, "eth0")]) == []
    # A later message of the same batch says nothing of features.
    assert links.feed([news[0], link_message(3, "eth0")]) == [LinkChange(eth0, eth0)]
    links.watch_features(3, watch=False)
    assert links.feed(news) == []


def test_after_lost_events_watched_links_are_looked_at_again() -> None:
    dump = link_message(3, "eth0"), link_message(4, "eth1")
    links = fed(*dump)
    links.watch_features(3)
    eth0 = links.link("eth0")
    assert links.load(dump) == [LinkChange(eth0, eth0)]
    assert links.load(dump[1:]) == [LinkChange(eth0, None)]
    links.feed([dump[0]])
    assert links.load(dump) == [], "another link with the same index is watched"


def test_a_kernel_without_ethtool_netlink_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    class Without:
        names: ClassVar[dict[str, int]] = {}

    monkeypatch.setattr(offloads, "EthtoolSocket", Without)
    adapter = offloads.Offloads(fed(link_message(3, "eth0")))
    nic = Offload("eth0", False)
    assert adapter.present(nic) is None
    with pytest.raises(HostError, match="CONFIG_ETHTOOL_NETLINK"):
        adapter.apply([nic])
    with pytest.raises(HostError, match='there is no link "eth1"') as missing:
        adapter.apply([Offload("eth1", False)])
    assert missing.value.waits_on == {"eth1"}

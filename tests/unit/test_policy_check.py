"""What `check` says about valid policies."""

from __future__ import annotations

import time
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xennetd.model.attachment import Mode
from xennetd.policy.check import HostNotes, Note, check
from xennetd.policy.config import DaemonConfig, Match, Network, Policy, Rule

LAN = Network("lan", Mode.BRIDGE, "xenbr0")


def sentences(policy: Policy, host: HostNotes = HostNotes()) -> list[str]:  # noqa: B008 (frozen)
    return [note.sentence for note in check(policy, host)]


def test_the_defaults_on_a_plain_host_need_no_word() -> None:
    assert check(Policy(), HostNotes(bridges=frozenset())) == ()


def test_hooks_that_are_not_run_are_mentioned() -> None:
    host = HostNotes(hooks=("/etc/xen/scripts/vif-post.d/10-a.hook",))
    (note,) = check(Policy(), host)
    assert not note.error
    assert "/etc/xen/scripts/vif-post.d/10-a.hook" in note.sentence
    assert check(Policy(DaemonConfig(hooks=True)), host) == ()


def test_xl_devd_beside_us_is_an_error() -> None:
    assert check(Policy(DaemonConfig(devd=True)), HostNotes(xl_devd=True)) == (
        Note("daemon.devd is true while xl devd runs, which serves the same backends", error=True),
    )
    assert check(Policy(), HostNotes(xl_devd=True)) == ()
    assert check(Policy(DaemonConfig(devd=True)), HostNotes()) == ()


def test_a_bridge_that_is_not_there_yet() -> None:
    policy = Policy(networks={"lan": LAN}, rules=(Rule("r", Match(), network=LAN),))
    assert sentences(policy, HostNotes(bridges=frozenset())) == ['network "lan": bridge "xenbr0" does not exist now']
    assert sentences(policy, HostNotes(bridges=frozenset({"xenbr0"}))) == []
    assert sentences(policy, HostNotes(bridges=None)) == []


def test_a_network_nobody_gets_into() -> None:
    assert sentences(Policy(networks={"lan": LAN})) == ['network "lan": no policy leads to it']


def test_a_rule_behind_one_that_takes_all_its_vifs() -> None:
    rules = (
        Rule("web", Match(vm="web-*"), deny="a"),
        Rule("web 0", Match(vm="web-*", devid=0), deny="b"),
        Rule("all", Match(), deny="c"),
        Rule("db", Match(vm="db-*"), deny="d"),
    )
    assert sentences(Policy(rules=rules)) == [
        'policy "web 0" never decides: "web" before it matches the same vifs',
        'policy "db" never decides: "all" before it matches the same vifs',
    ]


MATCHES = st.builds(
    Match,
    vm=st.sampled_from([None, "web-*", "db"]),
    mac=st.sampled_from([None, "00:*"]),
    type=st.sampled_from([None, "vif"]),
    devid=st.sampled_from([None, 0, 1]),
)


@given(st.lists(MATCHES, max_size=12))
def test_a_rule_never_decides_if_an_earlier_one_asks_for_nothing_more(matches: list[Match]) -> None:
    expected = []
    for i, match in enumerate(matches):
        for j, other in enumerate(matches[:i]):
            if all(value in (None, asdict(match)[name]) for name, value in asdict(other).items()):
                expected.append(f'policy "{i}" never decides: "{j}" before it matches the same vifs')
                break
    assert sentences(Policy(rules=tuple(Rule(str(i), match, deny="x") for i, match in enumerate(matches)))) == expected


def test_two_thousand_rules_hold_nobody_up() -> None:
    rules = tuple(
        Rule(str(i), Match(vm=f"vm-{i}", **({"devid": i} if i % 2 else {"mac": "00:*"})), deny="x") for i in range(2000)
    )
    took = []
    for _ in range(5):
        began = time.perf_counter()
        assert check(Policy(rules=rules), HostNotes()) == ()
        took.append(time.perf_counter() - began)
    assert min(took) < 0.05


@pytest.mark.parametrize(
    ("scripts", "named"),
    [
        (("vif-*",), "vif-bridge, vif-nat, vif-openvswitch, vif-route:"),
        (("vif-xennetd*", "vif-route"), "takes in vif-route:"),
    ],
)
def test_stock_scripts_that_would_configure_beside_us_are_mentioned(scripts: tuple[str, ...], named: str) -> None:
    (note,) = check(Policy(DaemonConfig(scripts=scripts)), HostNotes())
    assert named in note.sentence
    assert not note.error


def test_stock_scripts_that_configure_nothing_are_none_of_our_business() -> None:
    """In a driver domain nobody runs them in the place of `xl devd`, and an observer configures nothing."""
    assert sentences(Policy(DaemonConfig(scripts=("vif-*",), devd=True))) == []
    (observe,) = sentences(Policy(DaemonConfig(scripts=("vif-*",), mode="observe")))
    assert observe.startswith("daemon.mode is observe")


def test_modes_that_are_not_for_every_day_are_mentioned() -> None:
    observe, stand_in = sentences(Policy(DaemonConfig(mode="observe", stand_in=True)))
    assert observe.startswith("daemon.mode is observe")
    assert stand_in.startswith("daemon.stand_in is true")

"""What the host must have for its guests: made for the first that wants it, changed in place, gone with the last."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from ipaddress import IPv4Address, IPv6Interface
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xennetd.daemon.reconcile.host_state import HostState
from xennetd.model.errors import HostError
from xennetd.model.objects import (
    RULESET,
    DhcpService,
    HostAddress,
    HostObject,
    Key,
    ManagedBridge,
    ProxyNeighbour,
    Ruleset,
    SetElement,
    Sysctl,
)
from xennetd.model.vif import VifId
from xennetd.plan.desired import Owner

T = TypeVar("T")

KINDS = ("bridge", "address", "sysctl", "table", "element", "dnsmasq", "dhcp host", "proxy", "offload")

ONE, OTHER = VifId(1, 0), VifId(2, 0)
PROXY = ProxyNeighbour("eth0", IPv4Address("192.0.2.7"))
HEEDING = Sysctl(6, "eth0", "accept_ra", 2)
FORWARDING = Sysctl(4, "eth0", "forwarding", 1)
FORWARDING6 = Sysctl(6, "all", "forwarding", 1, after=frozenset({HEEDING.key, RULESET}))
CLOSED = Sysctl(4, "eth0", "forwarding", 0)
BRIDGE = ManagedBridge("xn-lab", "02:00:00:00:00:01")
ADDRESS6 = HostAddress("xn-lab", IPv6Interface("fd77::1/64"))
IPV6_ON = Sysctl(6, "xn-lab", "disable_ipv6", 0)
RULES = Ruleset(())
ELEMENT = SetElement("s", ("1",), ("a",))
OTHER_ELEMENT = SetElement("s", ("1",), ("b",))
SERVICE = DhcpService("xn-lab", "domain=lab.internal\n", link="xn-lab", network="lab")
RENAMED = DhcpService("xn-lab", "domain=example.org\n", link="xn-lab", network="lab")
THINGS: list[HostObject] = [PROXY, FORWARDING, HEEDING, FORWARDING6, BRIDGE, ELEMENT, ADDRESS6, IPV6_ON]


class Heap:
    """An adapter for everything: what there is, and in which order it came, changed and went."""

    def __init__(self, *there: HostObject) -> None:
        self.objects: dict[Key, HostObject] = {each.key: each for each in there}
        self.done: list[str] = []
        self.refuses: HostObject | None = None
        self.keeps: HostObject | None = None

    @property
    def there(self) -> list[HostObject]:
        return list(self.objects.values())

    def present(self, wanted: HostObject) -> HostObject | None:
        return self.objects.get(wanted.key)

    def apply(self, wanted: Sequence[HostObject]) -> None:
        for each in wanted:
            if each == self.refuses:
                raise HostError(f"{each.describe()}: refused")
            if self.objects.get(each.key) != each:
                self.done.append(f"{'~' if each.key in self.objects else '+'} {each.describe()}")
                self.objects[each.key] = each

    def remove(self, objects: Sequence[HostObject]) -> None:
        for each in objects:
            if each == self.keeps:
                raise HostError(f"{each.describe()}: it stays")
            if self.objects.get(each.key) == each:
                del self.objects[each.key]
                self.done.append(f"- {each.describe()}")

    def list_owned(self) -> list[HostObject]:
        return self.there


def state(heap: Heap) -> HostState:
    adapters: Any = dict.fromkeys(KINDS, heap)
    return HostState(adapters)


def run(what: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(what)


async def have(host: HostState, owner: Owner, *objects: HostObject, domain: str | None = None) -> None:
    """Bring the host to what an owner wants, as the reconciler does."""
    assert host.conflict(owner, objects, domain) is None
    await host.ensure(owner, host.difference(owner, objects), domain)
    await host.settle(owner, objects, domain)


def test_what_two_want_stays_until_the_last_has_gone() -> None:
    heap = Heap()
    host = state(heap)
    for vif in (ONE, OTHER):
        run(have(host, vif, PROXY))
    run(have(host, ONE))
    assert heap.there == [PROXY]
    run(have(host, OTHER))
    assert heap.there == []


def test_things_are_made_in_the_order_in_which_they_require_each_other_and_go_in_reverse() -> None:
    heap = Heap()
    host = state(heap)
    wanted = (FORWARDING6, ADDRESS6, ELEMENT, HEEDING, RULES, IPV6_ON, BRIDGE)
    run(have(host, ONE, *wanted))
    made = [line.removeprefix("+ ") for line in heap.done]
    for earlier, later in (
        (BRIDGE, IPV6_ON),
        (IPV6_ON, ADDRESS6),
        (HEEDING, FORWARDING6),
        (RULES, FORWARDING6),
        (RULES, ELEMENT),
    ):
        assert made.index(earlier.describe()) < made.index(later.describe())
    heap.done.clear()
    run(have(host, ONE))
    assert [line.removeprefix("- ") for line in heap.done] == made[::-1]


def test_what_guests_share_stays_while_the_needs_of_one_are_unknown() -> None:
    heap = Heap()
    host = state(heap)
    run(have(host, ONE, PROXY, FORWARDING))
    host.know(OTHER, known=False)
    run(have(host, ONE))
    assert heap.there == [FORWARDING], "the proxy entry was one guest's alone"
    assert host.withholds
    host.know(OTHER, known=True)
    run(host.prune())
    assert heap.there == []
    assert not host.withholds


def test_what_passes_from_one_guest_to_another_in_a_reload_is_not_removed_in_between() -> None:
    heap = Heap()
    host = state(heap)
    run(have(host, ONE, PROXY, ELEMENT, FORWARDING))
    heap.done.clear()
    with host.hold():
        run(have(host, ONE))
        run(have(host, OTHER, PROXY, OTHER_ELEMENT))
        run(host.prune())
        assert heap.done == [f"~ {OTHER_ELEMENT.describe()}"]
    run(host.release())
    assert sorted(heap.objects.values(), key=str) == sorted([PROXY, OTHER_ELEMENT], key=str)


def test_nothing_is_pruned_while_guests_move() -> None:
    heap = Heap(FORWARDING)  # of an earlier run; the guest that needs it is not looked at yet
    host = state(heap)
    with host.hold():
        run(host.prune())
        assert heap.there == [FORWARDING]
    run(host.prune())
    assert heap.there == []


def test_a_refused_removal_stops_no_other_and_is_tried_again() -> None:
    heap = Heap()
    host = state(heap)
    forwarding1 = Sysctl(4, "eth1", "forwarding", 1, after=frozenset({RULESET}))
    run(have(host, ONE, RULES, FORWARDING, forwarding1))
    heap.keeps = forwarding1
    run(have(host, ONE))
    run(host.prune())
    assert heap.there == [RULES, forwarding1], "a link that forwards still must keep its filter"
    assert host.withholds
    heap.keeps = None
    run(host.prune())
    assert heap.there == []
    assert not host.withholds


def test_what_an_owner_wants_otherwise_now_is_changed_in_place() -> None:
    heap = Heap()
    host = state(heap)
    run(have(host, "lab", BRIDGE, SERVICE))
    heap.done.clear()
    run(have(host, "lab", BRIDGE, RENAMED))
    assert heap.done == [f"~ {RENAMED.describe()}"]
    assert heap.objects[RENAMED.key] == RENAMED


def test_a_network_with_another_name_has_what_the_earlier_one_had() -> None:
    heap = Heap()
    host = state(heap)
    run(have(host, "lab", BRIDGE, SERVICE))
    heap.done.clear()
    host.supersede()
    run(have(host, "lab2", BRIDGE, SERVICE))
    run(have(host, "lab"))
    assert heap.done == []
    assert set(heap.there) == {BRIDGE, SERVICE}


def test_two_who_want_one_thing_in_two_ways_are_told_and_the_first_keeps_it() -> None:
    heap = Heap()
    host = state(heap)
    run(have(host, "store", CLOSED))
    refused = host.conflict(ONE, [PROXY, FORWARDING])
    assert refused is not None
    assert refused.sentence == (
        'sysctl net/ipv4/conf/eth0/forwarding can\'t be both 1 for vif1.0 and 0 for network "store"'
    )
    assert heap.there == [CLOSED]
    run(have(host, OTHER, PROXY))
    assert host.conflict(ONE, [PROXY]) is None
    (freed,) = run(host.settle("store", ()))
    assert freed in refused.waits_on
    run(have(host, ONE, FORWARDING))


def test_a_conflict_with_a_guest_is_named_to_administrators_alone() -> None:
    host = state(Heap())
    run(have(host, OTHER, CLOSED))
    refused = host.conflict(ONE, [FORWARDING])
    assert refused is not None
    assert "vif2.0" not in refused.sentence
    assert "vif2.0" in refused.detail


def test_a_new_policy_goes_before_what_others_still_want_by_the_old_one() -> None:
    heap = Heap()
    host = state(heap)
    run(have(host, "lab", ELEMENT))
    run(have(host, ONE, ELEMENT))
    host.supersede()
    run(have(host, ONE, OTHER_ELEMENT))
    assert heap.there == [OTHER_ELEMENT]
    assert host.difference("lab", [ELEMENT]) == (), "it does not fight for what it wanted by the old policy"
    run(have(host, "lab", OTHER_ELEMENT))
    run(have(host, ONE))
    assert heap.there == [OTHER_ELEMENT]


def test_of_one_domains_vifs_the_later_has_it_and_the_earlier_takes_nothing_away() -> None:
    heap = Heap()
    host = state(heap)
    run(have(host, ONE, ELEMENT, domain="web"))
    run(have(host, OTHER, OTHER_ELEMENT, domain="web"))
    assert heap.there == [OTHER_ELEMENT]
    assert host.difference(ONE, [ELEMENT]) == ()
    assert host.conflict(ONE, [ELEMENT], "web") is None
    run(have(host, ONE, domain="web"))
    assert heap.there == [OTHER_ELEMENT]


def test_nothing_that_is_still_wanted_goes_while_wishes_change() -> None:
    heap = Heap()
    host = state(heap)
    run(have(host, ONE, PROXY))
    run(host.ensure(ONE, host.difference(ONE, [FORWARDING])))
    assert heap.there == [PROXY, FORWARDING], "the old is there until the new is in place"
    run(host.settle(ONE, [FORWARDING]))
    assert heap.there == [FORWARDING]


def test_what_an_earlier_daemon_left_goes_once_all_have_been_heard() -> None:
    heap = Heap(PROXY, FORWARDING)
    host = state(heap)
    assert host.difference(ONE, [PROXY]) == ()
    run(host.settle(ONE, [PROXY]))
    assert heap.there == [PROXY, FORWARDING]
    run(host.prune())
    assert heap.there == [PROXY]


def test_what_was_made_before_a_refusal_goes_with_its_owner() -> None:
    heap = Heap()
    heap.refuses = ADDRESS6
    host = state(heap)
    with pytest.raises(HostError):
        run(host.ensure(ONE, host.difference(ONE, [ADDRESS6, BRIDGE])))
    assert heap.there == [BRIDGE]
    run(host.settle(ONE, ()))
    assert heap.there == []


def test_an_adapter_that_answers_later_is_waited_for() -> None:
    class Late(Heap):
        def apply(self, wanted: Sequence[HostObject]) -> Any:
            async def later() -> None:
                await asyncio.sleep(0)
                Heap.apply(self, wanted)

            return later()

    heap = Late()
    host = state(heap)
    run(have(host, ONE, BRIDGE, ADDRESS6))
    assert set(heap.there) == {BRIDGE, ADDRESS6}


_Owners = st.sampled_from([ONE, OTHER, "lab"])
_Wishes = st.frozensets(st.sampled_from([*THINGS, OTHER_ELEMENT, CLOSED, SERVICE, RENAMED]))
_Foreign = st.frozensets(
    st.sampled_from([ManagedBridge("docker0", "02:00:00:00:00:09"), Sysctl(4, "eth9", "rp_filter", 2)])
)


@given(st.lists(st.tuples(_Owners, _Wishes, st.booleans())), _Foreign)
def test_there_is_what_somebody_wants_and_nothing_else(
    wishes: list[tuple[Owner, frozenset[HostObject], bool]], foreign: frozenset[HostObject]
) -> None:
    """Two values for one key, shared and disjoint owners, new policies, beside what is not ours."""
    run(_play(wishes, foreign))


async def _play(wishes: list[tuple[Owner, frozenset[HostObject], bool]], foreign: frozenset[HostObject]) -> None:
    heap = Heap(*foreign)
    host = state(heap)
    last: dict[Owner, frozenset[HostObject]] = {}
    for owner, several, new_policy in wishes:
        wanted = list({each.key: each for each in sorted(several, key=repr)}.values())
        if new_policy:
            host.supersede()
        conflict = host.conflict(owner, wanted)
        others = frozenset[HostObject]().union(*(held for other, held in last.items() if other != owner))
        if conflict is not None:
            assert any(each.key == theirs.key and each != theirs for each in wanted for theirs in others)
            continue
        await have(host, owner, *wanted)
        last[owner] = frozenset(wanted)
        union = frozenset[HostObject]().union(*last.values())
        assert {each.key for each in heap.there} == {each.key for each in union | foreign}
        assert all(heap.objects[each.key] == each for each in wanted), "the latest has it its way"
        assert foreign <= set(heap.there)
        assert host.difference(owner, wanted) == ()

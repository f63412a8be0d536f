"""Links that change all the time: their changes are told together, and nothing that others wait for is lost."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_interface
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xennetd.daemon.reconcile.waiters import LinkWaiters
from xennetd.kernel.links import LinkChange, Links
from xennetd.kernel.storms import Flood, Storms
from xennetd.model.ip import IPInterface
from xennetd.model.link import Link
from xennetd.model.value import replace
from xennetd.model.vif import VifId

LINK = Link(5, "web", kind="dummy", master=3)


def in_storm(*indexes: int) -> Storms:
    """Storms of which these links are in one."""
    storms = Storms()
    storms.count({}, 100.0)
    for second in (0.0, 1.0):
        storms.count(dict.fromkeys(indexes, 5000), 100.1 + second)
        storms.hold([LinkChange(link, link) for index in indexes for link in [replace(LINK, index=index)] * 50])
        storms.release()
    storms.count({}, 102.2)
    assert not storms.holds
    return storms


def test_many_changes_of_a_link_in_a_storm_are_one() -> None:
    storms = in_storm(5)
    states = [replace(LINK, mtu=1400 + number) for number in range(50)]
    changes = [LinkChange(old, new) for old, new in pairwise(states)]
    calm = LinkChange(replace(LINK, index=6), replace(LINK, index=6, mtu=1400))
    assert storms.hold([*changes, calm]) == [calm]
    assert storms.holds
    assert storms.release() == [LinkChange(states[0], states[-1])]
    assert not storms.holds
    assert list(storms.problems({5: "web"}, 102.2)) != []


def test_a_new_link_and_the_end_of_a_link_are_told_at_once() -> None:
    storms = in_storm(5)
    for change in (LinkChange(None, LINK), LinkChange(LINK, None)):
        assert storms.hold([change]) == [change]


def test_a_calm_link_is_told_at_once_and_after_what_was_kept_of_it() -> None:
    storms = in_storm(5)
    low, lower = replace(LINK, mtu=1400), replace(LINK, mtu=1300)
    assert storms.hold([LinkChange(LINK, low)]) == []
    storms.count({}, 104.0)
    assert storms.hold([LinkChange(low, lower)]) == [LinkChange(LINK, low), LinkChange(low, lower)]
    assert not storms.holds


@pytest.mark.parametrize(
    "then",
    [lambda named: None, lambda named: replace(named, name="third"), lambda named: replace(named, name="web")],
    ids=["deleted", "renamed again", "renamed back"],
)
def test_a_vif_that_waits_for_a_name_is_told_that_it_is_free(then: Callable[[Link], Link | None]) -> None:
    # It may have found the name taken at any time, since the view is never held back.
    storms, waiters = in_storm(5), LinkWaiters()
    names = {"web": VifId(7, 0), "second": VifId(8, 0)}
    for name, vif in names.items():
        waiters.wait(vif, (), {name})
    named = replace(LINK, name="second")
    told = storms.hold([LinkChange(LINK, named), LinkChange(named, then(named))]) + storms.release()
    assert {vif for change in told for vif in waiters.waiting_for(change, Links())} == set(names.values())


indexes = st.integers(1, 2)
states = st.none() | st.builds(
    Link,
    index=st.just(0),
    name=st.sampled_from(["web", "second", "third"]),
    mtu=st.sampled_from([1400, 1500]),
    master=st.sampled_from([0, 3, 4]),
    addresses=st.sampled_from([(), (ip_interface("192.0.2.1/24"),), (ip_interface("192.0.2.2/24"),)]),
)
steps = st.lists(st.tuples(indexes, states) | st.sampled_from(["release", "count"]), max_size=30)


@given(steps)
def test_no_name_master_or_address_is_lost_whatever_the_sequence(sequence: list[tuple[int, Link | None] | str]) -> None:
    storms, now = in_storm(1, 2), 102.2
    links: dict[int, Link | None] = {1: replace(LINK, index=1), 2: replace(LINK, index=2)}
    happened: list[tuple[int, LinkChange]] = []
    told: list[LinkChange] = []
    for step in sequence:
        if step == "release":
            told += storms.release()
        elif isinstance(step, str):
            now += 1.5  # The storm ends, or goes on.
            storms.count({1: 900}, now)
        else:
            index, state = step
            change = LinkChange(links[index], replace(state, index=index) if state is not None else None)
            if change != LinkChange(None, None):
                happened.append((len(told), change))
                told += storms.hold([change])
                links[index] = change.new
    told += storms.release()
    assert not storms.holds

    for since, change in happened:
        later = [each for each in told[since:] if _index(each) == _index(change)]
        last = links[_index(change)]
        assert _names(change) <= {name for each in later for name in _names(each)}
        if (left := _left(change)) is not None:
            assert left in map(_left, later) or (last is not None and last.master == left)
        for address in _gained(change):
            assert any(address in _gained(each) for each in later) or last is None or address not in last.addresses


def test_a_flood_is_read_in_batches_until_it_ends() -> None:
    flood = Flood()
    assert not any(flood.pauses(1, 0.001 * number) for number in range(50))
    assert flood.pauses(1, 0.05)
    assert flood.pauses(100, 0.06)
    assert not flood.pauses(2, 0.07)


def _index(change: LinkChange) -> int:
    return next(link.index for link in (change.old, change.new) if link is not None)


def _names(change: LinkChange) -> set[str]:
    return {link.name for link in (change.old, change.new) if link is not None}


def _left(change: LinkChange) -> int | None:
    """The bridge that has room for another port after this change."""
    old, new = change.old, change.new
    if old is None or not old.master or (new is not None and new.master == old.master):
        return None
    return old.master


def _gained(change: LinkChange) -> set[IPInterface]:
    had = change.old.addresses if change.old is not None else ()
    return set(change.new.addresses if change.new is not None else ()) - set(had)

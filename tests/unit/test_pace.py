"""What is undone again and again is done less and less often, and people are told."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from xennetd.daemon.reconcile.pace import Pace
from xennetd.plan.steps import SetLink

UP = (SetLink(7, "vif7.0", "up", True, "up"),)
JOIN = (SetLink(7, "vif7.0", "master", 3, "master xenbr0"),)


def test_work_is_done_at_once_and_the_same_again_waits_twice_as_long_each_time() -> None:
    pace, now, done = Pace(), 0.0, []
    while now < 30.0:
        wait = pace.wait("vif7.0", UP, now)
        if wait == 0.0:
            done.append(round(now, 2))
        now += wait or 0.001  # whoever undoes it is quick
    gaps = [round(later - earlier, 1) for earlier, later in pairwise(done)]
    assert gaps == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8]


def test_it_never_waits_longer_than_a_minute() -> None:
    pace, now = Pace(), 0.0
    for _ in range(40):
        now += pace.wait("vif7.0", UP, now)
        assert pace.wait("vif7.0", UP, now) <= 60.0


def test_other_work_and_other_subjects_do_not_wait() -> None:
    pace = Pace()
    assert pace.wait("vif7.0", UP, 0.0) == 0.0
    assert pace.wait("vif7.0", UP, 0.0) > 0.0
    assert pace.wait("vif8.0", UP, 0.0) == 0.0
    assert pace.wait("vif7.0", JOIN, 0.0) == 0.0


def test_what_stayed_done_is_forgotten() -> None:
    pace = Pace()
    for _ in range(3):
        pace.wait("vif7.0", UP, 0.0)
    assert pace.wait("vif7.0", UP, 2.0) == 0.0


def test_a_fight_is_told_of_with_what_it_is_about_until_it_ends() -> None:
    pace, now = Pace(), 0.0
    while now < 10.0:
        assert pace.problem("vif7.0", now) is None or now > 1.0
        now += pace.wait("vif7.0", UP, now) or 0.001
    problem = pace.problem("vif7.0", now)
    assert problem is not None
    assert "ip link set dev vif7.0 up" in problem
    assert pace.problem("vif7.0", now + 1000.0) is None
    pace.forget("vif7.0")
    assert pace.problem("vif7.0", now) is None


@given(st.lists(st.floats(0.0, 0.5), max_size=200))
def test_whatever_the_rhythm_work_is_bounded(rhythm: list[float]) -> None:
    pace, now, done = Pace(), 0.0, 0
    for gap in rhythm:
        now += gap
        done += pace.wait("vif7.0", UP, now) == 0.0
    assert done <= 8 + now / 6


def test_the_same_work_on_a_new_link_does_not_wait() -> None:
    pace = Pace()
    assert pace.wait("vif7.0", UP, 0.0, links=11) == 0.0
    assert pace.wait("vif7.0", UP, 0.0, links=12) == 0.0
    assert pace.wait("vif7.0", UP, 0.0, links=12) > 0.0


def test_works_that_alternate_wait_as_well() -> None:
    pace, now, done = Pace(), 0.0, 0
    while now < 30.0:
        waits = []
        for work in (UP, JOIN):
            wait = pace.wait("vif7.0", work, now)
            done += wait == 0.0
            waits.append(wait)
            now += 0.001
        now += max(min(waits) - 0.002, 0.0)
    assert done < 30
    problem = pace.problem("vif7.0", now)
    assert problem is not None
    assert "vif7.0" in problem


def test_works_that_are_done_together_wait_for_the_last_of_them_and_none_counts_as_done_before() -> None:
    pace, works = Pace(), [("eth0", UP), ("eth1", JOIN)]
    assert pace.wait_for_all(works, 0.0) == 0.0
    assert pace.wait("eth0", UP, 0.05) > 0.0
    assert pace.wait("eth0", UP, 0.2) == 0.0
    assert pace.wait_for_all(works, 0.25) == pace.wait("eth0", UP, 0.25) > 0.0
    assert pace.wait("eth1", JOIN, 0.25) == 0.0, "it was not done at 0.25 with the other"
    assert pace.wait_for_all([], 0.25) == 0.0

"""The host's plan: whatever is wanted and whatever is there, the Steps lead from one to the other, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from xennetd.model.objects import Key
from xennetd.plan.difference import Change, HostStep, Make, Remove, batches, difference, in_order


@dataclass(frozen=True)
class Thing:
    """A host object of no particular kind."""

    name: int
    value: int
    needs: frozenset[int] = frozenset()

    @property
    def key(self) -> Key:
        return Key("even" if self.name % 2 == 0 else "odd", str(self.name))

    @property
    def requires(self) -> frozenset[Key]:
        return frozenset(Thing(each, 0).key for each in self.needs)

    def describe(self) -> str:
        return f"thing {self.name} is {self.value}"


def things(values: st.SearchStrategy[int]) -> st.SearchStrategy[dict[Key, Any]]:
    """Return graphs without a circle: a thing requires things with a lower number, some of which nobody wants."""
    several = st.dictionaries(st.integers(0, 9), st.tuples(values, st.frozensets(st.integers(0, 9), max_size=3)))
    return several.map(
        lambda found: {
            thing.key: thing
            for name, (value, needs) in found.items()
            if (thing := Thing(name, value, frozenset(each for each in needs if each < name)))
        }
    )


def done(steps: tuple[HostStep, ...], there: dict[Key, Any]) -> dict[Key, Any]:
    """Return what there is once the Steps are done, each in its turn. What a Step stands on must be there by then."""
    now = dict(there)
    for step in steps:
        match step:
            case Make(wanted):
                assert wanted.key not in now
                now[wanted.key] = wanted
            case Change(wanted, was):
                assert now[wanted.key] == was
                now[wanted.key] = wanted
            case Remove(surplus):
                assert not any(surplus.key in each.requires for each in now.values() if each.key != surplus.key), step
                del now[surplus.key]
    return now


_Value = st.integers(0, 1)


@given(things(_Value), things(_Value))
def test_the_steps_lead_from_what_is_there_to_what_is_wanted(desired: dict[Key, Any], there: dict[Key, Any]) -> None:
    wanted_needs = {key for each in desired.values() for key in each.requires}
    there = {key: each for key, each in there.items() if key in desired or key not in wanted_needs}
    steps = difference(desired, there)
    assert done(steps, there) == desired
    assert difference(desired, desired) == ()
    touched = {step.object.key for step in steps}
    assert not any(there.get(key) == each for key, each in desired.items() if key in touched)


@given(things(_Value), things(_Value))
def test_what_a_thing_requires_is_right_before_it(desired: dict[Key, Any], there: dict[Key, Any]) -> None:
    steps = [step for step in difference(desired, there) if not isinstance(step, Remove)]
    order = [step.object.key for step in steps]
    for position, step in enumerate(steps):
        assert not step.object.requires & set(order[position + 1 :])


@given(things(_Value))
def test_nothing_but_the_surplus_is_removed_and_the_upper_before_the_lower(there: dict[Key, Any]) -> None:
    steps = difference({}, there)
    assert all(isinstance(step, Remove) for step in steps)
    assert done(steps, there) == {}


def test_things_of_one_kind_come_together_where_they_can() -> None:
    found = {Thing(name, 0).key: Thing(name, 0) for name in (1, 2, 3, 4)}
    order: Any = in_order(found)
    assert [each.name % 2 for each in order] in ([0, 0, 1, 1], [1, 1, 0, 0])
    runs = batches(difference(found, {}))
    assert [len(objects) for _, _, objects in runs] == [2, 2]


def test_a_circle_is_no_endless_loop() -> None:
    circle = (Thing(1, 0, frozenset({2})), Thing(2, 0, frozenset({1})))
    found: Any = {thing.key: thing for thing in circle}
    assert len(difference(found, {})) == 2

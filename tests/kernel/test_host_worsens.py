"""A guest that was right is never cut off because the host has become worse, whatever the daemon does meanwhile."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import pytest

from tests.bed.guest import Bed
from tests.bed.site import Site
from tests.bed.state import changes
from tests.kernel.conftest import Inhabit, MakeDaemon, MakeGuest
from tests.kernel.every_mode import held
from tests.kernel.worse import CONDITIONS, CONFIG, EVENTS, VOLATILE, Event, World, restart

pytestmark = pytest.mark.usefixtures("dnsmasq")

CALM = 0.25
"""Seconds in which the daemon has done what it will do."""

CALM_AFTER_A_FIGHT = 75.0
"""Seconds until a fight is over for the daemon: until then it repairs less often, and says so."""

PATIENCE = 5.0
"""Seconds until what takes its time must have happened."""


@pytest.fixture
def world(bed: Bed, site: Site, guest: MakeGuest, inhabit: Inhabit, daemon: MakeDaemon) -> World:
    return World(bed, site, guest, inhabit, daemon(CONFIG))


def go_through(world: World, name: str, events: Sequence[Event]) -> list[str]:
    """Make the host worse, let the events happen, and make it better. Return what was wrong on the way."""
    condition = CONDITIONS[name]
    wrong: list[str] = []

    def look(when: str) -> None:
        time.sleep(CALM)
        if cut := world.cut_off():
            wrong.append(f"cut off {when}: {', '.join(cut)}")
        if condition.late and when != restart.__name__:
            return
        deadline = time.monotonic() + PATIENCE
        while not re.search(condition.told, problems := world.problems()):
            if time.monotonic() > deadline:
                wrong.append(f"status does not tell {when}: {problems or 'no problem'}")
                return

    with world.pings(condition.stopped) as pings:
        condition.begin(world)
        try:
            for event in events:
                event(world)
                look(event.__name__)
        finally:
            condition.end(world)
            if condition.late:
                restart(world)
        forgotten = condition.forgotten if restart in events else ""
        differences = settle(world, forgotten)
        wrong += [f"{number} pings lost: {way}" for way, number in pings.lost().items()]
    wrong += [f"not as before: {line[:200]}" for line in differences]
    deadline = time.monotonic() + CALM_AFTER_A_FIGHT
    while problems := world.problems():
        if time.monotonic() > deadline:
            wrong.append(f"status still tells: {problems}")
            break
        time.sleep(0.25)
    return [f"{name} ({', '.join(event.__name__ for event in events)}): {each}" for each in wrong]


def settle(world: World, forgotten: str) -> list[str]:
    """Wait until the host is as a fresh attach makes it, and return what is not so, but for what is forgotten."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            now = held(world.bed, without=VOLATILE)
        except FileNotFoundError:  # A link has just got its name back.
            continue
        differences = [line for line in changes(world.right, now) if not (forgotten and re.search(forgotten, line))]
        if not differences or time.monotonic() > deadline:
            world.right = now if forgotten else world.right
            return differences
        time.sleep(0.1)


@pytest.mark.slow
def test_nobody_is_cut_off(world: World) -> None:
    wrong = [each for name in CONDITIONS for each in go_through(world, name, EVENTS)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.long
@pytest.mark.parametrize("event", EVENTS)
def test_nobody_is_cut_off_by_one_event_alone(world: World, event: Event) -> None:
    wrong = [each for name in CONDITIONS for each in go_through(world, name, (event,))]
    assert not wrong, "\n".join(wrong)

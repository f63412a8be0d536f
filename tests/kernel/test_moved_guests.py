"""A guest that has moved from one mode to another is as a guest that came there first: in nothing does its link differ.

All that the kernel holds about a link is compared: its settings, addresses, routes, neighbours, groups and flags.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed, Guest
from tests.bed.site import Site, sysctl
from tests.bed.state import changes, link_state
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.every_mode import EDGE, LAN, policy
from tests.kernel.wait import eventually

NETWORKS = (
    STAND_IN
    + LAN
    + EDGE
    + '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24", "fd77::/64"]\n'
    + '[network.store]\nmode = "isolated"\nsubnets = ["10.78.0.0/24"]\n'
)

PLACES = {
    "lan": 'network = "lan"\n',
    "edge": 'network = "edge"\nip = ["192.0.2.{n}", "2001:db8::{n}"]\n',
    "edge4": 'network = "edge"\nip = ["192.0.2.{n}"]\n',
    "lab": 'network = "lab"\nip = ["10.77.0.{n}"]\n',
    "store": 'network = "store"\nip = ["10.78.0.{n}"]\n',
}
"""Where a guest can be, and the rule that puts it there; `n` tells its addresses from those of others."""

FRESH, MOVED = 21, 91


def rule(match: str, where: str, n: int) -> str:
    return policy(match, PLACES[where].format(n=n))


def config(where: str) -> str:
    """A configuration with a guest `fresh-PLACE` in each place, and the guest `web` in this one."""
    fresh = (rule(f"fresh-{place}", place, FRESH + number) for number, place in enumerate(PLACES))
    return NETWORKS + "".join(fresh) + rule("web", where, MOVED)


def walk() -> list[str]:
    """A way from each place to each other."""
    places = [*PLACES]
    way = [places[0]]
    left = set(itertools.permutations(places, 2))
    while left:
        # Never over a way twice: the graph is complete, so a way that goes to the most unused ways first is found.
        there = max(
            (to for at, to in left if at == way[-1]), key=lambda to: (sum(at == to for at, _ in left), to != places[0])
        )
        left.remove((way[-1], there))
        way.append(there)
    return way


Moves = Callable[[Daemon, str], None]


def by_reload(xennetd: Daemon, where: str) -> None:
    xennetd.reload(config(where))


def by_restart(xennetd: Daemon, where: str) -> None:
    xennetd.kill9()
    xennetd.configure(config(where))
    xennetd.start()


@pytest.mark.parametrize("moves", [by_reload, by_restart])
def test_a_guest_that_has_moved_is_as_one_that_came_there_first(
    site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, moves: Moves
) -> None:
    way = walk()
    assert set(pairwise(way)) == set(itertools.permutations(PLACES, 2)), "it leaves each place for each other"
    sysctl(site.host, ipv6__conf__default__accept_dad=0)
    bed.host.bridge("xenbr0", address="10.0.0.254/24")
    xennetd = daemon(config(way[0]))
    fresh: dict[str, Guest] = {place: guest(f"fresh-{place}") for place in PLACES}
    web = guest("web")
    for each in (*fresh.values(), web):
        each.connect()
    eventually(lambda: all(bed.host.links()[each.vif.netdev]["operstate"] == "UP" for each in (*fresh.values(), web)))
    want = {
        place: link_state(site.host, fresh[place].vif.netdev, FRESH + number) for number, place in enumerate(PLACES)
    }
    assert want["edge"] != want["edge4"] != want["lan"], "the places differ"
    wrong = []
    for here, there in pairwise(way):
        moves(xennetd, there)
        deadline = time.monotonic() + 1.0  # The kernel looks at carriers once a second.
        while different := changes(want[there], link_state(site.host, web.vif.netdev, MOVED)):
            if time.monotonic() > deadline:
                wrong += [f"{here} to {there}: {line}" for line in different]
                break
            time.sleep(0.05)
    assert not wrong, "\n".join(wrong)

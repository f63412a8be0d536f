"""`isolated` of a [[policy]]: the guest's port has the kernel's flag, whoever changes it, and the guests notice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed, Guest
from tests.bed.news import LinkNews
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.wait import eventually

POLICY = (
    STAND_IN
    + '[network.lan]\nmode = "bridge"\nbridge = "xenbr0"\n'
    + '[[policy]]\nmatch = { vm = "apart-*" }\nnetwork = "lan"\nisolated = true\n'
    + '[[policy]]\nmatch = { vm = "*" }\nnetwork = "lan"\n'
)
ADDRESSES = {"apart-1": "10.0.0.1", "apart-2": "10.0.0.2", "open": "10.0.0.3"}


@pytest.fixture
def xennetd(bed: Bed, daemon: MakeDaemon) -> Daemon:
    bed.host.bridge("xenbr0", address="10.0.0.254/24")
    return daemon(POLICY)


@pytest.fixture
def guests(xennetd: Daemon, guest: MakeGuest) -> dict[str, Guest]:
    found = {name: guest(name, address=f"{address}/24") for name, address in ADDRESSES.items()}
    for each in found.values():
        each.connect()
    return found


def is_isolated(bed: Bed, guest: Guest) -> bool:
    link = bed.host.links()[guest.vif.netdev]
    return bool(link["linkinfo"]["info_slave_data"]["isolated"])


def test_isolated_guests_reach_others_and_the_host_and_not_each_other(bed: Bed, guests: dict[str, Guest]) -> None:
    assert {name: is_isolated(bed, each) for name, each in guests.items()} == {
        "apart-1": True,
        "apart-2": True,
        "open": False,
    }
    for name in ("apart-1", "apart-2"):
        eventually(partial(guests[name].ping, ADDRESSES["open"]))
        assert guests[name].ping("10.0.0.254")
    assert not guests["apart-1"].ping(ADDRESSES["apart-2"])


def test_a_reload_changes_the_flag_in_place(bed: Bed, xennetd: Daemon, guests: dict[str, Guest]) -> None:
    with LinkNews(bed.host) as news:
        xennetd.reload(POLICY.replace("isolated = true\n", ""))
        ports = {each.vif.netdev for each in guests.values()}
        assert all(seen.up and seen.master for seen in news.drain() if seen.name in ports)
    assert not any(is_isolated(bed, each) for each in guests.values())
    assert eventually(lambda: guests["apart-1"].ping(ADDRESSES["apart-2"]))
    xennetd.reload(POLICY)
    assert is_isolated(bed, guests["apart-1"])
    assert not is_isolated(bed, guests["open"])


def test_a_flag_that_no_rule_names_any_more_is_the_administrators(
    bed: Bed, xennetd: Daemon, guests: dict[str, Guest], settle: Callable[[], None]
) -> None:
    xennetd.reload(POLICY.replace("isolated = true\n", ""))
    bed.host.run("bridge", "link", "set", "dev", guests["apart-1"].vif.netdev, "isolated", "on")
    settle()
    assert is_isolated(bed, guests["apart-1"])


def test_another_program_that_changes_it_changes_nothing_for_long(
    bed: Bed, guests: dict[str, Guest], settle: Callable[[], None]
) -> None:
    bed.host.run("bridge", "link", "set", "dev", guests["apart-1"].vif.netdev, "isolated", "off")
    eventually(lambda: is_isolated(bed, guests["apart-1"]))
    bed.host.run("bridge", "link", "set", "dev", guests["open"].vif.netdev, "isolated", "on")
    eventually(lambda: not is_isolated(bed, guests["open"]))

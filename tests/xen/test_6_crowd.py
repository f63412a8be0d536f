"""Ten guests at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.xen.toolstack import Guest, Trail, answers, do, links, rows, until

CROWD = 10
AT_ONCE = 3  # xl gives netback 10 s for each vif, and an emulated dom0 with one CPU does not serve ten in that time


def test_ten_guests_created_together_are_connected_and_leave_nothing(guest: Callable[..., Guest], trail: Trail) -> None:
    guests = [guest(f"crowd{number}") for number in range(CROWD)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda each: each.create("-p", timeout=300), guests))
    vifs = {each.vif() for each in guests}
    until(lambda: vifs <= {row["vif"] for row in rows() if row["state"] == "connected"})
    assert {links()[vif]["master"] for vif in vifs} == {"xenbr0"}
    for each in guests:
        do("xl", "unpause", each.name)
    for each in guests:
        each.connected(timeout=400)
        answers(each.address, 120.0)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(Guest.destroy, guests))
    for each in guests:
        each.gone()
        assert trail.of(each.name) == ["attach", "detach"]

"""More guests than their names fit into one message of xenstore: they are all followed, whatever the store."""

from __future__ import annotations

import contextlib
import time

from tests.bed.guest import Bed
from tests.bed.toolstack import VifSpec
from tests.bed.xs import Request
from tests.kernel.conftest import MakeDaemon, MakeGuest, both_stores
from tests.kernel.status import status
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually

GUESTS = 1300
FIRST = 20_000


@both_stores
def test_all_are_known_and_one_more_is_attached(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    # given: a vif each, which waits for its link
    bed.host.bridge("xenbr0")
    xs = bed.toolstack.xs
    for domid in range(FIRST, FIRST + GUESTS):
        vif = {"frontend": f"/local/domain/{domid}/device/vif/0", **VifSpec().back(domid, 0)}
        xs.batch(
            [
                Request.write(f"/local/domain/{domid}/name", f"guest{domid}"),
                *(Request.write(f"backend/vif/{domid}/0/{node}", value) for node, value in vif.items()),
            ]
        )
    began = time.monotonic()
    xennetd = daemon(ready=False)
    ready = xennetd.wait_ready()
    print(f"start until READY=1, {GUESTS} vifs: {ready.time - began:.2f} s")

    def count(state: str) -> int:
        return int(status(xennetd)["counts"][state])

    assert count("pending") == GUESTS
    assert status(xennetd)["problems"] == []

    # when
    web = guest("web", domid=7)
    connected(bed, web.vif)
    assert xennetd.ask("show", web.vif.netdev)["state"] == "connected"

    # then: events reach it as before, @releaseDomain and the end of everything among them
    xs.rm(f"backend/vif/{FIRST}")
    eventually(lambda: count("pending") == GUESTS - 1)
    web.destroy()
    eventually(lambda: count("connected") == 0)
    with contextlib.suppress(FileNotFoundError):
        xs.rm("backend/vif")
    eventually(lambda: count("pending") == 0)
    assert status(xennetd)["xenstore_reconnects"] == 0

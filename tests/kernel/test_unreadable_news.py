"""An rtnetlink event that can't be read: what came with it is not forgotten."""

from __future__ import annotations

from pathlib import Path

from tests.bed.guest import Bed
from tests.bed.toolstack import VifSpec
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import MakeGuest
from tests.kernel.defective import Defective
from tests.kernel.status import status
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually, paused

NAMELESS_LINK = """
import os, struct
from xennetd.kernel.sockets import EventSocket

drain = EventSocket.drain

def drain_and_break(self):
    datagrams = drain(self)
    if datagrams and os.path.exists("/run/break"):
        os.unlink("/run/break")
        datagrams.append(struct.pack("=IHHII BxHiII", 32, 16, 0, 0, 0, 0, 1, 99999, 0, 0))
    return datagrams

EventSocket.drain = drain_and_break
"""


def test_the_events_before_it_are_acted_upon(bed: Bed, guest: MakeGuest, xenstored: Xenstored, tmp_path: Path) -> None:
    # given: a guest that is connected, and one whose bridge is missing
    bed.host.bridge("xenbr0")
    xennetd = Defective(xenstored, tmp_path, defect=NAMELESS_LINK).start()
    try:
        web, db = guest("web"), guest("db", VifSpec(bridge="xenbr9"))
        connected(bed, web.vif)
        refused(bed, db.vif)

        # when: the bridge comes and the other's link goes, in a batch of events of which the last is nonsense
        with paused(xennetd.pid):
            bed.host.bridge("xenbr9")
            bed.host.rtnl.delete(web.vif.netdev)
            Path("/run/break").touch()

        # then
        connected(bed, db.vif)
        eventually(lambda: xennetd.ask("show", web.vif.netdev)["state"] == "pending")
        assert status(xennetd)["netlink_resyncs"] == 1
    finally:
        xennetd.close()

"""A vif's life from its appearance to its end, on the real kernel and the real xenstored."""

from __future__ import annotations

from tests.bed.guest import Bed
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest


def test_guests_are_bridged_and_reach_each_other(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    script = "vif-xennetd"
    one = guest("one", VifSpec(script=script, bridge="xenbr0"), address="10.0.0.1/24")
    two = guest("two", VifSpec(script=script, bridge="xenbr0"), address="10.0.0.2/24")
    one.connect()
    two.connect()
    assert one.ping("10.0.0.2")

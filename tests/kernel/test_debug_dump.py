"""`xennetctl show --debug`: what a decision was made from, complete enough to make it again."""

from __future__ import annotations

import json

import pytest

from tests import replay
from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed
from tests.bed.site import Site
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.every_mode import EVERY_MODE, SPECS, populate
from tests.kernel.verdict import refused
from xennetd.model.attachment import segment
from xennetd.model.link import Link
from xennetd.model.status import VifState
from xennetd.model.value import replace

pytestmark = pytest.mark.usefixtures("dnsmasq")


def test_every_modes_last_decision_can_be_made_again(
    site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    xennetd = daemon(EVERY_MODE)
    for each in populate(bed, guest, SPECS).values():
        each.connect()
    for row in xennetd.ask("list"):
        dump = replay.read(xennetd.ctl("show", "--debug", row["vif"]).stdout)
        assert dump.decision.state is VifState.CONNECTED
        assert dump.observation.vif.vm == row["vm"]
        assert replay.same(replay.again(dump), dump.decision)


def test_an_error_is_in_it_with_what_led_to_it(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN)
    web = guest("web", VifSpec(bridge="xenbr7"))
    refused(bed, web.vif)
    text = xennetd.ctl("show", "--debug", "web").stdout
    dump = replay.read(text)
    assert dump.decision.error is not None
    assert "xenbr7" in dump.decision.error.sentence
    assert dump.answers[("link", "xenbr7")] is None
    assert replay.same(replay.again(dump), dump.decision)
    assert json.loads(text)["version"]
    # Another answer leads to another decision: the recorded outcome decides nothing.
    bridge = Link(9, "xenbr7", "bridge")
    vif = dump.observation.vif
    found = {("link", "xenbr7"): bridge, ("uplinks", bridge.index): ()}
    answers = {**dump.answers, **found, ("namesakes", (vif.mac, segment("xenbr7", None)), vif.id): ()}
    assert replay.again(replace(dump, answers=answers)).error is None

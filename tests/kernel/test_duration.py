"""XENNET_DURATION_US: what an attach took, from the event that began it, whatever it waited for."""

from __future__ import annotations

import time

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed
from tests.bed.systemd import Journal
from tests.bed.toolstack import Vif, VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.verdict import connected, refused

WAIT = 0.7
"""Seconds; an attach without a wait takes less than half of it, also on a busy machine."""

DENY = f'{STAND_IN}[[policy]]\nname = "quarantine"\nmatch = {{ vm = "web" }}\ndeny = "not before Monday"\n'


def took(journal: Journal, vif: Vif, number: int = 0) -> float:
    """Return what the attach with this number took, in seconds."""
    journal.wait_for(XENNET_EVENT="attach", XENNET_VIF=vif.netdev)
    entries = journal.having(XENNET_EVENT="attach", XENNET_VIF=vif.netdev)
    return int(entries[number]["XENNET_DURATION_US"]) / 1e6


def test_the_wait_for_a_bridge_counts(bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal) -> None:
    daemon()
    began = time.monotonic()
    web = guest("web", VifSpec(bridge="late"))
    refused(bed, web.vif)
    time.sleep(WAIT)
    bed.host.bridge("late")
    connected(bed, web.vif)
    assert WAIT < took(journal, web.vif) < time.monotonic() - began


def test_the_wait_for_the_link_counts(bed: Bed, daemon: MakeDaemon, journal: Journal) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    began = time.monotonic()
    vif = bed.toolstack.add_vif(bed.toolstack.create_domain("web"), VifSpec())
    bed.netback.announce(vif)
    time.sleep(WAIT / 2)
    bed.netback.prepare(vif)
    time.sleep(WAIT / 2)
    bed.netback.create(vif, bed.host.guest("web"))
    connected(bed, vif)
    assert WAIT < took(journal, vif) < time.monotonic() - began


def test_a_backend_that_begins_anew_counts_anew(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    web = guest("web")
    web.connect()
    time.sleep(WAIT)
    bed.netfront.close(web.vif, web.namespace)
    bed.netback.disconnect(web.vif, forget_hotplug_status=True)
    bed.netback.destroy(web.vif)
    time.sleep(WAIT)
    bed.netfront.reset(web.vif)
    bed.netback.prepare(web.vif)
    bed.netback.create(web.vif, web.namespace)
    connected(bed, web.vif)
    assert 0 < took(journal, web.vif, -1) < WAIT / 2


def test_what_was_denied_begins_when_it_is_allowed(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon(DENY)
    web = guest("web")
    refused(bed, web.vif)
    time.sleep(WAIT)
    xennetd.reload(STAND_IN)
    connected(bed, web.vif)
    assert 0 < took(journal, web.vif) < WAIT / 2

"""A defect of ours that hits one vif: its port is down, its toolstack is told, and nobody else notices."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.bed.guest import Bed
from tests.bed.news import LinkNews
from tests.bed.toolstack import VifSpec
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import Bystander, MakeGuest
from tests.kernel.defective import Defective
from tests.kernel.verdict import connected, refused

NO_VERDICT_FOR_WEB = """
from xennetd.xenstore import backend
from xennetd.xenstore.codec import XenstoreError
write = backend.write_verdict
async def defective(client, vif, *, error, **rest):
    if vif.vm == "web" and error is None:
        raise ERROR
    return await write(client, vif, error=error, **rest)
backend.write_verdict = defective
"""
"""Raises when port and tap are up already, the tap's verdict is told, and only the vif's verdict is missing."""

NO_DECISION = """
from xennetd.daemon.reconcile import reconciler
def defective(seen):
    raise LookupError("web")
reconciler.decide = defective
"""

ONCE = """
from xennetd.daemon.reconcile import failures
from xennetd.daemon.reconcile.reconciler import Reconciler
failures._RETRY_DEFECT = 1.0
look, looks = Reconciler._reconcile, []
async def defective(self, vif, hinted_at):
    if vif in looks:
        return await look(self, vif, hinted_at)
    looks.append(vif)
    self._record(self._directory.get(vif), hinted_at)
    self._queue.hint_later(vif, 0.3)
    raise LookupError("once")
Reconciler._reconcile = defective
"""
"""Raises in the first look at a vif, which has a timer already that is earlier than that of the defect."""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("LookupError('web')", "xennetd met a defect of its own on vif1.0"),
        ("OSError(105, 'No buffer space available')", "the host is short of memory"),
        ("XenstoreError(28)", "xenstore refused a request: No space left on device"),
    ],
)
def test_port_and_tap_are_down_for_good_and_only_its_own_guest_is_told(
    bed: Bed, guest: MakeGuest, xenstored: Xenstored, bystander: Bystander, tmp_path: Path, error: str, sentence: str
) -> None:
    xennetd = Defective(xenstored, tmp_path, defect=NO_VERDICT_FOR_WEB.replace("ERROR", error))
    try:
        xennetd.start()
        bystander.connect()
        web = guest("web", VifSpec(type="vif_ioemu"))
        bed.host.tap(web.vif.tap)
        told = refused(bed, web.vif)
        assert sentence in told
        bed.toolstack.xs.until(f"{web.vif.backend}/xennetd-tap", f"error: {told}", 5.0)

        # They do not go up and down with each look at what the last look did.
        time.sleep(0.2)
        with LinkNews(bed.host) as news:
            time.sleep(0.5)
            assert news.of(web.vif.netdev) == []
        links = bed.host.links()
        for link in (links[web.vif.netdev], links[web.vif.tap]):
            assert "UP" not in link["flags"]
            assert "master" not in link
        assert bystander.is_undisturbed()

        # And its end is its end.
        web.destroy()
        later = guest("later")
        later.connect()
        assert {row["vm"] for row in xennetd.ask("list")} == {"bystander", "later"}
    finally:
        xennetd.close()


@pytest.mark.parametrize("nodes", [{"script": "/etc/xen/scripts/vif-bridge"}, {"xennetd-pin": "1"}])
def test_a_vif_that_xennetd_does_not_manage_is_not_touched(
    bed: Bed, guest: MakeGuest, xenstored: Xenstored, tmp_path: Path, nodes: dict[str, str]
) -> None:
    xennetd = Defective(xenstored, tmp_path, defect=NO_DECISION)
    try:
        web = guest("web")
        for node, value in nodes.items():
            bed.toolstack.xs.write(f"{web.vif.backend}/{node}", value)
        bed.host.rtnl.set(web.vif.netdev, up=True)
        xennetd.start()
        assert "a defect of its own" in xennetd.ctl("show", web.vif.netdev).stdout
        assert "UP" in bed.host.links()[web.vif.netdev]["flags"]
        assert not web.hotplug_status()
    finally:
        xennetd.close()


def test_a_vif_is_looked_at_again_though_it_had_an_earlier_timer(
    bed: Bed, guest: MakeGuest, xenstored: Xenstored, tmp_path: Path
) -> None:
    bed.host.bridge("xenbr0")
    xennetd = Defective(xenstored, tmp_path, defect=ONCE)
    try:
        web = guest("web")
        xennetd.start()
        assert "a defect of its own" in refused(bed, web.vif)
        connected(bed, web.vif)
    finally:
        xennetd.close()

"""Observe mode: everything is looked at, what would be done is said, and nothing is done."""

from __future__ import annotations

import time
from pathlib import Path

from tests.bed import hotplug, xen
from tests.bed.daemon import RUNTIME, STAND_IN
from tests.bed.guest import Bed
from tests.bed.news import LinkNews
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.test_restart import Trace
from tests.kernel.wait import eventually

OURS = str(xen.REPOSITORY / "conf" / "vif-xennetd")
OBSERVE = STAND_IN + 'mode = "observe"\n'


def test_says_what_it_would_do_and_sends_no_change(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, tmp_path: Path
) -> None:
    # given: a guest of ours and one of the stock script's, which the script has connected
    bed.host.bridge("xenbr0")
    trace = Trace(tmp_path)
    xennetd = daemon(OBSERVE, wrapper=trace.wrapper)
    ours, stock = guest("ours"), guest("stock", VifSpec(script="vif-bridge"))
    assert stock.online().status == 0
    before = bed.toolstack.xs.tree(ours.vif.backend)

    def said(vm: str) -> str:
        rows = [row for row in xennetd.ask("list") if row["vm"] == vm]
        return str(rows[0]["reason"]) if rows else ""

    # then: both are spoken of
    eventually(lambda: "would do this: ip link set dev vif1.0 addrgenmode none" in said("ours"))
    assert "ip link set dev vif1.0 master xenbr0; ip link set dev vif1.0 up" in said("ours")
    eventually(lambda: "would do this: ip link set dev vif2.0 addrgenmode none" in said("stock"))

    # and: nothing is done, also when they go
    with LinkNews(bed.host) as news:
        bed.toolstack.detach_vif(stock.vif)
        eventually(lambda: "would do this: ip link set dev vif2.0 down" in said("stock"))
        assert news.of(stock.vif.netdev) == []
    assert bed.toolstack.xs.tree(ours.vif.backend) == before
    assert trace.changes() == []
    assert not journal.having(XENNET_EVENT="attach")
    assert not journal.having(XENNET_EVENT="detach")


def test_the_hotplug_script_refuses_at_once(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon(OBSERVE)
    assert (RUNTIME / "observe").exists()
    result = hotplug.run(bed.xenstored, guest("web", VifSpec(script=OURS)).vif, "online")
    assert result.status == 1
    assert "only observes" in result.output

    # and: not any more when it enforces
    xennetd.configure(STAND_IN)
    assert xennetd.ctl("reload").returncode == 0
    assert hotplug.run(bed.xenstored, guest("db", VifSpec(script=OURS)).vif, "online").status == 0


def test_no_hook_runs(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    hooks = Path("/etc/xen/scripts/vif-post.d")
    hooks.mkdir(parents=True, exist_ok=True)
    (hooks / "50-mark.hook").write_text("touch /run/hook-ran\n")
    (hooks / "50-mark.hook").chmod(0o755)
    bed.host.bridge("xenbr0")

    # given: a guest that was connected while that was our business
    xennetd = daemon(STAND_IN + "hooks = true\n")
    web = guest("web")
    web.connect()
    eventually(Path("/run/hook-ran").exists)
    Path("/run/hook-ran").unlink()

    # when
    xennetd.configure(OBSERVE + "hooks = true\n")
    assert xennetd.ctl("reload").returncode == 0
    web.destroy()

    # then
    eventually(lambda: xennetd.ask("list") == [])
    time.sleep(0.3)
    assert not Path("/run/hook-ran").exists()

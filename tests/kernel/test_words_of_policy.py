"""In error and in denial `list`, `show` and the journal name the network, the policy and the mode that applied."""

from __future__ import annotations

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.verdict import connected, refused

POLICY = (
    STAND_IN
    + '[network.lan]\nmode = "bridge"\nbridge = "xenbr9"\n'
    + '[[policy]]\nname = "no network"\nmatch = { vm = "*-quarantine" }\ndeny = "not here"\n'
    + '[[policy]]\nname = "web tier"\nmatch = { vm = "web-*" }\nnetwork = "lan"\n'
)


def test_in_error(bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal) -> None:
    xennetd = daemon(POLICY)
    web = guest("web-1", VifSpec(bridge="xenbr0"))
    assert "xenbr9" in refused(bed, web.vif)
    (row,) = xennetd.ask("list")
    assert (row["network"], row["policy"], row["mode"], row["bridge"]) == ("lan", "web tier", "bridge", "xenbr9")
    entry = journal.wait_for(XENNET_EVENT="error")
    assert (entry["XENNET_NETWORK"], entry["XENNET_POLICY"], entry["XENNET_BRIDGE"]) == ("lan", "web tier", "xenbr9")


def test_in_denial(bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal) -> None:
    xennetd = daemon(POLICY)
    refused(bed, guest("web-quarantine", VifSpec(bridge="xenbr0")).vif)
    (row,) = xennetd.ask("list")
    assert (row["network"], row["policy"], row["mode"]) == (None, "no network", "bridge")
    assert journal.wait_for(XENNET_EVENT="denied")["XENNET_POLICY"] == "no network"


def test_that_comes_with_a_reload(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon(STAND_IN)
    web = guest("web-1", VifSpec(bridge="xenbr0"))
    connected(bed, web.vif)
    xennetd.configure(POLICY)
    assert xennetd.ctl("reload").returncode == 0
    (row,) = xennetd.ask("list")
    assert (row["state"], row["network"], row["policy"], row["bridge"]) == ("error", "lan", "web tier", "xenbr9")
    assert "master" not in bed.host.links()[web.vif.netdev]

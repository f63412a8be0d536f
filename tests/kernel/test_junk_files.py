"""Junk in dnsmasq's files: the daemon lives, and the files are right again with the next look at the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bed.guest import Bed
from tests.bed.site import Site
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.every_mode import EVERY_MODE, served
from tests.kernel.status import status
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually

pytestmark = pytest.mark.usefixtures("dnsmasq")

STATE = Path("/var/lib/xennetd/xn-lab")
JUNK = b"\xff\xfe\x00\x80\n" * 100


def contents() -> dict[str, bytes]:
    return {
        str(file.relative_to(STATE)): file.read_bytes()
        for file in STATE.rglob("*")
        if file.is_file() and file.suffix != ".pid" and file.name != "leases"
    }


def runs() -> bool:
    """Whether a dnsmasq has written its process id."""
    return any(file.read_bytes().strip().isdigit() for file in STATE.glob("*.pid"))


@pytest.mark.parametrize("while_down", [False, True], ids=["running", "down"])
def test_is_made_right(site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, *, while_down: bool) -> None:
    xennetd = daemon(EVERY_MODE)
    first = guest("lab-1", VifSpec(ip="10.77.0.5"))
    connected(bed, first.vif)
    served("lab")
    right = contents()
    if while_down:
        xennetd.kill9()
    for file in STATE.rglob("*"):
        if file.is_file():
            file.write_bytes(JUNK)
    if while_down:
        xennetd.start()
    xennetd.ctl("reload")
    second = guest("lab-2", VifSpec(ip="10.77.0.6"))
    connected(bed, second.vif)
    eventually(runs, timeout=20)
    second.destroy()
    eventually(lambda: contents() == right)
    eventually(lambda: status(xennetd)["problems"] == [], timeout=20)
    assert first.hotplug_status() == "connected"


def test_a_line_among_the_right_ones_is_made_right(site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    xennetd = daemon(EVERY_MODE)
    connected(bed, guest("lab-1", VifSpec(ip="10.77.0.5")).vif)
    served("lab")
    file = STATE / "dnsmasq.conf"
    right = file.read_bytes()
    for junk in (right.replace(b"user=", b"#\xff\nuser="), b"interface=\0\n" + right, right.replace(b"\n", b"\r\n")):
        file.write_bytes(junk)
        eventually(lambda: file.read_bytes() == right)
    connected(bed, guest("lab-2", VifSpec(ip="10.77.0.6")).vif)
    assert status(xennetd)["problems"] == []

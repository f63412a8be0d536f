"""An nftables table that was not read, or can't be put right step by step: nothing is forgotten or stays open."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed
from tests.bed.site import Site
from tests.bed.toolstack import VifSpec
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.defective import Defective
from tests.kernel.every_mode import networks, setting
from tests.kernel.status import status
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually

EDGE = networks('[network.edge]\nmode = "route"\n')
ADDRESS = VifSpec(ip="203.0.113.11")

UNREADABLE = """
import errno
from xennetd.nft import table
read, calls = table.table_flags, []
def failing():
    calls.append(1)
    if len(calls) == 1:
        raise OSError(errno.EMFILE, "Too many open files")
    return read()
table.table_flags = failing
"""

DEAF = """
import errno
from xennetd.nft import events
listen, calls = events.listen, []
def failing():
    calls.append(1)
    if len(calls) < 4:
        raise OSError(errno.EMFILE, "Too many open files")
    return listen()
events.listen = failing
"""


def table(bed: Bed) -> str:
    return bed.host.run("nft", "list", "table", "inet", "xennetd", check=False).stdout


def test_a_table_that_can_not_be_read_at_the_start_is_read_later_and_nothing_stays_behind(
    bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, xenstored: Xenstored, tmp_path: Path
) -> None:
    first = daemon(EDGE)
    edge = guest("edge-1", ADDRESS)
    edge.connect()
    connected(bed, edge.vif)
    first.kill9()
    later = Defective(xenstored, tmp_path, EDGE, defect=UNREADABLE)
    try:
        later.start()
        eventually(lambda: not status(later)["problems"])
        edge.destroy()
        later.reload(STAND_IN)
        eventually(lambda: not table(bed))
        assert setting(bed.host, "ipv4/conf/eth0/forwarding") == 0
    finally:
        later.close()


def test_a_daemon_without_an_event_socket_says_so_and_puts_the_rules_back(
    bed: Bed, site: Site, guest: MakeGuest, xenstored: Xenstored, tmp_path: Path
) -> None:
    xennetd = Defective(xenstored, tmp_path, EDGE, defect=DEAF)
    try:
        xennetd.start()
        edge = guest("edge-1", ADDRESS)
        edge.connect()
        connected(bed, edge.vif)
        assert "noticed late" in str(status(xennetd)["problems"])
        bed.host.run("nft", "flush", "ruleset")
        eventually(lambda: "chain passing" in table(bed))
        eventually(lambda: not status(xennetd)["problems"])
    finally:
        xennetd.close()


@pytest.mark.parametrize("when", ["running", "down"])
@pytest.mark.parametrize(
    "meddle",
    [
        "add chain inet xennetd mine; add rule inet xennetd mine accept; insert rule inet xennetd passing jump mine",
        "add chain inet xennetd mine; add map inet xennetd vm { type ifname : verdict; };"
        ' add element inet xennetd vm { "a" : jump mine }',
    ],
    ids=["jump", "map"],
)
def test_a_chain_that_something_refers_to_keeps_nobody_from_his_network(
    bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, meddle: str, when: str
) -> None:
    xennetd = daemon(EDGE)
    guest("edge-1", ADDRESS).connect()
    eventually(lambda: "chain passing" in table(bed))
    if when == "down":
        xennetd.kill9()
    bed.host.run("nft", meddle)
    if when == "down":
        xennetd.start()
    eventually(lambda: "jump mine" not in table(bed).partition("chain passing")[2])
    other = guest("edge-2", VifSpec(ip="203.0.113.12"))
    connected(bed, other.vif)
    other.destroy()
    assert not status(xennetd)["problems"]
    assert "chain passing" in table(bed)

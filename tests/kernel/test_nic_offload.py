"""`tx_checksum` of a NIC: planned, applied, kept, rolled back, and given back as it was."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.ethtool import switch, tx_checksums
from tests.bed.netns import Host
from tests.kernel.conftest import MakeDaemon
from tests.kernel.status import status
from tests.kernel.test_offloads import SCTP, tag
from tests.kernel.test_roll_back import CHECKPOINT, SECONDS, rollback, unconfirmed
from tests.kernel.test_topology import apply, nics, plan
from tests.kernel.wait import eventually

__all__ = ["nics", "rollback"]

NIC = STAND_IN + "[nic.eth0]\ntx_checksum = false\n"
OFF, ON = "ethtool -K eth0 tx off", "ethtool -K eth0 tx on"


@pytest.fixture
def eth0(nics: Host) -> Host:
    """The host with eth0, up, so that no plan begins with that."""
    nics.rtnl.set("eth0", up=True)
    return nics


def test_a_nic_is_switched_kept_so_and_given_back_as_it_was(eth0: Host, daemon: MakeDaemon) -> None:
    switch("eth0", [SCTP], on=False)
    before = tx_checksums("eth0")
    assert before
    xennetd = daemon(NIC)
    assert plan(xennetd) == (0, [OFF], [])
    assert tx_checksums("eth0") == before
    assert apply(xennetd) == [OFF]
    assert tx_checksums("eth0") == set()
    switch("eth0", before, on=True)
    eventually(lambda: tx_checksums("eth0") == set())
    xennetd.kill9()
    xennetd.start()
    assert (plan(xennetd), tx_checksums("eth0")) == ((0, [], []), set())
    xennetd.configure(STAND_IN)
    assert apply(xennetd) == [ON]
    assert (tx_checksums("eth0"), tag("eth0")) == (before, "0")


def test_a_nic_that_had_it_off_is_not_switched_on(eth0: Host, daemon: MakeDaemon) -> None:
    switch("eth0", tx_checksums("eth0"), on=False)
    xennetd = daemon(NIC)
    assert apply(xennetd) == []
    xennetd.configure(STAND_IN)
    assert apply(xennetd) == []
    assert tx_checksums("eth0") == set()
    xennetd.configure(NIC.replace("false", "true"))
    assert apply(xennetd) == [ON]
    assert tx_checksums("eth0")
    xennetd.configure(STAND_IN)
    assert apply(xennetd) == [OFF]
    assert tx_checksums("eth0") == set()


def test_a_roll_back_gives_a_nic_what_it_had(
    eth0: Host, daemon: MakeDaemon, rollback: Callable[[], subprocess.Popen[str]]
) -> None:
    before = tx_checksums("eth0")
    xennetd = daemon(NIC)
    unconfirmed(xennetd)
    assert tx_checksums("eth0") == set()
    eventually(lambda: not CHECKPOINT.exists(), timeout=SECONDS + 3)
    assert (tx_checksums("eth0"), tag("eth0")) == (before, "0")

    apply(xennetd)
    xennetd.configure(STAND_IN)
    unconfirmed(xennetd)
    assert tx_checksums("eth0") == before
    program = rollback()
    xennetd.signal(signal.SIGSTOP)
    assert program.wait(SECONDS + 10) == 0
    assert tx_checksums("eth0") == set()
    xennetd.signal(signal.SIGCONT)
    xennetd.configure(STAND_IN)
    apply(xennetd)
    assert (tx_checksums("eth0"), tag("eth0")) == (before, "0")


def test_a_nic_whose_driver_does_not_switch_it_is_a_problem_and_keeps_nothing_else(
    nics: Host, daemon: MakeDaemon
) -> None:
    nics.run("ip", "link", "add", "link", "eth1", "name", "fixed", "type", "macvlan")
    assert tx_checksums("fixed")
    xennetd = daemon(NIC + "[nic.fixed]\ntx_checksum = false\n")
    done = xennetd.ctl("apply")
    assert "the driver of fixed can't switch its tx checksum offload off" in done.stdout + done.stderr
    assert any("the driver of fixed can't switch" in problem for problem in status(xennetd)["problems"])
    assert tx_checksums("eth0") == set()

"""Somebody changes the link group of a bridge that xennetd made: the group comes back, and no guest is the worse."""

from __future__ import annotations

import signal

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed
from tests.bed.systemd import Journal
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.status import status
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually
from xennetd.model.marks import BRIDGE_GROUP

LAB = '[network.lab]\nmode = "isolated"\nsubnets = ["10.77.0.0/24"]\n[[policy]]\nnetwork = "lab"\n'


@pytest.fixture
def xennetd(daemon: MakeDaemon) -> Daemon:
    return daemon(STAND_IN + LAB)


def group(bed: Bed, bridge: str = "xn-lab") -> str:
    return bed.host.run("cat", f"/sys/class/net/{bridge}/netdev_group").stdout.strip()


def test_the_group_comes_back_and_guests_notice_nothing(
    bed: Bed, guest: MakeGuest, xennetd: Daemon, journal: Journal
) -> None:
    web = guest("web", address="10.77.0.5/24")
    web.connect()
    assert web.ping("10.77.0.1")
    bed.host.run("ip", "link", "set", "xn-lab", "group", "0")
    eventually(lambda: group(bed) == str(BRIDGE_GROUP))
    assert web.ping("10.77.0.1")
    drift = journal.wait_for(XENNET_EVENT="drift")
    assert drift["MESSAGE"].startswith("network lab repaired: ")
    assert not journal.having(XENNET_EVENT="error")
    late = guest("late")
    connected(bed, late.vif)
    assert status(xennetd)["problems"] == []


def test_a_guest_that_comes_at_the_same_moment_is_not_refused(
    bed: Bed, guest: MakeGuest, xennetd: Daemon, journal: Journal
) -> None:
    for number in range(3):
        bed.host.run("ip", "link", "set", "xn-lab", "group", "7")
        connected(bed, guest(f"web-{number}").vif)
    assert not journal.having(XENNET_EVENT="error")


def test_observe_mode_says_what_it_would_do_and_does_not_do_it(bed: Bed, guest: MakeGuest, xennetd: Daemon) -> None:
    web = guest("web")
    connected(bed, web.vif)
    xennetd.configure(STAND_IN + 'mode = "observe"\n' + LAB)
    assert xennetd.ctl("reload").returncode == 0
    bed.host.run("ip", "link", "set", "xn-lab", "group", "0")
    note = "network lab: in enforce mode xennetd would do this: "
    eventually(lambda: any(line.startswith(note) for line in status(xennetd)["notes"]))
    assert group(bed) == "0"


def test_a_foreign_bridge_of_that_name_is_refused_and_left_alone(bed: Bed, guest: MakeGuest, xennetd: Daemon) -> None:
    xennetd.signal(signal.SIGSTOP)
    bed.host.run("ip", "link", "set", "xn-lab", "group", "0", "name", "aside")
    bed.host.run("ip", "address", "flush", "dev", "aside")
    bed.host.run("ip", "link", "add", "xn-lab", "type", "bridge")
    xennetd.signal(signal.SIGCONT)
    eventually(lambda: "which xennetd did not make" in "".join(status(xennetd)["problems"]))
    refused(bed, guest("web").vif)
    assert (group(bed), group(bed, "aside")) == ("0", "0")


def test_the_index_alone_is_no_mark(bed: Bed, guest: MakeGuest, xennetd: Daemon) -> None:
    index = bed.host.run("cat", "/sys/class/net/xn-lab/ifindex").stdout.strip()
    xennetd.signal(signal.SIGSTOP)
    bed.host.run("ip", "link", "delete", "xn-lab")
    bed.host.run("ip", "link", "add", "xn-lab", "index", index, "type", "bridge")
    xennetd.signal(signal.SIGCONT)
    eventually(lambda: "which xennetd did not make" in "".join(status(xennetd)["problems"]))
    assert group(bed) == "0"

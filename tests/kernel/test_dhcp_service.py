"""The dnsmasq processes: they outlive us, are found again, come back when they die, and go with their network."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.dhcp import NOERROR, Answer, Care, add_guest, ask, kill_all, make_link, network, pid, told, udhcpc
from tests.bed.netns import MS_BIND, Host, _mount
from tests.kernel.wait import eventually
from xennetd.dnsmasq.process import find_dnsmasq
from xennetd.model.errors import HostError
from xennetd.model.objects import DhcpService
from xennetd.render.dnsmasq_files import services

WEB = "00:16:3e:00:00:01"
LAB = network("lab")


@pytest.fixture
def care(host: Host) -> Iterator[Care]:
    make_link(host, LAB)
    care = Care()
    yield care
    care.stop()
    kill_all()


def running(besides: int | None = None) -> int:
    """The pid of lab's dnsmasq, once there is one, it is another than `besides`, and whoever started it knows of it."""
    found = eventually(lambda: pid() if pid() != besides else None)
    time.sleep(0.3)  # It has written its pid before it has said that it serves.
    return found


def test_one_that_is_killed_comes_back_and_knows_its_guests(host: Host, care: Care) -> None:
    care.serve(LAB)
    care.tell(told("lab", WEB, "10.77.0.5", name="web.lab.internal"))
    first = running()
    os.kill(first, signal.SIGKILL)
    second = running(first)
    assert "DHCP on xn-lab: dnsmasq has ended by itself after" in care.problems()[0]
    assert udhcpc(add_guest(host, "xn-lab", WEB, "web"))["ip"] == "10.77.0.5"
    assert pid() == second


def test_one_that_keeps_dying_comes_back_later_each_time(care: Care) -> None:
    care.serve(LAB)
    last, pauses = running(), []
    for _ in range(3):
        os.kill(last, signal.SIGKILL)
        began = time.monotonic()
        last = running(last)
        pauses.append(time.monotonic() - began)
    assert pauses[0] < pauses[1] < pauses[2]
    assert pauses[2] > 3.5
    assert "has ended by itself 3 times, the last time after" in care.problems()[0]


def test_one_that_has_run_for_a_while_is_no_problem_any_more(care: Care) -> None:
    care.serve(LAB)
    os.kill(running(), signal.SIGKILL)
    eventually(care.problems)
    eventually(lambda: care.problems() == [], timeout=20.0)


def test_without_dnsmasq_there_is_one_sentence_and_it_starts_when_installed(host: Host, care: Care) -> None:
    program = find_dnsmasq()
    assert program is not None
    _mount("/dev/null", program, flags=MS_BIND)
    care.serve(LAB)
    (problem,) = eventually(care.problems)
    assert problem.startswith("DHCP on xn-lab: dnsmasq is not installed, so its guests get neither addresses nor names")
    assert "apt install dnsmasq-base" in problem
    host.run("umount", program)
    running()
    assert eventually(lambda: not care.problems())


def test_what_dnsmasq_refuses_is_said_in_its_own_words(care: Care) -> None:
    care.call(care.services.apply, [DhcpService("xn-lab", "interface=xn-lab\nno-such-option\n", network="lab")])
    assert "bad option at line 2" in eventually(care.problems)[0]
    care.serve(LAB)
    running()
    eventually(lambda: care.problems() == [])


def test_a_port_that_is_taken_is_named(host: Host, care: Care) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("10.77.0.1", 53))
        care.serve(LAB)
        (problem,) = eventually(care.problems)
        assert "10.77.0.1: Address already in use" in problem
    running()


def test_a_link_that_does_not_exist_is_an_error_at_once(care: Care) -> None:
    with pytest.raises(HostError, match="network other can't be configured: the link that it is to serve does not"):
        care.serve(network("other"))


SUPERVISOR = """
import asyncio, sys
sys.path.insert(0, {repository!r})
from tests.bed.dhcp import network
from xennetd.dnsmasq.services import DhcpServices
from xennetd.render.dnsmasq_files import services
async def main():
    adapter = DhcpServices()
    adapter.apply(services(network("lab")))
    await adapter.work()
asyncio.run(main())
"""


def test_it_survives_the_daemons_sudden_end_and_is_found_again(host: Host) -> None:
    make_link(host, LAB)
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR.format(repository=str(Path(__file__).parents[2]))])
    first = eventually(pid)
    supervisor.kill()
    supervisor.wait()
    care = Care()
    try:
        conf = Path("/var/lib/xennetd/xn-lab/dnsmasq.conf")
        written = conf.stat().st_mtime_ns
        assert list(care.call(care.services.list_owned)) == list(services(LAB))
        care.serve(LAB)
        care.tell(told("lab", WEB, "10.77.0.5", name="web.lab.internal"))
        guest = add_guest(host, "xn-lab", WEB, "web")
        assert udhcpc(guest)["ip"] == "10.77.0.5"
        assert (pid(), conf.stat().st_mtime_ns, care.problems()) == (first, written, [])
        os.kill(first, signal.SIGKILL)
        running(first)  # It is watched like one that we have started.
    finally:
        care.stop()
        kill_all()


def test_a_changed_configuration_is_put_into_force(host: Host, care: Care) -> None:
    care.serve(LAB)
    first = running()
    care.serve(network("lab", domain="example.internal"))
    eventually(lambda: pid() not in (None, first))
    care.tell(told("lab", WEB, "10.77.0.5", name="web.example.internal"))
    assert udhcpc(add_guest(host, "xn-lab", WEB, "web"))["domain"] == "example.internal"


def test_one_that_is_killed_while_its_configuration_changes_leaves_no_pid_file(care: Care) -> None:
    care.serve(LAB)
    first = running()
    os.kill(first, signal.SIGKILL)
    care.serve(network("lab", domain="other.internal"))
    running(first)
    assert len(list(Path("/var/lib/xennetd/xn-lab").glob("*.pid"))) == 1


def test_one_whose_bridge_was_made_anew_serves_the_new_one(host: Host, care: Care) -> None:
    care.serve(LAB)
    care.tell(told("lab", WEB, "10.77.0.5", name="web.lab.internal"))
    first = running()
    host.rtnl.delete("xn-lab")
    assert care.call(care.services.present, services(LAB)[0]) is None
    make_link(host, LAB)
    care.serve(LAB)
    eventually(lambda: pid() not in (None, first))
    guest = add_guest(host, "xn-lab", WEB, "web")
    assert udhcpc(guest)["ip"] == "10.77.0.5"
    guest.rtnl.add_address("eth0", "10.77.0.5/24")
    assert ask(guest, "10.77.0.1", "web.lab.internal") == Answer(NOERROR, ["10.77.0.5"])


def test_it_goes_with_its_network_and_leaves_nothing(care: Care) -> None:
    care.serve(LAB)
    first = running()
    entry = told("lab", WEB, "10.77.0.5", name="web.lab.internal")
    care.tell(entry)
    care.forget(entry)
    care.call(care.services.remove, services(LAB))
    eventually(lambda: not Path("/var/lib/xennetd/xn-lab").exists())
    assert not Path(f"/proc/{first}/cmdline").exists() or not Path(f"/proc/{first}/cmdline").read_bytes()
    care.serve(LAB)
    assert running(first)


def test_one_left_behind_by_an_earlier_daemon_is_stopped_when_its_network_is_gone(host: Host, care: Care) -> None:
    care.serve(LAB)
    left = running()
    care.stop()
    other = Care()
    other.call(other.services.remove, list(other.call(other.services.list_owned)))
    eventually(lambda: not Path("/var/lib/xennetd/xn-lab").exists())
    assert pid() is None
    assert not Path(f"/proc/{left}/cmdline").exists() or not Path(f"/proc/{left}/cmdline").read_bytes()
    other.stop()

"""Another program that undoes what xennetd does: it costs little, it is told once, and every repair is counted."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bed.guest import Bed
from tests.bed.netns import Host, NetNs
from tests.bed.site import Site
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.every_mode import EDGE, networks, populate
from tests.kernel.status import status
from tests.kernel.test_routed_restart import Trace
from tests.kernel.wait import eventually
from xennetd.kernel.kernel import Kernel
from xennetd.model.link import Link

NAT = '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24"]\n'
GUESTS = {f"edge-{n}": VifSpec(ip=f"192.0.2.{20 + n}") for n in range(8)}
"""Guests and a network that all need one sysctl of the uplink."""

FORWARDING = "ipv4/conf/eth0/forwarding"

SWITCHES_OFF = """
import sys, time
while True:
    with open(sys.argv[1], "r+") as file:
        if file.read().strip() != "0":
            file.seek(0)
            file.write("0")
    time.sleep(0.02)
"""


@contextmanager
def fight(host: NetNs, program: str, *arguments: str) -> Iterator[None]:
    """Have a program undo things while the block runs."""
    with host:
        process = subprocess.Popen([sys.executable, "-c", program, *arguments])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_sysctl_that_many_need_is_repaired_at_one_pace_and_every_repair_is_counted(
    site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, tmp_path: Path
) -> None:
    trace = Trace(tmp_path)
    xennetd = daemon(networks(EDGE, NAT), wrapper=trace.wrapper)
    for each in populate(bed, guest, GUESTS).values():
        each.connect()
    eventually(lambda: journal.having(XENNET_EVENT="attach"))

    def writes() -> int:
        return sum(FORWARDING in line for line in trace.files())

    before, began = writes(), time.monotonic()
    with fight(site.host, SWITCHES_OFF, f"/proc/sys/net/{FORWARDING}"):
        eventually(lambda: status(xennetd)["problems"])
        time.sleep(3.0)
        (problem,) = status(xennetd)["problems"]
    seconds = time.monotonic() - began
    assert f"sysctl net/{FORWARDING} is changed back after each repair" in problem
    assert "find the program that changes it" in problem
    assert xennetd.terminate() == 0
    repairs = writes() - before
    assert 3 <= repairs < 10, "0.1, 0.2, 0.4, 0.8, ... seconds apart, whoever needs it"
    journal.catch_up()
    records = journal.having(XENNET_EVENT="drift")
    assert sum(int(record["XENNET_REPAIRS"]) for record in records) == repairs
    owners = {record.get("XENNET_VIF", record.get("XENNET_NETWORK")) for record in records}
    assert len(records) <= 2 * len(owners), "one at once, one with the number of the others"
    size = sum(len(key) + len(value) for record in records for key, value in record.items())
    assert size / seconds < 5_000, "bytes a second"


def test_a_new_guest_does_not_wait_with_those_who_fight(
    site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    xennetd = daemon(networks(EDGE))
    (edge,) = populate(bed, guest, {"edge-1": VifSpec(ip="192.0.2.21")}).values()
    edge.connect()
    with fight(site.host, SWITCHES_OFF, f"/proc/sys/net/{FORWARDING}"):
        eventually(lambda: status(xennetd)["problems"])
        time.sleep(1.0)  # The next repair is 3 seconds away by now.
        guest("edge-99", VifSpec(ip="192.0.2.99")).connect(timeout=1.0)


SETS_MTU = """
import itertools, sys
from xennetd.kernel import rtnl
from xennetd.kernel.sockets import RequestSocket
requests = RequestSocket()
for mtu in itertools.cycle((1400, 1500)):
    requests.ask([rtnl.set_link(requests.next_seq(), int(sys.argv[1]), mtu=mtu)])
"""


def test_a_link_that_changes_all_the_time_is_looked_at_a_few_times_a_second_only(host: Host) -> None:
    host.bridge("foreign")
    told: list[float] = []
    links: list[Link | None] = []

    async def follow() -> None:
        kernel = Kernel(lambda changes: told.append(time.monotonic()), lambda: None)
        kernel.start()
        with fight(host, SETS_MTU, str(host.rtnl.index("foreign"))):
            await asyncio.sleep(3.0)  # A second shows that it is a storm.
            began, before = time.monotonic(), len(told)
            await asyncio.sleep(2.0)
            assert len(told) - before <= 5 * (time.monotonic() - began)
            (problem,) = kernel.problems()
            assert "link foreign: other programs change its" in problem
            assert "mtu" in problem
            host.bridge("new")
            await asyncio.sleep(0.2)
            assert kernel.links.link("new") is not None, "others are heard of at once"
            host.rtnl.set("foreign", up=False)
            host.rtnl.delete("foreign")
            await asyncio.sleep(0.2)
            links.append(kernel.links.link("foreign"))
        await asyncio.sleep(2.1)
        assert kernel.problems() == []
        kernel.close()

    asyncio.run(follow())
    assert links == [None], "its end is never held back"


def test_a_guest_is_attached_beside_a_link_that_changes_all_the_time(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    xennetd = daemon()
    bed.host.bridge("xenbr0")
    web = guest("web")
    web.connect()
    with fight(bed.host, SETS_MTU, str(bed.host.rtnl.index(web.vif.netdev))):
        eventually(
            lambda: any(f"link {web.vif.netdev}: other programs" in each for each in status(xennetd)["problems"])
        )
        guest("other").connect()
        bed.host.rtnl.set(web.vif.netdev, up=False)
        flags = Path(f"/sys/class/net/{web.vif.netdev}/flags")
        eventually(lambda: int(flags.read_text(), 16) & 1)
    eventually(lambda: not status(xennetd)["problems"])

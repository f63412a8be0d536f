"""Unprivileged domains, each over its own ring: what a guest can do to its vif, and what xennetd takes of quotas."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed, Guest, crowd
from tests.bed.netback import Netback
from tests.bed.toolstack import VifSpec
from tests.bed.xenstored import Oxenstored
from tests.bed.xs import Op, Request, Xs
from tests.kernel.conftest import MakeDaemon, MakeGuest, both_stores
from tests.kernel.status import status
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually

pytestmark = both_stores

DRIVER = 500
VIFS = 30
"""Some 40 would fill the 1000 nodes that a domain may have, with libxl's and netback's alone."""


@pytest.fixture
def inside(bed: Bed) -> Iterator[Callable[[Guest], Xs]]:
    """What a guest says to xenstored, with its own rights."""
    connections: list[Xs] = []

    def connect(guest: Guest) -> Xs:
        connections.append(Xs(bed.xenstored.domain_socket(guest.domain.domid)))
        return connections[-1]

    yield connect
    for connection in connections:
        connection.close()


def denied(act: Callable[..., object], *arguments: str) -> bool:
    try:
        act(*arguments)
    except PermissionError:
        return True
    return False


def room(act: Callable[[int], object]) -> int:
    """How often `act` may be done before a quota ends it."""
    done = 0
    while True:
        try:
            act(done)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.E2BIG, errno.EDQUOT):
                raise
            return done
        done += 1


class TestGuest:
    def test_reads_its_verdict_and_writes_none(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, inside: Callable[[Guest], Xs]
    ) -> None:
        bed.host.bridge("xenbr0")
        daemon()
        web, lost = guest("web", VifSpec(type="vif_ioemu")), guest("lost", VifSpec(bridge="xenbr7"))
        bed.host.tap(web.vif.tap)
        bed.toolstack.xs.until(f"{web.vif.backend}/xennetd-tap", "connected")
        connected(bed, web.vif)
        refused(bed, lost.vif)
        for each, other in ((web, lost), (lost, web)):
            xs = inside(each)
            names = xs.ls(each.vif.backend)
            assert {"hotplug-status", "state", "online", "bridge"} <= set(names)
            for name in (*names, "hotplug-error", "xennetd-tap", "mtu"):
                assert denied(xs.write, f"{each.vif.backend}/{name}", "connected")
                # oxenstored looks whether there is such a node before it looks at the permission.
                assert denied(xs.rm, f"{each.vif.backend}/{name}") or (
                    isinstance(bed.xenstored, Oxenstored) and name not in names
                )
            assert denied(xs.write, f"{each.vif.frontend}/mtu", "9000")
            assert xs.read(f"{each.vif.backend}/hotplug-status") == each.hotplug_status()
            # Of another guest it learns nothing.
            for name in bed.toolstack.xs.ls(other.vif.backend):
                assert denied(xs.read, f"{other.vif.backend}/{name}")
        assert inside(lost).read(f"{lost.vif.backend}/hotplug-error") == lost.hotplug_error()

    def test_takes_nobody_elses_mtu(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, inside: Callable[[Guest], Xs]
    ) -> None:
        bed.host.bridge("xenbr0", mtu=9000)
        victim, rogue = guest("victim"), guest("rogue")
        xs = inside(rogue)
        xs.write(f"{rogue.vif.frontend}/backend", victim.vif.backend)
        daemon()
        connected(bed, rogue.vif)
        connected(bed, victim.vif)
        assert bed.toolstack.xs.read(f"{rogue.vif.frontend}/mtu") == "1500"
        assert bed.toolstack.xs.read(f"{victim.vif.frontend}/mtu") == "9000"

    def test_that_writes_all_it_can_delays_nobody(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, inside: Callable[[Guest], Xs]
    ) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        rogue = guest("rogue")
        rogue.connect()
        xs = inside(rogue)
        before = xennetd.cpu()
        frontend = rogue.vif.frontend
        writes = [Request.write(f"{frontend}/state", f"{number % 9}") for number in range(2000)]
        writes += [Request.write(f"{frontend}/data-{number % 50}", b"\xff\x1b[2J\n" * 100) for number in range(200)]
        writes += [Request.of(Op.RM, f"{frontend}/state"), Request.of(Op.RM, f"{frontend}/mac")]
        xs.exchange(writes)
        late = guest("late")
        late.connect()
        assert [row["state"] for row in xennetd.ask("list")] == ["connected", "connected"]
        # Nothing of the guest's own is watched.
        assert xennetd.cpu() - before < 0.5


class TestDriverDomain:
    def test_takes_a_watch_and_leaves_nothing_open(self, bed: Bed, daemon: MakeDaemon) -> None:
        domain = bed.toolstack.create_domain("netdom", domid=DRIVER)
        bed.toolstack.xs.mkdir(f"{domain.path}/backend")
        bed.toolstack.xs.set_perms(f"{domain.path}/backend", f"n{DRIVER}")
        path = bed.xenstored.domain_socket(DRIVER)
        bed.netback.xs.close()
        bed.netback = Netback(bed.xenstored, bed.host, Xs(path))
        bed.host.bridge("xenbr0")

        def left() -> tuple[int, int, int]:
            """How many watches, nodes and transactions the domain may still have."""
            with Xs(path) as xs:
                watches = room(lambda number: xs.watch(domain.path, str(number)))
                nodes = room(lambda number: xs.write(f"data/{number % 20}/{number}", ""))
                transactions = room(lambda number: xs.start())
                bed.toolstack.xs.rm(f"{domain.path}/data")
                bed.toolstack.xs.mkdir(f"{domain.path}/data")
                bed.toolstack.xs.set_perms(f"{domain.path}/data", f"n{DRIVER}")
            return watches, nodes, transactions

        vifs = crowd(bed, [VifSpec(backend_domid=DRIVER)] * VIFS)
        watches, nodes, transactions = left()
        xennetd = daemon(STAND_IN + "devd = true\n", xenstored_path=path)
        for vif in vifs:
            connected(bed, vif)
        assert status(xennetd)["domid"] == DRIVER
        # One on `backend/vif`; newer xenstoreds allow @releaseDomain as well.
        now = left()
        assert watches - now[0] in (1, 2)
        assert now[1:] == (nodes, transactions)
        for vif in vifs:
            bed.toolstack.detach_vif(vif)
            bed.netback.close(vif)
            bed.netback.destroy(vif)
        eventually(lambda: not any(bed.toolstack.xs.exists(vif.backend) for vif in vifs))

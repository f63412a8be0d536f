"""The uplink is given another name while it forwards for guests: they stay reachable, and nobody else is.

What comes in by the uplink may go on to guests, and nowhere else, whatever the uplink is called. The kernel's settings
of a link go along with it, and so must what xennetd does about them.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Guest
from tests.bed.netns import Host, NetNs
from tests.bed.site import HOST4, HOST6, ROUTER4, ROUTER6, ROUTER_MAC, SERVER4, SERVER6, UPLINK_MAC, Site, ip, sysctl
from tests.bed.toolstack import VifSpec
from tests.bed.wire import Wire, udp
from tests.kernel.conftest import Inhabit, MakeDaemon, MakeGuest
from tests.kernel.every_mode import same
from tests.kernel.status import status
from tests.kernel.wait import eventually

BEHIND4, BEHIND6 = "192.0.3.1", "2001:db8:3::1"
BEHIND_MAC = "02:00:00:00:03:01"
MARK = b"not for a guest"
KNOCKS = [
    udp(ROUTER_MAC, UPLINK_MAC, ROUTER4, BEHIND4, MARK),
    udp(ROUTER_MAC, UPLINK_MAC, ROUTER6, BEHIND6, MARK),
]
"""What comes in by the uplink for a machine that is no guest."""

SOON = 2.0
"""Seconds in which guests are reachable again."""

LAB = '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24", "fd77::/64"]\nnat66 = true\n'
POLICY = '[[policy]]\nmatch = { vm = "web" }\nnetwork = "lab"\n'


@dataclass(frozen=True, slots=True)
class Kind:
    """A guest that the uplink forwards for. `inbound`: it is asked from outside; else it asks a server there."""

    config: str
    spec: VifSpec
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    inbound: bool
    named: bool = False
    """Whether the configuration names the uplink: that does not exist then, which is a problem to be told."""

    def reached(self, site: Site, guest: Guest) -> bool:
        """Whether all that shall be reached is: at the other end, within the blink of an eye."""
        if self.inbound:
            return all(site.internet.ping(address.partition("/")[0], wait=0.2) for address in self.addresses)
        return all(guest.namespace.ping(address, wait=0.2) for address in (SERVER4, SERVER6))


NAT = VifSpec(ip="10.77.0.11 fd77::11"), ("10.77.0.11/24", "fd77::11/64"), ("10.77.0.1", "fd77::1")
ROUTED = ("203.0.113.11/32", "192.0.2.17/32", "2001:db8:5::11/128", "2001:db8::17/128")
KINDS = {
    "routed": Kind(
        STAND_IN,
        VifSpec(script="vif-xennetd-route", ip="203.0.113.11 192.0.2.17 2001:db8:5::11 2001:db8::17"),
        ROUTED,
        (HOST4, "fe80::1"),
        inbound=True,
    ),
    "nat": Kind(STAND_IN + LAB + POLICY, *NAT, inbound=False),
    "nat by a named uplink": Kind(STAND_IN + LAB + 'uplink = "eth0"\n' + POLICY, *NAT, inbound=False, named=True),
}


class Knocking:
    """Sends KNOCKS for as long as the block runs, a thousand times a second."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._count = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Knocking:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()

    def for_a_while(self) -> None:
        """Return when it has done so another hundred times."""
        enough = self._count + 100
        eventually(lambda: self._count >= enough)

    def _run(self) -> None:
        while not self._end.wait(0.001):
            knock(self._wire)
            self._count += 1


def knock(wire: Wire) -> None:
    for frame in KNOCKS:
        try:
            wire.send(frame)
        except OSError as error:
            if error.errno not in (errno.ENOBUFS, errno.ENETDOWN):  # The host's end of the wire is down.
                raise


def renamed_while_down(host: Host) -> None:
    """As by hand, and by udev; everything that goes with the link's being down is then put back."""
    ip(host, "link set eth0 down", "link set eth0 name wan0", "link set wan0 up")
    ip(
        host,
        f"address replace {HOST4}/24 dev wan0",
        f"address replace {HOST6}/64 dev wan0 nodad",
        f"route replace default via {ROUTER4}",
        f"route replace default via {ROUTER6}",
    )


def renamed_while_up(host: Host) -> None:
    """As Linux does it from 6.2 on."""
    try:
        host.rtnl.rename("eth0", "wan0")
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        pytest.skip("kernel lane: this kernel renames no link that is up")


def settings(host: NetNs, link: str) -> list[str]:
    """All that the kernel has set for a link, and for all links, a line each."""
    found = []
    with host:
        for version in ("ipv4", "ipv6"):
            conf = Path("/proc/sys/net", version, "conf")
            for whose, directory in (("link", conf / link), ("all", conf / "all"), ("default", conf / "default")):
                for file in sorted(directory.iterdir()):
                    if file.name != "stable_secret":  # It can't be read until it is set.
                        found.append(f"{version} {whose} {file.name} = {file.read_text().strip()}")
    return found


@pytest.fixture
def behind(site: Site) -> NetNs:
    """A machine behind a second link of the host. The host knows its MAC address, so that no packet has to wait."""
    behind = site.host.guest("behind")
    site.host.rtnl.add_veth("eth1", "eth0", behind.fd)
    sysctl(site.host, ipv6__conf__eth1__accept_dad=0)
    ip(behind, f"link set eth0 address {BEHIND_MAC} up")
    ip(
        site.host,
        "link set eth1 up",
        "address add 192.0.3.2/24 dev eth1",
        "address add 2001:db8:3::2/64 dev eth1 nodad",
        *(f"neighbour add {each} lladdr {BEHIND_MAC} dev eth1 nud permanent" for each in (BEHIND4, BEHIND6)),
    )
    return behind


@pytest.fixture
def arrivals(site: Site, behind: NetNs) -> Iterator[Callable[[], int]]:
    """Returns how many KNOCKS have arrived since the last call. They do where the host forwards what comes in."""
    with Wire(behind) as inside, Wire(site.internet) as outside:

        def count() -> int:
            return sum(MARK in frame.raw for frame in inside.frames())

        def arrives(frame: bytes) -> bool:
            outside.send(frame)
            return inside.has(MARK, timeout=0.05)

        sysctl(site.host, ipv4__conf__eth0__forwarding=1, ipv6__conf__all__forwarding=1)
        for frame in KNOCKS:
            eventually(partial(arrives, frame))
        sysctl(site.host, ipv4__conf__eth0__forwarding=0, ipv6__conf__all__forwarding=0)
        eventually(lambda: count() == 0)
        yield count


def by_a_living_daemon(xennetd: Daemon, rename: Callable[[Host], None], host: Host) -> None:
    rename(host)


def while_the_daemon_is_dead(xennetd: Daemon, rename: Callable[[Host], None], host: Host) -> None:
    xennetd.kill9()
    rename(host)
    xennetd.start()


@pytest.mark.parametrize("seen", [by_a_living_daemon, while_the_daemon_is_dead])
@pytest.mark.parametrize("rename", [renamed_while_down, renamed_while_up])
@pytest.mark.parametrize("kind", KINDS)
class TestTheUplink:
    @pytest.fixture(autouse=True)
    def neighbours(self, site: Site) -> None:
        """Have the router look for its neighbours again ten times a second, and find guests by neighbour discovery."""
        for prefix in ("192.0.2.16/28", "2001:db8::/64"):
            site.by_neighbours(prefix)
        sysctl(site.internet, ipv4__neigh__eth0__retrans_time_ms=100, ipv6__neigh__eth0__retrans_time_ms=100)

    def test_leads_to_guests_and_to_nobody_else(
        self,
        site: Site,
        guest: MakeGuest,
        daemon: MakeDaemon,
        inhabit: Inhabit,
        arrivals: Callable[[], int],
        kind: str,
        rename: Callable[[Host], None],
        seen: Callable[[Daemon, Callable[[Host], None], Host], None],
    ) -> None:
        # given
        what = KINDS[kind]
        xennetd = daemon(what.config)
        web = guest("web", what.spec)
        inhabit(web, *what.addresses, gateways=what.gateways)
        eventually(lambda: what.reached(site, web))
        # when
        with Wire(site.internet) as wire, Knocking(wire) as knocking:
            seen(xennetd, rename, site.host)
            # then
            if what.named:
                eventually(lambda: status(xennetd)["problems"])
            else:
                eventually(lambda: what.reached(site, web), timeout=SOON)
            knocking.for_a_while()
        assert arrivals() == 0

    def test_is_as_it_was_when_they_have_gone(
        self,
        site: Site,
        guest: MakeGuest,
        daemon: MakeDaemon,
        settle: Callable[[], None],
        kind: str,
        rename: Callable[[Host], None],
        seen: Callable[[Daemon, Callable[[Host], None], Host], None],
    ) -> None:
        # given
        before = settings(site.host, "eth0")
        what = KINDS[kind]
        xennetd = daemon(what.config)
        web = guest("web", what.spec)
        web.connect()
        assert settings(site.host, "eth0") != before
        # when
        seen(xennetd, rename, site.host)
        settle()
        web.destroy()
        eventually(lambda: "web" not in {row["vm"] for row in xennetd.ask("list")})
        xennetd.reload(STAND_IN)
        # then
        assert same(before, lambda: settings(site.host, "wan0"))
        assert "xennetd" not in site.host.run("nft", "list", "tables").stdout

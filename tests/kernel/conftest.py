"""The kernel lane's fixtures: everything a test needs of a Xen host, on the real kernel and the real xenstored.

    xenstored   a running `Xenstored`, empty but for what it makes itself; with the mark `both_stores` the test runs
                against xenstored and against oxenstored
    host        the test's own network and mount namespace (`Host`); the test runs in it
    bed         `Bed`: toolstack, netback and netfront over these two
    guest       makes `Guest`s: guest("web", VifSpec(...), address="10.0.0.1/24")
    journal     a `Journal` where journald listens; without this fixture there is none
    daemon      makes and starts xennetd: daemon(), daemon(config, ready=False, ...); ends it after the test
    settle      returns once xennetd has looked at all that has happened until it was called
    bystander   a connected guest on xenbr0, which nothing that happens to others may disturb
    site        a `Site`: the host's uplink, its router and the internet behind it; nftables is there
    inhabit     has a guest connected, configured by hand and reachable for others: a `Place`
    br_netfilter  has the test run twice: frames between a bridge's ports pass nftables, or not; returns which
    dnsmasq     skips the test where there is none
    router      the machine beyond eth0, which has addresses, routes and rules of many kinds (`tests.bed.entries`)

On a machine that can't, a test is skipped with one line that says what is missing; in CI (environment CI) that fails.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from tests.bed import xen
from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.dhcp import kill_all
from tests.bed.entries import configure
from tests.bed.guest import Bed, Guest
from tests.bed.netns import Host, NetNs
from tests.bed.reach import Place, Services
from tests.bed.site import Site
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.bed.xenstored import Oxenstored, Xenstored
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually

T = TypeVar("T")


class MakeGuest(Protocol):
    def __call__(
        self,
        name: str,
        spec: VifSpec | None = None,
        *,
        address: str = "",
        domid: int | None = None,
        uuid: str | None = None,
    ) -> Guest: ...


class Inhabit(Protocol):
    def __call__(self, guest: Guest, *addresses: str, gateways: Sequence[str] = ()) -> Place: ...


class MakeDaemon(Protocol):
    def __call__(self, config: str | None = STAND_IN, *, ready: bool = True, **how: Any) -> Daemon: ...


def make_or_skip(what: Callable[[], T]) -> T:
    """Return what `what` makes; skip the test with one line where this machine can't, or fail it in CI."""
    try:
        return what()
    except xen.Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(f"the kernel lane can't run in CI: {missing}", pytrace=False)
        pytest.skip(f"kernel lane: {missing}")


@pytest.fixture
def host() -> Iterator[Host]:
    host = make_or_skip(Host)
    yield host
    kill_all()  # It outlives xennetd, and would keep the namespaces.
    host.close()


@pytest.fixture
def router(host: Host) -> NetNs:
    """What is beyond eth0, as a router that answers as 192.0.2.1 and 2001:db8::1."""
    beyond = host.guest("router")
    host.rtnl.add_veth("eth0", "eth0", beyond.fd)
    beyond.rtnl.set("eth0", up=True)
    for address in ("192.0.2.1/24", "192.0.2.254/24", "2001:db8::1/64"):
        beyond.run("ip", "address", "add", address, "dev", "eth0", *(("nodad",) if ":" in address else ()))
    configure(host)
    eventually(lambda: host.ping("192.0.2.1"))
    eventually(lambda: host.ping("2001:db8::1"))
    return beyond


both_stores = pytest.mark.parametrize(
    "xenstored", [Xenstored, Oxenstored], indirect=True, ids=["xenstored", "oxenstored"]
)


@pytest.fixture
def xenstored(request: pytest.FixtureRequest) -> Iterator[Xenstored]:
    xenstored: Xenstored = make_or_skip(getattr(request, "param", Xenstored))
    yield xenstored
    xenstored.close()


@pytest.fixture
def bed(host: Host, xenstored: Xenstored) -> Iterator[Bed]:
    bed = Bed(xenstored, host)
    yield bed
    bed.close()


@pytest.fixture
def guest(bed: Bed) -> MakeGuest:
    def make(
        name: str,
        spec: VifSpec | None = None,
        *,
        address: str = "",
        domid: int | None = None,
        uuid: str | None = None,
    ) -> Guest:
        return Guest(bed, name, spec, address=address, domid=domid, uuid=uuid)

    return make


@pytest.fixture
def journal(host: Host) -> Iterator[Journal]:
    journal = Journal()
    yield journal
    journal.close()


@pytest.fixture
def daemon(xenstored: Xenstored, host: Host, tmp_path: Path) -> Iterator[MakeDaemon]:
    made: list[Daemon] = []

    def make(config: str | None = STAND_IN, *, ready: bool = True, **how: Any) -> Daemon:
        directory = tmp_path / f"xennetd-{len(made)}"
        directory.mkdir()
        made.append(Daemon(xenstored, directory, config, **how))
        return made[-1].start(ready=ready)

    yield make
    for each in made:
        each.close()


FENCE = r"\b(?:zz-fence|vif32000\.0)\b"
"""What `settle` brings along, for whoever compares the host before and after."""


class Fence:
    """A guest of its own. Calling it returns once xennetd has looked at all that has happened until then.

    What it had to say of that is in the journal by then, if there is one.
    """

    def __init__(self, bed: Bed, journal: Journal | None) -> None:
        self._bed = bed
        self._journal = journal
        self._calls = 0
        bed.host.bridge("zz-fence")
        bed.host.rtnl.set("zz-fence", address="02:00:00:00:00:ff")  # lest it takes its port's
        self._vif = Guest(bed, "fence", VifSpec(bridge="zz-fence"), domid=32000).vif

    def __call__(self) -> None:
        # Events are worked on in the order in which they came: when this damage is repaired, all before it was seen.
        connected(self._bed, self._vif)
        # Never the same damage twice: xennetd takes its time for what is undone again and again.
        self._calls += 1
        name, address = self._vif.netdev, f"{ip_address('198.18.0.0') + self._calls}/32"
        self._bed.host.rtnl.add_address(name, address)
        eventually(lambda: address not in self._bed.host.addresses(name))
        self._bed.toolstack.xs.rm(f"{self._vif.backend}/hotplug-status")
        connected(self._bed, self._vif)
        if self._journal is not None:
            self._journal.catch_up()


@pytest.fixture
def settle(bed: Bed, request: pytest.FixtureRequest) -> Callable[[], None]:
    return Fence(bed, request.getfixturevalue("journal") if "journal" in request.fixturenames else None)


class Bystander:
    """A guest that reaches the host, `10.0.0.254` on xenbr0."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        bed.host.bridge("xenbr0", address="10.0.0.254/24")
        self.guest = Guest(bed, "bystander", VifSpec(), address="10.0.0.250/24", domid=31000)

    def connect(self) -> None:
        """Have it connected, once xennetd runs."""
        self.guest.connect()
        eventually(lambda: self.guest.namespace.ping("10.0.0.254", wait=0.2))
        self._before = self._state()

    def is_undisturbed(self) -> bool:
        """Whether it is as it was at `connect`: the same link, never without a carrier, and it reaches the host."""
        return self._state() == self._before and self.guest.ping("10.0.0.254")

    def _state(self) -> tuple[str, ...]:
        link = Path("/sys/class/net", self.guest.vif.netdev)
        values = ("ifindex", "carrier_changes", "mtu", "flags", "master/ifindex")
        return tuple((link / value).read_text() for value in values)


@pytest.fixture
def bystander(bed: Bed) -> Bystander:
    return Bystander(bed)


def nftables() -> None:
    """Raise Missing where nftables is not complete."""
    xen.program("nft", "nftables")
    if importlib.util.find_spec("nftables") is None:
        raise xen.Missing("no Python module nftables (Debian's package python3-nftables)")


@pytest.fixture
def site(host: Host) -> Site:
    make_or_skip(nftables)
    return Site(host)


@pytest.fixture(params=[False, True], ids=["", "br_netfilter"])
def br_netfilter(site: Site, request: pytest.FixtureRequest) -> bool:
    """Whether frames between two ports of a bridge pass nftables, as Docker, for one, has it: both ways."""
    if request.param and not Path("/proc/sys/net/bridge").is_dir():
        pytest.skip("kernel lane: this kernel's module br_netfilter is not loaded")
    site.pass_bridged_frames(through_nftables=request.param)
    return bool(request.param)


@pytest.fixture
def dnsmasq() -> None:
    make_or_skip(lambda: xen.program("dnsmasq", "dnsmasq-base"))


@pytest.fixture
def services(host: Host) -> Iterator[Services]:
    services = Services()
    yield services
    services.close()


def passes_frames(link: Path) -> bool:
    """Whether a link (below /sys/class/net) has a carrier as the kernel sees it, or is none."""
    state = link / "operstate"
    return not state.exists() or state.read_text() == "up\n"


@pytest.fixture
def inhabit(services: Services) -> Inhabit:
    def configure(guest: Guest, *addresses: str, gateways: Sequence[str] = ()) -> Place:
        assert eventually(guest.hotplug_status) == "connected", guest.hotplug_error()
        guest.connect()
        # The kernel looks at carriers once a second; only then do frames pass.
        vif = Path("/sys/class/net", guest.vif.netdev)
        for link in (vif, vif / "master"):
            eventually(partial(passes_frames, link))
        eventually(lambda: guest.namespace.links()["eth0"]["operstate"] == "UP", interval=0.02)
        Site.give(guest.namespace, *addresses, gateways=tuple(gateways))
        for gateway in gateways:
            on_link = f"{gateway}%eth0" if gateway.startswith("fe80") else gateway
            eventually(partial(guest.namespace.ping, on_link, wait=0.2))
        hosts = [address.partition("/")[0] for address in addresses]
        first = {":" in host: host for host in reversed(hosts)}
        place = Place(guest.name, guest.namespace, first.get(False, ""), first.get(True, ""))
        services.offer(place)
        return place

    return configure

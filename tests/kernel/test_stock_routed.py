"""The stock `vif-route` and `vif-nat` beside ours on the same inputs: what the kernel holds of IP afterwards.

Each case is played twice, each time on a host and a xenstored of its own, by the same toolstack: once with Xen's own
script, once with ours at its place and xennetd behind it. Every address, route, neighbour, setting and rule of the host
must be the same, but for the differences listed here: all of these must be there too, so a difference that goes away
has to leave the list. Stock's scripts leave it to the administrator to have the host forward; here it does.
"""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.bed import hotplug, xen
from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed
from tests.bed.netns import Host
from tests.bed.site import Site, ip, sysctl
from tests.bed.state import host_state
from tests.bed.toolstack import SCRIPTS, VifSpec
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import make_or_skip, nftables
from tests.kernel.wait import eventually
from xennetd.model.value import replace

OURS = xen.REPOSITORY / "conf" / "vif-xennetd"


@dataclass(frozen=True)
class Case:
    """What is played; and the lines, as patterns, that only one of the two has on purpose once the vif is attached."""

    name: str
    script: str
    spec: VifSpec
    stock: tuple[str, ...]
    ours: tuple[str, ...]
    said: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """What stock's scripts end with, and what only ours do."""


def settings(vif: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is different for every vif: sources are checked, and what a guest sends does not configure the host."""
    names = ("ipv4 {}/rp_filter = {}", "ipv6 {}/accept_ra = {}", "ipv6 {}/addr_gen_mode = {}")
    stock, ours = (
        tuple(f"sysctl {name.format(vif, value)}" for name, value in zip(names, values, strict=True))
        for values in ((0, 1, 0), (1, 0, 1))
    )
    return stock, ours


def known(vif: str, address: str) -> str:
    """No guest can claim another's address by ARP."""
    return f"ip neighbour show nud permanent: {address} dev {vif} lladdr 00:16:3e:00:01:00 PERMANENT"


STOCK, OURS_TOO = settings("vif1.0")
STOCK_TAP, OURS_TAP = settings("vif1.0-emu")
WEB = known("vif1.0", "203.0.113.11")
AGAIN = ("online ends with 1", "hotplug-status is error"), ("hotplug-status is connected",)
"""Stock fails a working vif at a second `online`: the route is there already."""
FAILS = AGAIN[0], ("online ends with 0", *AGAIN[1])
"""Stock fails at the first one."""

FORWARDING = "eth0/force_forwarding" if Path("/proc/sys/net/ipv6/conf/all/force_forwarding").exists() else "*forwarding"
"""Before Linux 6.17 there is only one switch for all."""

CASES = (
    Case("route", "vif-route", VifSpec(ip="203.0.113.11"), STOCK, (*OURS_TOO, WEB), AGAIN),
    Case("route, several", "vif-route", VifSpec(ip="203.0.113.11 203.0.113.64/29"), STOCK, (*OURS_TOO, WEB), AGAIN),
    Case(
        "route, gatewaydev", "vif-route", VifSpec(ip="203.0.113.11", gatewaydev="eth1"), STOCK, (*OURS_TOO, WEB), AGAIN
    ),
    Case("route, no ip", "vif-route", VifSpec(), STOCK, OURS_TOO),
    Case(
        "route, with a tap",
        "vif-route",
        VifSpec(ip="203.0.113.11", type="vif_ioemu"),
        (*STOCK, *STOCK_TAP),
        (*OURS_TOO, *OURS_TAP, WEB, known("vif1.0-emu", "203.0.113.11")),
        AGAIN,
    ),
    Case(
        "route, IPv6 too",
        "vif-route",
        VifSpec(ip="203.0.113.11 2001:db8:5::11"),
        (*STOCK, "sysctl ipv6 vif1.0/*forwarding = 0", f"sysctl ipv6 {FORWARDING} = 0"),
        # Stock stops half-way.
        (
            *OURS_TOO,
            WEB,
            known("vif1.0", "2001:db8:5::11"),
            "ip -6 route show table all: 2001:db8:5::11 dev vif1.0 metric 2 *",
            "ip -6 route show table all: *2001:db8::2 dev vif1.0 *",
            "ip -oneline address show: vif1.0 inet6 2001:db8::2/128 *",
            "ip -oneline address show: vif1.0 inet6 fe80::1/64 *",
            "sysctl ipv6 vif1.0/*forwarding = 1",
            f"sysctl ipv6 {FORWARDING} = 1",
        ),
        FAILS,
    ),
    *(
        Case(
            f"nat, {spec.ip or 'no ip'}",
            "vif-nat",
            spec,
            (*STOCK, f"ip -4 route show table all: {address} dev vif1.0 scope link src {gateway}"),
            # A metric, for the sake of taps; and the host translates, which with stock nobody does.
            (
                *OURS_TOO,
                known("vif1.0", address),
                f"ip -4 route show table all: {address} dev vif1.0 scope link src {gateway} metric 2",
                f'nft list ruleset: elements = {{ {address} . "eth0" }}',
            ),
        )
        for spec, address, gateway in (
            (VifSpec(), "10.0.1.1", "10.0.1.128"),
            (VifSpec(ip="10.9.9.7"), "10.9.9.7", "10.9.9.134"),
        )
    ),
    Case(
        "nat, a high address",
        "vif-nat",
        VifSpec(ip="10.9.9.200"),
        (*STOCK, "sysctl ipv4 vif1.0/proxy_arp = 0"),
        # Stock's gateway is 10.9.9.327.
        (
            *OURS_TOO,
            known("vif1.0", "10.9.9.200"),
            "sysctl ipv4 vif1.0/proxy_arp = 1",
            "ip -oneline address show: vif1.0 inet 10.9.9.73/32 scope global vif1.0*",
            "ip -4 route show table all: local 10.9.9.73 dev vif1.0 *",
            "ip -4 route show table all: 10.9.9.200 dev vif1.0 scope link src 10.9.9.73 metric 2",
            'nft list ruleset: elements = { 10.9.9.200 . "eth0" }',
        ),
        FAILS,
    ),
)

UNSAID = re.compile(
    r"^ip -oneline link|^nft (?!.*elements = \{ [0-9]+\.)"  # links: test_stock_beside_ours.py; our rules: what they do
    r"|: broadcast |fe80::/64|ff00::/8|anycast|inet6 fe80::\w+:|local fe80::"  # as the kernel sees fit
)
MARKS = re.compile(r" proto 120| brd \S+|(?<=: )\d+: ")
"""Our mark on routes and neighbours; what ifconfig adds of its own accord; and indexes."""


@dataclass(frozen=True)
class Played:
    """What there was when the vif was attached, after a second `online`, and after its end; and how scripts ended."""

    attached: set[str]
    again: set[str]
    gone: set[str]
    said: set[str]


class Side:
    """One host with one way to configure vifs."""

    def __init__(self, case: Case, directory: Path, *, ours: bool) -> None:
        make_or_skip(nftables)
        self._case = case
        self._host = make_or_skip(Host)
        self._xenstored = make_or_skip(Xenstored)
        self._bed = Bed(self._xenstored, self._host)
        self._daemon: Daemon | None = None
        self._site = Site(self._host)
        sysctl(self._host, ipv4__ip_forward=1)
        self._host.rtnl.add_veth("eth1", "eth0", self._host.guest("wire").fd, address="02:00:00:00:00:03")
        ip(self._host, "link set eth1 addrgenmode none up", "address add 192.0.3.2/24 dev eth1")
        if ours:
            shutil.copy(OURS, Path(SCRIPTS) / case.script)
            self._daemon = Daemon(self._xenstored, directory, STAND_IN + f'scripts = ["{case.script}"]\n')
            self._daemon.start()

    def close(self) -> None:
        if self._daemon is not None:
            self._daemon.close()
        self._bed.close()
        self._xenstored.close()
        self._host.close()

    def play(self) -> Played:
        """Attach the vif, run the script for it once more, and detach it."""
        bed, spec = self._bed, replace(self._case.spec, script=self._case.script)
        said: set[str] = set()
        vif = bed.toolstack.add_vif(bed.toolstack.create_domain("web"), spec)
        namespace = self._host.guest("web")
        bed.netback.probe(vif)
        bed.netback.create(vif, namespace)

        def run(command: str) -> None:
            said.add(f"{command} ends with {hotplug.run(self._xenstored, vif, command).status}")

        run("online")
        if spec.type == "vif_ioemu":
            self._host.tap(vif.tap)
            run("add")
        bed.netfront.connect(vif, namespace)
        attached = self._state()
        run("online")
        again = self._state()
        said.add(f"hotplug-status is {bed.toolstack.xs.get(f'{vif.backend}/hotplug-status')}")
        bed.toolstack.detach_vif(vif)
        bed.netfront.close(vif)
        bed.netback.close(vif)
        run("offline")
        bed.netback.destroy(vif)
        bed.toolstack.forget_vif(vif)
        return Played(attached, again, self._gone(), said)

    def _gone(self) -> set[str]:
        if self._daemon is not None:
            eventually(lambda: "xennetd" not in self._host.run("nft", "list", "tables").stdout)
        # A tap is QEMU's, and stays until that ends.
        return {line for line in self._state() if "vif1.0-emu" not in line}

    def _state(self) -> set[str]:
        return {
            re.sub(r"\s+", " ", MARKS.sub("", line)).rstrip()
            for line in host_state(self._host)
            if not UNSAID.search(line)
        }


def complaints(only: set[str], expected: tuple[str, ...]) -> list[str]:
    """The lines that are not expected, and the expected ones that are not there."""
    unmet = {each for each in expected if not any(fnmatchcase(line, each) for line in only)}
    strange = {line for line in only if not any(fnmatchcase(line, each) for each in expected)}
    return sorted(strange) + [f"not there: {each}" for each in sorted(unmet)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_as_stock_but_for_what_is_listed(case: Case, tmp_path: Path) -> None:
    make_or_skip(lambda: xen.program("ifconfig", "net-tools"))  # the stock scripts want it
    with closing(Side(case, tmp_path, ours=False)) as side:
        stock = side.play()
    with closing(Side(case, tmp_path, ours=True)) as side:
        ours = side.play()
    assert complaints(stock.attached - ours.attached, case.stock) == []
    assert complaints(ours.attached - stock.attached, case.ours) == []
    assert ours.again == ours.attached
    assert stock.gone == ours.gone
    assert complaints(stock.said - ours.said, case.said[0]) == []
    assert complaints(ours.said - stock.said, case.said[1]) == []

"""The hands that make what the host must have for its guests, on the real kernel, beside what is not ours.

What there is, `ip`, `nft` and /proc tell, which know nothing of the hands; what is not ours must be there after as
before, to the last byte.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Awaitable, Callable
from difflib import unified_diff
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from tests.bed.netns import Host
from xennetd.kernel.hands import hands
from xennetd.kernel.host import Kernel
from xennetd.model.errors import HostError
from xennetd.model.ground import (
    LINK_GROUP,
    Chain,
    Element,
    GroundObject,
    HostAddress,
    OwnBridge,
    ProxyNeighbour,
    Rules,
    Setting,
)

MAC = "02:78:6e:00:00:01"
BRIDGE = OwnBridge("xn-lab", MAC)
RULES = Rules(
    (
        Chain("outgoing", "type nat hook postrouting priority srcnat", ("ip saddr . oifname @masquerade4 masquerade",)),
        Chain("passing", "type filter hook forward priority filter + 5", ('iifname "xn-lab" drop', "counter accept")),
    )
)
OTHER_RULES = Rules(
    (
        Chain("outgoing", "type nat hook postrouting priority 90", ("ip saddr . oifname @masquerade4 masquerade",)),
        Chain("passing", "type filter hook forward priority filter + 5", ("counter accept", 'iifname "xn-lab" drop')),
    )
)
ELEMENTS = (
    Element("masquerade4", ("10.0.1.1", "eth0")),
    Element("masquerade4", ("10.0.1.2", "vif1.0-emu")),
    Element("forward4", ("tcp", "8080"), ("10.77.0.5", "80")),
    Element("forward4", ("udp", "53"), ("10.77.0.5", "5353")),
    Element("forward6", ("tcp", "8080"), ("fd77::5", "80")),
)


class Hands:
    """All hands of one kernel, and how often it said that something of ours is no longer as it was."""

    def __init__(self) -> None:
        self.changed = 0
        self.lost = 0
        self.kernel = Kernel(self._changed, self._lost)
        self._hands = hands(self.kernel)

    def _changed(self, changes: object) -> None:
        self.changed += 1

    def _lost(self) -> None:
        self.lost += 1

    def __getitem__(self, what: GroundObject) -> Any:
        return self._hands[type(what)]

    def ensure(self, *objects: GroundObject) -> None:
        self[objects[0]].ensure(objects)

    def release(self, *objects: GroundObject) -> None:
        self[objects[0]].release(objects)

    def holds(self, what: GroundObject) -> bool:
        return bool(self[what].holds(what))

    def ours(self) -> set[GroundObject]:
        return {each for hand in set(self._hands.values()) for each in hand.ours()}


def with_hands(act: Callable[[Hands], None] | Callable[[Hands], Awaitable[None]]) -> None:
    """Do something with hands whose kernel is followed, as the daemon has it."""

    async def run() -> None:
        made = Hands()
        made.kernel.start()
        try:
            result = act(made)
            if result is not None:
                await result
        finally:
            made.kernel.close()

    asyncio.run(run())


def ip(*words: str) -> str:
    return subprocess.run(("ip", *words), check=True, capture_output=True, text=True).stdout


def nft(*words: str) -> str:
    return subprocess.run(("nft", *words), check=True, capture_output=True, text=True).stdout


def difference(before: list[str], after: list[str]) -> list[str]:
    """What there is more, and what there is less."""
    return [line for line in unified_diff(before, after, n=0, lineterm="") if line[:2] not in ("++", "--", "@@")]


def tables() -> list[str]:
    return nft("list", "tables").split("\n")[:-1]


@pytest.fixture
def foreign(host: Host) -> Callable[[], list[str]]:
    """A host with a network, a proxy, settings and rules of its own; returns all that can be seen of it."""
    for which in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{which}/accept_dad").write_text("0")
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0p")
    for link in ("eth0", "eth0p"):
        ip("link", "set", link, "up")
    ip("addr", "add", "192.0.2.2/24", "dev", "eth0")
    ip("-6", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
    ip("route", "add", "default", "via", "192.0.2.1")
    ip("route", "add", "198.51.100.0/24", "via", "192.0.2.1", "proto", "120")
    ip("neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "eth0", "nud", "permanent")
    ip("neigh", "add", "proxy", "192.0.2.77", "dev", "eth0")
    nft("add table inet filter; add chain inet filter input { type filter hook input priority 0; }")
    nft("add rule inet filter input tcp dport 22 accept; add table ip xennetd; add set ip xennetd s { type mark; }")

    def seen() -> list[str]:
        shown = [ip("addr"), ip("route", "show", "table", "all"), ip("-6", "route", "show", "table", "all")]
        shown += [ip("neigh", "show", "proxy"), ip("neigh", "show", "nud", "permanent"), nft("-a", "list", "ruleset")]
        for path in sorted(Path("/proc/sys/net").glob("ipv[46]/conf/*/*")):
            if path.name not in ("stable_secret", "mc_forwarding"):
                shown.append(f"{path} {path.read_text()}")
        lines = [line.strip() for text in shown for line in text.split("\n") if "valid_lft" not in line]
        return [re.sub("NO-CARRIER,|LOWER_UP|state [A-Z]+| linkdown", "", line).strip() for line in lines]  # a carrier goes when it goes

    return seen


ALL: tuple[GroundObject, ...] = (
    BRIDGE,
    HostAddress("xn-lab", ip_interface("10.77.0.1/24")),
    HostAddress("xn-lab", ip_interface("fd77::1/64")),
    RULES,
    *ELEMENTS,
    Setting(4, "eth0", "forwarding", 1),
    Setting(6, "eth0", "accept_ra", 2),
    Setting(6, "all", "forwarding", 1),
    Setting(4, "xn-lab", "rp_filter", 1),
    ProxyNeighbour("eth0", ip_address("192.0.2.50")),
    ProxyNeighbour("eth0", ip_address("2001:db8::50")),
)


def test_all_that_is_made_is_held_and_ours_and_leaves_no_trace(foreign: Callable[[], list[str]]) -> None:
    before = foreign()

    def act(our: Hands) -> None:
        for each in ALL:
            assert not our.holds(each)
            our.ensure(each)
            assert our.holds(each)
            our.ensure(each)
        made = foreign()
        for each in ALL:
            our.ensure(each)
        assert difference(made, foreign()) == []
        assert our.ours() == set(ALL) - {Setting(4, "xn-lab", "rp_filter", 1)}
        for each in reversed(ALL):
            our.release(each)
            our.release(each)
        assert our.ours() == set()
        assert our.lost == 0

    with_hands(act)
    assert difference(before, foreign()) == []


def test_a_later_daemon_finds_and_takes_away_what_an_earlier_one_made(foreign: Callable[[], list[str]]) -> None:
    before = foreign()
    with_hands(lambda our: [our.ensure(each) for each in ALL] and None)

    def later(our: Hands) -> None:
        made = foreign()
        assert all(our.holds(each) for each in ALL)
        for each in ALL:
            our.ensure(each)
        assert difference(made, foreign()) == []
        ours = our.ours()
        assert ours - {each for each in ours if isinstance(each, Rules)} == set(ALL) - {RULES, ALL[-3]}
        for each in sorted(ours, key=lambda each: isinstance(each, OwnBridge)):
            our.release(each)
        assert our.ours() == set()

    with_hands(later)
    assert difference(before, foreign()) == []

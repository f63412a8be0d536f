"""The hands that make what the host must have for its guests, on the real kernel, beside what is not ours.

What there is, `ip`, `nft` and /proc tell, which know nothing of the hands; what is not ours must be there after as
before, to the last byte.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import select
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from difflib import unified_diff
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from tests.bed.netns import Host
from tests.kernel.wait import eventually
from xennetd.kernel.hands import hands
from xennetd.kernel.host import Kernel
from xennetd.model.errors import HostError
from xennetd.model.ground import (
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


Seen = Callable[[], list[str]]


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


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


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
def foreign(host: Host) -> Seen:
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
        # A bridge without ports loses its carrier some time after it came up.
        return [re.sub("NO-CARRIER,|LOWER_UP|state [A-Z]+| linkdown", "", line).strip() for line in lines]

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


def test_all_that_is_made_is_held_and_ours_and_leaves_no_trace(foreign: Seen) -> None:
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
        unmarked = {each for each in ALL if isinstance(each, HostAddress)}
        assert our.ours() == set(ALL) - {Setting(4, "xn-lab", "rp_filter", 1)} - unmarked
        for each in reversed(ALL):
            our.release(each)
            our.release(each)
        assert our.ours() == set()
        assert our.lost == 0

    with_hands(act)
    assert difference(before, foreign()) == []


def test_a_later_daemon_finds_and_takes_away_what_an_earlier_one_made(foreign: Seen) -> None:
    before = foreign()

    def earlier(our: Hands) -> None:
        for each in ALL:
            our.ensure(each)

    with_hands(earlier)

    def later(our: Hands) -> None:
        made = foreign()
        assert all(our.holds(each) for each in ALL)
        for each in ALL:
            our.ensure(each)
        assert difference(made, foreign()) == []
        ours = our.ours()
        assert ours - {each for each in ours if isinstance(each, Rules)} == set(ALL) - {RULES, ALL[-3]} - {
            each for each in ALL if isinstance(each, HostAddress)
        }
        for each in sorted(ours, key=lambda each: isinstance(each, OwnBridge)):
            our.release(each)
        assert our.ours() == set()

    with_hands(later)
    assert difference(before, foreign()) == []


# Bridges and the addresses on them


@pytest.mark.parametrize("kind", ["bridge", "veth"])
def test_a_link_that_is_not_ours_is_never_made_a_bridge_of_ours(foreign: Seen, kind: str) -> None:
    ip("link", "add", "xn-lab", "type", kind)
    before = foreign()

    def act(our: Hands) -> None:
        for each in (BRIDGE, HostAddress("xn-lab", ip_interface("10.77.0.1/24"))):
            with pytest.raises(HostError, match='"xn-lab"') as refused:
                our.ensure(each)
            assert refused.value.waits_on == {"xn-lab"}
            our.release(each)
        assert our.ours() == set()

    with_hands(act)
    assert difference(before, foreign()) == []


def test_a_bridge_that_somebody_has_changed_is_mended_in_place(foreign: Seen) -> None:
    def act(our: Hands) -> None:
        our.ensure(BRIDGE)
        index = our.kernel.links.link("xn-lab")
        for words in (("down",), ("address", "02:00:00:00:00:99")):
            ip("link", "set", "xn-lab", *words)
            our.kernel.poll()
            assert not our.holds(BRIDGE)
            our.ensure(BRIDGE)
            assert our.holds(BRIDGE)
        after = our.kernel.links.link("xn-lab")
        assert index is not None
        assert after is not None
        assert after.index == index.index

    with_hands(act)


def test_a_bridge_of_ours_gets_a_link_local_address_with_its_first_port(foreign: Seen) -> None:
    def act(our: Hands) -> None:
        our.ensure(BRIDGE)
        ip("link", "set", "eth0p", "master", "xn-lab")
        eventually(lambda: "fe80::78:6eff:fe00:1/64" in ip("addr", "show", "xn-lab"))
        our.kernel.poll()
        assert our.ours() == {BRIDGE}
        our.release(BRIDGE)

    with_hands(act)
    assert "xn-lab" not in ip("link")


def test_an_ipv6_address_is_held_as_soon_as_it_is_made(foreign: Seen) -> None:
    def act(our: Hands) -> None:
        our.ensure(BRIDGE)
        for number in range(1, 6):
            address = HostAddress("xn-lab", ip_interface(f"fd77:{number}::1/64"))
            our.ensure(address)
            assert our.holds(address)
        assert "tentative" not in ip("addr", "show", "xn-lab", "scope", "global")

    with_hands(act)


# nftables


def test_rules_change_in_one_transaction_and_sets_stay(foreign: Seen) -> None:
    def act(our: Hands) -> None:
        our.ensure(RULES)
        our.ensure(*ELEMENTS)
        news = subprocess.Popen(("nft", "-j", "monitor"), stdout=subprocess.PIPE, text=True)
        assert news.stdout is not None
        for number in range(500):  # until it listens
            nft(f"add set inet filter go{number} {{ type mark; }}")
            if select.select([news.stdout], (), (), 0.01)[0]:
                break
        our.ensure(OTHER_RULES)
        nft("add set inet filter stop { type mark; }")
        told = "".join(itertools.takewhile(lambda line: '"stop"' not in line, news.stdout))
        news.terminate()
        news.wait()
        assert '"rule"' in told
        assert '"element"' not in told
        assert our.holds(OTHER_RULES)
        assert not our.holds(RULES)
        assert all(our.holds(each) for each in ELEMENTS)
        our.release(RULES)  # the older ones, as a reload does
        assert our.holds(OTHER_RULES)
        assert OTHER_RULES in our.ours()

    with_hands(act)
    chain = nft("list", "chain", "inet", "xennetd", "passing")
    assert chain.index("counter") < chain.index("xn-lab")
    assert "priority srcnat - 10" in nft("list", "chain", "inet", "xennetd", "outgoing")


@pytest.mark.parametrize(
    "wrong",
    [
        Rules((*RULES.chains, Chain("more", "type filter hook input priority 0", ("no such statement",)))),
        Rules((Chain("passing", "type filter hook forward priority filter", ("iifname @no_such_set drop",)),)),
        Element("forward4", ("tcp", "8080"), ("not an address", "80")),
    ],
)
def test_what_nft_refuses_changes_nothing_and_is_an_error_that_says_what(foreign: Seen, wrong: GroundObject) -> None:
    def act(our: Hands) -> None:
        our.ensure(RULES)
        our.ensure(ELEMENTS[0])
        before = nft("-a", "list", "ruleset")
        with pytest.raises(HostError) as refused:
            our[wrong].ensure([ELEMENTS[1], wrong])
        assert wrong.describe() in refused.value.sentence
        assert nft("-a", "list", "ruleset") == before
        assert our.holds(RULES)
        assert our.ours() == {RULES, ELEMENTS[0]}

    with_hands(act)


def test_a_port_that_goes_to_another_guest_does_so_at_once(foreign: Seen) -> None:
    def act(our: Hands) -> None:
        old = ELEMENTS[2]
        new = Element(old.set, old.key, ("10.77.0.6", "8080"))
        our.ensure(old)
        our.ensure(new)
        assert our.holds(new)
        assert not our.holds(old)
        our.release(old)
        assert "10.77.0.6 . 8080" in nft("list", "map", "inet", "xennetd", "forward4")

    with_hands(act)


def test_many_elements_are_one_transaction(foreign: Seen) -> None:
    many = [Element("masquerade4", (f"10.{n >> 8}.{n & 255}.1", "eth0")) for n in range(1000)]

    def act(our: Hands) -> None:
        our.ensure(*many)
        assert our.ours() == set(many)
        our.release(*many[1:])
        assert our.ours() == {many[0]}
        our.release(many[0])

    with_hands(act)
    assert "table inet xennetd" not in tables()


@pytest.mark.parametrize(
    "meddle",
    [
        "flush ruleset",
        "delete table inet xennetd",
        "flush chain inet xennetd passing",
        "add rule inet xennetd passing accept",
        "insert rule inet xennetd passing accept",
        "delete chain inet xennetd outgoing",
        "flush set inet xennetd masquerade4",
        "delete element inet xennetd forward4 { tcp . 8080 }",
        "add chain inet xennetd more",
        "chain inet xennetd passing { policy drop; }",
    ],
)
def test_what_somebody_else_does_to_our_table_is_noticed_and_mended(foreign: Seen, meddle: str) -> None:
    async def act(our: Hands) -> None:
        everything = (RULES, *ELEMENTS)
        our.ensure(*everything)
        await asyncio.sleep(0)
        nft(meddle)
        await until(lambda: our.lost > 0)
        missing = [each for each in everything if not our.holds(each)]
        assert missing
        before = nft("list", "ruleset")
        our.ensure(*missing)
        assert all(our.holds(each) for each in everything)
        assert nft("list", "ruleset") != before
        assert our.lost == 1

    with_hands(act)


def test_what_we_and_others_do_elsewhere_is_no_reason_to_list_our_table(foreign: Seen, monkeypatch: Any) -> None:
    async def act(our: Hands) -> None:
        our.ensure(RULES)
        monkeypatch.setattr("xennetd.kernel.nft.Nft.read", lambda self: pytest.fail("listed anew"))
        for each in ELEMENTS:
            our.ensure(each)
            nft(f"add set inet filter seen{each.key[0].replace('.', '')} {{ type mark; }}")
            await asyncio.sleep(0.01)
        our.ensure(OTHER_RULES)
        our.release(*ELEMENTS)
        our.release(OTHER_RULES)
        await asyncio.sleep(0.05)
        assert our.lost == 0

    with_hands(act)


def test_without_the_python_module_only_what_needs_it_is_refused(foreign: Seen, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "nftables", None)

    def act(our: Hands) -> None:
        our.ensure(BRIDGE)
        our.ensure(ALL[-1])
        assert our.ours() == {BRIDGE, ALL[-1]}
        for each in (RULES, ELEMENTS[0], Setting(4, "eth0", "forwarding", 1)):
            assert not our.holds(each)
            with pytest.raises(HostError, match="apt install python3-nftables"):
                our.ensure(each)
        assert our.kernel.links.setting(4, "eth0", "forwarding") == 0
        our.release(ALL[-1])

    with_hands(act)


# Settings


def setting(path: str) -> str:
    return Path("/proc/sys/net", path).read_text().strip()


def test_a_setting_that_was_right_before_us_is_never_switched_back(foreign: Seen) -> None:
    Path("/proc/sys/net/ipv4/conf/eth0/forwarding").write_text("1")
    needed = Setting(4, "eth0", "forwarding", 1)

    def act(our: Hands) -> None:
        our.ensure(needed)
        assert our.ours() == set()
        our.release(needed)

    with_hands(act)
    assert setting("ipv4/conf/eth0/forwarding") == "1"
    assert "table inet xennetd" not in tables()


def test_a_setting_that_somebody_changed_since_is_left_to_him(foreign: Seen) -> None:
    needed = Setting(6, "eth0", "accept_ra", 2)

    def act(our: Hands) -> None:
        our.ensure(needed)
        Path("/proc/sys/net/ipv6/conf/eth0/accept_ra").write_text("0")
        assert not our.holds(needed)
        our.release(needed)
        assert our.ours() == set()

    with_hands(act)
    assert setting("ipv6/conf/eth0/accept_ra") == "0"


def test_what_a_setting_was_is_remembered_once_and_over_a_restart(foreign: Seen) -> None:
    needed = Setting(4, "eth0", "rp_filter", 1)
    Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").write_text("2")
    with_hands(lambda our: our.ensure(needed))
    Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").write_text("0")
    with_hands(lambda our: our.ensure(needed))

    def act(our: Hands) -> None:
        assert our.ours() == {needed}
        our.release(needed)

    with_hands(act)
    assert setting("ipv4/conf/eth0/rp_filter") == "2"


def test_links_that_forwarded_before_all_did_go_on_doing_so(foreign: Seen) -> None:
    everything = Setting(6, "all", "forwarding", 1)
    ip("link", "add", "eth7", "type", "bridge")
    ip("link", "add", "eth8", "type", "bridge")
    for link in ("eth7", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{link}/forwarding").write_text("1")
    before = foreign()
    with_hands(lambda our: our.ensure(everything))
    listing = ("nft", "list", "set", "inet", "xennetd", "opened6")
    opened = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    assert ('"eth8"' in opened, '"eth7"' in opened) == (True, False)

    def later(our: Hands) -> None:
        assert our.ours() - {everything} == set()
        our.release(everything)

    with_hands(later)
    assert difference(before, foreign()) == []
    assert (setting("ipv6/conf/eth7/forwarding"), setting("ipv6/conf/eth8/forwarding")) == ("1", "0")


def test_a_setting_of_a_link_that_is_gone_is_refused_and_forgotten(foreign: Seen) -> None:
    needed = Setting(4, "eth0", "forwarding", 1)

    def act(our: Hands) -> None:
        our.ensure(needed)
        ip("link", "del", "eth0")
        our.kernel.poll()
        with pytest.raises(HostError, match="eth0") as refused:
            our.ensure(needed)
        assert refused.value.waits_on == {"eth0"}
        assert len(our.ours()) == 1
        our.release(*our.ours())
        assert our.ours() == set()

    with_hands(act)


# Proxy entries


def test_a_proxy_entry_of_somebody_else_is_used_and_left(foreign: Seen) -> None:
    before = foreign()
    needed = ProxyNeighbour("eth0", ip_address("192.0.2.77"))

    def act(our: Hands) -> None:
        assert our.holds(needed)
        our.ensure(needed)
        our.release(needed)
        with pytest.raises(HostError, match='"eth7"'):
            our.ensure(ProxyNeighbour("eth7", ip_address("192.0.2.78")))

    with_hands(act)
    assert difference(before, foreign()) == []


def test_proxy_entries_outlast_a_carrier_but_not_the_link_and_are_missed_then(foreign: Seen) -> None:
    needed = [ProxyNeighbour("eth0", ip_address(address)) for address in ("192.0.2.50", "2001:db8::50")]

    async def act(our: Hands) -> None:
        our.ensure(*needed)
        ip("link", "set", "eth0p", "down")
        await until(lambda: "NO-CARRIER" in ip("link", "show", "eth0") and our.changed > 0)
        assert ip("neigh", "show", "proxy").count("192.0.2.50") == 1
        assert all(our.holds(each) for each in needed)
        ip("link", "set", "eth0", "down")
        await until(lambda: our.lost > 0)
        assert not any(our.holds(each) for each in needed)
        our.ensure(*needed)
        assert our.ours() == set(needed)

    with_hands(act)

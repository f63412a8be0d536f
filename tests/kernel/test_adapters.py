"""The adapters that make what the host must have for its guests, on the real kernel, beside what is not ours.

What there is, `ip`, `nft` and /proc tell, which know nothing of the adapters; what is not ours must be there after as
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
from collections.abc import Awaitable, Callable, Collection
from difflib import unified_diff
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import nftables
import pytest

from tests.bed.netns import Host
from tests.kernel.wait import eventually
from xennetd.daemon.adapters import kernel_adapters
from xennetd.kernel import rtnl_ip
from xennetd.kernel.kernel import Kernel
from xennetd.kernel.links import LinkChange
from xennetd.kernel.procsys import forces_ipv6, read_sysctl, write_sysctl
from xennetd.kernel.sysctls import Sysctls
from xennetd.model.errors import HostError
from xennetd.model.objects import (
    Chain,
    HostAddress,
    HostObject,
    ManagedBridge,
    ProxyNeighbour,
    Ruleset,
    SetElement,
    Sysctl,
)
from xennetd.model.value import replace
from xennetd.nft import table
from xennetd.nft.library import Nft
from xennetd.nft.table import NftTable

ETH0 = "77"
"""The index of eth0."""

MAC = "02:78:6e:00:00:01"
BRIDGE = ManagedBridge("xn-lab", MAC)
RULES = Ruleset(
    (
        Chain("outgoing", "type nat hook postrouting priority srcnat", ("ip saddr . oif @masquerade4 masquerade",)),
        Chain("passing", "type filter hook forward priority filter + 5", ('iifname "xn-lab" drop', "counter accept")),
    )
)
OTHER_RULES = Ruleset(
    (
        Chain("outgoing", "type nat hook postrouting priority 90", ("ip saddr . oif @masquerade4 masquerade",)),
        Chain("passing", "type filter hook forward priority filter + 5", ("counter accept", 'iifname "xn-lab" drop')),
    )
)
ELEMENTS = (
    SetElement("masquerade4", ("10.0.1.1", ETH0)),
    SetElement("masquerade4", ("10.0.1.2", "4711")),  # a link that has gone
    SetElement("forward4", ("tcp", "8080"), ("10.77.0.5", "80")),
    SetElement("forward4", ("udp", "53"), ("10.77.0.5", "5353")),
    SetElement("forward6", ("tcp", "8080"), ("fd77::5", "80")),
)


Seen = Callable[[], list[str]]


class Kit:
    """All adapters of one kernel, and how often it said that something of ours is no longer as it was."""

    def __init__(self) -> None:
        self.changed = 0
        self.changes: list[LinkChange] = []
        self.lost = 0
        self.kernel = Kernel(self._changed, self._lost)
        self.table = NftTable(self._lost)
        self._adapters = kernel_adapters(self.kernel, self.table, Sysctls(self.kernel.links, self.table))

    def _changed(self, changes: list[LinkChange]) -> None:
        self.changed += 1
        self.changes += changes

    def _lost(self) -> None:
        self.lost += 1

    def __getitem__(self, what: HostObject) -> Any:
        return self._adapters[what.key.kind]

    def apply(self, *objects: HostObject) -> None:
        self[objects[0]].apply(objects)

    def remove(self, *objects: HostObject) -> None:
        self[objects[0]].remove(objects)

    def holds(self, what: HostObject) -> bool:
        """Whether it is there and right."""
        there = self[what].present(what)
        assert there is None or there.key == what.key
        return bool(there == what)

    def list_owned(self) -> set[HostObject]:
        listed = [adapter.list_owned() for adapter in set(self._adapters.values())]
        return {each for owned in listed if isinstance(owned, Collection) for each in owned}


def with_kit(act: Callable[[Kit], None] | Callable[[Kit], Awaitable[None]]) -> None:
    """Do something with adapters whose kernel is followed, as the daemon has it."""

    async def run() -> None:
        made = Kit()
        made.kernel.start()
        made.table.start()
        try:
            result = act(made)
            if result is not None:
                await result
        finally:
            made.kernel.close()
            made.table.close()

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
    ip("link", "add", "eth0", "index", ETH0, "type", "veth", "peer", "name", "eth0p")
    for link in ("eth0", "eth0p"):
        ip("link", "set", link, "up")
    eventually(lambda: ip("-6", "addr").count("inet6 fe80:") == 2)  # made once the kernel has told of the carrier
    ip("addr", "add", "192.0.2.2/24", "dev", "eth0")
    ip("-6", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
    # The kernel adds the address's own route a moment later.
    eventually(lambda: "local 2001:db8::2" in ip("-6", "route", "show", "table", "local"))
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


ALL: tuple[HostObject, ...] = (
    BRIDGE,
    HostAddress("xn-lab", ip_interface("10.77.0.1/24")),
    HostAddress("xn-lab", ip_interface("fd77::1/64")),
    RULES,
    *ELEMENTS,
    Sysctl(4, "eth0", "forwarding", 1),
    Sysctl(6, "eth0", "accept_ra", 2),
    Sysctl(6, "all", "forwarding", 1),
    Sysctl(4, "xn-lab", "rp_filter", 1),
    ProxyNeighbour("eth0", ip_address("192.0.2.50")),
    ProxyNeighbour("eth0", ip_address("2001:db8::50")),
)


def test_all_that_is_made_is_held_and_ours_and_leaves_no_trace(foreign: Seen) -> None:
    before = foreign()

    def act(kit: Kit) -> None:
        for each in ALL:
            assert not kit.holds(each)
            kit.apply(each)
            assert kit.holds(each)
            kit.apply(each)
        made = foreign()
        for each in ALL:
            kit.apply(each)
        assert difference(made, foreign()) == []
        assert kit.list_owned() == set(ALL)
        for each in reversed(ALL):
            kit.remove(each)
            kit.remove(each)
        assert kit.list_owned() == set()
        assert kit.lost == 0

    with_kit(act)
    assert difference(before, foreign()) == []


def test_a_later_daemon_finds_and_takes_away_what_an_earlier_one_made(foreign: Seen) -> None:
    before = foreign()

    def earlier(kit: Kit) -> None:
        for each in ALL:
            kit.apply(each)

    with_kit(earlier)

    def later(kit: Kit) -> None:
        made = foreign()
        assert all(kit.holds(each) for each in ALL)
        for each in ALL:
            kit.apply(each)
        assert difference(made, foreign()) == []
        ours = kit.list_owned()
        assert ours - {each for each in ours if isinstance(each, Ruleset)} == set(ALL) - {RULES}
        for each in sorted(ours, key=lambda each: isinstance(each, ManagedBridge)):
            kit.remove(each)
        assert kit.list_owned() == set()

    with_kit(later)
    assert difference(before, foreign()) == []


def test_a_fight_over_our_table_is_logged_once_a_minute_with_the_number_of_changes(
    foreign: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[int] = []
    monkeypatch.setattr(table, "_MINUTE", 1.0)
    monkeypatch.setattr(table._log, "warning", lambda text, **values: logged.append(values["times"]), raising=False)

    async def act(kit: Kit) -> None:
        for number in range(1, 21):
            kit.apply(RULES)
            nft("flush ruleset")
            await until(lambda: kit.lost >= number)  # noqa: B023 # it returns before the loop goes on
        assert logged == [1]
        await until(lambda: len(logged) > 1)
        assert logged == [1, 19]
        await asyncio.sleep(1.1)
        assert logged == [1, 19]
        kit.apply(RULES)
        nft("flush ruleset")
        await until(lambda: len(logged) > 2)
        assert logged == [1, 19, 1]

    with_kit(act)


# Bridges and the addresses on them


@pytest.mark.parametrize("kind", ["bridge", "veth"])
def test_a_link_that_is_not_ours_is_never_made_a_bridge_of_ours(foreign: Seen, kind: str) -> None:
    ip("link", "add", "xn-lab", "type", kind)
    before = foreign()

    def act(kit: Kit) -> None:
        for each in (BRIDGE, HostAddress("xn-lab", ip_interface("10.77.0.1/24"))):
            with pytest.raises(HostError, match='"xn-lab"') as refused:
                kit.apply(each)
            assert refused.value.waits_on == {"xn-lab"}
            kit.remove(each)
        assert kit.list_owned() == set()

    with_kit(act)
    assert difference(before, foreign()) == []


def test_a_bridge_that_somebody_has_changed_is_mended_in_place(foreign: Seen) -> None:
    def act(kit: Kit) -> None:
        kit.apply(BRIDGE)
        index = kit.kernel.links.link("xn-lab")
        for words in (("down",), ("name", "mine"), ("address", "02:00:00:00:00:99")):
            ip("link", "set", "xn-lab", *words)
            kit.kernel.poll()
            assert not kit.holds(BRIDGE)
            kit.apply(BRIDGE)
            assert kit.holds(BRIDGE)
        after = kit.kernel.links.link("xn-lab")
        assert index is not None
        assert after is not None
        assert after.index == index.index

    with_kit(act)


def test_a_bridge_of_ours_gets_a_link_local_address_with_its_first_port(foreign: Seen) -> None:
    def act(kit: Kit) -> None:
        kit.apply(BRIDGE)
        ip("link", "set", "eth0p", "master", "xn-lab")
        eventually(lambda: "fe80::78:6eff:fe00:1/64" in ip("addr", "show", "xn-lab"))
        kit.kernel.poll()
        assert kit.list_owned() == {BRIDGE}
        kit.remove(BRIDGE)

    with_kit(act)
    assert "xn-lab" not in ip("link")


def test_an_ipv6_address_is_held_as_soon_as_it_is_made(foreign: Seen) -> None:
    def act(kit: Kit) -> None:
        kit.apply(BRIDGE)
        for number in range(1, 6):
            address = HostAddress("xn-lab", ip_interface(f"fd77:{number}::1/64"))
            kit.apply(address)
            assert kit.holds(address)
        assert "tentative" not in ip("addr", "show", "xn-lab", "scope", "global")

    with_kit(act)


def test_a_bridge_whose_name_another_network_wants_is_not_renamed(foreign: Seen) -> None:
    """Whatever MAC somebody has given to it."""

    def act(kit: Kit) -> None:
        kit.apply(BRIDGE)
        two = replace(BRIDGE, name="xn-two")
        kit.apply(replace(two, others=frozenset({"xn-lab", "xn-two"})))
        assert kit.list_owned() == {BRIDGE, two}
        kit.remove(BRIDGE)
        kit.apply(two)
        kit.apply(BRIDGE)
        assert kit.list_owned() == {BRIDGE}, "renamed, since nobody is known to want the other one"
        kit.remove(BRIDGE)

    with_kit(act)


def test_only_addresses_that_xennetd_has_marked_are_its_own(foreign: Seen) -> None:
    wanted = HostAddress("xn-lab", ip_interface("10.77.0.1/24")), HostAddress("xn-lab", ip_interface("fd77::1/64"))
    others = HostAddress("xn-lab", ip_interface("10.99.0.1/24")), HostAddress("xn-lab", ip_interface("fd99::1/64"))

    def earlier(kit: Kit) -> None:
        kit.apply(BRIDGE)
        for each in (*wanted, *others):
            ip("addr", "add", str(each.address), "dev", "xn-lab", *(["nodad"] if each.address.version == 6 else []))
        kit.kernel.poll()
        assert kit.list_owned() == {BRIDGE}
        kit.remove(*others)
        assert not any(kit.holds(each) for each in wanted), "it is marked first"
        kit.apply(*wanted)
        assert all(kit.holds(each) for each in wanted)
        assert kit.list_owned() == {BRIDGE, *wanted}

    def later(kit: Kit) -> None:
        assert all(kit.holds(each) for each in wanted)
        assert kit.list_owned() == {BRIDGE, *wanted}
        kit.remove(*wanted)
        shown = ip("addr", "show", "xn-lab")
        assert [str(each.address) in shown for each in (*wanted, *others)] == [False, False, True, True]
        assert kit.list_owned() == {BRIDGE}

    with_kit(earlier)
    with_kit(later)


def test_a_kernel_that_keeps_no_marks_loses_what_its_owner_gives_up_and_nothing_else(
    foreign: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 5.18 neither takes nor tells the protocol number of an address: here the daemon does not read it."""
    monkeypatch.setattr(rtnl_ip, "_IFA_PROTO", 0)
    wanted = HostAddress("xn-lab", ip_interface("10.77.0.1/24"))

    def earlier(kit: Kit) -> None:
        kit.apply(BRIDGE)
        kit.apply(wanted)
        assert kit.holds(wanted)
        assert kit.list_owned() == {BRIDGE}

    def later(kit: Kit) -> None:
        before = ip("addr", "show", "xn-lab")
        assert kit.holds(wanted)
        kit.apply(wanted)
        assert kit.list_owned() == {BRIDGE}
        assert ip("addr", "show", "xn-lab") == before
        kit.remove(wanted)
        assert "10.77.0.1" not in ip("addr", "show", "xn-lab")

    with_kit(earlier)
    with_kit(later)


# nftables


def test_rules_change_in_one_transaction_and_sets_stay(foreign: Seen) -> None:
    def act(kit: Kit) -> None:
        kit.apply(RULES)
        kit.apply(*ELEMENTS)
        news = subprocess.Popen(("nft", "-j", "monitor"), stdout=subprocess.PIPE, text=True)
        assert news.stdout is not None
        for number in range(500):  # until it listens
            nft(f"add set inet filter go{number} {{ type mark; }}")
            if select.select([news.stdout], (), (), 0.01)[0]:
                break
        kit.apply(OTHER_RULES)
        nft("add set inet filter stop { type mark; }")
        told = "".join(itertools.takewhile(lambda line: '"stop"' not in line, news.stdout))
        news.terminate()
        news.wait()
        assert '"rule"' in told
        assert '"element"' not in told
        assert kit.holds(OTHER_RULES)
        assert not kit.holds(RULES)
        assert all(kit.holds(each) for each in ELEMENTS)
        kit.remove(RULES)  # the older ones, as a reload does
        assert kit.holds(OTHER_RULES)
        assert OTHER_RULES in kit.list_owned()

    with_kit(act)
    chain = nft("list", "chain", "inet", "xennetd", "passing")
    assert chain.index("counter") < chain.index("xn-lab")
    assert "priority srcnat - 10" in nft("list", "chain", "inet", "xennetd", "outgoing")


@pytest.mark.parametrize(
    "wrong",
    [
        Ruleset((*RULES.chains, Chain("more", "type filter hook input priority 0", ("no such statement",)))),
        Ruleset((Chain("passing", "type filter hook forward priority filter", ("iifname @no_such_set drop",)),)),
        SetElement("forward4", ("tcp", "8080"), ("not an address", "80")),
    ],
)
def test_what_nft_refuses_changes_nothing_and_is_an_error_that_says_what(foreign: Seen, wrong: HostObject) -> None:
    def act(kit: Kit) -> None:
        kit.apply(RULES)
        kit.apply(ELEMENTS[0])
        before = nft("-a", "list", "ruleset")
        with pytest.raises(HostError) as refused:
            kit[wrong].apply([ELEMENTS[1], wrong])
        assert wrong.describe() in refused.value.sentence
        assert nft("-a", "list", "ruleset") == before
        assert kit.holds(RULES)
        assert kit.list_owned() == {RULES, ELEMENTS[0]}

    with_kit(act)


def test_a_port_that_goes_to_another_guest_does_so_at_once(foreign: Seen) -> None:
    def act(kit: Kit) -> None:
        old = ELEMENTS[2]
        new = SetElement(old.set, old.parts, ("10.77.0.6", "8080"))
        kit.apply(old)
        kit.apply(new)
        assert kit.holds(new)
        assert not kit.holds(old)
        kit.remove(old)
        assert "10.77.0.6 . 8080" in nft("list", "map", "inet", "xennetd", "forward4")

    with_kit(act)


def test_many_elements_are_one_transaction(foreign: Seen) -> None:
    many = [SetElement("masquerade4", (f"10.{n >> 8}.{n & 255}.1", ETH0)) for n in range(1000)]

    def act(kit: Kit) -> None:
        kit.apply(*many)
        assert kit.list_owned() == set(many)
        kit.remove(*many[1:])
        assert kit.list_owned() == {many[0]}
        kit.remove(many[0])

    with_kit(act)
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
        "add table inet xennetd { flags dormant; }",
    ],
)
def test_what_somebody_else_does_to_our_table_is_noticed_and_mended(foreign: Seen, meddle: str) -> None:
    async def act(kit: Kit) -> None:
        everything = (RULES, *ELEMENTS)
        kit.apply(*everything)
        await asyncio.sleep(0)
        nft(meddle)
        await until(lambda: kit.lost > 0)
        missing = [each for each in everything if not kit.holds(each)]
        assert missing
        before = nft("list", "ruleset")
        kit.apply(*missing)
        assert all(kit.holds(each) for each in everything)
        assert nft("list", "ruleset") != before
        assert kit.lost == 1

    with_kit(act)


def test_a_dormant_table_is_awake_again_with_all_that_was_in_it(foreign: Seen) -> None:
    saved = Sysctl(4, "eth0", "rp_filter", 1 if read_sysctl(4, "eth0", "rp_filter") != 1 else 2)

    def before(kit: Kit) -> None:
        kit.apply(RULES, *ELEMENTS)
        kit.apply(saved)

    with_kit(before)
    nft("add table inet xennetd { flags dormant; }")

    def act(kit: Kit) -> None:
        assert not kit.holds(RULES)
        kit.apply(RULES)
        assert "dormant" not in nft("list", "table", "inet", "xennetd")
        assert all(kit.holds(each) for each in (RULES, *ELEMENTS))
        assert saved in kit.list_owned()

    with_kit(act)


@pytest.mark.parametrize("flags", ["dormant", "owner"])
def test_flags_of_another_programs_table_hide_nothing_of_ours(
    foreign: Seen, flags: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their place nft 1.0.6 prints any memory, which need not be JSON, so such tables must not be listed at all."""
    asked: list[str] = []
    cmd = nftables.Nftables.cmd

    def recorded(self: nftables.Nftables, text: str) -> object:
        asked.append(text)
        return cmd(self, text)

    monkeypatch.setattr(nftables.Nftables, "cmd", recorded)
    with_kit(lambda kit: kit.apply(RULES, *ELEMENTS))
    other = subprocess.Popen(("nft", "-i"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert other.stdin is not None
    other.stdin.write(f"add table inet another {{ flags {flags}; }}\n")
    other.stdin.flush()
    eventually(lambda: "table inet another" in tables())

    def act(kit: Kit) -> None:
        assert all(kit.holds(each) for each in (RULES, *ELEMENTS))
        assert [command for command in asked if command.startswith("list")] == ["list table inet xennetd"]

    try:
        with_kit(act)
    finally:
        other.communicate("quit\n")
        if "table inet another" in tables():  # A table with an owner goes with it.
            nft("delete table inet another")


STRANGE = [
    "add set inet xennetd masquerade4 { type ipv4_addr; }; add element inet xennetd masquerade4 { 10.0.1.1 }",
    "add map inet xennetd forward4 { type inet_service : ipv4_addr; }",
    "add set inet xennetd opened4 { type ifname; }; add element inet xennetd opened4 { lo }",
    "add map inet xennetd forward6 { type ipv6_addr : verdict; }; add element inet xennetd forward6 { ::1 : drop }",
]


@pytest.mark.parametrize("strange", STRANGE)
def test_a_table_that_is_not_as_we_make_it_is_made_anew_at_the_start(foreign: Seen, strange: str) -> None:
    nft(f"add table inet xennetd; {strange}; add chain inet xennetd passing; add rule inet xennetd passing drop")
    nft("add map inet xennetd saved_sysctls { type mark . mark : mark; }")
    nft(f"add element inet xennetd saved_sysctls {{ {ETH0} . {4 << 8 | 2} : 2 }}")

    def act(kit: Kit) -> None:
        assert not kit.holds(RULES)
        kit.apply(RULES)
        kit.apply(*ELEMENTS)
        assert all(kit.holds(each) for each in (RULES, *ELEMENTS))
        assert kit.table.saved() == {(ETH0, str(4 << 8 | 2)): 2}
        kit.remove(*ELEMENTS)

    with_kit(act)


def test_a_table_that_is_not_as_we_make_it_goes_when_nobody_needs_it(foreign: Seen) -> None:
    nft(f"add table inet xennetd; {STRANGE[0]}")

    def act(kit: Kit) -> None:
        kit.remove(*[each for each in kit.list_owned() if each.key.kind == "table"])

    with_kit(act)
    assert "table inet xennetd" not in tables()


def test_a_table_that_somebody_replaces_by_another_is_made_anew_with_its_rules(foreign: Seen) -> None:
    async def act(kit: Kit) -> None:
        kit.apply(RULES, *ELEMENTS)
        kit.apply(Sysctl(4, "eth0", "rp_filter", 1 if read_sysctl(4, "eth0", "rp_filter") != 1 else 2))
        saved = kit.table.saved()
        await asyncio.sleep(0)
        nft(f"delete table inet xennetd; add table inet xennetd; {STRANGE[0]}")
        await until(lambda: kit.lost > 0)
        kit.apply(ELEMENTS[2])
        assert kit.holds(RULES), "an element alone must not leave the host without its filter"
        assert kit.table.saved() == saved
        kit.apply(*ELEMENTS)
        assert all(kit.holds(each) for each in ELEMENTS)

    with_kit(act)


def test_a_setting_of_our_own_bridge_that_nobody_wants_any_more_is_a_new_links(foreign: Seen) -> None:
    def act(kit: Kit) -> None:
        default = read_sysctl(4, "default", "rp_filter")
        wanted = Sysctl(4, "xn-lab", "rp_filter", 1 if default != 1 else 2)
        kit.apply(BRIDGE)
        kit.apply(wanted)
        kit.remove(wanted)
        assert read_sysctl(4, "xn-lab", "rp_filter") == default
        kit.apply(wanted)
        write_sysctl(Sysctl(4, "xn-lab", "rp_filter", 0))
        kit.remove(wanted)
        assert read_sysctl(4, "xn-lab", "rp_filter") == 0, "another program's value stays"

    with_kit(act)


@pytest.mark.parametrize("does", ["apply", "remove"])
def test_what_somebody_else_does_while_nft_is_at_work_is_noticed(
    foreign: Seen, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    commit = Nft.commit

    def late(nft_library: Nft, commands: str) -> str:
        monkeypatch.setattr(Nft, "commit", commit)
        nft("delete table inet xennetd")
        return commit(nft_library, commands)

    async def act(kit: Kit) -> None:
        kit.apply(RULES, *ELEMENTS[:-1])
        await asyncio.sleep(0)
        monkeypatch.setattr(Nft, "commit", late)
        if does == "apply":
            kit.apply(ELEMENTS[-1])
        else:
            kit.remove(ELEMENTS[0])
        await until(lambda: kit.lost > 0)
        assert not kit.holds(RULES)

    with_kit(act)


def test_what_we_and_others_do_elsewhere_is_no_reason_to_list_our_table(foreign: Seen, monkeypatch: Any) -> None:
    async def act(kit: Kit) -> None:
        kit.apply(RULES)
        monkeypatch.setattr("xennetd.nft.library.Nft.read", lambda self: pytest.fail("listed anew"))
        for each in ELEMENTS:
            kit.apply(each)
            nft(f"add set inet filter seen{each.parts[0].replace('.', '')} {{ type mark; }}")
            await asyncio.sleep(0.01)
        kit.apply(OTHER_RULES)
        kit.remove(*ELEMENTS)
        kit.remove(OTHER_RULES)
        await asyncio.sleep(0.05)
        assert kit.lost == 0

    with_kit(act)


def test_without_the_python_module_only_what_needs_it_is_refused(foreign: Seen, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "nftables", None)

    def act(kit: Kit) -> None:
        kit.apply(BRIDGE)
        kit.apply(ALL[-1])
        assert kit.list_owned() == {BRIDGE, ALL[-1]}
        for each in (RULES, ELEMENTS[0], Sysctl(4, "eth0", "forwarding", 1)):
            assert not kit.holds(each)
            with pytest.raises(HostError, match="apt install python3-nftables"):
                kit.apply(each)
        assert setting("ipv4/conf/eth0/forwarding") == "0"
        kit.remove(ALL[-1])

    with_kit(act)


# Settings


def setting(path: str) -> str:
    return Path("/proc/sys/net", path).read_text().strip()


def test_a_setting_that_was_right_before_us_is_never_switched_back(foreign: Seen) -> None:
    Path("/proc/sys/net/ipv4/conf/eth0/forwarding").write_text("1")
    needed = Sysctl(4, "eth0", "forwarding", 1)

    def act(kit: Kit) -> None:
        kit.apply(needed)
        assert kit.list_owned() == set()
        kit.remove(needed)

    with_kit(act)
    assert setting("ipv4/conf/eth0/forwarding") == "1"
    assert "table inet xennetd" not in tables()


def test_a_setting_that_somebody_changed_since_is_left_to_him(foreign: Seen) -> None:
    needed = Sysctl(6, "eth0", "accept_ra", 2)

    def act(kit: Kit) -> None:
        kit.apply(needed)
        Path("/proc/sys/net/ipv6/conf/eth0/accept_ra").write_text("0")
        assert not kit.holds(needed)
        kit.remove(needed)
        assert kit.list_owned() == set()

    with_kit(act)
    assert setting("ipv6/conf/eth0/accept_ra") == "0"


def test_what_a_setting_was_is_remembered_once_and_over_a_restart(foreign: Seen) -> None:
    needed = Sysctl(4, "eth0", "rp_filter", 1)
    Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").write_text("2")
    with_kit(lambda kit: kit.apply(needed))
    Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").write_text("0")
    with_kit(lambda kit: kit.apply(needed))

    def act(kit: Kit) -> None:
        assert kit.list_owned() == {needed}
        kit.remove(needed)

    with_kit(act)
    assert setting("ipv4/conf/eth0/rp_filter") == "2"


def test_links_that_forwarded_before_all_did_go_on_doing_so(foreign: Seen) -> None:
    everything = Sysctl(6, "all", "forwarding", 1)
    ip("link", "add", "eth7", "type", "bridge")
    ip("link", "add", "eth8", "type", "bridge")
    for link in ("eth7", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{link}/forwarding").write_text("1")
    before = foreign()
    with_kit(lambda kit: kit.apply(everything))
    guest_only = nft("list", "set", "inet", "xennetd", "guest_only6")
    assert ('"eth8"' in guest_only, '"eth7"' in guest_only) == (True, False)

    def later(kit: Kit) -> None:
        assert kit.list_owned() - {everything} == set()
        kit.remove(everything)

    with_kit(later)
    assert difference(before, foreign()) == []
    assert (setting("ipv6/conf/eth7/forwarding"), setting("ipv6/conf/eth8/forwarding")) == ("1", "0")


def test_a_setting_of_a_link_that_is_gone_is_refused_and_forgotten(foreign: Seen) -> None:
    needed = Sysctl(4, "eth0", "forwarding", 1)

    def act(kit: Kit) -> None:
        kit.apply(needed)
        ip("link", "del", "eth0")
        kit.kernel.poll()
        with pytest.raises(HostError, match="eth0") as refused:
            kit.apply(needed)
        assert refused.value.waits_on == {"eth0"}
        assert "table inet xennetd" not in tables()
        assert kit.list_owned() == set()

    with_kit(act)


def rename(old: str, new: str) -> None:
    for words in ((old, "down"), (old, "name", new), (new, "up")):
        ip("link", "set", *words)


def guest_only(version: int) -> list[str]:
    """The links of that set, as nft lists them."""
    listed = nft("list", "set", "inet", "xennetd", f"guest_only{version}")
    return re.findall(r'"([^"]+)"', listed.partition("elements")[2])


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(("version", "key"), [(4, "forwarding"), (6, "force_forwarding")])
def test_what_a_setting_was_goes_back_to_its_link_under_whatever_name(
    foreign: Seen, version: int, key: str, restarted: bool
) -> None:
    needed = Sysctl(version, "eth0", key, 1)
    if version == 6 and not forces_ipv6():
        pytest.skip("this kernel has no force_forwarding")
    conf = f"ipv{version}/conf"

    def renamed(kit: Kit) -> None:
        rename("eth0", "wan0")
        ip("link", "add", "eth0", "type", "bridge")  # another link has the name now
        Path(f"/proc/sys/net/{conf}/eth0/{key}").write_text("1")
        kit.kernel.poll()
        assert guest_only(version) == ["wan0"]
        nft("add chain inet xennetd more")  # so that the table is listed anew
        kit.table.poll()
        nft("delete chain inet xennetd more")
        kit.table.poll()
        assert kit.lost == 2

    def check(kit: Kit) -> None:
        saved = Sysctl(version, "wan0", key, 1)
        assert kit.list_owned() == {saved}
        kit.remove(needed)
        assert guest_only(version) == ["wan0"]
        assert kit.list_owned() == {saved}
        kit.remove(saved)
        assert kit.list_owned() == set()
        assert kit.table.saved() == {}

    def earlier(kit: Kit) -> None:
        kit.apply(needed)
        assert guest_only(version) == ["eth0"]
        if not restarted:
            renamed(kit)
            check(kit)

    def later(kit: Kit) -> None:
        if restarted:
            renamed(kit)
            check(kit)
        assert kit.list_owned() == set()

    with_kit(earlier)
    with_kit(later)
    assert (setting(f"{conf}/wan0/{key}"), setting(f"{conf}/eth0/{key}")) == ("0", "1")
    assert "table inet xennetd" not in tables()


def test_a_value_that_is_as_good_is_left_and_another_one_comes_back(foreign: Seen) -> None:
    needed = Sysctl(6, "eth0", "accept_ra", 2, unless=(0,))
    file = Path("/proc/sys/net/ipv6/conf/eth0/accept_ra")

    def act(kit: Kit) -> None:
        for before, then in (("0", "0"), ("1", "2"), ("2", "2")):
            file.write_text(before)
            assert kit.holds(needed) == (before == then)
            kit.apply(needed)
            assert (kit.holds(needed), setting("ipv6/conf/eth0/accept_ra")) == (True, then)
            assert kit.list_owned() == ({needed} if before != then else set())
            kit.remove(needed)
            assert setting("ipv6/conf/eth0/accept_ra") == before
            assert kit.list_owned() == set()

    with_kit(act)
    assert "table inet xennetd" not in tables()


def test_a_setting_that_a_link_can_do_without_is_not_missed(foreign: Seen) -> None:
    needed = Sysctl(6, "eth0", "accept_ra", 2, unless=(0,))

    def act(kit: Kit) -> None:
        ip("link", "set", "eth0", "mtu", "1279")  # IPv6 leaves the link
        assert kit.holds(needed)
        kit.apply(needed)
        kit.remove(needed)
        without = Sysctl(6, "eth0", "accept_ra", 2)
        assert not kit.holds(without)
        with pytest.raises(HostError, match="net/ipv6/conf/eth0/accept_ra"):
            kit.apply(without)

    with_kit(act)
    assert "table inet xennetd" not in tables()


def test_nat_goes_with_its_link_under_whatever_name(foreign: Seen) -> None:
    def act(kit: Kit) -> None:
        kit.apply(RULES)
        kit.apply(ELEMENTS[0])
        rename("eth0", "wan0")
        kit.kernel.poll()
        assert '10.0.1.1 . "wan0"' in nft("list", "set", "inet", "xennetd", "masquerade4")
        assert kit.holds(ELEMENTS[0])
        assert kit.list_owned() == {RULES, ELEMENTS[0]}

    with_kit(act)

    def later(kit: Kit) -> None:
        assert kit.holds(ELEMENTS[0])
        kit.remove(ELEMENTS[0])
        kit.remove(*(each for each in kit.list_owned() if isinstance(each, Ruleset)))

    with_kit(later)
    assert "table inet xennetd" not in tables()


def test_a_value_that_somebody_made_as_good_since_is_left_to_him(foreign: Seen) -> None:
    needed = Sysctl(6, "eth0", "accept_ra", 2, unless=(0,))
    file = Path("/proc/sys/net/ipv6/conf/eth0/accept_ra")
    file.write_text("1")

    def act(kit: Kit) -> None:
        kit.apply(needed)
        file.write_text("0")
        kit.remove(needed)
        assert kit.list_owned() == set()

    with_kit(act)
    assert setting("ipv6/conf/eth0/accept_ra") == "0"


@pytest.mark.parametrize("needed", [Sysctl(4, "eth0", "forwarding", 1), Sysctl(6, "all", "forwarding", 1)])
def test_of_a_setting_that_somebody_changed_since_a_later_daemon_leaves_nothing(foreign: Seen, needed: Sysctl) -> None:
    with_kit(lambda kit: kit.apply(needed))
    Path("/proc/sys", needed.path).write_text("0")

    def later(kit: Kit) -> None:
        kit.remove(*kit.list_owned())
        assert kit.list_owned() == set()

    with_kit(later)
    assert "table inet xennetd" not in tables()


def test_what_a_setting_was_is_saved_of_the_link_that_has_the_name_now(foreign: Seen) -> None:
    needed = Sysctl(4, "eth0", "forwarding", 1)

    def act(kit: Kit) -> None:
        rename("eth0", "wan0")
        ip("link", "add", "eth0", "type", "bridge")
        kit.apply(needed)  # nobody has taken in the news yet
        assert guest_only(4) == ["eth0"]
        kit.kernel.poll()
        assert kit.list_owned() == {needed}
        kit.remove(needed)

    with_kit(act)
    assert setting("ipv4/conf/eth0/forwarding") == "0"
    assert "table inet xennetd" not in tables()


def test_all_does_not_forward_before_what_each_link_did_is_saved(foreign: Seen, monkeypatch: Any) -> None:
    everything = Sysctl(6, "all", "forwarding", 1)
    commit = Nft.commit

    def without_links(nft: Nft, text: str) -> str:
        return "Error: out of memory" if "add element inet xennetd guest_only6" in text else commit(nft, text)

    def act(kit: Kit) -> None:
        with monkeypatch.context() as refusing:
            refusing.setattr(Nft, "commit", without_links)
            for _ in range(2):
                with pytest.raises(HostError, match="out of memory"):
                    kit.apply(everything)
                assert setting("ipv6/conf/all/forwarding") == "0"
        kit.apply(everything)
        assert {"eth0", "eth0p"} <= set(guest_only(6))
        kit.remove(everything)
        assert kit.list_owned() == set()

    with_kit(act)
    assert "table inet xennetd" not in tables()


# Proxy entries


def test_a_proxy_entry_of_somebody_else_is_used_and_left(foreign: Seen) -> None:
    before = foreign()
    needed = ProxyNeighbour("eth0", ip_address("192.0.2.77"))

    def act(kit: Kit) -> None:
        assert kit.holds(needed)
        kit.apply(needed)
        kit.remove(needed)
        with pytest.raises(HostError, match='"eth7"'):
            kit.apply(ProxyNeighbour("eth7", ip_address("192.0.2.78")))

    with_kit(act)
    assert difference(before, foreign()) == []


def test_proxy_entries_outlast_a_carrier_but_not_the_link_and_are_missed_then(foreign: Seen) -> None:
    needed = [ProxyNeighbour("eth0", ip_address(address)) for address in ("192.0.2.50", "2001:db8::50")]

    async def act(kit: Kit) -> None:
        kit.apply(*needed)
        ip("link", "set", "eth0p", "down")
        await until(lambda: "NO-CARRIER" in ip("link", "show", "eth0") and kit.changed > 0)
        assert ip("neigh", "show", "proxy").count("192.0.2.50") == 1
        assert all(kit.holds(each) for each in needed)
        ip("link", "set", "eth0", "down")
        await until(lambda: kit.lost > 0)
        assert not any(kit.holds(each) for each in needed)
        kit.apply(*needed)
        assert kit.list_owned() == set(needed)

    with_kit(act)

"""Links that forward only because of xennetd lead to guests only, whenever xennetd is killed and whoever meddles.

And no other link does: an administrator's router forwards.
"""

# ruff: noqa: F401, F811 (the fixture `foreign` is imported)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed
from tests.bed.site import Site, sysctl
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.every_mode import EDGE, SPECS, networks, populate, setting, write_setting
from tests.kernel.status import status
from tests.kernel.test_adapters import BRIDGE, ETH0, Kit, Seen, difference, foreign, ip, nft, tables, with_kit
from tests.kernel.verdict import connected
from tests.kernel.wait import eventually
from xennetd.kernel import sysctls
from xennetd.kernel.links import DEFAULT_ROUTES
from xennetd.kernel.procsys import forces_ipv6, write_sysctl
from xennetd.kernel.saved_sysctls import NO_LINKS, number
from xennetd.model.objects import Sysctl
from xennetd.nft.library import Nft

OPEN4 = Sysctl(4, "eth0", "forwarding", 1)
OPEN6 = Sysctl(6, "eth0", "force_forwarding", 1)
ALL6 = Sysctl(6, "all", "forwarding", 1)
"""What lets the host forward, on kernels with and without `force_forwarding`."""

SWITCHES = {OPEN4: ("ipv4/conf/all/forwarding",), OPEN6: ("ipv6/conf/all/force_forwarding", "ipv6/conf/all/forwarding")}
"""By what an administrator makes the host a router."""


class Killed(BaseException):
    """In place of SIGKILL: no handler runs, and the adapters have no memory that could be cleaned up."""


def read(path: str) -> int:
    return int(Path("/proc/sys/net", path).read_text())


def write(path: str, value: int) -> None:
    Path("/proc/sys/net", path).write_text(str(value))


def marked(version: int) -> set[str]:
    if "table inet xennetd" not in tables():
        return set()
    listed = nft("list", "set", "inet", "xennetd", f"guest_only{version}").partition("elements")[2]
    return set(listed.split('"')[1::2])


def opens(needed: Sysctl) -> bool:
    """Whether packets that come in by eth0 are forwarded."""
    if needed.version == 4:
        return bool(read("ipv4/conf/eth0/forwarding"))
    return bool(read("ipv6/conf/all/forwarding") or (forces_ipv6() and read("ipv6/conf/eth0/force_forwarding")))


def killed_after(writes: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[Kit], None]) -> bool:
    """Do something and be killed after so many writes. Returns whether that many were done."""
    left = writes

    def counted(does: Callable[..., object]) -> Callable[..., object]:
        def write_and_die(*args: object) -> object:
            nonlocal left
            result = does(*args)
            left -= 1
            if not left:
                raise Killed
            return result

        return write_and_die

    with monkeypatch.context() as patched:
        patched.setattr(Nft, "commit", counted(Nft.commit))
        patched.setattr(sysctls, "write_sysctl", counted(write_sysctl))
        try:
            with_kit(act)
        except Killed:
            return True
    return False


def prune(kit: Kit) -> None:
    kit.remove(*kit.list_owned()) if kit.list_owned() else None
    assert kit.list_owned() == set()


@pytest.fixture(params=[OPEN4, OPEN6, ALL6], ids=lambda needed: needed.path)
def needed(request: pytest.FixtureRequest, foreign: Seen) -> Sysctl:
    found: Sysctl = request.param
    if found == OPEN6 and not forces_ipv6():
        pytest.skip("this kernel has no force_forwarding")
    return found


@pytest.mark.parametrize("phase", ["opening", "closing"])
@pytest.mark.parametrize("then", ["pruned", "wanted", "router"])
def test_a_kill_after_any_write_leaves_eth0_closed_or_marked_and_nothing_for_ever(
    needed: Sysctl,
    foreign: Seen,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    then: str,
) -> None:
    before = foreign()
    for writes in range(1, 20):
        if phase == "closing":
            with_kit(lambda kit: kit.apply(needed))
        act: Callable[[Kit], None] = (lambda kit: kit.apply(needed)) if phase == "opening" else prune
        killed = killed_after(writes, monkeypatch, act)
        assert not opens(needed) or "eth0" in marked(needed.version), f"after {writes} writes"
        if then == "wanted":
            with_kit(lambda kit: kit.apply(needed))
            assert opens(needed)
            assert "eth0" in marked(needed.version)
        elif then == "router" and needed in SWITCHES:
            write(SWITCHES[needed][0], 1)
        with_kit(prune)
        assert "table inet xennetd" not in tables(), f"after {writes} writes"
        if then == "router" and needed in SWITCHES:
            assert opens(needed), f"it forwards for the administrator, after {writes} writes"
            write(SWITCHES[needed][0], 0)
        assert difference(before, foreign()) == [], f"after {writes} writes"
        if not killed:
            break
    assert writes > 2, "there are at least a transaction and a sysctl to be killed after"


@pytest.mark.parametrize(("needed", "switch"), [(needed, switch) for needed in SWITCHES for switch in SWITCHES[needed]])
def test_a_host_that_becomes_a_router_forwards_and_leads_to_guests_only_again_afterwards(
    foreign: Seen,
    needed: Sysctl,
    switch: str,
) -> None:
    if needed == OPEN6 and not forces_ipv6():
        pytest.skip("this kernel has no force_forwarding")
    before = foreign()

    def act(kit: Kit) -> None:
        kit.apply(needed)
        assert marked(needed.version) == {"eth0"}
        for _ in range(2):
            write(switch, 1)
            kit.kernel.poll()
            assert not kit.holds(needed)
            kit.apply(needed)
            assert kit.holds(needed)
            assert marked(needed.version) == set()
            write(switch, 0)
            kit.kernel.poll()
            assert not kit.holds(needed)
            kit.apply(needed)
            assert kit.holds(needed)
            assert marked(needed.version) == {"eth0"}
        write(switch, 1)
        kit.remove(needed)
        assert opens(needed), "it forwards for the administrator"
        assert "table inet xennetd" not in tables()

    with_kit(act)
    write(switch, 0)
    assert difference(before, foreign()) == []


def test_a_router_that_does_not_forward_from_one_link_leads_from_there_to_guests_only(
    foreign: Seen,
) -> None:
    write("ipv4/conf/all/forwarding", 1)
    write("ipv4/conf/eth0/forwarding", 0)
    before = foreign()

    def act(kit: Kit) -> None:
        kit.apply(OPEN4)
        assert kit.holds(OPEN4)
        assert marked(4) == {"eth0"}
        kit.remove(OPEN4)

    with_kit(act)
    assert difference(before, foreign()) == []
    assert "table inet xennetd" not in tables()


@pytest.mark.parametrize("originally", [0, 1])
def test_a_link_that_appears_while_every_link_forwards_because_of_us_leads_to_guests_only(
    foreign: Seen, originally: int
) -> None:
    write("ipv6/conf/default/forwarding", originally)
    before = foreign()

    def act(kit: Kit) -> None:
        kit.kernel.links.forces_ipv6 = False  # as before Linux 6.17
        kit.apply(ALL6)
        kit.kernel.poll()
        kit.changes.clear()
        ip("tuntap", "add", "vif7.0-emu", "mode", "tap")
        kit.kernel.poll()
        assert DEFAULT_ROUTES not in kit.changes
        assert kit.holds(ALL6)
        ip("link", "add", "late", "type", "bridge")
        kit.kernel.poll()
        assert DEFAULT_ROUTES in kit.changes, "who needs it is to look again"
        assert not kit.holds(ALL6)
        kit.apply(ALL6)
        assert kit.holds(ALL6)
        assert ("late" in marked(6)) == (not originally)
        kit.remove(ALL6)
        assert read("ipv6/conf/late/forwarding") == originally

    with_kit(act)
    ip("link", "delete", "late")
    ip("link", "delete", "vif7.0-emu")
    assert difference(before, foreign()) == []


def test_a_mark_that_stands_for_nothing_goes_at_the_next_start(foreign: Seen) -> None:
    with_kit(lambda kit: kit.apply(OPEN4))
    for version in (4, 6):
        nft(f"add element inet xennetd guest_only{version} {{ eth0p, lo }}")

    def later(kit: Kit) -> None:
        assert kit.list_owned() == {OPEN4}
        assert (marked(4), marked(6)) == ({"eth0"}, set())
        kit.remove(OPEN4)

    with_kit(later)
    assert "table inet xennetd" not in tables()


LOSSES = {
    "values": ["flush map inet xennetd saved_sysctls"],
    "the map": ["delete map inet xennetd saved_sysctls"],
    "its type": [
        "delete map inet xennetd saved_sysctls",
        "add map inet xennetd saved_sysctls { type ipv4_addr : ipv4_addr ; }",
    ],
    "one value": ["delete element inet xennetd saved_sysctls { LOST }"],
}
"""By what the original values are lost alone, while no daemon runs. LOST is the key of one of them."""


def lost_key(needed: Sysctl) -> str:
    index = NO_LINKS["all"] if needed == ALL6 else int(ETH0)
    return f"{index:#010x} . {int(number(needed.version, needed.setting)):#010x}"


@pytest.mark.parametrize("lost", LOSSES)
@pytest.mark.parametrize("then", ["pruned", "wanted"])
def test_a_mark_stands_for_an_original_value_that_was_lost(needed: Sysctl, foreign: Seen, lost: str, then: str) -> None:
    before = foreign()

    def earlier(kit: Kit) -> None:
        kit.kernel.links.forces_ipv6 &= needed != ALL6
        kit.apply(needed)

    def later(kit: Kit) -> None:
        kit.kernel.links.forces_ipv6 &= needed != ALL6
        if then == "wanted":
            assert not kit.list_owned() or needed in kit.list_owned()
            kit.apply(needed)
            assert kit.holds(needed)
            assert "eth0" in marked(needed.version)
        prune(kit)

    with_kit(earlier)
    for command in LOSSES[lost]:
        nft(command.replace("LOST", lost_key(needed)))
    assert opens(needed)
    with_kit(later)
    assert "table inet xennetd" not in tables()
    assert not opens(needed)
    assert difference(before, foreign()) == []


def test_a_mark_whose_value_was_lost_goes_where_the_host_has_become_a_router(foreign: Seen) -> None:
    with_kit(lambda kit: kit.apply(OPEN4))
    nft("flush map inet xennetd saved_sysctls")
    write("ipv4/conf/all/forwarding", 1)
    with_kit(prune)
    assert "table inet xennetd" not in tables()
    assert opens(OPEN4), "it forwards for the administrator"


@pytest.mark.parametrize("needed", [OPEN4, OPEN6], indirect=True)
@pytest.mark.parametrize("router", [False, True], ids=["", "router"])
def test_after_the_loss_of_the_whole_table_a_link_that_guests_need_leads_to_guests_only(
    needed: Sysctl, foreign: Seen, router: bool
) -> None:
    other = f"{needed.path.removeprefix('net/').replace('eth0', 'eth0p')}"
    with_kit(lambda kit: (kit.apply(BRIDGE), kit.apply(needed), None)[-1])
    nft("delete table inet xennetd")
    write(other, 1)
    if router:
        write(SWITCHES[needed][0], 1)

    def later(kit: Kit) -> None:
        kit.apply(needed) if not kit.holds(needed) else None
        assert kit.holds(needed)
        assert marked(needed.version) == (set() if router else {"eth0"})
        kit.remove(needed)
        assert opens(needed) == router
        assert read(other) == 1, "nobody needs it, and so it is not xennetd's"
        write(other.replace("eth0p", "eth0"), 1)
        assert kit.holds(needed), "by now it is an administrator who lets it forward"
        kit.remove(BRIDGE)

    with_kit(later)
    assert "table inet xennetd" not in tables()
    assert opens(needed)


@pytest.mark.parametrize("needed", [OPEN4], indirect=True)
def test_a_link_that_is_renamed_while_its_value_is_restored_keeps_its_mark(
    needed: Sysctl, foreign: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = foreign()

    def rename_and_write(sysctl: Sysctl) -> None:
        ip("link", "set", "eth0", "down")
        ip("link", "set", "eth0", "name", "wan0")
        write_sysctl(sysctl)

    def act(kit: Kit) -> None:
        kit.apply(needed)
        with monkeypatch.context() as patched:
            patched.setattr(sysctls, "write_sysctl", rename_and_write)
            kit.remove(needed)
        assert read("ipv4/conf/wan0/forwarding") == 1
        assert marked(4) == {"wan0"}
        prune(kit)
        assert read("ipv4/conf/wan0/forwarding") == 0

    with_kit(act)
    ip("link", "set", "wan0", "name", "eth0")
    ip("link", "set", "eth0", "up")
    assert not [line for line in difference(before, foreign()) if "nft" in line or "forwarding" in line]


@pytest.mark.parametrize("needed", [OPEN4], indirect=True)
def test_where_no_xennetd_has_served_before_a_link_that_forwards_on_its_own_is_an_administrators(
    needed: Sysctl, foreign: Seen
) -> None:
    write("ipv4/conf/eth0/forwarding", 1)
    before = foreign()

    def act(kit: Kit) -> None:
        kit.apply(BRIDGE)
        assert kit.holds(needed)
        kit.apply(needed)
        kit.remove(needed)
        kit.remove(BRIDGE)

    with_kit(act)
    assert difference(before, foreign()) == []


def test_a_value_that_somebody_changed_while_no_daemon_ran_is_left_to_him(foreign: Seen) -> None:
    write("ipv6/conf/eth0/accept_ra", 1)
    with_kit(lambda kit: kit.apply(Sysctl(6, "eth0", "accept_ra", 2)))
    write("ipv6/conf/eth0/accept_ra", 0)
    with_kit(prune)
    assert read("ipv6/conf/eth0/accept_ra") == 0


def test_a_running_daemon_follows_an_administrator_who_makes_the_host_a_router(
    site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    daemon(networks(EDGE))
    (edge,) = populate(bed, guest, {"edge-1": SPECS["edge-1"]}).values()
    edge.connect()

    def marks(version: int) -> str:
        listed = site.host.run("nft", "list", "set", "inet", "xennetd", f"guest_only{version}", check=False).stdout
        return listed.partition("elements")[2]

    eventually(lambda: "eth0" in marks(4))
    for _ in range(2):
        sysctl(site.host, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        eventually(lambda: not marks(4))
        eventually(lambda: not marks(6))
        sysctl(site.host, ipv4__ip_forward=0, ipv6__conf__all__forwarding=0)
        eventually(lambda: "eth0" in marks(4) and setting(site.host, "ipv4/conf/eth0/forwarding") == 1)
        eventually(lambda: "eth0" in marks(6))
    write_setting(site.host, "ipv4/conf/eth0/forwarding", 0)
    eventually(lambda: setting(site.host, "ipv4/conf/eth0/forwarding") == 1)
    assert "eth0" in marks(4)


def test_what_forwards_when_the_table_is_lost_is_told_and_what_forwards_later_is_an_administrators(
    site: Site, daemon: MakeDaemon
) -> None:
    store, lab = (
        f'[network.{name}]\nmode = "{mode}"\nsubnets = ["10.{number}.0.0/24"]\n'
        for name, mode, number in (("store", "isolated", 78), ("lab", "nat", 77))
    )
    xennetd = daemon(networks(store))
    for late in (False, True):
        write_setting(site.host, "ipv4/conf/eth0/forwarding", int(not late))
        xennetd.terminate()
        site.host.run("nft", "delete", "table", "inet", "xennetd")
        xennetd.start()
        write_setting(site.host, "ipv4/conf/eth0/forwarding", 1)
        xennetd.reload(networks(store, lab))
        marked = "eth0" in site.host.run("nft", "list", "set", "inet", "xennetd", "guest_only4").stdout
        told = any("eth0 forwards IPv4 to guests only" in note for note in status(xennetd)["notes"])
        assert (marked, told) == (not late, not late)
        xennetd.reload(networks(store))
        assert setting(site.host, "ipv4/conf/eth0/forwarding") == int(late)


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_link_with_the_index_of_a_deleted_uplink_is_an_administrators_own(
    bed: Bed, site: Site, guest: MakeGuest, daemon: MakeDaemon, mode: str
) -> None:
    """In observe mode, too, in which nothing is forgotten before the daemon may act again."""
    host = bed.host
    host.run("ip", "link", "add", "up1", "type", "bridge")
    for command in ("link set up1 up", "address add 192.0.3.2/24 dev up1"):
        host.run("ip", *command.split())
    xennetd = daemon(STAND_IN)
    web = guest("web", VifSpec(script="vif-xennetd-route", ip="203.0.113.11", gatewaydev="up1"))
    connected(bed, web.vif)
    index = host.links()["up1"]["ifindex"]
    if mode == "observe":
        xennetd.reload(STAND_IN + 'mode = "observe"\n')
    host.run("ip", "link", "delete", "up1")
    host.run("ip", "link", "add", "mgmt", "index", str(index), "type", "bridge")
    write_setting(host, "ipv4/conf/mgmt/forwarding", 1)
    if mode == "observe":
        web.destroy()
        xennetd.ask("list")
        assert "mgmt" in host.run("nft", "list", "set", "inet", "xennetd", "guest_only4").stdout
        xennetd.reload(STAND_IN)
    else:
        eventually(lambda: "mgmt" not in host.run("nft", "list", "ruleset").stdout)
        web.destroy()
    xennetd.reload(STAND_IN)
    assert eventually(lambda: not host.run("nft", "list", "tables").stdout)
    assert setting(host, "ipv4/conf/mgmt/forwarding") == 1

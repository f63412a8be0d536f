"""A guest through its life: the daemon killed under its traffic, reboot, save and restore, migration, the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.xen.toolstack import BOOT_ADDRESS, Guest, Trail, do, links, master, ping, ready, row, rows, run, until
from tests.xen.traffic import Pings, Ports


@pytest.fixture(scope="module")
def life() -> Trail:
    """The trail since before the guest was there."""
    return Trail()


@pytest.fixture(scope="module")
def web(life: Trail) -> Iterator[Guest]:
    web = Guest("web").create().up()
    yield web
    web.destroy()


def changed_hands(web: Guest, domid: int) -> Guest:
    """Wait until the guest runs as another domain, connected and answering."""

    def another() -> bool:
        found = run("xl", "domid", "web")
        return found.status == 0 and int(found.output) != domid

    until(another, 240.0)
    web.find()
    return web.up()


def uuid(web: Guest) -> str:
    listed = row(web.vif())
    assert listed is not None
    return str(listed["uuid"])


def told(pings: Pings, ports: Ports, begun: float) -> str:
    """Return all there is to know of a disturbance, and what happens in the same time when the daemon is left alone."""
    journal = do("journalctl", "-q", "-o", "short-monotonic", "--no-hostname", f"--since=@{begun:.0f}")
    with Pings(pings.guest, pings.address) as quiet, Ports(*ports.names) as quiet_ports:
        time.sleep(pings.marks[-1][1] - min(pings.sent.values()))
    return f"{pings}\n{ports}\n\nwith the daemon left alone:\n{quiet}\n{quiet_ports}\n\njournal:\n{journal}"


def new_daemon(pid: str) -> None:
    """Wait until another daemon than `pid` is ready."""
    until(lambda: main_pid() not in (pid, "0"))
    ready()


def boot_vif() -> str:
    return f"vif{do('xl', 'domid', 'boot').strip()}.0"


def main_pid() -> str:
    return do("systemctl", "show", "--value", "--property=MainPID", "xennetd").strip()


def test_no_ping_is_lost_while_the_daemon_is_killed_and_comes_back(web: Guest, trail: Trail) -> None:
    begun, pid = time.time(), main_pid()
    with Pings(web, BOOT_ADDRESS) as pings, Ports(web.vif(), boot_vif()) as ports:
        pings.mark("killed")
        do("systemctl", "kill", "--signal=KILL", "xennetd")
        new_daemon(pid)
        pings.mark("ready")
    assert pings.answered_between("killed", "ready") > 20
    assert (pings.lost, ports.changed(), ports.news) == (0, {}, []), told(pings, ports, begun)
    assert trail.of("web") == [], "a restart is no event in a guest's life"


def test_a_create_that_waits_for_a_killed_daemon_gets_through_and_the_others_lose_no_ping(
    web: Guest, guest: Callable[..., Guest]
) -> None:
    late = guest("late")
    begun, pid = time.time(), main_pid()
    with (
        ThreadPoolExecutor() as pool,
        Pings(web, BOOT_ADDRESS) as pings,
        Ports(web.vif(), boot_vif()) as ports,
    ):
        do("systemctl", "kill", "--signal=STOP", "xennetd")
        created = pool.submit(late.create, "-p")
        until(lambda: run("pgrep", "-f", "vif-xennetd online").status == 0)
        assert late.domid == -1, "it is still being created"
        pings.mark("killed")
        do("systemctl", "kill", "--signal=KILL", "xennetd")
        created.result()
        pings.mark("created")
        new_daemon(pid)
    assert late.backend("hotplug-status") == "connected"
    assert master(late.vif()) == "xenbr0"
    assert (pings.lost, ports.changed(), ports.news) == (0, {}, []), told(pings, ports, begun)


def test_a_rebooted_guest_is_connected_again(web: Guest, trail: Trail) -> None:
    domid, known = web.domid, uuid(web)
    do("xl", "reboot", "web")
    changed_hands(web, domid)
    assert f"vif{domid}.0" not in links()
    assert row(f"vif{domid}.0") is None
    assert uuid(web) == known
    assert sorted(trail.of("web")) == ["attach", "detach"]


def test_a_restored_guest_is_connected_again(web: Guest, trail: Trail) -> None:
    domid, known = web.domid, uuid(web)
    do("xl", "save", "web", "/var/tmp/web.save", timeout=240)
    do("xl", "restore", "/var/tmp/web.save", timeout=240)
    Path("/var/tmp/web.save").unlink()
    changed_hands(web, domid)
    assert uuid(web) == known
    assert trail.of("web") == ["detach", "attach"]


def test_a_guest_that_is_handed_over_keeps_its_name_in_list_and_trail(web: Guest, trail: Trail) -> None:
    """As in `xl migrate` to the same host: two domains at once with one MAC and uuid, one of them named otherwise.

    `xl migrate` itself needs log-dirty mode, which PV guests have by shadow paging only; Debian's Xen has none.
    """
    domid, known = web.domid, uuid(web)
    do("xl", "save", "-p", "web", "/var/tmp/web.save", timeout=240)
    do("xl", "rename", "web", "web--migratedaway")
    do("xl", "restore", "/var/tmp/web.save", timeout=240)
    Path("/var/tmp/web.save").unlink()
    changed_hands(web, domid)
    both = {row["domid"]: row["vm"] for row in rows() if row["mac"] == web.mac()}
    assert both == {domid: "web", web.domid: "web"}
    do("xl", "destroy", "web--migratedaway")
    until(lambda: row(f"vif{domid}.0") is None)
    assert ping(web.address, count=3) == 3
    listed = row(web.vif())
    assert listed is not None
    assert (listed["vm"], listed["uuid"], listed["state"]) == ("web", known, "connected")
    assert {(entry["XENNET_VM"], entry["XENNET_UUID"]) for entry in trail.entries()} == {("web", known)}
    assert trail.of("web") == ["attach", "detach"]


def test_a_destroyed_guest_leaves_nothing(web: Guest, trail: Trail) -> None:
    do("xl", "destroy", "web")
    web.gone()
    assert trail.of("web") == ["detach"]
    assert ping(BOOT_ADDRESS, count=3) == 3


def test_the_trail_tells_its_whole_life_in_order_with_its_name_and_uuid(web: Guest, life: Trail) -> None:
    """Whatever the tests above have done to it: each of its domains was attached once and detached once."""
    web.destroy()
    web.gone()
    told = [entry for entry in life.entries() if entry.get("XENNET_MAC") == web.mac()]
    assert {(entry["XENNET_VM"], entry["XENNET_BRIDGE"]) for entry in told} == {("web", "xenbr0")}
    assert len({entry["XENNET_UUID"] for entry in told}) == 1
    vifs = list(dict.fromkeys(entry["XENNET_VIF"] for entry in told))
    assert vifs == sorted(vifs, key=lambda vif: int(vif.removeprefix("vif").partition(".")[0]))
    for vif in vifs:
        assert [entry["XENNET_EVENT"] for entry in told if entry["XENNET_VIF"] == vif] == ["attach", "detach"]
    assert told[-1]["XENNET_VIF"] == web.vif()

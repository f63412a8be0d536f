"""A guest through its life: the daemon killed under its traffic, reboot, save and restore, migration, the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.xen.toolstack import BOOT_ADDRESS, Guest, Trail, do, links, ping, ready, row, rows, run, until


@pytest.fixture(scope="module")
def web() -> Iterator[Guest]:
    web = Guest("web").create().up()
    yield web
    web.destroy()


def changed_hands(web: Guest, domid: int) -> Guest:
    """Wait until the guest runs as another domain, connected and answering."""

    def another() -> bool:
        found = run("xl", "domid", "web")
        return found.status == 0 and int(found.output) != domid

    until(another, 120.0)
    web.find()
    return web.up()


def uuid(web: Guest) -> str:
    listed = row(web.vif())
    assert listed is not None
    return str(listed["uuid"])


def test_no_ping_is_lost_while_the_daemon_is_killed_and_comes_back(web: Guest, trail: Trail) -> None:
    before = links()[web.vif()]["ifindex"], Path(f"/sys/class/net/{web.vif()}/carrier_changes").read_text()
    pid = do("systemctl", "show", "--value", "--property=MainPID", "xennetd")
    web.run(f"ping -i 0.05 -c 600 {BOOT_ADDRESS} > /pings & echo $! > /ping.pid")
    do("systemctl", "kill", "--signal=KILL", "xennetd")
    until(lambda: do("systemctl", "show", "--value", "--property=MainPID", "xennetd") not in (pid, "0\n"), 60.0)
    ready()
    output = web.run("while kill -0 $(cat /ping.pid) 2>/dev/null; do sleep 0.2; done; tail -n 2 /pings", timeout=120)
    lost = re.search(r"(\d+) packets transmitted, (\d+) packets received", output)
    assert lost, output
    assert lost[1] == lost[2] == "600"
    assert before == (
        links()[web.vif()]["ifindex"],
        Path(f"/sys/class/net/{web.vif()}/carrier_changes").read_text(),
    )
    assert trail.of("web") == [], "a restart is no event in a guest's life"


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

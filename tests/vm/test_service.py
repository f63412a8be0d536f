"""xennetd.service under systemd: starting, reloading, failing, recovering, and who may speak to it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bed.guest import Guest
from tests.bed.toolstack import VifSpec
from tests.vm.machine import CONFIGURATION, UNIT, Journal, Machine, do, run, unit, until

MakeGuest = Callable[..., Guest]

RUNTIME = Path("/run/xennetd")
STATE = Path("/var/lib/xennetd")

DENY = '[[policy]]\nname = "nobody"\nmatch = { vm = "web*" }\ndeny = "not today"\n'


def test_verify_finds_nothing_wrong_with_the_installed_unit() -> None:
    assert do("systemd-analyze", "verify", UNIT) == ""


def test_the_running_unit_is_exposed_to_little(service: None) -> None:
    do("systemd-analyze", "security", "--no-pager", "--threshold=16", UNIT)


def test_without_xen_the_unit_as_shipped_is_not_started() -> None:
    drop_in = Path(f"/etc/systemd/system/{UNIT}.d/bed.conf")
    kept = drop_in.read_text() if drop_in.exists() else None
    run("systemctl", "stop", UNIT)
    drop_in.unlink(missing_ok=True)
    do("systemctl", "daemon-reload")
    do("systemctl", "start", UNIT)
    assert (unit("ActiveState"), unit("ConditionResult")) == ("inactive", "no")
    if kept is not None:
        drop_in.write_text(kept)
        do("systemctl", "daemon-reload")


def test_ready_means_that_every_vif_there_is_connected(host: Machine, guest: MakeGuest, service: None) -> None:
    do("systemctl", "stop", UNIT)
    host.bridge("br0")
    guests = [guest(f"web{number}", VifSpec(bridge="br0")) for number in range(5)]
    do("systemctl", "start", UNIT)
    assert {each.hotplug_status() for each in guests} == {"connected"}
    assert unit("StatusText") == "5 vifs: 5 connected"


def test_the_status_line_follows(host: Machine, guest: MakeGuest, service: None) -> None:
    host.bridge("br0")
    guest("web", VifSpec(bridge="br0")).connect()
    until(lambda: unit("StatusText") == "1 vifs: 1 connected")


def test_reload_puts_a_new_policy_into_force(host: Machine, guest: MakeGuest, service: None) -> None:
    host.bridge("br0")
    web = guest("web", VifSpec(bridge="br0"))
    web.connect()
    (CONFIGURATION / "test.toml").write_text(DENY)
    do("systemctl", "reload", UNIT)
    assert unit("ActiveState") == "active"
    until(lambda: "UP" not in (host.link(web.vif.netdev) or {})["flags"])


def test_reload_of_a_bad_policy_fails_and_the_old_one_stays(
    host: Machine, guest: MakeGuest, service: None, journal: Journal
) -> None:
    host.bridge("br0")
    (CONFIGURATION / "test.toml").write_text(DENY.replace("deny", "denny"))
    pid = unit("MainPID")
    refused = run("systemctl", "reload", UNIT)
    assert refused.returncode != 0
    assert (unit("ActiveState"), unit("MainPID")) == ("active", pid)
    web = guest("web", VifSpec(bridge="br0"))
    web.connect()
    said = " ".join(entry["MESSAGE"] for entry in journal.entries())
    assert "test.toml" in said
    assert "denny" in said
    assert "the old policy stays" in said


def test_a_hanging_daemon_is_killed_by_the_watchdog_and_recovers(
    host: Machine, guest: MakeGuest, service: None
) -> None:
    host.bridge("br0")
    web = guest("web", VifSpec(bridge="br0"))
    web.connect()
    before = host.link(web.vif.netdev)
    pid = unit("MainPID")
    os.kill(int(pid), signal.SIGSTOP)
    until(lambda: unit("MainPID") not in (pid, "0"), timeout=60.0)
    until(lambda: unit("ActiveState") == "active", timeout=60.0)
    db = guest("db", VifSpec(bridge="br0"))
    db.connect()
    after = host.link(web.vif.netdev)
    assert before is not None
    assert after is not None
    assert (after["ifindex"], after["flags"], after["master"]) == (before["ifindex"], before["flags"], "br0")
    assert "watchdog" in do("journalctl", "-q", "-b", "-u", UNIT, "-g", "watchdog").lower()


def test_guests_lose_no_ping_while_systemd_restarts_a_killed_daemon(
    host: Machine, guest: MakeGuest, service: None
) -> None:
    host.bridge("br0")
    one = guest("one", VifSpec(bridge="br0"), address="10.8.0.1/24")
    two = guest("two", VifSpec(bridge="br0"), address="10.8.0.2/24")
    one.connect()
    two.connect()
    assert one.ping("10.8.0.2")
    pid, carriers = unit("MainPID"), [_carrier_changes(each.vif.netdev) for each in (one, two)]
    do("systemctl", "kill", "--signal=KILL", UNIT)
    deadline = time.monotonic() + 60
    while unit("MainPID") in (pid, "0") or unit("ActiveState") != "active":
        assert time.monotonic() < deadline
        assert one.namespace.ping("10.8.0.2", count=50, interval=0.02)
    assert one.namespace.ping("10.8.0.2", count=50, interval=0.02)
    assert [_carrier_changes(each.vif.netdev) for each in (one, two)] == carriers


def test_the_units_limits_are_in_force(service: None) -> None:
    limits = {name: unit(name) for name in ("MemoryMax", "TasksMax", "LimitNOFILE", "OOMPolicy")}
    assert limits == {"MemoryMax": str(512 << 20), "TasksMax": "512", "LimitNOFILE": "4096", "OOMPolicy": "continue"}


def test_a_daemon_that_goes_at_the_limit_of_memory_comes_back_and_guests_lose_no_ping(
    host: Machine, guest: MakeGuest, service: None, journal: Journal
) -> None:
    host.bridge("br0")
    one = guest("one", VifSpec(bridge="br0"), address="10.8.0.1/24")
    two = guest("two", VifSpec(bridge="br0"), address="10.8.0.2/24")
    one.connect()
    two.connect()
    assert one.ping("10.8.0.2")
    pid, carriers = unit("MainPID"), [_carrier_changes(each.vif.netdev) for each in (one, two)]
    try:
        run("systemctl", "set-property", "--runtime", UNIT, "MemoryMax=4M", "MemorySwapMax=0")
        until(lambda: unit("MainPID") != pid)
    finally:
        do("systemctl", "set-property", "--runtime", UNIT, "MemoryMax=512M")
    deadline = time.monotonic() + 60
    while unit("ActiveState") != "active":
        assert time.monotonic() < deadline
        assert one.namespace.ping("10.8.0.2", count=50, interval=0.02)
    assert "oom" in do("journalctl", "-q", "-b", "-u", UNIT, "-g", "oom").lower()
    assert [each.hotplug_status() for each in (one, two)] == ["connected", "connected"]
    assert [_carrier_changes(each.vif.netdev) for each in (one, two)] == carriers
    three = guest("three", VifSpec(bridge="br0"))
    three.connect()


def _carrier_changes(link: str) -> str:
    return Path(f"/sys/class/net/{link}/carrier_changes").read_text()


def test_stop_leaves_the_network_and_takes_the_runtime_directory(
    host: Machine, guest: MakeGuest, service: None
) -> None:
    host.bridge("br0")
    web = guest("web", VifSpec(bridge="br0"))
    web.connect()
    do("systemctl", "restart", UNIT)
    assert Path("/run/xennetd").is_dir()
    do("systemctl", "stop", UNIT)
    link = host.link(web.vif.netdev)
    assert link is not None
    assert link["master"] == "br0"
    assert "UP" in link["flags"]
    assert not Path("/run/xennetd").exists()
    late = guest("late", VifSpec(bridge="br0")).online()
    assert late.status == 1
    assert "xennetd is not running" in late.output


@pytest.fixture
def read_only_disk() -> Iterator[Callable[[], None]]:
    """Make /var read-only, until the test is over."""

    def make() -> None:
        do("mount", "--bind", "/var", "/var")
        do("mount", "-o", "remount,bind,ro", "/var")

    yield make
    run("umount", "--lazy", "/var")
    do("systemctl", "restart", UNIT)


@pytest.mark.parametrize("directory", ["missing", "of another mode"])
def test_a_read_only_disk_keeps_the_unit_from_nothing_but_dnsmasqs_files(
    host: Machine, guest: MakeGuest, service: None, read_only_disk: Callable[[], None], directory: str
) -> None:
    do("systemctl", "stop", UNIT)
    shutil.rmtree(STATE)
    if directory == "of another mode":
        STATE.mkdir(mode=0o755)
    read_only_disk()
    host.bridge("br0")
    do("systemctl", "start", UNIT)
    guest("web", VifSpec(bridge="br0")).connect()


def test_a_runtime_directory_that_somebody_removes_comes_back_with_its_mode(
    host: Machine, guest: MakeGuest, service: None
) -> None:
    """/run is writable for a unit with a /proc of its own (MountAPIVFS=), in spite of ProtectSystem=strict."""
    pid = unit("MainPID")
    shutil.rmtree(RUNTIME)
    until(lambda: (RUNTIME / "told").is_dir() and (RUNTIME / "control").exists())
    do("setpriv", "--reuid=nobody", "--regid=xennet", "--clear-groups", "xennetctl", "list")
    host.bridge("br0")
    guest("web", VifSpec(bridge="br0")).connect()
    assert unit("MainPID") == pid
    do("systemctl", "restart", UNIT)
    assert (RUNTIME / "told").is_dir()
    do("systemctl", "stop", UNIT)
    assert not RUNTIME.exists()


def test_the_control_socket_belongs_to_the_group(service: None) -> None:
    socket = Path("/run/xennetd/control").stat()
    assert stat.filemode(socket.st_mode) == "srw-rw----"
    assert Path("/run/xennetd/control").group() == "xennet"


def test_a_member_of_the_group_may_ask_and_not_change(service: None) -> None:
    member = ("setpriv", "--reuid=nobody", "--regid=xennet", "--clear-groups")
    assert run(*member, "xennetctl", "list", "--json").stdout.strip() == "[]"
    checked = run(*member, "xennetctl", "check")
    assert checked.returncode == 0, checked.stdout
    assert "The configuration is valid." in checked.stdout
    assert "the host" not in checked.stdout, "the daemon has checked it, from within its sandbox"
    refused = run(*member, "xennetctl", "reload")
    assert refused.returncode == 1
    assert "root" in refused.stdout


def test_others_may_not_even_ask(service: None) -> None:
    stranger = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    assert run(*stranger, "xennetctl", "list").returncode == 3


def test_a_daemon_that_is_not_there_is_unreachable(service: None) -> None:
    do("systemctl", "stop", UNIT)
    assert run("xennetctl", "list").returncode == 3

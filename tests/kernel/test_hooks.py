"""`vif-post.d/*.hook` files run as Xen's scripts run them, after the verdict, and can do the network no harm."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import Bystander, MakeDaemon, MakeGuest
from tests.kernel.defective import Defective
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually

HOOKS = STAND_IN + "hooks = true\n"

WRITES_DOWN = """
# A piece of bash, sourced: what vif-common.sh leaves in variables, and a function of its.
echo "$command $type_if dev=$dev vif=$vif vifname=$vifname bridge=$bridge ip=$ip $XENBUS_TYPE $XENBUS_PATH" >> /run/ran
log debug "hello from $dev"
"""

Install = Callable[..., None]


@pytest.fixture
def install(bed: Bed) -> Install:
    """Write a hook where the stock scripts look for it: in this test's own /etc."""
    directory = Path("/etc/xen/scripts/vif-post.d")
    directory.mkdir(parents=True, exist_ok=True)

    def install(name: str, text: str, *, mode: int = 0o755) -> None:
        (directory / name).write_text(text)
        (directory / name).chmod(mode)

    return install


def ran() -> list[str]:
    path = Path("/run/ran")
    return path.read_text().splitlines() if path.exists() else []


def test_a_hook_is_told_what_the_stock_script_tells_it(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install
) -> None:
    bed.host.bridge("xenbr0")
    install("50-note.hook", WRITES_DOWN)
    daemon(HOOKS)
    web = guest("web", VifSpec(ip="192.0.2.7 192.0.2.0/24 2001:db8::7", vifname="web-lan"))
    web.connect()
    (line,) = eventually(ran)
    assert line == (
        "online vif dev=web-lan vif=vif1.0 vifname=web-lan bridge=xenbr0 ip=192.0.2.7 192.0.2.0/24 2001:db8::7 "
        "vif backend/vif/1/0"
    )

    web.destroy()
    eventually(lambda: len(ran()) == 2)
    assert ran()[1].startswith("offline vif dev=web-lan vif=vif1.0 ")


def test_it_runs_for_a_tap_as_well(bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install) -> None:
    bed.host.bridge("xenbr0")
    install("50-note.hook", WRITES_DOWN)
    daemon(HOOKS)
    windows = guest("windows", VifSpec(type="vif_ioemu"))
    bed.host.tap(windows.vif.tap)
    eventually(lambda: len(ran()) == 2)
    assert sorted(line.split(" vifname=")[0] for line in ran()) == [
        "add tap dev=vif1.0-emu vif=vif1.0",
        "online vif dev=vif1.0 vif=vif1.0",
    ]
    assert [line for line in ran() if "bridge=xenbr0" not in line] == []


def test_it_can_use_xenstore_and_the_network(bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install) -> None:
    bed.host.bridge("xenbr0")
    install("50-own.hook", 'xenstore_write "$XENBUS_PATH/hooked" "$(xenstore_read "$XENBUS_PATH/mac")"\n')
    install("60-isolate.hook", 'bridge link set dev "$dev" isolated on\n')
    daemon(HOOKS)
    web = guest("web", VifSpec(mac="00:16:3e:00:00:01"))
    bed.toolstack.xs.until(f"{web.vif.backend}/hooked", "00:16:3e:00:00:01")
    eventually(lambda: bed.host.links()[web.vif.netdev]["linkinfo"]["info_slave_data"]["isolated"])


def test_they_run_in_order_and_only_those_that_are_hooks(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install
) -> None:
    bed.host.bridge("xenbr0")
    install("20-b.hook", "echo b >> /run/ran\n")
    install("10-a.hook", "echo a >> /run/ran\n")
    install("30-off.hook", "echo off >> /run/ran\n", mode=0o644)
    install("40-old.hook.dpkg-old", "echo old >> /run/ran\n")
    install("90-last.hook", "echo last >> /run/ran\n")
    daemon(HOOKS)
    guest("web")
    eventually(lambda: "last" in ran())
    assert ran() == ["a", "b", "last"]


def test_none_runs_unless_they_are_enabled(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install, settle: Callable[[], None]
) -> None:
    bed.host.bridge("xenbr0")
    install("50-note.hook", WRITES_DOWN)
    xennetd = daemon()
    connected(bed, guest("web").vif)
    settle()
    check = xennetd.ctl("check")
    assert "50-note.hook" in check.stdout
    assert check.returncode == 0

    # and: a reload enables them, for what comes then
    xennetd.configure(HOOKS)
    assert xennetd.ctl("reload").returncode == 0
    connected(bed, guest("next").vif)
    (line,) = eventually(ran)
    assert "vif=vif2.0" in line


def test_none_runs_for_a_vif_that_is_refused(bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install) -> None:
    bed.host.bridge("xenbr0")
    install("50-note.hook", WRITES_DOWN)
    daemon(HOOKS)
    refused(bed, guest("bad", VifSpec(bridge="nowhere")).vif)
    connected(bed, guest("good").vif)
    (line,) = eventually(ran)
    assert "vif=vif2.0" in line


def test_none_runs_again_at_a_restart(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install, settle: Callable[[], None]
) -> None:
    bed.host.bridge("xenbr0")
    install("50-note.hook", WRITES_DOWN)
    xennetd = daemon(HOOKS)
    guest("web").connect()
    settle()
    eventually(lambda: len(ran()) == 2)
    xennetd.kill9()
    xennetd.start()
    settle()
    assert len(ran()) == 2


def test_those_of_one_vif_run_in_the_order_of_what_happened_to_it(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install
) -> None:
    # given: a hook that takes its time when a guest comes, and none when it goes
    bed.host.bridge("xenbr0")
    install("50-slow.hook", 'if [ "$command" = online ]; then sleep 0.5; fi\necho "$command $dev" >> /run/ran\n')
    daemon(HOOKS)
    web = guest("web")
    connected(bed, web.vif)
    web.destroy()
    eventually(lambda: len(ran()) == 2)
    assert ran() == ["online vif1.0", "offline vif1.0"]


def test_those_of_different_vifs_run_beside_each_other(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install
) -> None:
    # given: a hook that comes to its end when four of it run at once
    bed.host.bridge("xenbr0")
    install(
        "50-meet.hook",
        'echo "$dev" >> /run/ran\n'
        'for i in {1..200}; do [ "$(wc -l < /run/ran)" -lt 4 ] || break; sleep 0.05; done\n'
        '[ "$(wc -l < /run/ran)" -lt 4 ] || : > "/run/met-$dev"\n',
    )
    daemon(HOOKS)
    for number in range(4):
        guest(f"web-{number}")
    eventually(lambda: len(list(Path("/run").glob("met-*"))) == 4)


def test_one_that_fails_is_audited_and_disturbs_nothing(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install, journal: Journal
) -> None:
    bed.host.bridge("xenbr0")
    install("10-fails.hook", "echo 'this is broken \x1b[2J' >&2\nfalse\n")
    install("20-note.hook", WRITES_DOWN)
    xennetd = daemon(HOOKS)
    web = guest("web")
    web.connect()
    assert len(eventually(ran)) == 1
    entry = journal.wait_for(XENNET_EVENT="hook")
    assert entry["MESSAGE"].startswith("the online hooks of vif1.0 of web failed with status 1: this is broken ")
    assert entry["XENNET_ERROR"].startswith("failed with status 1: this is broken ")
    assert "10-fails.hook failed" in entry["XENNET_ERROR"]
    assert "\x1b" not in entry["MESSAGE"] + entry["XENNET_ERROR"]
    assert (entry["XENNET_VM"], entry["XENNET_VIF"], entry["XENNET_BRIDGE"]) == ("web", "vif1.0", "xenbr0")
    assert entry["PRIORITY"] == "4"
    assert web.hotplug_status() == "connected"
    assert "hook" in [event["event"] for event in xennetd.ask("show", "web")["events"]]


def test_one_that_succeeds_is_not_worth_a_record(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install, journal: Journal
) -> None:
    bed.host.bridge("xenbr0")
    install("50-fails-second.hook", 'echo hello >&2; [ "$command" = online ]\n')
    daemon(HOOKS)
    web = guest("web")
    web.connect()
    web.destroy()
    assert "offline" in journal.wait_for(XENNET_EVENT="hook")["MESSAGE"], "the one for online succeeded"


def test_one_that_takes_too_long_is_killed_and_audited(
    bed: Bed, guest: MakeGuest, xenstored: Xenstored, install: Install, journal: Journal, tmp_path: Path
) -> None:
    # given: libxl's patience cut to half a second
    bed.host.bridge("xenbr0")
    install("50-hangs.hook", "cut -d ' ' -f 6 /proc/$$/stat >> /run/ran\necho here it hangs\nsleep 1000\n")
    short = "from xennetd.daemon.toolstack import hooks\nhooks._TIMEOUT = 0.5\n"
    xennetd = Defective(xenstored, tmp_path, HOOKS, defect=short).start()
    try:
        guest("web")
        error = journal.wait_for(XENNET_EVENT="hook", XENNET_VIF="vif1.0")["XENNET_ERROR"]
        assert error == "took more than 0.5 s and were killed: here it hangs"
        assert ran()
        eventually(lambda: not sessions() & set(ran()))
    finally:
        xennetd.close()


def test_those_that_hang_and_leave_sessions_of_their_own_hold_nobody_up(
    bed: Bed, guest: MakeGuest, xenstored: Xenstored, install: Install, journal: Journal, tmp_path: Path
) -> None:
    # given: libxl's patience cut to half a second, and as many such hooks as hooks are run for at once
    bed.host.bridge("xenbr0")
    install("10-note.hook", 'echo "$dev" >> /run/ran\n')
    install("50-leaves.hook", '[ "$dev" = vif5.0 ] || { setsid sleep 60 & echo "$!" >> /run/left; sleep 1000; }\n')
    short = "from xennetd.daemon.toolstack import hooks\nhooks._TIMEOUT = 0.5\n"
    xennetd = Defective(xenstored, tmp_path, HOOKS, defect=short).start()
    try:
        for number in range(5):
            guest(f"web-{number}")
        eventually(lambda: "vif5.0" in ran())
        error = journal.wait_for(XENNET_EVENT="hook", XENNET_VIF="vif1.0")["XENNET_ERROR"]
        assert error == "took more than 0.5 s and were killed"
    finally:
        xennetd.close()
        for pid in Path("/run/left").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def test_one_that_prints_without_end_fills_no_memory(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install, journal: Journal
) -> None:
    bed.host.bridge("xenbr0")
    install("50-chatty.hook", "head -c 200000000 /dev/zero\necho; echo the last words\nfalse\n")
    xennetd = daemon(HOOKS)
    before = xennetd.rss()
    guest("web")
    assert "the last words" in journal.wait_for(30.0, XENNET_EVENT="hook")["XENNET_ERROR"]
    assert xennetd.rss() - before < 10 << 20


@pytest.mark.parametrize("evil", ["sleep 1000", "exec sleep 1000", "(trap '' TERM HUP; sleep 1000) & wait", "exit 3"])
def test_one_that_hangs_or_exits_holds_nobody_up(
    bed: Bed,
    guest: MakeGuest,
    daemon: MakeDaemon,
    install: Install,
    bystander: Bystander,
    evil: str,
) -> None:
    # given: a hook that never ends, for more guests than hooks are run for at once
    xennetd = daemon(HOOKS)
    bystander.connect()
    install("50-evil.hook", f"cut -d ' ' -f 6 /proc/$$/stat >> /run/ran\n{evil}\n")
    for number in range(6):
        guest(f"web-{number}").connect()
    eventually(ran)
    assert bystander.is_undisturbed()

    # and: xennetd ends when it is told to, and takes the hooks with it
    assert xennetd.terminate() == 0
    eventually(lambda: not sessions() & set(ran()))


def sessions() -> set[str]:
    """The sessions that there is a process of: a hook's and that of all that it started is its own."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found.add(path.read_text().rpartition(")")[2].split()[3])
    return found

"""`vif-post.d/*.hook` files run as Xen's scripts run them, after the verdict, and can do the network no harm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import STAND_IN
from tests.bed.guest import Bed
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Bystander, MakeDaemon, MakeGuest
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


def test_one_that_fails_is_logged_and_disturbs_nothing(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, install: Install, journal: Journal
) -> None:
    bed.host.bridge("xenbr0")
    install("10-fails.hook", "echo 'this is broken \x1b[2J' >&2\nfalse\n")
    install("20-note.hook", WRITES_DOWN)
    daemon(HOOKS)
    web = guest("web")
    web.connect()
    assert len(eventually(ran)) == 1
    entry = journal.wait(lambda fields: "this is broken" in fields.get("XENNET_OUTPUT", "")).fields
    assert (entry["PRIORITY"], "\x1b" in entry["XENNET_OUTPUT"]) == ("3", False)
    assert "10-fails.hook" in entry["XENNET_OUTPUT"]
    assert web.hotplug_status() == "connected"


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

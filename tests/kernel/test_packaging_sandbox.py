"""What the unit file takes from the daemon, it does not need: the same limits, set without systemd."""

from __future__ import annotations

import grp
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bed import xen
from tests.bed.guest import Bed
from tests.bed.netns import Host
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.verdict import connected, refused

UNIT = xen.REPOSITORY / "systemd" / "xennetd.service"

DENY_WRITE_EXECUTE = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
    print("this kernel (before 6.3) can't refuse executable memory; the rest is tested", file=sys.stderr)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def setting(name: str) -> list[str]:
    """Every value of one of the unit's settings, in their order."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


@pytest.fixture
def group(host: Host) -> int:
    """The group xennet, in the host's own /etc."""
    subprocess.run(["systemd-sysusers", xen.REPOSITORY / "systemd" / "xennetd.sysusers"], check=True)
    return grp.getgrnam("xennet").gr_gid


def exercise(bed: Bed, daemon: MakeDaemon, guest: MakeGuest, wrapper: list[str]) -> Path:
    """Let a daemon so wrapped do all that it can do; return its control socket."""
    bed.host.bridge("xenbr0")
    running = daemon(wrapper=wrapper)
    web = guest("web")
    connected(bed, web.vif)
    assert [row["state"] for row in running.ask("list")] == ["connected"]
    for verb in (["reload"], ["pin", "vif1.0"], ["unpin", "vif1.0"], ["retry", "vif1.0"], ["check"]):
        ended = running.ctl(*verb)
        assert ended.returncode == 0, ended.stderr
    odd = guest("odd", VifSpec(bridge="xenbr7", vifname="odd0"))
    refused(bed, odd.vif)
    bed.host.bridge("xenbr7")
    connected(bed, odd.vif)
    odd.destroy()
    web.destroy()
    return running.control


def test_no_capability_but_cap_net_admin(daemon: MakeDaemon, guest: MakeGuest, bed: Bed, group: int) -> None:
    assert setting("CapabilityBoundingSet") == ["CAP_NET_ADMIN"]
    assert (setting("Group"), setting("SupplementaryGroups")) == (["xennet"], ["root"])
    assert setting("MemoryDenyWriteExecute") == ["yes"]
    limits = ["--bounding-set", "-all,+net_admin", "--inh-caps", "-all", "--no-new-privs"]
    control = exercise(bed, daemon, guest, [*in_groups(group), *limits, sys.executable, "-c", DENY_WRITE_EXECUTE])
    owner = control.stat()
    assert (owner.st_uid, owner.st_gid, stat.S_IMODE(owner.st_mode)) == (0, group, 0o660)


def in_groups(group: int) -> list[str]:
    """What the unit's Group= and SupplementaryGroups= make of a program, as a command before it."""
    return ["setpriv", "--regid", str(group), "--groups", "0"]


def test_no_system_call_that_the_filter_holds_back(
    daemon: MakeDaemon, guest: MakeGuest, bed: Bed, group: int, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    exercise(bed, daemon, guest, [*in_groups(group), "strace", "-D", "-f", "-qq", "-o", str(trace)])
    made = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))
    assert {"bind", "chmod", "epoll_wait", "execve"} <= made
    assert made - allowed() == set()


def allowed() -> set[str]:
    """The system calls that the unit's filter lets through, by systemd's own groups (systemd.exec(5))."""
    calls = members("@default")
    for value in setting("SystemCallFilter"):
        named = {call for name in value.lstrip("~").split() for call in members(name)}
        calls = calls - named if value.startswith("~") else calls | named
    return calls


def members(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    listed = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True)
    names = [line.strip() for line in listed.stdout.splitlines()[1:]]
    return {call for each in names if each and not each.startswith("#") for call in members(each)}


def test_the_socket_families(daemon: MakeDaemon, guest: MakeGuest, bed: Bed, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    exercise(bed, daemon, guest, ["strace", "-D", "-f", "-qq", "-e", "trace=socket", "-o", str(trace)])
    families = set(re.findall(r"socket\((AF_\w+)", trace.read_text()))
    assert families == set(setting("RestrictAddressFamilies")[0].split())

"""Who may read what is kept of guests for dnsmasq: dnsmasq, and no other local user."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.dhcp import Care, add_guest, kill_all, make_link, network, pid, told, udhcpc
from tests.bed.netns import Host
from tests.kernel.wait import eventually
from xennetd.model.places import STATE

WEB, DB = "00:16:3e:00:00:01", "00:16:3e:00:00:02"
LAB = network("lab")
FILES = [f"{STATE}/xn-lab/{name}" for name in ("dnsmasq.conf", "leases", "hosts/00163e000001", "names/00163e000001")]
ACL = "system.posix_acl_access"

pytestmark = pytest.mark.usefixtures("dnsmasq")


@pytest.fixture
def care(host: Host) -> Iterator[Care]:
    make_link(host, LAB)
    care = Care()
    care.serve(LAB)
    care.tell(told("lab", WEB, "10.77.0.5", name="web.lab.internal"))
    eventually(pid)
    yield care
    care.stop()
    kill_all()


def readable(uid: int = 65534, gid: int = 65534) -> list[str]:
    """What another user can read of what root can."""
    assert all(Path(path).read_text() or path.endswith("leases") for path in FILES)
    who = ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    attempts = {path: ("cat", path) for path in FILES} | {
        STATE: ("ls", STATE),
        "hosts": ("ls", f"{STATE}/xn-lab/hosts"),
    }
    ends = {
        what: subprocess.run([*who, *command], capture_output=True, check=False) for what, command in attempts.items()
    }
    return [what for what, end in ends.items() if end.returncode == 0]


def serves(host: Host, care: Care, mac: str, address: str) -> bool:
    """Whether dnsmasq, as its own user, reads a new guest's files, and again after SIGHUP."""
    care.tell(told("lab", mac, "10.77.0.77"))
    care.tell(told("lab", mac, address))
    return udhcpc(add_guest(host, "xn-lab", mac, f"g{mac[-1]}"))["ip"] == address


def test_dnsmasq_reads_them_and_no_other_user(host: Host, care: Care) -> None:
    assert serves(host, care, DB, "10.77.0.6")
    assert Path(f"/proc/{pid()}").stat().st_uid != 0
    assert readable() == []
    assert readable(gid=0) == []


def test_those_of_an_earlier_version_are_closed_while_dnsmasq_runs(host: Host, care: Care) -> None:
    before = pid()
    os.removexattr(STATE, ACL)
    os.chmod(STATE, 0o755)
    assert readable()
    care.stop()
    again = Care()
    try:
        again.serve(LAB)
        assert readable() == []
        again.tell(told("lab", WEB, "10.77.0.5", name="web.lab.internal"))
        assert serves(host, again, DB, "10.77.0.6")
        assert pid() == before
    finally:
        again.stop()


def test_where_there_is_no_list_everybody_may_pass_and_dnsmasq_serves(
    host: Host, care: Care, capfd: pytest.CaptureFixture[str]
) -> None:
    care.stop()
    kill_all()
    host.run("mount", "-t", "ramfs", "ramfs", STATE)  # It has no access control lists.
    again = Care()
    try:
        again.serve(LAB)
        assert serves(host, again, DB, "10.77.0.6")
        assert "no access control lists" in "".join(capfd.readouterr())
    finally:
        again.stop()
        kill_all()
        host.run("umount", "-l", STATE)

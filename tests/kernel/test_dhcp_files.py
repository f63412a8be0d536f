"""What is kept of guests for dnsmasq: who may read it, what many guests cost, and what a disk does not take."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.dhcp import Care, add_guest, kill_all, make_link, network, pid, told, udhcpc
from tests.bed.netns import Host
from tests.kernel.wait import eventually
from xennetd.dnsmasq import instance_files
from xennetd.model.places import STATE
from xennetd.model.value import replace
from xennetd.render.dnsmasq_files import services

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


def read_only(host: Host) -> None:
    host.run("mount", "--bind", STATE, STATE)
    host.run("mount", "-o", "remount,bind,ro", STATE)


def test_what_users_can_read_and_cannot_be_closed_is_a_problem_and_dnsmasq_is_kept(host: Host, care: Care) -> None:
    care.stop()
    os.removexattr(STATE, ACL)
    os.chmod(STATE, 0o755)
    read_only(host)
    again = Care()
    try:
        again.serve(LAB)
        (problem,) = again.problems()
        assert problem == (
            "local users can't be kept out of /var/lib/xennetd: Read-only file system: "
            "make /var/lib/xennetd writable again (mount -o remount,rw); if it is, restart xennetd"
        )
        host.run("mount", "-o", "remount,bind,rw", STATE)
        eventually(lambda: again.problems() == [])
        assert readable() == []
        before = pid()
        assert before is not None
        os.kill(before, signal.SIGKILL)
        eventually(lambda: pid() not in {None, before})
    finally:
        again.stop()


def test_a_lease_file_that_the_disk_does_not_take_keeps_no_dnsmasq_down(host: Host, care: Care) -> None:
    host.run("mount", "-o", "remount,size=512k", STATE)
    foreign = [
        lease(DB, "10.77.0.5"),
        *(lease(f"00:16:3e:01:01:{i % 256:02x}", f"10.64.{i // 250}.{i % 250 + 1}") for i in range(600)),
    ]
    file, filler = Path(FILES[1]), Path(STATE, "filler")
    file.write_text("".join(foreign))
    fill(filler)
    os.truncate(filler, filler.stat().st_size - 16384)  # enough for a pid file, and not for another lease file
    before = pid()
    assert before is not None
    os.kill(before, signal.SIGKILL)
    eventually(lambda: pid() not in {None, before})
    told = (
        f"DHCP on xn-lab: {FILES[1]} can't be written: No space left on device: make room on the file system of {STATE}"
    )
    assert told in care.problems()
    filler.unlink()
    eventually(lambda: told not in care.problems() and lease(DB, "10.77.0.5") not in file.read_text(), timeout=20.0)
    assert lease(DB, "10.77.0.5") not in eventually(file.read_text)
    assert udhcpc(add_guest(host, "xn-lab", WEB, "g1"))["ip"] == "10.77.0.5"


def test_a_link_that_the_kernel_can_not_be_asked_for_does_not_count_as_deleted(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_link(host, LAB)
    care = Care()
    wanted = services(LAB)[0]

    def refuse(name: str) -> int | None:
        raise OSError(errno.EMFILE, "Too many open files")

    try:
        with monkeypatch.context() as short:
            short.setattr(instance_files, "index_of", refuse)
            care.serve(LAB)
            assert "Too many open files" in care.problems()[0]
        eventually(pid)
        assert care.problems() == []
        with monkeypatch.context() as short:
            short.setattr(instance_files, "index_of", refuse)
            assert care.call(care.services.present, wanted) == wanted
    finally:
        care.stop()
        kill_all()


def lease(mac: str, address: str) -> str:
    return f"1999999999 {mac} {address} * 01:{mac}\n"


def fill(file: Path) -> None:
    """Leave no byte on the file system."""
    with file.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))


@contextlib.contextmanager
def many_processes() -> Iterator[None]:
    """As many processes as there are guests."""
    fork = f"for _ in range({MANY}):\n  if not os.fork(): time.sleep(600)"
    fork = f"import os, time\n{fork}\nprint(flush=True)\ntime.sleep(600)"
    command = [sys.executable, "-S", "-E", "-c", fork]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        try:
            yield
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


MANY = 2000
AT_ONCE = 15.0
"""Milliseconds of processor time for which nobody else is served. The daemon's own work takes a few."""


def test_many_guests_hold_nobody_up(host: Host, care: Care) -> None:
    many = [
        told("lab", f"00:16:3e:01:{i // 256:02x}:{i % 256:02x}", f"10.64.{i // 250}.{i % 250 + 1}") for i in range(MANY)
    ]
    for start in range(0, MANY, 20):
        care.tell(*many[start : start + 20])
    longest = {}
    with care.pieces() as pieces:
        Path(FILES[1]).write_text("".join(lease(guest.mac, f"{guest.addresses[0]}") for guest in many) * 4)
        care.tell(told("lab", DB, "10.77.0.6"))
    longest["an attach after a change of the leases"] = max(pieces)

    with care.pieces() as pieces:
        assert len(care.owned_hosts()) == MANY + 2
    longest["a prune"] = max(pieces)

    with many_processes(), care.pieces() as pieces:
        before = pid()
        care.call(care.services.renew, "xn-lab")
        eventually(lambda: pid() not in {None, before})
    longest["a start of dnsmasq"] = max(pieces)

    read_only(host)
    for start in range(0, MANY, 20):
        care.tell(*(replace(guest, name="other.lab.internal") for guest in many[start : start + 20]))
    with care.pieces() as pieces:
        time.sleep(2.5)
        assert f"({MANY - 1} more wait)" in care.problems()[0]
    longest["a disk that takes nothing"] = max(pieces)
    with care.pieces() as pieces:
        host.run("mount", "-o", "remount,bind,rw", STATE)
        eventually(lambda: care.problems() == [])
    longest["a disk that takes it all"] = max(pieces)
    assert Path(FILES[3]).with_name("00163e010000").read_text() == "10.64.0.1 other.lab.internal other\n"

    with care.pieces() as pieces:
        care.call(care.services.remove, services(LAB))
        kill_all()  # It may be busy with what was written for it.
        eventually(lambda: list(Path(STATE).iterdir()) == [])
    longest["the network's end"] = max(pieces)
    print({what: round(each, 1) for what, each in longest.items()})
    assert [what for what, each in longest.items() if each > AT_ONCE] == []

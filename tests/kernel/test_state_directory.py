"""The state directory goes, is full or read-only while dnsmasq serves: no guest is refused, and all of it heals."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed import dhcp, dnsmasq
from tests.bed.guest import Bed, Guest
from tests.bed.reach import Services
from tests.bed.site import Site
from tests.bed.systemd import Journal
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.status import status
from tests.kernel.test_leases import lab
from tests.kernel.wait import eventually
from xennetd.model.places import STATE

pytestmark = pytest.mark.usefixtures("dnsmasq")

FILES = Path(STATE)
INSTANCE = FILES / "xn-lab"


@pytest.fixture
def server(site: Site, services: Services) -> Iterator[Site]:
    services.offer(site.beyond)
    yield site
    dhcp.kill_all()


def only(bed: Bed, besides: int | None = None) -> int:
    """The one dnsmasq of the host, once it serves, is the only one, and is another than `besides`."""

    def found() -> int | None:
        pid = dhcp.pid()
        return pid if pid != besides and dnsmasq.running(bed.host) == [pid] else None

    pid = eventually(found)
    assert pid is not None
    return pid


def ip(guest: Guest) -> str:
    return dhcp.udhcpc(guest.namespace)["ip"]


def empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def fill(directory: Path) -> Path:
    """Leave no byte on the directory's file system."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


@pytest.mark.parametrize("what", [FILES, INSTANCE, INSTANCE / "hosts"], ids=["all", "an instance", "the guests"])
def test_what_is_removed_comes_back_and_no_dnsmasq_is_left_over(
    bed: Bed, server: Site, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, what: Path
) -> None:
    xennetd = daemon(lab())
    web, db = guest("web"), guest("db")
    web.connect()
    db.connect()
    first = only(bed)
    addresses = ip(web), ip(db)
    empty(what)
    if what == INSTANCE / "hosts":
        what.rmdir()
    eventually(lambda: len(list(INSTANCE.glob("hosts/*"))) == 2 and len(list(INSTANCE.glob("names/*"))) == 2)
    only(bed, first)
    late = guest("late")
    late.connect()
    assert (ip(web), ip(db)) == addresses
    assert ip(late) not in addresses
    assert len(dnsmasq.running(bed.host)) == 1
    eventually(lambda: status(xennetd)["problems"] == [], timeout=15.0)
    assert "Address already in use" not in xennetd.stderr()
    assert not journal.having(XENNET_EVENT="error")


def test_a_dnsmasq_without_a_pid_file_is_found_by_the_next_daemon(
    bed: Bed, server: Site, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    xennetd = daemon(lab())
    web = guest("web")
    web.connect()
    first = only(bed)
    address = ip(web)
    xennetd.terminate()
    empty(FILES)
    xennetd.start()
    only(bed, first)
    assert ip(web) == address
    eventually(lambda: status(xennetd)["problems"] == [], timeout=15.0)


def test_a_full_disk_refuses_no_guest_and_all_is_written_when_there_is_room(
    bed: Bed, server: Site, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    bed.host.run("mount", "-o", "remount,size=256k", STATE)
    filler = fill(FILES)
    xennetd = daemon(lab())
    web = guest("web")
    web.connect()
    problem, *_ = status(xennetd)["problems"]
    assert problem.startswith(f"DHCP on xn-lab: {INSTANCE}")
    assert "can't be written: No space left on device: make room on the file system of /var/lib/xennetd" in problem
    filler.unlink()
    only(bed)
    address = eventually(lambda: dhcp.udhcpc(web.namespace).get("ip"))
    eventually(lambda: status(xennetd)["problems"] == [], timeout=15.0)
    filler = fill(FILES)
    late = guest("late")
    late.connect()
    (problem,) = status(xennetd)["problems"]
    assert f"{INSTANCE}/names/" in problem
    assert ip(web) == address
    filler.unlink()
    eventually(lambda: status(xennetd)["problems"] == [], timeout=15.0)
    assert ip(late) not in ("", address)
    assert [path for path in FILES.rglob("*") if path.name.endswith(".new")] == []


def test_a_read_only_state_directory_refuses_no_guest(
    bed: Bed, server: Site, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    xennetd = daemon(lab())
    web = guest("web")
    web.connect()
    only(bed)
    address = ip(web)
    bed.host.run("mount", "--bind", STATE, STATE)
    bed.host.run("mount", "-o", "remount,bind,ro", STATE)
    late = guest("late")
    late.connect()
    (problem,) = status(xennetd)["problems"]
    assert problem.startswith("DHCP on xn-lab: ")
    assert problem.endswith(
        "Read-only file system: make /var/lib/xennetd writable again (mount -o remount,rw); if it is, restart xennetd"
    )
    assert ip(web) == address
    xennetd.terminate()
    xennetd.start()
    assert ip(web) == address
    bed.host.run("mount", "-o", "remount,bind,rw", STATE)
    eventually(lambda: status(xennetd)["problems"] == [], timeout=15.0)
    assert ip(late) not in ("", address)

"""packaging/run on a Xen host that knows nothing of xennetd, until its guests use it, and back again.

The machine has no network: pip finds in WHEELS what packaging/install once got from PyPI for this machine. All else is
as an administrator does it, from a checkout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.xen.toolstack import BOOT_ADDRESS, Guest, answers, do, master, node, ping, ready, row, rows, run, until

CHECKOUT = Path(__file__).parents[2]
WHEELS = "/var/lib/xennetd-test/wheels"
XL_CONF = Path("/etc/xen/xl.conf")
BACKUP = Path("/etc/xen/xl.conf.before-xennetd")
STOCK, OURS = "/etc/xen/scripts/vif-bridge", "/etc/xen/scripts/vif-xennetd"

EDITED = b'# Stra\xdfe 7: what follows is ours\r\nvif.default.bridge="xenbr0"'
"""What an administrator may have added to xl.conf: not UTF-8, another line's end, none at the end."""

pytestmark = pytest.mark.usefixtures("fresh")


def packaging(*command: str) -> str:
    """Run one of packaging/'s programs from the checkout."""
    program, *arguments = command
    pip = ("env", "PIP_NO_INDEX=1", f"PIP_FIND_LINKS={WHEELS}")
    return do(*pip, str(CHECKOUT / "packaging" / program), *arguments, timeout=900)


def script(guest: Guest) -> str | None:
    return guest.backend("script")


def state(guest: Guest) -> str | None:
    listed = row(guest.vif())
    return None if listed is None else str(listed["state"])


@pytest.fixture(scope="module")
def fresh() -> Iterator[bytes]:
    """The host without xennetd; its xl.conf, as it is to be found again. Afterwards it is switched to xennetd."""
    do("xl", "destroy", "boot")
    until(lambda: rows() == [])
    packaging("run", "--switch-back")
    found = XL_CONF.read_bytes() + EDITED
    XL_CONF.write_bytes(found)
    packaging("install", "--remove")
    yield found
    if run("systemctl", "is-active", "xennetd").status != 0:
        packaging("run")
    packaging("run", "--switch")
    ready()
    do("xl", "create", "/etc/xen/auto/boot.cfg")
    answers(BOOT_ADDRESS, 120.0)  # one that has not yet come up can't be saved when the host goes down


@pytest.fixture(scope="module")
def old() -> Iterator[Guest]:
    """A guest that runs all the time, attached by the stock script."""
    old = Guest("old").create().up()
    yield old
    old.destroy()


def test_removal_leaves_nothing_but_what_was_edited(fresh: bytes) -> None:
    assert XL_CONF.read_bytes() == fresh
    assert not BACKUP.exists()
    for path in ("/usr/lib/xennetd", "/usr/bin/xennetd", "/usr/bin/xennetctl", OURS, "/etc/xennetd", "/run/xennetd"):
        assert not Path(path).exists(), path
    assert do("systemctl", "show", "--value", "--property=LoadState", "xennetd").strip() == "not-found"


def test_run_installs_and_starts_it_and_touches_no_guest(old: Guest) -> None:
    assert (script(old), master(old.vif())) == (STOCK, "xenbr0")
    said = packaging("run")
    assert "Installing xennetd" in said
    assert "Starting xennetd.service" in said
    assert "1 in all, 1 ignored" in said
    assert "Nothing has changed for any guest yet" in said
    assert [run("systemctl", asked, "xennetd").status for asked in ("is-active", "is-enabled")] == [0, 0]
    assert (state(old), master(old.vif())) == ("ignored", "xenbr0")
    assert ping(old.address, count=3) == 3


def test_before_the_switch_new_guests_get_the_stock_script(guest: Callable[..., Guest]) -> None:
    early = guest("early").create("-p")
    assert (script(early), state(early)) == (STOCK, "ignored")


def test_after_switch_new_guests_are_ours_and_running_ones_stay_ignored(
    fresh: bytes, old: Guest, guest: Callable[..., Guest]
) -> None:
    said = packaging("run", "--switch")
    assert 'now says vif.default.script="vif-xennetd"' in said
    assert XL_CONF.read_bytes().startswith(fresh)
    assert BACKUP.read_bytes() == fresh
    new = guest("new").create().up()
    assert (script(new), state(new), master(new.vif())) == (OURS, "connected", "xenbr0")
    assert (script(old), state(old)) == (STOCK, "ignored")
    assert ping(old.address, count=3) == 3


def test_a_reboot_keeps_the_script_that_the_guest_was_created_with(old: Guest) -> None:
    """xl keeps the guest's configuration with its defaults filled in: only a create looks into xl.conf."""
    domid = old.domid
    do("xl", "reboot", "old")
    until(lambda: (found := run("xl", "domid", "old")).status == 0 and int(found.output) != domid, 240.0)
    old.find()
    old.up()
    assert (script(old), state(old)) == (STOCK, "ignored")


def test_switch_back_leaves_xl_conf_byte_for_byte_as_it_was_found(
    fresh: bytes, old: Guest, guest: Callable[..., Guest]
) -> None:
    said = packaging("run", "--switch-back")
    assert "as it was before --switch, byte for byte" in said
    assert XL_CONF.read_bytes() == fresh
    assert not BACKUP.exists()
    last = guest("last").create("-p")
    assert (script(last), state(last)) == (STOCK, "ignored")
    assert node(f"/local/domain/0/backend/vif/{last.domid}/0/hotplug-status") == "connected"
    answers(old.address)

"""The host as it goes down and comes up again. These tests run outside the machine: they reboot it.

`boot` is the guest that xendomains starts (test_1_boot.py), saves as the host goes down, and restores as it comes up.
"""

from __future__ import annotations

import json

from tests.image.remote import Rebooted
from tests.xen.toolstack import BOOT_ADDRESS
from xennetd import __version__


def position(journal: str, sentence: str) -> int:
    """Return where the journal says something for the last time."""
    found = journal.rfind(sentence)
    assert found >= 0, f"the journal does not say {sentence!r}"
    return found


def test_guests_stop_before_the_daemon(rebooted: Rebooted) -> None:
    guests_gone = position(rebooted.journal, "Stopped xendomains.service")
    daemon_stopping = position(rebooted.journal, "Stopping xennetd.service")
    assert guests_gone < daemon_stopping
    assert position(rebooted.journal, "of boot detached from xenbr0") < guests_gone


def test_stopping_leaves_the_network_as_it_is(rebooted: Rebooted) -> None:
    assert "stopped; the network stays as it is" in rebooted.journal


def test_after_the_reboot_the_daemon_is_ready_before_guests_start(rebooted: Rebooted) -> None:
    journal = rebooted.do("journalctl", "-q", "-b", "-o", "short-monotonic", "--no-hostname")
    assert position(journal, "Started xennetd.service") < position(journal, "Starting xendomains.service")
    assert position(journal, f"xennetd {__version__} serves: 0 vifs") < position(journal, "of boot attached to xenbr0")


def test_after_the_reboot_xendomains_has_restored_its_guest_and_it_is_connected(rebooted: Rebooted) -> None:
    (listed,) = json.loads(rebooted.do("xennetctl", "list", "--json"))
    assert "Failed" not in rebooted.do("journalctl", "-q", "-b", "-u", "xendomains", "-o", "cat")
    assert (listed["vm"], listed["state"], listed["bridge"]) == ("boot", "connected", "xenbr0")
    domid = rebooted.do("xl", "domid", "boot").strip()
    assert rebooted.do("xenstore-read", f"/local/domain/0/backend/vif/{domid}/0/state").strip() == "4"
    rebooted.do("ping", "-n", "-q", "-c", "1", "-w", "60", BOOT_ADDRESS)


def test_after_the_reboot_no_unit_has_failed(rebooted: Rebooted) -> None:
    assert rebooted.do("systemctl", "--failed", "--no-legend", "--plain") == ""

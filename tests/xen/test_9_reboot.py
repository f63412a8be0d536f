"""The host as it goes down and comes up again.

The first test runs in the machine, and prepares the reboot. All others run outside: they reboot the machine.

`boot` is the guest that xendomains starts (test_1_boot.py), saves as the host goes down, and restores as it comes up.
Before the reboot it gets a second interface on a bridge of the host's topology.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.image.remote import Rebooted
from tests.xen.toolstack import BOOT_ADDRESS, Guest, answers, do, links
from xennetd import __version__

FILE = Path("/etc/xennetd/conf.d/topology.toml")
CHECKPOINT = Path("/var/lib/xennetd/checkpoint.json")
LAN_ADDRESS = "10.55.0.10"  # of the second interface of `boot`

CONFIRMED = """
[dummy.wire0]
[bridge.lan]
ports = ["wire0"]
addresses = ["10.55.0.254/24"]
"""
PENDING = """
[dummy.wire0]
[dummy.wire1]
[bridge.lan]
ports = ["wire1"]
addresses = ["10.56.0.254/24"]
[bridge.dmz]
ports = ["wire0"]
addresses = []
"""
NEVER_APPLIED = PENDING + "[dummy.wire2]\n"


def test_the_host_has_a_topology_that_is_confirmed_and_another_one_that_is_not() -> None:
    """How the host is as it goes down: a third topology is in the configuration."""
    FILE.write_text(CONFIRMED)
    do("xennetctl", "apply", "--confirm", "600")
    do("xennetctl", "confirm")
    boot = Guest("boot", address=BOOT_ADDRESS)
    boot.find()
    do("xl", "network-attach", "boot", "mac=00:16:3e:09:01:10", "bridge=lan")
    boot.connected(1)
    boot.run(f"address 1 {LAN_ADDRESS}/24")
    boot.close()
    answers(LAN_ADDRESS)
    FILE.write_text(PENDING)
    do("xennetctl", "apply", "--confirm", "3600")
    FILE.write_text(NEVER_APPLIED)
    assert {"lan", "dmz", "wire0", "wire1"} <= links().keys()
    assert "10.56.0.254" in do("ip", "address", "show", "dev", "lan")
    assert CHECKPOINT.exists()


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
    rows = json.loads(rebooted.do("xennetctl", "list", "--json"))
    assert "Failed" not in rebooted.do("journalctl", "-q", "-b", "-u", "xendomains", "-o", "cat")
    found = {(row["devid"], row["vm"], row["state"], row["bridge"]) for row in rows}
    assert found == {(0, "boot", "connected", "xenbr0"), (1, "boot", "connected", "lan")}
    domid = rebooted.do("xl", "domid", "boot").strip()
    for devid, address in enumerate((BOOT_ADDRESS, LAN_ADDRESS)):
        assert rebooted.do("xenstore-read", f"/local/domain/0/backend/vif/{domid}/{devid}/state").strip() == "4"
        rebooted.do("ping", "-n", "-q", "-c", "1", "-w", "60", address)


def test_after_the_reboot_the_confirmed_topology_was_there_before_the_daemon_was_ready(rebooted: Rebooted) -> None:
    journal = rebooted.do("journalctl", "-q", "-b", "-o", "short-monotonic", "--no-hostname")
    assert 0 < journal.find("host topology repaired: ip link add") < position(journal, "Started xennetd.service")
    shown = {link["ifname"]: link for link in json.loads(rebooted.do("ip", "-json", "address"))}
    assert (shown["wire0"]["master"], shown["wire0"]["operstate"]) == ("lan", "UNKNOWN")
    of_lan = [entry["local"] for entry in shown["lan"]["addr_info"] if entry["family"] == "inet"]
    assert of_lan == ["10.55.0.254"]


def test_after_the_reboot_nothing_is_left_of_what_nobody_has_confirmed(rebooted: Rebooted) -> None:
    shown = {link["ifname"] for link in json.loads(rebooted.do("ip", "-json", "link"))}
    assert shown.isdisjoint({"dmz", "wire1", "wire2"})
    assert rebooted.channel.run("test", "-e", str(CHECKPOINT)).status != 0
    assert rebooted.channel.run("xennetctl", "confirm").status == 1
    assert "topology was rolled back" not in rebooted.do("journalctl", "-q", "-b", "-o", "cat")


def test_after_the_reboot_status_says_that_the_configuration_waits_for_an_apply(rebooted: Rebooted) -> None:
    status = json.loads(rebooted.channel.run("xennetctl", "status", "--json").output)
    (problem,) = status["problems"]
    assert "the host's topology in the configuration is not in force" in problem
    assert "run xennetctl apply" in problem


def test_after_the_reboot_no_unit_has_failed(rebooted: Rebooted) -> None:
    assert rebooted.do("systemctl", "--failed", "--no-legend", "--plain") == ""

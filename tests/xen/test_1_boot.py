"""The host as it comes up: xenstored, xennetd, then the guests that xendomains starts."""

from __future__ import annotations

import json

from tests.xen.toolstack import BOOT_ADDRESS, answers, do, node, row, rows, until


def timestamp(unit: str, name: str) -> int:
    """Return one of a unit's timestamps, in microseconds since the kernel's start."""
    return int(do("systemctl", "show", "--value", f"--property={name}Monotonic", unit))


def test_xennetd_is_ready_before_xendomains_starts_guests() -> None:
    assert timestamp("xen.service", "ActiveEnterTimestamp") <= timestamp("xennetd.service", "ExecMainStartTimestamp")
    assert timestamp("xennetd.service", "ActiveEnterTimestamp") <= timestamp(
        "xendomains.service", "InactiveExitTimestamp"
    )


def test_a_guest_that_xendomains_starts_comes_up_connected() -> None:
    domid = do("xl", "domid", "boot").strip()
    until(lambda: node(f"/local/domain/0/backend/vif/{domid}/0/state") == "4")
    assert node(f"/local/domain/0/backend/vif/{domid}/0/script") == "/etc/xen/scripts/vif-xennetd"
    assert answers(BOOT_ADDRESS) < 60


def test_list_names_the_guest_as_the_toolstack_does() -> None:
    domid = do("xl", "domid", "boot").strip()
    uuid = do("xl", "list", "-v", "boot").split()[-3:]
    listed = row(f"vif{domid}.0")
    assert listed is not None
    assert (listed["vm"], listed["bridge"], listed["state"]) == ("boot", "xenbr0", "connected")
    assert listed["mac"] == "00:16:3e:09:00:10"
    assert listed["uuid"] in uuid


def test_status_says_nothing_is_wrong() -> None:
    status = json.loads(do("xennetctl", "status", "--json"))
    assert (status["ready"], status["domid"], status["problems"]) == (True, 0, [])
    assert status["counts"]["connected"] == len(rows())


def test_networkd_leaves_vifs_alone() -> None:
    """A catch-all .network file of the host's must not make vifs into networkd's links."""
    domid = do("xl", "domid", "boot").strip()
    until(lambda: "unmanaged" in do("networkctl", "--no-pager", "list", f"vif{domid}.0"))
    assert "inet6" not in do("ip", "address", "show", "dev", f"vif{domid}.0")


def test_no_unit_of_the_host_failed() -> None:
    assert do("systemctl", "--failed", "--no-legend", "--plain") == ""

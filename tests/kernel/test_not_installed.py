"""A host without dnsmasq, the Python module nftables or its library: what it can't do is said, all else is served."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed
from tests.bed.netns import MS_BIND, _mount
from tests.bed.site import Site
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.status import status
from tests.kernel.verdict import connected, refused
from xennetd.dnsmasq.process import find_dnsmasq

pytestmark = pytest.mark.usefixtures("dnsmasq")

LAB = """\
[network.lab]
mode = "nat"
subnets = ["10.77.0.0/24"]
uplink = "eth0"
dhcp = true
[[policy]]
match = { vm = "lab-*" }
network = "lab"
"""
NO_DNSMASQ = "dhcp = true{} is not available: dnsmasq is not installed: apt install dnsmasq-base"
NO_MODULE = (
    "modes route, nat and isolated{} are not available: "
    "the Python module nftables is not installed: apt install python3-nftables"
)


@pytest.fixture
def no_module(tmp_path: Path) -> list[str]:
    """What is put before a command line to have a Python without the module nftables."""
    (tmp_path / "sitecustomize.py").write_text('import sys\nsys.modules["nftables"] = None\n')
    return ["env", f"PYTHONPATH={tmp_path}:{os.getcwd()}"]


def hide(program: str | Path) -> None:
    _mount("/dev/null", str(program), flags=MS_BIND)


def hide_dnsmasq() -> str:
    program = find_dnsmasq()
    assert program is not None
    hide(program)
    return program


def notes(xennetd: Daemon) -> list[str]:
    """What `status` notes, but for what every test's daemon does."""
    return [note for note in status(xennetd)["notes"] if "stand_in" not in note]


def test_what_no_network_needs_is_a_warning_at_start_and_a_note(
    site: Site, bed: Bed, daemon: MakeDaemon, journal: Journal, no_module: list[str]
) -> None:
    hide_dnsmasq()
    xennetd = daemon(wrapper=no_module)
    expected = [NO_DNSMASQ.format(""), NO_MODULE.format("")]
    assert (notes(xennetd), status(xennetd)["problems"]) == (expected, [])
    assert xennetd.ctl("status").returncode == 0
    xennetd.reload(STAND_IN + "scripts = ['vif-xennetd*', 'other']\n")
    assert (notes(xennetd), status(xennetd)["problems"]) == (expected, [])
    journal.catch_up()
    assert [len(journal.having(MESSAGE=sentence, PRIORITY="4")) for sentence in expected] == [1, 1]


def test_a_policy_that_needs_it_is_refused_at_a_reload_and_served_as_far_as_it_can_be_at_a_start(
    site: Site, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal, no_module: list[str]
) -> None:
    bed.host.bridge("xenbr0")
    program = hide_dnsmasq()
    xennetd = daemon(wrapper=no_module)
    expected = [NO_DNSMASQ.format(" (network.lab)"), NO_MODULE.format(" (network.lab)")]
    xennetd.configure(STAND_IN + LAB)
    told = xennetd.ctl("reload")
    assert told.returncode == 1
    assert all(sentence in told.stdout + told.stderr for sentence in expected)

    xennetd.terminate()
    xennetd.start()
    assert status(xennetd)["problems"][:2] == expected
    assert xennetd.ctl("status").returncode == 1
    journal.catch_up()
    assert [len(journal.having(MESSAGE=sentence, PRIORITY="4")) for sentence in expected] == [1, 1]
    web, lab = guest("web"), guest("lab-1", VifSpec())
    connected(bed, web.vif)
    assert "apt install python3-nftables" in refused(bed, lab.vif)

    site.host.run("umount", program)
    problems = status(xennetd)["problems"]
    assert (expected[0] in problems, expected[1] in problems) == (False, True)


def test_a_library_that_the_module_does_not_find_is_named(site: Site, daemon: MakeDaemon) -> None:
    for library in Path("/usr/lib").glob("*/libnftables.so.1"):
        hide(library)
    (note,) = notes(daemon())
    assert note.startswith("modes route, nat and isolated are not available: ")
    assert "libnftables.so.1" in note
    assert note.endswith(": apt install libnftables1")

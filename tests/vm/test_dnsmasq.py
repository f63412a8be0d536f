"""A network's dnsmasq as an instance of xennetd-dnsmasq@.service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.bed.dhcp import NOERROR, Answer, ask, udhcpc
from tests.bed.guest import Bed, Guest
from tests.bed.toolstack import VifSpec
from tests.vm.machine import CONFIGURATION, UNIT, Machine, do, run, until

MakeGuest = Callable[..., Guest]

BRIDGE = "xn-web"
"""With a character that systemd escapes in a unit's name."""

DNSMASQ = "xennetd-dnsmasq@xn\\x2dweb.service"

HOSTS = Path(f"/var/lib/xennetd/{BRIDGE}/hosts")

CONFIG = """
[network.web-tier]
mode = "nat"
bridge = "xn-web"
subnets = ["10.77.0.0/24", "fd77::/64"]
dhcp = true
[[policy]]
name = "web tier"
match = { vm = "web*" }
network = "web-tier"
"""


def dnsmasq(name: str) -> str:
    return do("systemctl", "show", "--value", f"--property={name}", DNSMASQ).strip()


def runs_again(killed: str) -> bool:
    return dnsmasq("MainPID") not in (killed, "0") and dnsmasq("ActiveState") == "active"


@pytest.fixture(scope="module")
def policy() -> Iterator[Path]:
    file = CONFIGURATION / "dnsmasq.toml"
    yield file
    if file.exists():
        file.unlink()
        do("systemctl", "start", UNIT)
        do("systemctl", "reload", UNIT)
        until(lambda: dnsmasq("ActiveState") == "inactive")


@pytest.fixture
def served(service: None, policy: Path) -> None:
    """The network is there, and no guest in it."""
    if not policy.exists():
        policy.write_text(CONFIG)
        do("systemctl", "reload", UNIT)
    until(lambda: dnsmasq("ActiveState") == "active")
    until(lambda: not any(HOSTS.iterdir()))


def test_verify_finds_nothing_wrong_with_the_template() -> None:
    assert do("systemd-analyze", "verify", "xennetd-dnsmasq@lab.service") == ""


def test_an_instance_is_exposed_to_little(served: None) -> None:
    do("systemd-analyze", "security", "--no-pager", "--threshold=25", DNSMASQ)


def test_a_guest_gets_its_address_and_name_from_the_unit(host: Machine, guest: MakeGuest, served: None) -> None:
    web = guest("web-1", VifSpec())
    web.connect()
    given = udhcpc(web.namespace)
    assert (given["router"], given["domain"]) == ("10.77.0.1", "web-tier.internal")
    web.namespace.rtnl.add_address("eth0", f"{given['ip']}/24")
    assert ask(web.namespace, "10.77.0.1", "web-1.web-tier.internal") == Answer(NOERROR, [given["ip"]])
    assert Path(f"/proc/{dnsmasq('MainPID')}/cmdline").read_text().startswith("/usr/sbin/dnsmasq\0")
    user = Path(f"/proc/{dnsmasq('MainPID')}").stat().st_uid
    assert user != 0


def test_a_guest_that_goes_is_forgotten_without_a_restart(bed: Bed, guest: MakeGuest, served: None) -> None:
    pid = dnsmasq("MainPID")
    web = Guest(bed, "web-1", VifSpec())
    web.connect()
    (file,) = HOSTS.iterdir()
    web.destroy()
    until(lambda: not file.exists())
    stays = guest("web-2", VifSpec())
    stays.connect()
    assert udhcpc(stays.namespace)["domain"] == "web-tier.internal"
    assert dnsmasq("MainPID") == pid


def test_it_outlives_the_daemon_and_is_found_again(host: Machine, guest: MakeGuest, served: None) -> None:
    pid = dnsmasq("MainPID")
    do("systemctl", "restart", UNIT)
    assert dnsmasq("MainPID") == pid
    do("systemctl", "stop", UNIT)
    assert (dnsmasq("ActiveState"), dnsmasq("MainPID")) == ("active", pid)
    do("systemctl", "start", UNIT)
    web = guest("web-1", VifSpec())
    web.connect()
    assert udhcpc(web.namespace)["domain"] == "web-tier.internal"
    assert dnsmasq("MainPID") == pid


def test_other_local_users_learn_nothing_of_its_guests(guest: MakeGuest, served: None) -> None:
    do("systemctl", "restart", UNIT)
    web = guest("web-1", VifSpec(mac="00:16:3e:00:00:77"))
    web.connect()
    (file,) = until(lambda: list(HOSTS.iterdir()))
    assert "00:16:3e:00:00:77" in do("cat", str(file))
    for group in ("nogroup", "xennet"):
        stranger = ("setpriv", "--reuid=nobody", f"--regid={group}", "--clear-groups")
        for command in (("cat", str(file)), ("ls", str(HOSTS)), ("ls", str(HOSTS.parent.parent))):
            assert "Permission denied" in run(*stranger, *command).stdout
    # dnsmasq has read it, though it came after a start that has set the directory's mode.
    assert udhcpc(web.namespace)["domain"] == "web-tier.internal"


def test_systemd_starts_it_again_whether_we_run_or_not(host: Machine, served: None) -> None:
    for stop in (False, True):
        if stop:
            do("systemctl", "stop", UNIT)
        killed = dnsmasq("MainPID")
        do("systemctl", "kill", "--signal=KILL", DNSMASQ)
        until(partial(runs_again, killed), timeout=60.0)


def test_files_that_somebody_removes_come_back_with_a_new_process(guest: MakeGuest, served: None) -> None:
    web = guest("web-1", VifSpec())
    web.connect()
    address = udhcpc(web.namespace)["ip"]
    pid = dnsmasq("MainPID")
    do("sh", "-c", "rm -rf /var/lib/xennetd/*")
    until(partial(runs_again, pid), timeout=60.0)
    until(lambda: len(list(HOSTS.glob("*"))) == 1)
    assert udhcpc(web.namespace)["ip"] == address
    until(lambda: "DHCP on" not in run("xennetctl", "status").stdout)


def test_it_goes_with_its_network(host: Machine, policy: Path, served: None) -> None:
    assert HOSTS.is_dir()
    policy.unlink()
    do("systemctl", "reload", UNIT)
    until(lambda: dnsmasq("ActiveState") == "inactive")
    until(lambda: not HOSTS.parent.exists())

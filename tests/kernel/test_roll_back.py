"""An apply that nobody confirms is rolled back in time, whatever becomes of the daemon."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed
from tests.bed.netns import Host, NetNs
from tests.bed.toolstack import VifSpec
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.defective import Defective
from tests.kernel.status import status
from tests.kernel.test_adoption import ADOPTS, state
from tests.kernel.test_topology import FILE, TWO_BRIDGES, apply, shape
from tests.kernel.wait import eventually

CHECKPOINT = Path("/var/lib/xennetd/checkpoint.json")
SECONDS = 10
"""The least that xennetctl takes."""


def everything(host: Host) -> dict[str, Any]:
    """All that an apply may change, of eth0 and of the bridge."""
    return {"links": shape(host), **{f"{link}": state(host, link) for link in ("eth0", "xenbr0") if host.link(link)}}


@pytest.fixture
def rollback(host: Host) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts xennetd-rollback, as xennetd-rollback.path does once there is a checkpoint."""
    made: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        eventually(CHECKPOINT.exists)
        command = [sys.executable, "-m", "xennetd.daemon.rollback"]
        made.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return made[-1]

    yield start
    for each in made:
        each.kill()
        each.communicate()


def unconfirmed(xennetd: Daemon) -> None:
    """Apply with a confirmation that does not come."""
    done = xennetd.ctl("apply", "--confirm", str(SECONDS))
    assert (done.returncode, f"In {SECONDS} s this is rolled back" in done.stdout) == (0, True), done


def test_what_is_confirmed_stays(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    before = state(host, "eth0")
    xennetd = daemon(ADOPTS)
    unconfirmed(xennetd)
    assert any("is rolled back in" in note for note in status(xennetd)["notes"])
    assert not FILE.exists(), "a reboot boots what was before"
    assert "an apply waits for its confirmation" in xennetd.ctl("apply").stderr
    assert xennetd.ctl("confirm").returncode == 0
    assert (FILE.exists(), CHECKPOINT.exists()) == (True, False)
    time.sleep(SECONDS + 1)
    assert state(host, "xenbr0") == before
    late = xennetd.ctl("confirm")
    assert (late.returncode, "no apply waits for a confirmation" in late.stderr) == (1, True)


def test_the_daemon_rolls_back_in_time(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    before = everything(host)
    xennetd = daemon(ADOPTS)
    unconfirmed(xennetd)
    assert "xenbr0" in host.links()
    began = time.monotonic()
    eventually(lambda: not CHECKPOINT.exists(), timeout=SECONDS + 2)
    assert time.monotonic() - began > SECONDS - 2
    assert everything(host) == before
    assert host.ping("192.0.2.1")
    assert any("not in force" in problem for problem in status(xennetd)["problems"])
    assert not FILE.exists()


def killed(xennetd: Daemon) -> None:
    xennetd.kill9()


def stopped(xennetd: Daemon) -> None:
    xennetd.terminate()


def suspended(xennetd: Daemon) -> None:
    xennetd.signal(signal.SIGSTOP)


def refuses_its_configuration(xennetd: Daemon) -> None:
    """systemd starts it again and again, and it exits 78."""
    xennetd.kill9()
    xennetd.configure("[nonsense]\n")


@pytest.mark.parametrize("become", [killed, stopped, suspended, refuses_its_configuration])
def test_the_roll_back_does_not_depend_on_the_daemon(
    host: Host,
    router: NetNs,
    daemon: MakeDaemon,
    rollback: Callable[[], subprocess.Popen[str]],
    become: Callable[[Daemon], None],
) -> None:
    before = everything(host)
    xennetd = daemon(ADOPTS)
    unconfirmed(xennetd)
    process = rollback()
    become(xennetd)
    output, _ = process.communicate(timeout=SECONDS + 10)
    assert (process.returncode, "the host's topology was rolled back" in output) == (0, True), output
    assert everything(host) == before
    assert host.ping("192.0.2.1")
    assert (CHECKPOINT.exists(), FILE.exists()) == (False, False)
    if become is suspended:
        xennetd.signal(signal.SIGCONT)
        eventually(lambda: any("not in force" in problem for problem in status(xennetd)["problems"]))
        assert everything(host) == before


def test_a_restarted_daemon_goes_on_waiting_and_takes_the_confirmation(
    host: Host, router: NetNs, daemon: MakeDaemon
) -> None:
    before = state(host, "eth0")
    xennetd = daemon(ADOPTS)
    unconfirmed(xennetd)
    xennetd.kill9()
    xennetd.start()
    assert state(host, "xenbr0") == before
    assert xennetd.ctl("confirm").returncode == 0
    assert state(host, "xenbr0") == before


def test_of_a_topology_in_force_the_one_before_comes_back(host: Host, daemon: MakeDaemon) -> None:
    """What an apply removes is made again: bridges, ports, addresses, settings."""
    for number in (0, 1):
        host.rtnl.add_veth(f"eth{number}", "eth0", host.guest(f"beyond{number}").fd)
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    before, text = shape(host), FILE.read_bytes()
    xennetd.configure(
        STAND_IN + '[bridge.other]\nports = ["eth0", "eth1"]\nmtu = 1400\naddresses = ["10.0.0.254/24"]\n'
    )
    unconfirmed(xennetd)
    assert ("xenbr0" in host.links(), host.links()["eth1"]["master"]) == (False, "other")
    eventually(lambda: not CHECKPOINT.exists(), timeout=SECONDS + 2)
    assert (shape(host), FILE.read_bytes()) == (before, text)
    assert "could not give this back" not in xennetd.stderr()
    time.sleep(0.5)
    assert shape(host) == before, "the daemon keeps it"


def test_a_checkpoint_of_another_boot_is_only_deleted(
    host: Host, router: NetNs, daemon: MakeDaemon, rollback: Callable[[], subprocess.Popen[str]]
) -> None:
    xennetd = daemon(ADOPTS)
    apply(xennetd)
    wanted = everything(host)
    xennetd.terminate()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    xennetd.start()
    unconfirmed(xennetd)
    xennetd.kill9()
    seal(CHECKPOINT.read_text().partition("\n")[2].replace(boot, "another"))
    process = rollback()
    output, _ = process.communicate(timeout=10)
    assert (process.returncode, output) == (0, "there is nothing to roll back\n")
    assert (everything(host), CHECKPOINT.exists()) == (wanted, False)


def seal(content: str) -> None:
    import hashlib

    CHECKPOINT.write_text(f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}")


def test_a_damaged_checkpoint_is_told_and_set_aside(
    host: Host, router: NetNs, daemon: MakeDaemon, rollback: Callable[[], subprocess.Popen[str]]
) -> None:
    xennetd = daemon(ADOPTS)
    unconfirmed(xennetd)
    xennetd.kill9()
    CHECKPOINT.write_bytes(CHECKPOINT.read_bytes()[:-9])
    xennetd.start()
    assert any(f"{CHECKPOINT} is damaged" in problem for problem in status(xennetd)["problems"])
    assert host.ping("192.0.2.1")
    process = rollback()
    output, _ = process.communicate(timeout=10)
    assert (process.returncode, "is damaged" in output, CHECKPOINT.exists()) == (0, True, False)


STALLS = """
import os, signal
from xennetd.daemon.reconcile import topology_engine
left = [6]
execute = topology_engine.TopologyEngine._execute
def stalls(self, *arguments):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    return execute(self, *arguments)
topology_engine.TopologyEngine._execute = stalls
"""


def test_a_daemon_that_stalls_in_an_apply_does_not_go_on_after_the_roll_back(
    host: Host,
    router: NetNs,
    xenstored: Xenstored,
    tmp_path: Path,
    rollback: Callable[[], subprocess.Popen[str]],
) -> None:
    before = everything(host)
    xennetd = Defective(xenstored, tmp_path, ADOPTS, defect=STALLS).start()
    try:
        command = [*xennetd.command("xennetd.cli.main"), "--control", str(xennetd.control), "apply", "--confirm", "10"]
        applying = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        process = rollback()
        process.communicate(timeout=SECONDS + 10)
        assert everything(host) == before
        xennetd.signal(signal.SIGCONT)
        output, _ = applying.communicate(timeout=10)
        assert (applying.returncode, "took too long, and was rolled back" in output) == (1, True), output
        assert everything(host) == before
    finally:
        xennetd.signal(signal.SIGCONT)
        xennetd.close()


def test_a_full_disk_keeps_nobody_from_the_roll_back(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    host.run("mount", "-o", "remount,size=64k", "/var/lib/xennetd")
    before = everything(host)
    xennetd = daemon(ADOPTS)
    unconfirmed(xennetd)
    with Path("/var/lib/xennetd/filler").open("wb") as filler, contextlib.suppress(OSError):
        filler.write(bytes(1 << 17))
    eventually(lambda: not CHECKPOINT.exists(), timeout=SECONDS + 2)
    assert everything(host) == before


def test_a_nic_with_another_name_gets_everything_back(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    before = state(host, "eth0")
    xennetd = daemon(ADOPTS)
    unconfirmed(xennetd)
    host.run("ip", "link", "set", "eth0", "down")
    host.run("ip", "link", "set", "eth0", "name", "lan0")
    host.run("ip", "link", "set", "lan0", "up")
    eventually(lambda: not CHECKPOINT.exists(), timeout=SECONDS + 5)
    assert state(host, "lan0") == before
    assert host.ping("192.0.2.1")


def test_a_nic_that_comes_back_after_the_roll_back_gets_everything_back(
    host: Host, router: NetNs, daemon: MakeDaemon
) -> None:
    before = state(host, "eth0")
    xennetd = daemon(ADOPTS)
    unconfirmed(xennetd)
    host.run("ip", "link", "delete", "eth0")
    eventually(lambda: not CHECKPOINT.exists(), timeout=SECONDS + 5)
    lost = "the roll-back could not give this back: "
    eventually(lambda: any(each.startswith(lost) for each in status(xennetd)["problems"]))
    host.rtnl.add_veth("eth0", "eth0", router.fd)
    router.rtnl.set("eth0", up=True)
    eventually(lambda: state(host, "eth0") == before)
    eventually(lambda: not any(each.startswith(lost) for each in status(xennetd)["problems"]))


def test_what_was_given_back_once_is_the_administrators(host: Host, router: NetNs, daemon: MakeDaemon) -> None:
    """eth1 never comes back, and what is owed to it holds nothing else."""
    host.rtnl.add_veth("eth1", "eth0", host.guest("other").fd)
    host.run("ip", "address", "add", "192.0.9.1/24", "dev", "eth1")
    xennetd = daemon(ADOPTS.replace('"eth0"', '"eth0", "eth1"'))
    unconfirmed(xennetd)
    for nic in ("eth0", "eth1"):
        host.run("ip", "link", "delete", nic)
    eventually(lambda: not CHECKPOINT.exists(), timeout=SECONDS + 5)
    host.rtnl.add_veth("eth0", "eth0", router.fd)
    router.rtnl.set("eth0", up=True)
    eventually(lambda: "192.0.2.7/24" in host.addresses("eth0"))
    eventually(lambda: host.links()["eth0"]["flags"].count("UP"))
    time.sleep(2)
    host.run("ip", "address", "delete", "192.0.2.7/24", "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "mtu", "1400")
    time.sleep(3)
    assert ("192.0.2.7/24" in host.addresses("eth0"), host.links()["eth0"]["mtu"]) == (False, 1400)
    assert any("eth1" in each for each in status(xennetd)["problems"])


@pytest.mark.parametrize("restarted", [False, True])
def test_a_daemon_that_wakes_in_the_roll_back_of_the_other_process_makes_nothing_again(
    bed: Bed, host: Host, router: NetNs, guest: MakeGuest, daemon: MakeDaemon, restarted: bool,
    rollback: Callable[[], subprocess.Popen[str]],
) -> None:  # fmt: skip
    """A guest keeps the bridge, and so the other process tries twice more and takes two seconds."""
    before = state(host, "eth0")
    xennetd = daemon(ADOPTS)
    unconfirmed(xennetd)
    guest("web", VifSpec(bridge="xenbr0")).connect()
    xennetd.signal(signal.SIGSTOP)
    process = rollback()
    eventually(lambda: host.links()["eth0"].get("master") is None, timeout=SECONDS + 10)
    if restarted:
        xennetd.kill9()
        xennetd.start()
    else:
        xennetd.signal(signal.SIGCONT)
    while process.poll() is None:
        assert host.links()["eth0"].get("master") is None
        time.sleep(0.02)
    time.sleep(2)
    assert (state(host, "eth0"), CHECKPOINT.exists()) == (before, False)
    assert host.ping("192.0.2.1")


def test_a_bridge_that_somebody_else_made_stays_somebody_elses(host: Host, daemon: MakeDaemon) -> None:
    """Its maker deletes it meanwhile. What the roll-back gives back must not go with the next apply."""
    host.rtnl.add_bridge("br9")
    host.rtnl.set("br9", up=True)
    xennetd = daemon(STAND_IN + "[bridge.br9]\naddresses = []\n")
    unconfirmed(xennetd)
    host.run("ip", "link", "delete", "br9")
    eventually(lambda: not CHECKPOINT.exists(), timeout=SECONDS + 8)
    eventually(lambda: (host.link("br9") or {}).get("group") == "default")
    xennetd.configure(STAND_IN)
    assert apply(xennetd) == []
    assert host.link("br9") is not None


def test_a_bridge_with_a_guest_on_it_goes_when_the_guest_has_gone(
    bed: Bed, host: Host, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    xennetd = daemon(STAND_IN + '[bridge.lab]\naddresses = ["10.9.0.254/24"]\n')
    unconfirmed(xennetd)
    web = guest("web", VifSpec(bridge="lab"))
    web.connect()
    eventually(lambda: not CHECKPOINT.exists(), timeout=SECONDS + 5)
    assert host.link("lab") is not None, "the guest has its network there"
    assert any('"lab" stays while guests are on it' in each for each in status(xennetd)["problems"])
    web.destroy()
    eventually(lambda: host.link("lab") is None)


DIES = """
import os, signal
from xennetd.daemon.reconcile import host_topology, topology_engine
host_topology._UNATTENDED = 1.0
left = [{steps}]
execute = topology_engine.TopologyEngine._execute
def dies(self, *arguments):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return execute(self, *arguments)
topology_engine.TopologyEngine._execute = dies
"""
"""The process goes just before the Step with this number."""


def steps_of(host: Host, daemon: MakeDaemon) -> int:
    """The number of Steps of the apply that the tests below interrupt."""
    xennetd = daemon(ADOPTS)
    number = len(xennetd.ask("plan")["steps"])
    xennetd.terminate()
    return number


def interrupt(host: Host, xenstored: Xenstored, directory: Path, number: int) -> None:
    """Apply with a daemon that goes before a Step, then roll back with a program that goes before each of its Steps."""
    directory.mkdir()
    xennetd = Defective(xenstored, directory, ADOPTS, defect=DIES.format(steps=number)).start()
    try:
        assert xennetd.ctl("apply").returncode == 3
        assert CHECKPOINT.exists()
    finally:
        xennetd.wait()
        xennetd.close()
    source = "from xennetd.daemon import rollback\nrollback.GRACE = 0.0\nimport sys\nsys.exit(rollback.main())\n"
    for step in range(100):
        ended = subprocess.run([sys.executable, "-c", DIES.format(steps=step) + source], check=False)
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
    assert step > 0 or number == 0


@pytest.mark.parametrize("step", [0, 3, 9])
def test_whoever_is_killed_at_a_step_the_host_is_as_before(
    host: Host, router: NetNs, daemon: MakeDaemon, xenstored: Xenstored, tmp_path: Path, step: int
) -> None:
    before = everything(host)
    interrupt(host, xenstored, tmp_path / "killed", step)
    assert everything(host) == before
    assert host.ping("192.0.2.1")


@pytest.mark.long
def test_whoever_is_killed_at_any_step_the_host_is_as_before(
    host: Host, router: NetNs, daemon: MakeDaemon, xenstored: Xenstored, tmp_path: Path
) -> None:
    before = everything(host)
    number = steps_of(host, daemon)
    for step in range(number):
        interrupt(host, xenstored, tmp_path / f"killed-{step}", step)
        assert everything(host) == before, f"after a kill at Step {step} of {number}"
    print(f"{number} Steps, and the daemon was killed before each")

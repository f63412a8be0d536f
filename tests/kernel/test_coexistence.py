"""Beside the machine's own systemd-networkd and udev: what they leave alone, and what is found where they do not.

Both run in the test's namespaces. A .network file matches every link, as in many images of distributions.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bed import xen
from tests.bed.daemon import STAND_IN
from tests.bed.netns import Host
from tests.kernel.conftest import MakeDaemon, make_or_skip
from tests.kernel.test_topology import apply, plan
from tests.kernel.wait import eventually

CONF = Path(__file__).parents[2] / "conf"
SYSTEMD = Path("/usr/lib/systemd")
ETC = Path("/etc/systemd/network")
CATCH_ALL = ETC / "80-everything.network"
TEXT = "[Match]\nName=*\n[Network]\nKeepMaster=yes\nKeepConfiguration=yes\nLinkLocalAddressing=ipv6\n"

BRIDGES = """
[bridge.xenbr0]
ports = ["eth0"]
addresses = ["10.0.0.254/24"]
[bridge.silent]
addresses = []
[network.lab]
mode = "isolated"
"""
MADE = ("silent", "xenbr0", "xn-lab")


class Networkd:
    """systemd-udevd with xennetd's rules only, and systemd-networkd."""

    def __init__(self) -> None:
        for program in ("systemd-udevd", "systemd-networkd"):
            if not (SYSTEMD / program).exists():
                raise xen.Missing(f"no {program} (Debian's packages udev and systemd)")
        # Other rules would change device nodes, which the test has in common with the machine.
        Path("/etc/udev/rules.d").mkdir(parents=True, exist_ok=True)
        for directory in ("/usr/lib/udev/rules.d", "/etc/udev/rules.d"):
            subprocess.run(["mount", "-t", "tmpfs", "rules", directory], check=True)
        shutil.copy(CONF / "70-xennetd.rules", "/etc/udev/rules.d")
        ETC.mkdir(parents=True, exist_ok=True)
        for file in CONF.glob("*.network"):
            shutil.copy(file, ETC)
        CATCH_ALL.write_text(TEXT)
        Path("/run/systemd/netif").mkdir(parents=True)
        shutil.chown("/run/systemd/netif", "systemd-network", "systemd-network")  # The user that networkd changes to.
        Path("/run/udev").mkdir()
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._start("systemd-udevd")
        eventually(Path("/run/udev/control").exists)
        trigger()
        self._start("systemd-networkd")

    def _start(self, program: str) -> None:
        with Path(f"/run/{program}.log").open("ab") as log:
            self._programs[program] = subprocess.Popen([SYSTEMD / program], stdout=log, stderr=log)

    def _stop(self, program: str) -> None:
        process = self._programs.pop(program)
        process.terminate()
        process.wait(timeout=20)

    def restart(self) -> None:
        """Have networkd read its files again. `networkctl reload` needs a D-Bus."""
        self._stop("systemd-networkd")
        shutil.rmtree("/run/systemd/netif/links", ignore_errors=True)
        self._start("systemd-networkd")

    def close(self) -> None:
        for program in list(self._programs):
            self._stop(program)


def trigger() -> None:
    """Have udev look at every link again, as at the end of a boot."""
    subprocess.run(["udevadm", "trigger", "--subsystem-match=net", "--settle"], check=True, timeout=60)


@pytest.fixture
def networkd(host: Host) -> Iterator[Networkd]:
    """networkd on a host with a NIC, eth0."""
    beyond = host.guest("beyond")
    host.rtnl.add_veth("eth0", "eth0", beyond.fd)
    beyond.rtnl.set("eth0", up=True)
    networkd: Networkd = make_or_skip(Networkd)
    yield networkd
    networkd.close()


def state(host: Host, name: str) -> str:
    """What networkd says that it does with a link (networkctl(1), SETUP)."""
    link = host.link(name)
    file = Path(f"/run/systemd/netif/links/{(link or {}).get('ifindex')}")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.removeprefix("ADMIN_STATE=") for line in lines if line.startswith("ADMIN_STATE=")), "")


def is_state(host: Host, names: tuple[str, ...], *wanted: str) -> Callable[[], bool]:
    return lambda: {state(host, name) for name in names} <= set(wanted)


def test_what_xennetd_made_is_left_alone(host: Host, networkd: Networkd, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN + BRIDGES)
    apply(xennetd)
    host.run("ip", "link", "add", "other0", "up", "type", "bridge")
    eventually(is_state(host, ("other0",), "configuring", "configured"), timeout=30)
    eventually(is_state(host, MADE, "unmanaged"), timeout=30)
    networkd.restart()
    eventually(is_state(host, ("other0",), "configuring", "configured"), timeout=30)
    eventually(is_state(host, MADE, "unmanaged"), timeout=30)
    trigger()
    eventually(is_state(host, MADE, "unmanaged"), timeout=30)
    assert host.addresses("silent") == []
    assert plan(xennetd) == (0, [], [])


def test_a_check_names_the_file_of_a_port_and_an_import_that_of_a_bridge(
    host: Host, networkd: Networkd, daemon: MakeDaemon
) -> None:
    (ETC / "20-b.netdev").write_text("[NetDev]\nName=b\nKind=bridge\n")
    (ETC / "20-b.network").write_text("[Match]\nName=b\n[Network]\nAddress=10.0.9.1/24\n")
    networkd.restart()
    xennetd = daemon(STAND_IN + BRIDGES + "[bridge.b]\n")
    eventually(is_state(host, ("b", "eth0"), "configuring", "configured"), timeout=30)
    notes = json.loads(xennetd.ctl("check", "--json").stdout)["notes"]
    assert any(f'systemd-networkd ({CATCH_ALL}) gives "eth0", a port, automatic' in note for note in notes)
    files = f"{ETC}/20-b.network, {ETC}/20-b.netdev"
    assert any(f"bridge.b: systemd-networkd ({files}) makes it" in note for note in notes), notes
    imported = xennetd.ctl("import").stdout
    assert imported.startswith(f"[bridge.b]\n# configured by systemd-networkd: {files}\n")
    (ETC / "10-eth0.network").write_text("[Match]\nName=eth0\n[Link]\nUnmanaged=yes\n")
    networkd.restart()
    eventually(is_state(host, ("eth0",), "unmanaged"), timeout=30)
    assert not any('"eth0"' in note for note in json.loads(xennetd.ctl("check", "--json").stdout)["notes"])

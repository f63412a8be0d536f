"""The unit file, the group and the drop-ins, asked of systemd's own programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from xennetd.daemon.main import EXIT_CONFIGURATION

REPOSITORY = Path(__file__).parents[2]
UNIT = REPOSITORY / "systemd" / "xennetd.service"


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of systemd's programs, with both outputs together in stdout."""
    if shutil.which(program) is None:
        why = f"no {program} (Debian's packages systemd and udev)"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    return subprocess.run(
        [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with programs that are there on any machine, beside the units that it wants."""
    installed = tmp_path / "xennetd.service"
    shutil.copy(UNIT.with_name("xennetd-rollback.path"), tmp_path)
    text = UNIT.with_name("xennetd-rollback.service").read_text()
    (tmp_path / "xennetd-rollback.service").write_text(text.replace("/usr/bin/xennetd-rollback", "/bin/true"))
    installed.write_text(
        UNIT.read_text().replace("/usr/bin/xennetd", "/bin/true").replace("/usr/bin/xennetctl", "/bin/true")
    )
    return installed


def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    verified = run("systemd-analyze", "--man=no", "verify", unit)
    assert (verified.returncode, verified.stdout) == (0, "")


def test_a_bad_configuration_is_not_tried_again() -> None:
    assert f"\nRestartPreventExitStatus={EXIT_CONFIGURATION}\n" in UNIT.read_text()


def test_the_drop_in_for_hooks_fits_the_unit(unit: Path) -> None:
    directory = unit.with_name("xennetd.service.d")
    directory.mkdir()
    shutil.copy(REPOSITORY / "systemd" / "hooks.conf", directory)
    verified = run("systemd-analyze", "--man=no", "verify", unit)
    assert (verified.returncode, verified.stdout) == (0, "")


def test_the_unit_is_exposed_to_little(unit: Path) -> None:
    """0 is best, 10 worst; CAP_NET_ADMIN in the host's own network namespace is what costs most."""
    judged = run("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=16", unit)
    assert judged.returncode == 0, judged.stdout


def test_systemd_finds_nothing_wrong_with_the_units_that_roll_back(unit: Path) -> None:
    units = [unit.with_name(f"xennetd-rollback.{kind}") for kind in ("path", "service")]
    verified = run("systemd-analyze", "--man=no", "verify", *units)
    assert (verified.returncode, verified.stdout) == (0, "")
    judged = run("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=16", units[1])
    assert judged.returncode == 0, judged.stdout


def test_dnsmasqs_unit_is_exposed_to_little(tmp_path: Path) -> None:
    """dnsmasq serves the network, and changes from root to its own user: that costs most."""
    instance = Path(shutil.copy(UNIT.with_name("xennetd-dnsmasq@.service"), tmp_path / "dnsmasq.service"))
    judged = run("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=25", instance)
    assert judged.returncode == 0, judged.stdout


def test_the_group_is_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    made = run("systemd-sysusers", f"--root={tmp_path}", REPOSITORY / "systemd" / "xennetd.sysusers")
    assert made.returncode == 0, made.stdout
    groups = [line.split(":")[0] for line in (tmp_path / "etc/group").read_text().splitlines()]
    assert groups == ["xennet"]


def test_udev_knows_every_word_of_the_rules() -> None:
    rules = REPOSITORY / "conf" / "70-xennetd.rules"
    if "verify" not in run("udevadm", "--help").stdout:
        pytest.skip("udevadm verify needs systemd 254")
    verified = run("udevadm", "verify", rules)
    assert verified.returncode == 0, verified.stdout

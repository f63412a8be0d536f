"""packaging/install into a root of its own: what is there, what an upgrade keeps, and that it all goes again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from xennetd import __version__

REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="packaging/install must be run as root"),
]


def install(root: Path, *arguments: str) -> str:
    ended = subprocess.run(
        [REPOSITORY / "packaging" / "install", *arguments],
        env=os.environ | {"DESTDIR": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def tree(root: Path) -> set[str]:
    """Every file in it but the private environment's."""
    files = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    return {path for path in files if not path.startswith("usr/lib/xennetd/")}


def test_installed_upgraded_and_removed(tmp_path: Path) -> None:
    configuration = tmp_path / "etc/xennetd/xennetd.toml"
    default = tmp_path / "usr/share/doc/xennetd/xennetd.toml"
    # As an earlier version has left them.
    for file in (configuration, default):
        file.parent.mkdir(parents=True)
        file.write_text("# an older default\n")
    install(tmp_path)
    assert configuration.read_bytes() == (REPOSITORY / "conf" / "xennetd.toml").read_bytes()
    assert tree(tmp_path) == {
        "etc/xen/scripts/vif-xennetd",
        "etc/xen/scripts/vif-xennetd-bridge",
        "etc/xen/scripts/vif-xennetd-nat",
        "etc/xen/scripts/vif-xennetd-openvswitch",
        "etc/xen/scripts/vif-xennetd-route",
        "etc/xennetd/xennetd.toml",
        "usr/bin/xennetctl",
        "usr/bin/xennetd",
        "usr/bin/xennetd-rollback",
        "usr/lib/NetworkManager/conf.d/10-xennetd.conf",
        "usr/lib/systemd/catalog/xennetd.catalog",
        "usr/lib/systemd/network/05-xennetd.network",
        "usr/lib/systemd/network/10-xennetd.network",
        "usr/lib/systemd/system/xennetd-dnsmasq@.service",
        "usr/lib/systemd/system/xennetd-rollback.path",
        "usr/lib/systemd/system/xennetd-rollback.service",
        "usr/lib/systemd/system/xennetd.service",
        "usr/lib/sysusers.d/xennetd.conf",
        "usr/lib/udev/rules.d/70-xennetd.rules",
        "usr/share/bash-completion/completions/xennetctl",
        *(f"usr/share/doc/xennetd/examples/{path.name}" for path in (REPOSITORY / "conf/examples").glob("*.toml")),
        "usr/share/doc/xennetd/xennetd.service.d/hooks.conf",
        "usr/share/doc/xennetd/xennetd.toml",
        "usr/share/man/man8/xennetctl.8",
        "usr/share/man/man8/xennetd.8",
    }
    # Each program's first line names an interpreter that is there, isolated from whoever calls it.
    for program in ("xennetd", "xennetctl"):
        first, _, rest = (tmp_path / "usr/bin" / program).read_text().partition("\n")
        interpreter, _, options = first.removeprefix("#!/").partition(" ")
        assert options == "-I"
        command = [str(tmp_path / interpreter), options, "-c", rest, "--version"]
        said = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True).stdout
        assert said == f"{program} {__version__}\n"
    assert (tmp_path / "usr/share/man/man8/xennetd.8").read_text().startswith(".TH XENNETD")

    configuration.write_text('[daemon]\nmode = "observe"\n')
    assert "kept /etc/xennetd/xennetd.toml" in install(tmp_path)
    assert configuration.read_text() == '[daemon]\nmode = "observe"\n'

    install(tmp_path, "--remove")
    assert tree(tmp_path) == {"etc/xennetd/xennetd.toml"}
    assert not (tmp_path / "usr/lib/xennetd").exists()


def test_not_removed_while_guests_need_it(tmp_path: Path) -> None:
    (tmp_path / "etc/xen").mkdir(parents=True)
    (tmp_path / "etc/xen/xl.conf").write_text('vif.default.script="vif-xennetd"\n')
    ended = subprocess.run(
        [REPOSITORY / "packaging" / "install", "--remove"],
        env=os.environ | {"DESTDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (
        1,
        "install: xl.conf names vif-xennetd: packaging/run --switch-back first\n",
    )

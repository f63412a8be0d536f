"""packaging/install --remove leaves the hotplug script to guests that still need it."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.bed.guest import Bed
from tests.bed.toolstack import VifSpec
from tests.bed.xen import REPOSITORY
from tests.bed.xenstored import Oxenstored
from tests.kernel.conftest import MakeGuest, both_stores

REMOVE = 'mount --bind /usr /usr && mount -o remount,bind,ro /usr && exec "$0" --remove'
"""Were it not to refuse, it could not take anything away from this machine either."""


def remove(bed: Bed) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--mount", "/bin/sh", "-c", REMOVE, REPOSITORY / "packaging" / "install"],
        env=os.environ | bed.xenstored.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def of_ours(bed: Bed) -> list[str]:
    """What packaging's shell function says."""
    said = subprocess.run(
        ["/bin/bash", "-c", "set -euo pipefail; . packaging/common.sh; vifs=$(vifs_of_ours); echo $vifs"],
        cwd=REPOSITORY,
        env=os.environ | bed.xenstored.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return said.stdout.split()


@pytest.mark.parametrize("script", ["vif-xennetd", "/etc/xen/scripts/vif-xennetd-route"])
def test_refused_while_a_vif_has_our_script(bed: Bed, guest: MakeGuest, script: str) -> None:
    guest("stock", VifSpec(script="vif-bridge"))
    for number in range(2):
        guest(f"web-{number}", VifSpec(script=script))
    refused = remove(bed)
    assert refused.returncode == 1
    assert refused.stderr == (
        "install: guests need vif-xennetd to the end: shut down or recreate those of vif2.0 vif3.0 first\n"
    )


@both_stores
def test_refused_while_more_vifs_have_it_than_xenstore_ls_can_list(bed: Bed) -> None:
    vifs = range(20_000, 20_700)
    bed.toolstack.xs.write_all("backend/vif", {f"{domid}/0/script": "vif-xennetd" for domid in vifs})
    refused = remove(bed)
    assert refused.returncode == 1
    if isinstance(bed.xenstored, Oxenstored):
        assert refused.stderr.startswith(
            "install: xenstore-ls can't list backend/vif, so which guests need vif-xennetd "
        )
    else:
        assert all(f" vif{domid}.0 " in refused.stderr for domid in vifs)


def test_other_scripts_are_not_ours(bed: Bed, guest: MakeGuest) -> None:
    for script in ("vif-bridge", "/opt/vif-xennetd/vif-route", "/opt/my-vif-xennetd"):
        guest(script.rpartition("/")[2], VifSpec(script=script))
    assert of_ours(bed) == []


def test_without_vifs_or_xenstore_there_is_nobody_to_ask(bed: Bed) -> None:
    assert of_ours(bed) == []
    contents = bed.xenstored.dump()
    bed.xenstored.kill9()
    assert of_ours(bed) == []
    bed.xenstored.start(contents)
    bed.reconnect()

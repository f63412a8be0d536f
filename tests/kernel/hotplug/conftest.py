"""The hotplug script conf/vif-xennetd against a real xenstored; the tests play the daemon and libxl."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.bed.guest import Bed
from tests.bed.hotplug import Script
from tests.bed.toolstack import Vif, VifSpec
from tests.kernel.wait import eventually
from xennetd.daemon.toolstack.hotplug_files import HotplugFiles
from xennetd.model.vif import VifId


class Daemon:
    """xennetd as far as the script can see it: verdicts in xenstore, and its marks in /run/xennetd, which are real.

    Each verdict is `write` and then `mark`; tests that care for what happens between call these two.
    """

    def __init__(self, bed: Bed, vif: Vif) -> None:
        self.run = Path("/run/xennetd")
        self.bed = bed
        self.vif = vif
        self.run.mkdir()
        self.start()

    def start(self) -> None:
        """Begin, as after a restart: with the marks that are there."""
        self.marks = HotplugFiles(self.run)
        self.marks.start([VifId(self.vif.domid, self.vif.devid)])

    def write(self, node: str, verdict: str | bytes) -> None:
        self.bed.toolstack.xs.write(f"{self.vif.backend}/{node}", verdict)

    def mark(self, name: str, node: str) -> None:
        if self.marks.tell(name):
            self.write(node, self.bed.toolstack.xs.read(f"{self.vif.backend}/{node}"))
            self.marks.heard(name)

    def mark_vif(self) -> None:
        self.mark(self.vif.netdev, "hotplug-status")

    def connect(self) -> None:
        self.write("hotplug-status", "connected")
        self.mark_vif()

    def refuse(self, sentence: str | bytes) -> None:
        def write(tx: int) -> None:
            self.bed.toolstack.xs.write(f"{self.vif.backend}/hotplug-error", sentence, tx)
            self.bed.toolstack.xs.write(f"{self.vif.backend}/hotplug-status", "error", tx)

        self.bed.toolstack.xs.transact(write)
        self.mark_vif()

    def judge_tap(self, verdict: str) -> None:
        self.write("xennetd-tap", verdict)
        self.mark(self.vif.tap, "xennetd-tap")

    def marked(self, directory: str) -> list[str]:
        return sorted(path.name for path in (self.run / directory).iterdir())


@pytest.fixture
def vif(bed: Bed) -> Iterator[Vif]:
    domain = bed.toolstack.create_domain("web")
    vif = bed.toolstack.add_vif(domain, VifSpec(type="vif_ioemu"))
    yield vif
    bed.toolstack.forget_vif(vif)
    bed.toolstack.destroy_domain(domain)


@pytest.fixture
def daemon(bed: Bed, vif: Vif) -> Iterator[Daemon]:
    daemon = Daemon(bed, vif)
    yield daemon
    shutil.rmtree(daemon.run)


@pytest.fixture
def script(bed: Bed, vif: Vif, tmp_path: Path) -> Iterator[Script]:
    script = Script(bed.xenstored, vif, tmp_path)
    yield script
    with suppress(AssertionError):
        eventually(lambda: script.left_behind() == [])
    assert script.left_behind() == []

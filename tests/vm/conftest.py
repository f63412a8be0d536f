"""The vm lane: tests that run in an emulated Debian host with systemd. See tests/image.

    python -m pytest tests/vm                           boots the machine, runs them in it
    XENNETD_SUITE=bookworm python -m pytest tests/vm    the same on Debian 12

xenstored is the real one without Xen, and veths stand in for netback's links, as in the kernel lane (tests/bed). The
rest is what a host has: the unit as packaging/install puts it, under systemd and journald. Only a drop-in and a
conf.d file tell the daemon of the stand-ins.

Fixtures in the machine:
    host, xenstored, bed, guest     as in tests/kernel/conftest.py, but in the machine's own namespaces
    service     xennetd.service is running, and runs again after a test that stops or breaks it
    journal     the unit's `Journal` since the test began
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bed.guest import Bed, Guest
from tests.bed.toolstack import VifSpec
from tests.bed.xenstored import Xenstored
from tests.image.remote import Lane
from tests.vm.machine import CONFIGURATION, UNIT, Journal, Machine, do, run

if os.environ.get("XENNETD_INSIDE"):

    @pytest.fixture(scope="session")
    def xenstored() -> Iterator[Xenstored]:
        tempfile.tempdir = "/run"  # the unit has a /tmp of its own
        xenstored = Xenstored()
        drop_in = Path(f"/etc/systemd/system/{UNIT}.d/bed.conf")
        drop_in.parent.mkdir(exist_ok=True)
        drop_in.write_text(
            f"[Unit]\nConditionPathIsDirectory=\n[Service]\nEnvironment=XENSTORED_PATH={xenstored.socket}\n"
        )
        (CONFIGURATION / "bed.toml").write_text("[daemon]\nstand_in = true\n")
        do("systemctl", "daemon-reload")
        yield xenstored
        run("systemctl", "stop", UNIT)
        drop_in.unlink()
        do("systemctl", "daemon-reload")
        xenstored.close()

    @pytest.fixture
    def host() -> Iterator[Machine]:
        host = Machine()
        yield host
        host.close()

    @pytest.fixture
    def bed(host: Machine, xenstored: Xenstored) -> Iterator[Bed]:
        bed = Bed(xenstored, host, patience=60.0)
        yield bed
        bed.close()

    @pytest.fixture
    def guest(bed: Bed) -> Iterator[Callable[..., Guest]]:
        made: list[Guest] = []

        def make(name: str, spec: VifSpec | None = None, *, address: str = "") -> Guest:
            made.append(Guest(bed, name, spec, address=address))
            return made[-1]

        yield make
        for each in made:
            each.destroy()

    @pytest.fixture
    def service(xenstored: Xenstored) -> Iterator[None]:
        do("systemctl", "start", UNIT)
        yield
        run("systemctl", "reset-failed", UNIT)
        files = list(CONFIGURATION.glob("test*.toml"))
        for file in files:
            file.unlink()
        if files and run("systemctl", "is-active", UNIT).returncode == 0:
            do("systemctl", "reload", UNIT)

    @pytest.fixture
    def journal(service: None) -> Journal:
        return Journal()

else:
    _lane = Lane("vm", xen=False)

    def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        return _lane.protocol(item, nextitem)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup() -> None:
        _lane.setup()

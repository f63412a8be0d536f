"""The xen lane: tests that run in dom0 of an emulated Xen host, with real guests. See tests/image.

    python -m pytest tests/xen                          boots the machine, runs them in it
    XENNETD_SUITE=bookworm python -m pytest tests/xen   the same on Debian 12

Fixtures in the machine:
    guest       makes `Guest`s and destroys them after the test
    trail       the audit `Trail` since the test began
    BOOT        the address of a guest that xendomains has started; it is there all the time, to be spoken to
Fixtures outside of it:
    rebooted    the machine after a reboot, as `Rebooted`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.image.remote import Lane, Rebooted
from tests.xen.toolstack import BOOT_ADDRESS, Guest, Trail, do, ready, run

if os.environ.get("XENNETD_INSIDE"):

    @pytest.fixture
    def guest() -> Iterator[Callable[..., Guest]]:
        made: list[Guest] = []

        def make(name: str, *vifs: str, **how: Any) -> Guest:
            made.append(Guest(name, vifs or ("bridge=xenbr0",), **how))
            return made[-1]

        yield make
        for each in made:
            each.destroy()

    @pytest.fixture
    def trail() -> Trail:
        return Trail()

    @pytest.fixture
    def daemon() -> Iterator[None]:
        """For a test that stops the daemon: it runs again afterwards."""
        yield
        do("systemctl", "reset-failed", "xennetd")
        do("systemctl", "start", "xennetd")
        ready()

    @pytest.fixture(scope="session", autouse=True)
    def bench() -> None:
        # Guests that boot must not keep dom0 from its work.
        do("xl", "sched-credit", "-d", "0", "-w", "4096")
        run("ip", "link", "add", "xenbr1", "type", "bridge")
        do("ip", "address", "replace", "10.9.1.254/24", "dev", "xenbr1")
        do("ip", "link", "set", "xenbr1", "up")

else:
    _lane = Lane("xen", xen=True)

    def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        return _lane.protocol(item, nextitem)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup() -> None:
        _lane.setup()

    @pytest.fixture(scope="session")
    def rebooted() -> Rebooted:
        # A guest that has not yet come up can't be saved when the host goes down.
        return _lane.reboot(ready=("ping", "-n", "-q", "-c", "1", "-w", "120", BOOT_ADDRESS))

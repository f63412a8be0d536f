"""The kernel lane's fixtures: everything a test needs of a Xen host, on the real kernel and the real xenstored.

    xenstored   a running `Xenstored`, empty but for what it makes itself
    host        the test's own network and mount namespace (`Host`); the test runs in it
    bed         `Bed`: toolstack, netback and netfront over these two
    guest       makes `Guest`s: guest("web", VifSpec(...), address="10.0.0.1/24")
    journal     a `Journal` where journald listens; without this fixture there is none
    daemon      makes and starts xennetd: daemon(), daemon(config, ready=False, ...); ends it after the test

On a machine that can't, a test is skipped with one line that says what is missing; in CI (environment CI) that fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from tests.bed import xen
from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed, Guest
from tests.bed.netns import Host
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.bed.xenstored import Xenstored

T = TypeVar("T")


class MakeGuest(Protocol):
    def __call__(
        self, name: str, spec: VifSpec | None = None, *, address: str = "", domid: int | None = None
    ) -> Guest: ...


class MakeDaemon(Protocol):
    def __call__(self, config: str | None = STAND_IN, *, ready: bool = True, **how: Any) -> Daemon: ...


def _make(what: Callable[[], T]) -> T:
    try:
        return what()
    except xen.Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(f"the kernel lane can't run in CI: {missing}", pytrace=False)
        pytest.skip(f"kernel lane: {missing}")


@pytest.fixture
def host() -> Iterator[Host]:
    host = _make(Host)
    yield host
    host.close()


@pytest.fixture
def xenstored() -> Iterator[Xenstored]:
    xenstored = _make(Xenstored)
    yield xenstored
    xenstored.close()


@pytest.fixture
def bed(host: Host, xenstored: Xenstored) -> Iterator[Bed]:
    bed = Bed(xenstored, host)
    yield bed
    bed.close()


@pytest.fixture
def guest(bed: Bed) -> MakeGuest:
    def make(name: str, spec: VifSpec | None = None, *, address: str = "", domid: int | None = None) -> Guest:
        return Guest(bed, name, spec, address=address, domid=domid)

    return make


@pytest.fixture
def journal(host: Host) -> Iterator[Journal]:
    journal = Journal()
    yield journal
    journal.close()


@pytest.fixture
def daemon(xenstored: Xenstored, host: Host, tmp_path: Path) -> Iterator[MakeDaemon]:
    made: list[Daemon] = []

    def make(config: str | None = STAND_IN, *, ready: bool = True, **how: Any) -> Daemon:
        directory = tmp_path / f"xennetd-{len(made)}"
        directory.mkdir()
        made.append(Daemon(xenstored, directory, config, **how))
        return made[-1].start(ready=ready)

    yield make
    for each in made:
        each.close()

"""What the daemon finds around it on the host: the stock scripts' hooks, `xl devd`, its run-time directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from xennetd.daemon.dnsmasq import find_dnsmasq
from xennetd.daemon.hooks import find_hooks
from xennetd.kernel import nft
from xennetd.kernel.links import Links
from xennetd.kernel.sockets import RequestSocket
from xennetd.model.errors import HostError
from xennetd.model.marks import BRIDGE_GROUP, GUEST_GROUP
from xennetd.model.places import RUNTIME
from xennetd.model.policy import Policy
from xennetd.policy.notes import HostNotes

OBSERVE_MARK = "observe"
"""A file in the run-time directory: the hotplug script refuses at once, since nothing will be configured."""


def host_notes(policy: Policy, links: Links | None = None) -> HostNotes:
    """Return what `check` has to know of the host for this policy.

    Without `links`, as when the daemon starts, what hinders single networks is left out: it is told of when they are
    made, and all other guests are served meanwhile.
    """
    notes = HostNotes() if links is None else not_installed()
    notes = replace(notes, hooks=find_hooks(), xl_devd=policy.daemon.devd and xl_devd_runs())
    if links is None:
        return notes
    return replace(
        notes,
        bridges=frozenset(bridge.name for bridge in links.bridges()),
        links=frozenset(link.name for link in links),
        addresses={
            link.name: link.addresses
            for link in links
            if link.addresses and link.group not in (BRIDGE_GROUP, GUEST_GROUP)
        },
    )


def not_installed() -> HostNotes:
    """Return what `lacking` has to know of this host."""
    no_dnsmasq = "" if find_dnsmasq() is not None else "dnsmasq is not installed: apt install dnsmasq-base"
    return HostNotes(no_dnsmasq=no_dnsmasq, no_nftables=nft.absent())


def read_links() -> Links | None:
    """Return the host's links as they are now, None where they can't be read."""
    try:
        requests = RequestSocket()
    except OSError:
        return None
    with closing(requests):
        links = Links()
        links.load(requests.dump())
        return links


def xl_devd_runs(proc: Path = Path("/proc")) -> bool:
    """Return whether an `xl devd` serves this domain's backends (xl(1))."""
    for process in proc.iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(words) > 1 and words[0].rpartition(b"/")[2] == b"xl" and b"devd" in words[1:]:
                return True
    return False


class RuntimeDirectory:
    """/run/xennetd, and the control socket's directory where that is another one. Every failure is a HostError.

    systemd makes the first and keeps it over a restart (RuntimeDirectory=); elsewhere we make what is missing. That it
    is there tells the hotplug script of a daemon to wait for; it is of one daemon, which holds a lock on it (flock(2)).
    """

    def __init__(self, control: str, path: Path = Path(RUNTIME)) -> None:
        self._path = path
        self._control = Path(control).parent
        self._mark = path / OBSERVE_MARK
        self._made: list[Path] = []
        self._lock: int | None = None

    def make(self) -> None:
        """Make the directories that are missing."""
        for directory in (self._path, self._control):
            with _named(f"the directory {directory} can't be made"):
                try:
                    directory.mkdir(mode=0o755, parents=True)
                    self._made.append(directory)
                except FileExistsError:
                    continue

    def claim(self, *, observing: bool) -> None:
        """Be the daemon that is meant by the directory, and put the mark of observe mode there or take it away."""
        with _named(f"the directory {self._path} can't be used"):
            if self._lock is None:
                lock = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                    raise HostError(f"another xennetd is running: it holds the directory {self._path}") from None
                self._lock = lock
            if observing:
                self._mark.touch()
            else:
                self._mark.unlink(missing_ok=True)

    def leave(self) -> None:
        """Remove what we made: without a daemon the hotplug script is to fail at once. Never what is another's."""
        if self._lock is not None:
            if "RUNTIME_DIRECTORY" not in os.environ:
                self._mark.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None
        for directory in reversed(self._made):
            try:
                directory.rmdir()
            except OSError:
                continue  # It is not empty, or gone.


@contextmanager
def _named(failure: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"{failure}: {error.strerror}", errno=error.errno or 0) from error

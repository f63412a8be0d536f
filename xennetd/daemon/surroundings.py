"""What the daemon finds around it on the host: the stock scripts' hooks, `xl devd`, its run-time directory."""

from __future__ import annotations

import os
from pathlib import Path

from xennetd.daemon.hooks import find_hooks
from xennetd.policy.check import HostNotes
from xennetd.policy.config import Policy

OBSERVE_MARK = "observe"
"""A file in the run-time directory: the hotplug script refuses at once, since nothing will be configured."""


def host_notes(policy: Policy, *, bridges: frozenset[str] | None = None) -> HostNotes:
    """Return what `check` has to know of the host for this policy."""
    return HostNotes(hooks=find_hooks(), xl_devd=policy.daemon.devd and xl_devd_runs(), bridges=bridges)


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
    """The directory of the control socket. systemd makes and keeps it (RuntimeDirectory=); elsewhere we do.

    Its presence tells the hotplug script that a daemon is there to wait for.
    """

    def __init__(self, control: str) -> None:
        self._path = Path(control).parent
        self._made = False

    def prepare(self, *, observing: bool) -> None:
        """Make the directory where it is missing, and the mark of observe mode as it must be."""
        if not self._path.exists():
            self._path.mkdir(mode=0o755, parents=True)
            self._made = True
        mark = self._path / OBSERVE_MARK
        if observing:
            mark.touch()
        else:
            mark.unlink(missing_ok=True)

    def leave(self) -> None:
        """Remove what we made: without a daemon the hotplug script is to fail at once."""
        if "RUNTIME_DIRECTORY" in os.environ or not self._made:
            return
        (self._path / OBSERVE_MARK).unlink(missing_ok=True)
        try:
            self._path.rmdir()
        except OSError:
            return

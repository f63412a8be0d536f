"""What we and the hotplug script (conf/vif-xennetd) leave for each other in the run-time directory, as empty files.

`told/vif7.0` is ours: xenstore holds a verdict on that vif. `waiting/vif7.0` is the script's: it is about to watch for
one. `vif7.0-emu` is the same for the tap. They are hints of when a look pays, never believed: xenstore decides.

Rule 1: `told` is made after the verdict, and only then do we look for `waiting`; the script makes `waiting` before it
sets its watch, and looks for `told` once that is set. So a verdict that came too early for the watch is found by the
script's look for `told`, or by our look for `waiting`: then we write it once more, which the watch does see.
Rule 2: nothing here fails an attach. If a file can't be made `waiting` goes as a whole: a script that can't leave word
there looks for itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import structlog

from xennetd.model.errors import ToolstackError
from xennetd.model.places import RUNTIME
from xennetd.model.vif import Vif, VifId
from xennetd.plan.observation import CONNECTED
from xennetd.xenstore.backend import repeat_verdict
from xennetd.xenstore.client import XenstoreClient

_log = structlog.get_logger(__name__)


class HotplugFiles:
    """The marks of all vifs. `start` comes before anything else."""

    def __init__(self, runtime: Path = Path(RUNTIME)) -> None:
        self._directories = runtime / "told", runtime / "waiting"
        self._told: set[str] = set()
        self._usable = False

    def start(self, vifs: Iterable[VifId]) -> None:
        """Take over what an earlier daemon and the scripts have left, and clear away what is of no vif there is."""
        known = {name for vif in vifs for name in (vif.netdev, vif.tap)}
        try:
            for directory in self._directories:
                directory.mkdir(mode=0o700, exist_ok=True)
            told, waiting = (set(os.listdir(directory)) for directory in self._directories)
            # Where a script still waits, the earlier daemon may have ended just before it wrote the verdict once more.
            self._told = (told & known) - waiting
            for directory, names in zip(self._directories, (told - self._told, waiting - known), strict=True):
                for name in names:
                    (directory / name).unlink(missing_ok=True)
            self._usable = True
        except OSError as error:
            self._give_up(error)

    async def settle(self, client: XenstoreClient, vif: Vif) -> bool:
        """Make the marks of a vif say whether xenstore holds verdicts on it and its tap.

        Returns False where that must be done again, since a verdict could not be written once more.
        """
        for name, node, told in (
            (vif.id.netdev, "hotplug-status", vif.hotplug_status in (CONNECTED, "error")),
            (vif.id.tap, "xennetd-tap", vif.tap_status is not None),
        ):
            if told == (name in self._told):
                continue
            if not told:
                self._take_away(name)
            elif self.tell(name):
                try:
                    await repeat_verdict(client, vif, node)
                except ToolstackError:
                    self._take_away(name)
                    return False
                self.heard(name)
        return True

    def tell(self, name: str) -> bool:
        """Mark that there is a verdict. Returns whether a script waits that may have missed it."""
        told, waiting = self._directories
        if not self._usable:
            return False
        try:
            os.close(os.open(f"{told}/{name}", os.O_CREAT | os.O_WRONLY, 0o600))
            self._told.add(name)
            return os.access(f"{waiting}/{name}", os.F_OK)
        except OSError as error:
            self._give_up(error)
            return True

    def heard(self, name: str) -> None:
        """Forget a script that waited."""
        _, waiting = self._directories
        with suppress(OSError):
            os.unlink(f"{waiting}/{name}")

    def forget(self, vif: VifId) -> None:
        """Take away the marks of a vif that is gone."""
        for name in (vif.netdev, vif.tap):
            self._take_away(name)
            self.heard(name)

    def leave(self) -> None:
        """Take everything away, but for systemd's RuntimeDirectory=, which goes by itself unless we are restarted."""
        if self._usable and "RUNTIME_DIRECTORY" not in os.environ:
            for directory in self._directories:
                shutil.rmtree(directory, ignore_errors=True)

    def _take_away(self, name: str) -> None:
        told, _ = self._directories
        if name in self._told:
            self._told.remove(name)
            with suppress(OSError):
                os.unlink(f"{told}/{name}")

    def _give_up(self, error: OSError) -> None:
        told, waiting = self._directories
        _log.warning("hotplug scripts will look twice: no marks can be left for them", path=str(told), why=str(error))
        self._usable = False
        self._told.clear()
        shutil.rmtree(waiting, ignore_errors=True)

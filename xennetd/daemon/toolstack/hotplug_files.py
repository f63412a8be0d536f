"""Empty files in the run-time directory, by which the daemon and the hotplug script (conf/vif-xennetd) find each other.

The daemon makes `told/vif7.0` when xenstore holds a verdict on that vif. The script makes `waiting/vif7.0` before it
watches xenstore for a verdict. `vif7.0-emu` stands for the tap. The files only show when xenstore is worth
reading; the verdict itself is in xenstore alone.

Rule 1: the daemon writes the verdict, then makes `told`, then checks for `waiting`. The script makes `waiting`, then
sets its watch, then checks for `told`. A verdict written before the watch was set causes no event for the script. Then
either the script finds `told`, or the daemon finds `waiting` and writes the verdict once more, which causes an event.
Rule 2: nothing here fails an attach. If the daemon can't make a file it removes the directory `waiting`. A script that
can't make its file there reads xenstore at its watch's first event.
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
    """The files of all vifs. `start` must be called before any other method."""

    def __init__(self, runtime: Path = Path(RUNTIME)) -> None:
        self._directories = runtime / "told", runtime / "waiting"
        self._told: set[str] = set()
        self._usable = False
        self._refusal: str | None = None

    def start(self, vifs: Iterable[VifId]) -> None:
        """Take over the files of an earlier daemon and of waiting scripts. Remove files that belong to no vif."""
        known = {name for vif in vifs for name in (vif.netdev, vif.tap)}
        try:
            for directory in self._directories:
                directory.mkdir(mode=0o700, exist_ok=True)
            told, waiting = (set(os.listdir(directory)) for directory in self._directories)
            # Where a script still waits, the earlier daemon may have ended just before it wrote the verdict once more.
            # Without its `told` file, `settle` writes that verdict once more.
            self._told = (told & known) - waiting
            for directory, names in zip(self._directories, (told - self._told, waiting - known), strict=True):
                for name in names:
                    (directory / name).unlink(missing_ok=True)
            self._usable, self._refusal = True, None
        except OSError as error:
            self._give_up(error)

    def restore(self, vifs: Iterable[VifId]) -> bool:
        """Make the directories again if somebody has removed one. Returns whether `settle` is due for all vifs then."""
        if self._usable and all(directory.is_dir() for directory in self._directories):
            return False
        self.start(vifs)
        return self._usable

    async def settle(self, client: XenstoreClient, vif: Vif) -> bool:
        """Make or remove the `told` files of a vif and its tap, as xenstore holds verdicts on them or not.

        Returns False when that must be tried again, since a verdict could not be written once more.
        """
        for name, node, told in (
            (vif.id.netdev, "hotplug-status", vif.hotplug_status in (CONNECTED, "error")),
            (vif.id.tap, "xennetd-tap", vif.tap_status is not None),
        ):
            if told == (name in self._told):
                continue
            if not told:
                self._remove_told(name)
            elif self.tell(name):
                try:
                    await repeat_verdict(client, vif, node)
                except ToolstackError:
                    self._remove_told(name)
                    return False
                self.heard(name)
        return True

    def tell(self, name: str) -> bool:
        """Make the `told` file for a verdict that was written. Returns whether a script may have missed it."""
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
        """Remove the `waiting` file of a script."""
        _, waiting = self._directories
        with suppress(OSError):
            os.unlink(f"{waiting}/{name}")

    def forget(self, vif: VifId) -> None:
        """Remove the files of a vif that is gone."""
        for name in (vif.netdev, vif.tap):
            self._remove_told(name)
            self.heard(name)

    def leave(self) -> None:
        """Remove both directories. systemd itself removes those in its RuntimeDirectory=, except over a restart."""
        if self._usable and "RUNTIME_DIRECTORY" not in os.environ:
            for directory in self._directories:
                shutil.rmtree(directory, ignore_errors=True)

    def _remove_told(self, name: str) -> None:
        told, _ = self._directories
        if name in self._told:
            self._told.remove(name)
            with suppress(OSError):
                os.unlink(f"{told}/{name}")

    def _give_up(self, error: OSError) -> None:
        told, waiting = self._directories
        if self._refusal != (refusal := str(error)):
            message = "hotplug scripts will read xenstore more often: no files can be made for them"
            _log.warning(message, path=str(told), why=refusal)
        self._refusal = refusal
        self._usable = False
        self._told.clear()
        shutil.rmtree(waiting, ignore_errors=True)

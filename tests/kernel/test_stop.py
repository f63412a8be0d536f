"""A stop that takes long says why."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tests.bed.systemd import Journal
from tests.bed.xenstored import Xenstored
from tests.kernel.defective import Defective

DEAF = """
import asyncio
from xennetd.daemon.toolstack.hooks import Hooks
async def deaf(self):
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(3)
            raise
Hooks.work = deaf
"""


def test_the_journal_names_the_task_that_does_not_end(xenstored: Xenstored, tmp_path: Path, journal: Journal) -> None:
    with closing(Defective(xenstored, tmp_path, defect=DEAF).start()) as xennetd:
        assert xennetd.terminate() == 0
        told = [entry for entry in journal.entries if "has not ended although xennetd stops" in entry["MESSAGE"]]
        assert [(entry["XENNET_TASK"], entry["XENNET_WAITS_IN"]) for entry in told if "hooks" in entry["XENNET_TASK"]]

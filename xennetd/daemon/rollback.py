"""The program `xennetd-rollback`: rolls an apply back in time if the daemon does not, whatever has become of it.

xennetd-rollback.path starts it as soon as there is a checkpoint. It waits until the roll-back is due, and a little
longer, for the daemon comes first if it lives. It reads nothing but the checkpoint, and ends as soon as that is gone.
"""

from __future__ import annotations

import asyncio
import sys

from xennetd.daemon.checkpoint import CheckpointFile, Damaged
from xennetd.daemon.reconcile.roll_back import roll_back
from xennetd.daemon.reconcile.topology_engine import TopologyEngine
from xennetd.daemon.topology_file import TopologyFile
from xennetd.kernel.kernel import Kernel
from xennetd.model.errors import XennetdError

GRACE = 3.0
"""Seconds that the daemon has, once the roll-back is due."""

_PAUSE = 0.5


async def wait_and_roll_back() -> str:
    """Wait as long as the checkpoint says, then roll back. Returns what came of it, in words. Raises XennetdError."""
    file = CheckpointFile()
    while True:
        checkpoint = file.read()
        if checkpoint is None or checkpoint.left <= -GRACE:
            break
        await asyncio.sleep(min(_PAUSE, checkpoint.left + GRACE))
    kernel = Kernel(lambda _: None, lambda: None)
    kernel.start()
    try:
        brought = await roll_back(TopologyEngine(kernel), file, TopologyFile(), wait=True)
    finally:
        kernel.close()
    if brought is None:
        return "there is nothing to roll back"
    failures = "".join(f"\nnot given back: {sentence}" for sentence in brought.failures)
    return f"the host's topology was rolled back: {'; '.join(brought.done) or 'it was as before'}{failures}"


def main() -> int:
    """Run the program. Returns the exit status: 0 also where there is nothing to roll back, or no way to do it."""
    try:
        print(asyncio.run(wait_and_roll_back()), flush=True)
    except Damaged as error:
        CheckpointFile().set_aside()
        print(f"xennetd-rollback: {error.detail}", file=sys.stderr)
        return 0  # Another attempt would find the same.
    except XennetdError as error:
        print(f"xennetd-rollback: {error.detail}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

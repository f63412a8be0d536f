"""Rolls an apply back that nobody has confirmed, from its checkpoint alone."""

from __future__ import annotations

import asyncio

import structlog

from xennetd.daemon.checkpoint import Checkpoint, CheckpointFile
from xennetd.daemon.reconcile.topology_engine import Brought, TopologyEngine
from xennetd.daemon.topology_file import TopologyFile
from xennetd.model.errors import HostError
from xennetd.model.objects import Key

_log = structlog.get_logger(__name__)

_FILES = Key("topology", "files")
"""Stands for the files below /var/lib/xennetd."""

_MORE_ATTEMPTS = 2
_PAUSE = 1.0
"""How often the roll-back is tried again after a refusal, and the seconds before that."""


async def roll_back(
    engine: TopologyEngine, checkpoint_file: CheckpointFile, topology_file: TopologyFile, *, wait: bool
) -> Brought | None:
    """Give the host back what it had before the apply, and delete the checkpoint.

    Returns None if there is nothing to roll back, or if another process does it; with `wait` that one is waited for.
    What could not be given back after some attempts is in the answer. Raises HostError for a damaged checkpoint.
    """
    with checkpoint_file.held(wait=wait) as held:
        checkpoint = checkpoint_file.read() if held else None
        if checkpoint is None:
            if held:
                checkpoint_file.delete()  # of another boot
            return None
        brought = await restore(engine, checkpoint)
        failed = dict(brought.failed)
        try:
            if topology_file.read() != checkpoint.before:
                topology_file.write(checkpoint.before)
            checkpoint_file.delete()
        except HostError as error:
            failed[_FILES] = error.detail  # The host has everything back, which counts more.
        for sentence in failed.values():
            _log.error("the roll-back could not give this back", why=sentence)
        return Brought(brought.done, failed)


async def restore(engine: TopologyEngine, checkpoint: Checkpoint) -> Brought:
    """Give the host back what a checkpoint says. What is refused is tried again a few times."""
    restoration = engine.restoration(checkpoint.captured, checkpoint.made, checkpoint.indexes)
    brought = await engine.bring(restoration)
    for _ in range(_MORE_ATTEMPTS):
        if not brought.failed:
            break
        await asyncio.sleep(_PAUSE)
        again = await engine.bring(restoration)
        brought = Brought((*brought.done, *again.done), again.failed)
    return brought

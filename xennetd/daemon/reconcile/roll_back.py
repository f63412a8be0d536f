"""Rolls an apply back that nobody has confirmed, from its checkpoint alone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from xennetd.daemon.checkpoint import Checkpoint, CheckpointFile
from xennetd.daemon.reconcile.topology_engine import Brought, TopologyChange, TopologyEngine
from xennetd.daemon.topology_file import TopologyFile
from xennetd.model.errors import HostError

_log = structlog.get_logger(__name__)

_MORE_ATTEMPTS = 2
_PAUSE = 1.0
"""How often the roll-back is tried again after a refusal, and the seconds before that."""


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What was given back, in words, and what was not: sentences.

    `owed` is the part of the change that is left to do: a NIC may have gone meanwhile and come back later, and a bridge
    stays as long as a guest is on it.
    """

    done: tuple[str, ...]
    failures: tuple[str, ...]
    owed: TopologyChange


async def roll_back(
    engine: TopologyEngine, checkpoint_file: CheckpointFile, topology_file: TopologyFile, *, wait: bool
) -> RolledBack | None:
    """Give the host back what it had before the apply, and delete the checkpoint.

    Returns None if there is nothing to roll back, or if another process does it; with `wait` that one is waited for.
    What is refused is tried again a few times. Raises HostError for a damaged checkpoint.
    """
    with checkpoint_file.held(wait=wait) as held:
        checkpoint = checkpoint_file.read() if held else None
        if checkpoint is None:
            if held:
                checkpoint_file.delete()  # of another boot
            return None
        given_back = await restore(engine, checkpoint)
        failures = list(given_back.failures)
        try:
            if topology_file.read() != checkpoint.before:
                topology_file.write(checkpoint.before)
            checkpoint_file.delete()
        except HostError as error:
            failures.append(error.detail)  # The host has everything back, which counts more.
        for sentence in failures:
            _log.error("the roll-back could not give this back", why=sentence)
        return RolledBack(given_back.done, tuple(failures), given_back.owed)


async def restore(engine: TopologyEngine, checkpoint: Checkpoint) -> RolledBack:
    """Give the host back what a checkpoint says. What is refused is tried again a few times."""
    restoration = engine.restoration(checkpoint.captured, checkpoint.made, checkpoint.indexes)
    brought = await engine.bring(restoration)
    for _ in range(_MORE_ATTEMPTS):
        if not brought.failed:
            break
        await asyncio.sleep(_PAUSE)
        again = await engine.bring(restoration)
        brought = Brought((*brought.done, *again.done), again.failed, again.waiting)
    left = brought.failed.keys() | brought.waiting
    return RolledBack(brought.done, tuple(brought.failed.values()), restoration.part(left))

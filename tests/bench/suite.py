"""`run`: all measurements at one scale."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench import burst, many, modes, single
from tests.bench.table import Row


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. A round has one of the stock script's attaches and `ours_a_round` of ours."""

    rounds: int
    mode_rounds: int
    ours_a_round: int
    burst: int
    burst_stock: int
    populations: tuple[int, ...]
    attaches: int
    repeats: int
    idle: float


FULL = Scale(
    rounds=100,
    mode_rounds=25,
    ours_a_round=4,
    burst=500,
    burst_stock=60,
    populations=(10, 100, 1000),
    attaches=60,
    repeats=3,
    idle=10.0,
)
QUICK = Scale(
    rounds=12,
    mode_rounds=3,
    ours_a_round=4,
    burst=500,
    burst_stock=16,
    populations=(10, 100, 1000),
    attaches=15,
    repeats=1,
    idle=2.0,
)


def run(scale: Scale) -> list[Row]:
    """Measure everything; xen.Missing where this machine can't."""
    return [
        *single.rows(scale.rounds, scale.ours_a_round),
        *modes.rows(scale.mode_rounds, scale.ours_a_round),
        *burst.rows(scale.burst, scale.burst_stock, scale.repeats),
        *many.rows(scale.populations, scale.attaches, scale.repeats, scale.idle),
    ]

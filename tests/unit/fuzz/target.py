"""`Target`: a parser, the inputs to begin with, how they are changed, and the errors that its docstring declares."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from tests.unit.fuzz.mutation import Mutate, bytewise, spliced

TIME_LIMIT = 0.05
"""Seconds of processor time that an input of up to 4 KiB may take. A longer one may take longer in proportion."""

CORPUS = Path(__file__).parent / "corpus"


def recorded(name: str) -> tuple[bytes, ...]:
    """The inputs that `record` wrote down from a real host."""
    return tuple(ast.literal_eval(line) for line in (CORPUS / f"{name}.txt").read_text().splitlines())


class Broken(AssertionError):
    """What a parser made of an input breaks a promise of the parser."""


@dataclass(frozen=True)
class Target:
    """`run` takes an input. It returns, or raises one of the `declared` errors; any other error is a defect.

    `share` is the part of all inputs that this target gets. `separator` is where inputs are spliced. `largest` is the
    size of the largest input in bytes.
    """

    name: str
    run: Callable[[bytes], object]
    declared: tuple[type[Exception], ...]
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutate
    share: float
    separator: bytes = b""
    largest: int = 4096

    @cached_property
    def corpus(self) -> tuple[bytes, ...]:
        return tuple(self.seeds())

    def input(self, random: Random) -> bytes:
        """Return the next input of these random numbers."""
        return self.changed(random, random.choice(self.corpus))

    def changed(self, random: Random, data: bytes) -> bytes:
        """Return a change of this input: in its structure, byte by byte, or joined with another one."""
        way = random.random()
        if way < 0.2:
            data = spliced(random, data, random.choice(self.corpus), self.separator)
        if way < 0.85:
            data = self.mutate(random, data)
        return (bytewise(random, data) if way > 0.7 else data)[: self.largest]

    def check(self, data: bytes, slowness: float = 1.0) -> None:
        """Run one input. Raises whatever is a defect; Broken for an input that takes too long, too.

        `slowness` is how many times as long as usual everything takes. An input that takes too long is run once more:
        the first time something else may have had a part in it.
        """
        limit = TIME_LIMIT * slowness * max(1.0, len(data) / 4096)
        if self._timed(data) > limit and (took := self._timed(data)) > limit:
            raise Broken(f"{took * 1000:.0f} ms for {len(data)} bytes")

    def _timed(self, data: bytes) -> float:
        before = time.thread_time()
        with suppress(*self.declared):
            self.run(data)
        return time.thread_time() - before

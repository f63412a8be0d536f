"""`python -m tests.unit.fuzz TARGET RUNS SEED DIRECTORY`: one target by atheris, which is guided by coverage.

DIRECTORY gets the inputs that reached something new, and a file `findings` with a line of JSON for each kind of defect:
what was raised, where, and the shortest input of those that did it. libFuzzer reports on standard error.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["xennetd", "asyncvarlink", "tomllib"]):
    from tests.unit.fuzz.targets import TARGETS

SLOWNESS = 4.0
"""How many times as long everything takes while its coverage is measured."""


def main(name: str, runs: str, seed: str, directory: str) -> None:
    target = TARGETS[name]
    inputs = Path(directory, "inputs")
    inputs.mkdir()
    for number, data in enumerate(target.corpus):
        (inputs / f"seed-{number}").write_bytes(data)
    found: dict[str, dict[str, str]] = {}

    def run(data: bytes) -> None:
        try:
            target.check(data, SLOWNESS)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} in {frame.filename}:{frame.lineno}"
            shown = repr(data)
            if kind not in found or len(shown) < len(found[kind]["input"]):
                found[kind] = {"defect": kind, "says": str(error)[:300], "input": shown}
                lines = "".join(f"{json.dumps(each)}\n" for each in found.values())
                Path(directory, "findings").write_text(lines)

    def mutate(data: bytes, size: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.4:
            return bytes(atheris.Mutate(data, size))
        return target.changed(random, data)[:size]

    options = [
        f"-runs={runs}",
        f"-seed={seed}",
        f"-max_len={target.largest}",
        "-len_control=0",
        "-rss_limit_mb=0",
        "-timeout=60",
    ]
    atheris.Setup([sys.argv[0], *options, str(inputs)], run, custom_mutator=mutate)
    atheris.Fuzz()


main(*sys.argv[1:])

"""Every parser takes any bytes: it returns, or raises the one error that its docstring declares, in bounded time.

What a parser has accepted is passed on to the code that uses it, which must take it too; `targets` has the parsers.
In the unit lane each target gets its share of 100,000 inputs, half of them with random numbers that are new each time
(a failure names them). `packaging/test --long` runs ten million inputs by atheris, which is guided by coverage;
XENNETD_FUZZ_INPUTS in the environment is another number of inputs.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.unit.fuzz.target import Target
from tests.unit.fuzz.targets import TARGETS

SAMPLE = 100_000
LONG_RUN = int(os.environ.get("XENNETD_FUZZ_INPUTS", "10_000_000"))


def inputs(target: Target, seed: str, number: int) -> Iterator[bytes]:
    """The first inputs of these random numbers."""
    random = Random(seed)
    return (target.input(random) for _ in range(number))


def check(target: Target, seed: str, number: int) -> None:
    for count, data in enumerate(inputs(target, seed, number)):
        try:
            target.check(data)
        except Exception as error:
            raise AssertionError(f"{target.name}, seed {seed}, input {count}: {data!r}") from error


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_input_of_a_sample_raises_another_error_than_its_own(target: Target) -> None:
    for seed in ("xennetd", secrets.token_hex(4)):
        check(target, seed, round(SAMPLE * target.share / 2))


def test_the_sample_is_whole() -> None:
    assert sum(target.share for target in TARGETS.values()) == pytest.approx(1)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_recorded_inputs_are_taken_as_they_are(target: Target) -> None:
    """The changes begin with what real programs send, not with what is refused at once."""
    taken = 0
    for data in target.corpus:
        assert len(data) <= target.largest
        target.check(data)
        try:
            target.run(data)
            taken += 1
        except target.declared:
            pass
    assert taken > len(target.corpus) / 2


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_input_of_a_long_run_raises_another_error_than_its_own(
    target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It tells what it has done: inputs, seconds, edges of the code and combinations of them that were reached."""
    pytest.importorskip("atheris")
    runs, seed = round(LONG_RUN * target.share), secrets.randbelow(1 << 31)
    command = [sys.executable, "-m", "tests.unit.fuzz", target.name, str(runs), str(seed), str(tmp_path)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    took = time.monotonic() - began
    last = re.findall(r"^#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)", done.stderr, re.MULTILINE)
    assert last, f"{target.name}, seed {seed}: it has not ended well\n{done.stderr[-3000:]}"
    count, edges, features, kept = last[0]
    findings = tmp_path / "findings"
    found = [json.loads(line) for line in findings.read_text().splitlines()] if findings.exists() else []
    with capsys.disabled():
        reached = f"{edges} edges, {features} features, {kept} inputs kept"
        print(f"\nfuzz {target.name}: {count} inputs in {took:.0f} s, {reached}, {len(found)} defects")
    assert int(count) >= runs
    assert not found, "\n".join(f"seed {seed}: {each}" for each in found)

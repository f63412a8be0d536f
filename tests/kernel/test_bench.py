"""The benchmark itself, at its smallest: every number is there, and is what such a number can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bed import xen
from tests.bench import table
from tests.bench.suite import Scale, run
from tests.bench.table import Aim, Row, Unit
from tests.kernel.conftest import make_or_skip

SMALLEST = Scale(
    rounds=3,
    mode_rounds=1,
    ours_a_round=3,
    burst=24,
    burst_stock=4,
    populations=(2, 16),
    attaches=3,
    repeats=1,
    idle=0.2,
)
STOCK_TOO = {
    "one attach, p50",
    "one attach, p99",
    "one detach, p50",
    "one attach to a route by vif-xennetd-route, p50",
    "one attach to NAT by vif-xennetd-nat, p50",
    "the toolstack waits for the script, p50",
    "the toolstack waits for the script, p99",
    "a burst of 24, scripts one after the other",
    "a burst of 24, scripts 2 at a time",
}
OURS_ALONE = {
    "one attach to a network of mode nat with DHCP, p50",
    "one attach to an isolated network with DHCP, p50",
    "a burst of 24, for each vif",
    "of an attach: the verdict's guarded transaction",
    "of an attach: the kernel's work",
    "start until READY with no vif",
    "start until READY with 16 vifs, connected",
    "the same, their domains introduced",
    "start until READY with 16 vifs, all to attach",
    "memory (RSS) with 0 vifs",
    "memory (RSS) with 16 vifs",
    "processor at rest with 0 vifs",
    "processor at rest with 16 vifs",
    "one attach among 2 vifs",
    "one attach among 16 vifs",
    "the same, 16 beside 2, without set-master",
    "the same, 16 beside 2, without both",
}


def test_measures_everything() -> None:
    make_or_skip(xen.require)
    rows = {row.name: row for row in run(SMALLEST)}
    assert rows.keys() == STOCK_TOO | OURS_ALONE
    assert {name for name, row in rows.items() if row.stock is not None} == STOCK_TOO

    times = [row for row in rows.values() if row.unit is Unit.SECONDS]
    assert all(0.00001 < row.ours < 30 for row in times), times
    assert all(0.005 < row.stock < 300 for row in times if row.stock is not None), times
    for name in ("one attach, p50", "one detach, p50", "a burst of 24, scripts 2 at a time"):
        assert (rows[name].ratio or 0) > 10, rows[name]
    assert (rows["the toolstack waits for the script, p50"].ratio or 0) > 2
    # An attach holds its parts, and what waits for an attach takes longer than that.
    attach = rows["one attach, p50"]
    assert attach.ours > rows["of an attach: the kernel's work"].ours
    assert attach.ours > rows["of an attach: the verdict's guarded transaction"].ours
    assert attach.ours < rows["the toolstack waits for the script, p50"].ours
    assert attach.ours < rows["start until READY with no vif"].ours
    for vifs in (0, 16):
        assert 10 << 20 < rows[f"memory (RSS) with {vifs} vifs"].ours < 200 << 20
        assert 0 <= rows[f"processor at rest with {vifs} vifs"].ours < 20


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("", ours=1, stock=60, aim=Aim(ratio=60)), True),
        (Row("", ours=1, stock=59, aim=Aim(ratio=60)), False),
        (Row("", ours=1, aim=Aim(ratio=60)), False),
        (Row("", ours=0.9, aim=Aim(below=1)), True),
        (Row("", ours=1, aim=Aim(below=1)), False),
        (Row("", ours=1), None),
    ],
)
def test_says_whether_an_aim_was_met(row: Row, met: bool | None) -> None:
    assert row.met is met
    assert ("(missed)" in row.cells()[-1]) == (met is False)


ROWS = [
    Row("one attach", 0.00089, 0.0651, aim=Aim(ratio=60), note="100 times"),
    Row("memory", 30 << 20, unit=Unit.BYTES, aim=Aim(below=45 << 20)),
]
LINES = (
    "| one attach | 65.1 ms | 0.89 ms | 73.1x | >= 60x |",
    "| memory |  | 30.0 MiB |  | < 45.0 MiB |",
)
SIGNS = str.maketrans({"\N{MULTIPLICATION SIGN}": "x", "\N{GREATER-THAN OR EQUAL TO}": ">="})


def test_the_table_replaces_the_last_one_in_the_readme(tmp_path: Path) -> None:
    make_or_skip(xen.find)
    readme = tmp_path / "README.md"
    readme.write_text("# xennetd\n\nFast.\n")
    table.write_readme(ROWS[:1], readme)
    first = readme.read_text()
    assert first.startswith("# xennetd\n\nFast.\n\n<!-- bench -->\n|")
    assert first.endswith("\n<!-- /bench -->\n")
    assert LINES[0] in first.translate(SIGNS)

    readme.write_text(first + "\n## More\n")
    table.write_readme(ROWS, readme)
    second = readme.read_text()
    assert second.startswith("# xennetd\n\nFast.\n\n<!-- bench -->\n|")
    assert second.endswith("\n<!-- /bench -->\n\n## More\n")
    assert second.count("one attach |") == 1
    assert all(line in second.translate(SIGNS) for line in LINES)


def test_a_readme_with_half_its_markers_is_left_alone(tmp_path: Path) -> None:
    make_or_skip(xen.find)
    readme = tmp_path / "README.md"
    readme.write_text("# xennetd\n<!-- bench -->\nmore\n")
    with pytest.raises(ValueError, match="without <!-- /bench -->"):
        table.write_readme(ROWS, readme)
    assert readme.read_text() == "# xennetd\n<!-- bench -->\nmore\n"


def test_a_row_for_programs() -> None:
    assert json.loads(json.dumps(ROWS[0].fields())) == {
        "name": "one attach",
        "ours": 0.00089,
        "stock": 0.0651,
        "unit": "s",
        "aim": {"ratio": 60, "below": None},
        "note": "100 times",
        "ratio": pytest.approx(73.15, abs=0.01),
        "met": True,
    }

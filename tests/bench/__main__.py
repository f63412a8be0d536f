"""`python -m tests.bench`: measure, and show the table."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.bed import xen
from tests.bench import table
from tests.bench.suite import FULL, QUICK, run

README = xen.REPOSITORY / "README.md"


def main() -> int:
    """Run the benchmark. Returns the exit status: 1 where this machine can't, whatever was measured otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Xen's stock script beside xennetd.")
    parser.add_argument("--quick", action="store_true", help="under a minute, with fewer rounds")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers to FILE, too")
    parser.add_argument("--readme", action="store_true", help=f"put the table into README.md, at {table.MARK}")
    arguments = parser.parse_args()
    if arguments.readme and not README.exists():
        parser.error(f"there is no {README}")
    try:
        xen.require()
        rows = run(QUICK if arguments.quick else FULL)
    except xen.Missing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 1
    print(table.plain(rows))
    if arguments.json:
        found = {"machine": table.machine(), "rows": [row.fields() for row in rows]}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    if arguments.readme:
        table.write_readme(rows, README)
    return 0


if __name__ == "__main__":
    sys.exit(main())

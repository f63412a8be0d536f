"""`status`: what xennetd says of itself."""

from __future__ import annotations

import json
from typing import Any

from tests.bed.daemon import Daemon


def status(xennetd: Daemon) -> dict[str, Any]:
    """`xennetctl status`, whose exit status tells of problems, as an object; problems or none."""
    result = xennetd.ctl("status", "--json")
    assert result.stdout, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer

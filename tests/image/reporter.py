"""A pytest plugin for the machine: sends each report down our stdout, as it was before pytest began to capture it."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

MARK = "@report "


class Reporter:
    """Writes one JSON line for each report, and one more when a test is through."""

    def __init__(self, config: pytest.Config, fd: int) -> None:
        self._config = config
        self._fd = fd

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._send(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._send({"nodeid": nodeid, "finished": True})

    def _send(self, data: dict[str, Any]) -> None:
        line = memoryview(f"\n{MARK}{json.dumps(data, default=str)}\n".encode())
        while line:
            line = line[os.write(self._fd, line) :]


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("XENNETD_INSIDE"):
        config.pluginmanager.register(Reporter(config, _stdout))


# Plugins named by -p are imported before capturing starts.
_stdout = os.dup(1)

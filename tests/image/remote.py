"""Runs a lane's tests with pytest in the machine and reports each here, as if it had run here.

A lane's conftest.py passes its hooks on to a `Lane`. The tests are collected here, so -k, -x, node ids and --junitxml
work as ever; at the first one the machine boots and gets tests/, and one pytest in it runs all that were selected, in
their order (reporter.py sends what it says of each). Nothing of a test's fixtures runs here. XENNETD_SEED of the
environment is there in the machine, too.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.bed import xen as bed
from tests.bed.xenstored import hypervisor
from tests.image import host, reporter
from tests.image.channel import Channel
from tests.image.machine import Machine
from tests.image.suite import suite

_HOME = "/root/xennetd"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_BOOT = 900.0
_SILENCE = 1200.0  # seconds without a report until a test counts as hanging

OUTSIDE = "rebooted"
"""The fixture of tests that run here, after the others, since they reboot the machine."""


@dataclass(frozen=True, slots=True)
class Rebooted:
    """A machine after its reboot: a way to run commands in it, and the journal of the boot before."""

    channel: Channel
    journal: str

    def do(self, *argv: str) -> str:
        """Run a command that must succeed, and return its output."""
        done = self.channel.run(*argv)
        assert done.status == 0, f"{' '.join(argv)} ended with status {done.status}:\n{done.output}"
        return done.output


class Lane:
    """One directory of tests and the machine that they run in. `kernel` goes on its kernel's command line."""

    def __init__(self, name: str, *, xen: bool, kernel: str = "") -> None:
        self._name = name
        self._xen = xen
        self._kernel = kernel
        self._started = False
        self._skip: str | None = None
        self._failure: str | None = None
        self._machine: Machine | None = None
        self._channel: Channel | None = None
        self._lines: Iterator[str] = iter(())
        self._logs = host.CACHE / "logs" / name

    def protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run one test in the machine (pytest_runtest_protocol)."""
        if not self._started:
            self._started = True
            self._start(item.session)
        if self._skip or self._failure or _outside(item):
            return None  # pytest goes on to `setup`, which says why, or to the test
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        try:
            for report in self._reports(item):
                item.ihook.pytest_runtest_logreport(report=report)
        except (host.ImageError, TimeoutError, OSError, ValueError) as error:
            self._failure = f"the machine was lost in {item.nodeid}: {error}\n{self._tail()}\n{self._where()}"
            item.ihook.pytest_runtest_logreport(report=_lost(item, self._failure))
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if nextitem is None:
            self.close()
        return True

    def setup(self) -> None:
        """End a test that could not be run (pytest_runtest_setup)."""
        if self._skip:
            pytest.skip(self._skip)
        if self._failure:
            pytest.fail(self._failure, pytrace=False)

    def reboot(self, ready: Sequence[str]) -> Rebooted:
        """Reboot the machine in order, once the command `ready` has succeeded, and return when it is up again."""
        assert self._channel is not None
        channel = self._channel
        answer = channel.run(*ready, timeout=150.0)
        assert answer.status == 0, answer.output
        before = channel.run("cat", _BOOT_ID).output
        channel.run("systemctl", "reboot")
        deadline = time.monotonic() + _BOOT
        while True:
            channel.wait(deadline - time.monotonic())
            with contextlib.suppress(TimeoutError):  # the old system ended before it had answered
                now = channel.run("cat", _BOOT_ID, timeout=5.0)
                if now.status == 0 and now.output != before:
                    break
            time.sleep(1.0)
        channel.run("systemctl", "is-system-running", "--wait", timeout=deadline - time.monotonic())
        journal = channel.run("journalctl", "-q", "-b", "-1", "-o", "short-monotonic", "--no-hostname").output
        return Rebooted(channel, journal)

    def close(self) -> None:
        """Switch the machine off, keeping its logs."""
        if self._channel is not None and not self._failure:
            self._keep_logs(self._channel)
        self._channel = None
        if self._machine is not None:
            self._machine.close()
            self._machine = None

    def _start(self, session: pytest.Session) -> None:
        session.config.add_cleanup(self.close)
        try:
            with _capture(session.config).global_and_fixture_disabled():
                self._channel = self._boot()
            _push(self._channel)
            directory = host.REPOSITORY / "tests" / self._name
            lane = [item for item in session.items if directory in item.path.parents]
            self._lines = self._run([item.nodeid for item in lane if not _outside(item)])
        except host.Missing as missing:
            if os.environ.get("CI"):
                self._failure = f"the {self._name} lane can't run in CI: {missing}"
            self._skip = None if self._failure else f"{self._name} lane: {missing}"
        except (host.ImageError, bed.Missing, TimeoutError) as error:
            self._failure = f"{error}\n{self._where()}" if self._machine is not None else str(error)

    def _boot(self) -> Channel:
        running = os.environ.get("XENNETD_MACHINE")
        if running:
            channel = Channel(Path(running))
            channel.wait(10.0)
            return channel
        chosen = suite()
        self._logs = host.CACHE / "logs" / f"{self._name}-{chosen.name}"
        self._machine = Machine(chosen, xen=self._xen, logs=self._logs, kernel=self._kernel)
        started = time.monotonic()
        channel = self._machine.booted(_BOOT)
        print(f"\n{self._name} lane: {chosen.name} booted in {time.monotonic() - started:.0f} s", flush=True)
        return channel

    def _run(self, nodeids: list[str]) -> Iterator[str]:
        """Start pytest in the machine; yield its lines as they come."""
        assert self._channel is not None
        python = "/usr/lib/xennetd/bin/python3 -m pytest -p tests.image.reporter -p no:cacheprovider --color=no"
        seed = shlex.quote(os.environ.get("XENNETD_SEED", ""))
        command = f'cd {_HOME} && XENNETD_INSIDE=1 XENNETD_SEED={seed} exec {python} "$@"'
        rest = ""
        chosen = ("-m", "long or not long", *nodeids)  # The marks have been heeded here.
        for part in self._channel.follow("sh", "-c", command, "sh", *chosen, timeout=_SILENCE):
            if isinstance(part, int):
                raise host.ImageError(f"pytest in the machine ended with status {part}:\n{rest[-3000:]}")
            *lines, rest = (rest + part).split("\n")
            yield from lines

    def _reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        said = []
        for line in self._lines:
            if not line.startswith(reporter.MARK):
                said.append(line)
                continue
            data = json.loads(line.removeprefix(reporter.MARK))
            if data["nodeid"] != item.nodeid:
                raise host.ImageError(f"the machine runs {data['nodeid']}")
            if "finished" in data:
                return
            report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
            if report.failed:
                report.sections.append(("machine", self._where()))
            elif report.when == "call" and report.capstdout:
                _show(item.config, report.capstdout)
            yield report
        raise host.ImageError("pytest in the machine stopped:\n" + "\n".join(said[-40:]))

    def _where(self) -> str:
        """Return where to look for what the machine has said."""
        if self._machine is None:
            return f"the machine behind {os.environ.get('XENNETD_MACHINE')} has its console and journal itself"
        return f"its console, journal and Xen's logs: {self._logs}"

    def _tail(self) -> str:
        return self._machine.console_tail() if self._machine is not None else ""

    def _keep_logs(self, channel: Channel) -> None:
        try:
            listing = channel.run(
                "sh", "-c", "tail -n +1 /var/log/xen/*.log /var/log/xen/console/*.log 2>/dev/null"
            ).output
        except (host.ImageError, TimeoutError, OSError):
            return
        self._logs.mkdir(parents=True, exist_ok=True)
        (self._logs / "xen.log").write_text(listing)


def _show(config: pytest.Config, text: str) -> None:
    """Print what a test that passed has printed: a table of measurements."""
    with _capture(config).global_and_fixture_disabled():
        print(f"\n{text.strip()}", flush=True)


def _capture(config: pytest.Config) -> Any:
    return config.pluginmanager.getplugin("capturemanager")


def _outside(item: pytest.Item) -> bool:
    return OUTSIDE in getattr(item, "fixturenames", ())


def _push(channel: Channel) -> None:
    """Send the checkout."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
        for name in ("pyproject.toml", "README.md", "xennetd", "systemd", "conf", "packaging", "tests"):
            tar.add(host.REPOSITORY / name, name, filter=_no_caches)
        # There is no compiler in the machine.
        library = hypervisor()
        tar.add(library, library.relative_to(host.REPOSITORY))
    unpack = f"rm -rf {_HOME} && mkdir -p {_HOME} && tar -xzf - -C {_HOME}"
    done = channel.run("sh", "-c", unpack, data=archive.getvalue())
    if done.status != 0:
        raise host.ImageError(f"tests/ could not be sent to the machine: {done.output}")


def _no_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry


def _lost(item: pytest.Item, why: str) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")

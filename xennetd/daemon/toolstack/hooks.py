"""Runs the administrator's `vif-post.d/*.hook` files after the verdict, as Xen's hotplug scripts do.

A hook is a piece of bash that is sourced, so bash runs it, in a process of its own. Environment variables tell the hook
about the vif.

Rule 1: the hook runs of one vif follow each other in the order of its events. Runs of different vifs are concurrent.
Rule 2: the number of waiting runs and the kept output are bounded. A run that fails, or is dropped, is audited.
Rule 3: no hook can hold up the runs of other vifs for longer than _TIMEOUT, whatever it leaves running (programs.py).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import structlog

from xennetd.cancellation import heed_cancellation
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.tasks import cause_of
from xennetd.model.event import Event, EventKind
from xennetd.model.ip import plain
from xennetd.model.text import visible
from xennetd.model.vif import Vif, VifId
from xennetd.programs import NotEnded, NotStarted, cause_of_end, run

_log = structlog.get_logger()

DIRECTORY = Path("/etc/xen/scripts/vif-post.d")
_RUNNER = Path(__file__).with_name("hooks.bash")
_BASH = "/bin/bash"

_TIMEOUT = 40.0
"""Seconds; what libxl gives a hotplug script (LIBXL_HOTPLUG_TIMEOUT)."""

_AT_ONCE = 4
"""Runs at the same time."""

_WAITING = 4096
"""Runs that may wait. The events of a longer queue would be long past when their hooks run."""

_OUTPUT = 500
"""Bytes of a run's output that are kept: the last ones, since the reason of a failure comes last."""

_PASSED_ON = ("XENSTORED_PATH", "XENSTORED_RUNDIR")
"""Variables of the daemon's own environment that a hook's xenstore-read needs."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_hooks(directory: Path = DIRECTORY) -> tuple[str, ...]:
    """Return the paths of the hooks that the stock scripts would run: executable files named *.hook, sorted."""
    try:
        return tuple(sorted(str(path) for path in directory.glob("*.hook") if os.access(path, os.X_OK)))
    except OSError:
        return ()


@dataclass(frozen=True, slots=True)
class _Job:
    """One run of all hooks."""

    command: str
    dev: str
    bridge: str
    vif: Vif
    environment: dict[str, str]


class Hooks:
    """The queue of hook runs. `enabled` is the setting `hooks` of `[daemon]`."""

    def __init__(self, audit: Audit, *, enabled: bool) -> None:
        self.enabled = enabled
        self._audit = audit
        self._chains: dict[VifId, deque[_Job]] = {}
        self._waiting = 0
        self._turns: asyncio.Queue[VifId] = asyncio.Queue()
        """The vifs that have a run waiting and none in progress. A vif is in it at most once."""

    def run(self, command: str, vif: Vif, dev: str, bridge: str = "") -> None:
        """Queue a run of the hooks for one vif or tap, and return at once.

        `command` is `online` or `offline` for a vif, `add` or `remove` for a tap; `dev` is the link's name.
        """
        if not self.enabled:
            return
        tap = command in ("add", "remove")
        environment = {
            "PATH": _PATH,
            "LANG": "POSIX",
            "command": command,
            "type_if": "tap" if tap else "vif",
            "dev": dev,
            "vif": vif.id.netdev,
            "vifname": vif.vifname or "",
            "bridge": bridge,
            "ip": " ".join(map(plain, vif.ips)),
            "netdev": vif.gatewaydev or "",
            "script": vif.script,
            "XENBUS_TYPE": "vif",
            "XENBUS_BASE_PATH": "backend",
            "XENBUS_PATH": vif.id.backend,
            **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        }
        if tap:
            environment["INTERFACE"] = vif.id.tap
        job = _Job(command, dev, bridge, vif, environment)
        if self._waiting == _WAITING:
            self._failed(job, f"were not run: {_WAITING} runs wait already")
            return
        self._waiting += 1
        if vif.id in self._chains:
            self._chains[vif.id].append(job)
        else:
            self._chains[vif.id] = deque((job,))
            self._turns.put_nowait(vif.id)

    async def work(self) -> None:
        """Run waiting hooks until cancelled."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(_AT_ONCE):
                workers.create_task(self._work())

    async def _work(self) -> None:
        while True:
            vif = await self._turns.get()
            chain = self._chains[vif]
            job = chain.popleft()
            self._waiting -= 1
            try:
                hooks = find_hooks()
                if hooks:
                    await self._run(job, hooks)
            except Exception as error:
                heed_cancellation()
                _log.exception("hooks could not be run", dev=job.dev)
                self._failed(job, f"could not be run: {cause_of(error)}")
            finally:
                if chain:
                    self._turns.put_nowait(vif)
                else:
                    del self._chains[vif]

    async def _run(self, job: _Job, hooks: tuple[str, ...]) -> None:
        """Run the hooks of one job. What they leave running is not waited for."""
        command = (_BASH, str(_RUNNER), *hooks)
        try:
            ended = await run(command, _TIMEOUT, job.environment, together=True, keep=_OUTPUT)
        except NotEnded as error:
            self._failed(job, f"took more than {_TIMEOUT:g} s and were killed", error.output)
        except NotStarted as error:
            self._failed(job, f"could not be run: {error.why}")
        else:
            if ended.status:
                self._failed(job, f"failed with {cause_of_end(ended.status)}", ended.output)
            else:
                _log.debug("hooks have run", command=job.command, dev=job.dev, output=_line(ended.output))

    def _failed(self, job: _Job, how: str, output: bytes = b"") -> None:
        printed = _line(output)
        error = f"{how}: {printed}" if printed else how
        vif = job.vif
        title = f"{job.dev} of {vif.vm}" if vif.vm else job.dev
        self._audit.record(
            Event(
                EventKind.HOOK,
                f"the {job.command} hooks of {title} {error}",
                vif=vif.id,
                vm=vif.vm,
                uuid=vif.uuid,
                mac=vif.mac,
                ips=tuple(map(plain, vif.ips)),
                bridge=job.bridge or vif.bridge,
                vlan=vif.vlan,
                error=error,
            )
        )


def _line(output: bytes) -> str:
    """Return what a run has printed as one printable line."""
    return visible(output.strip(), 4 * _OUTPUT)

"""Runs the administrator's `vif-post.d/*.hook` files after the verdict, off the loop, as Xen's hotplug scripts do.

They are pieces of bash that are sourced, so bash runs them; what they are told goes by environment and by argument.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import structlog

from xennetd.model.text import visible
from xennetd.model.vif import Vif, plain

_log = structlog.get_logger()

DIRECTORY = Path("/etc/xen/scripts/vif-post.d")
_RUNNER = Path(__file__).with_name("hooks.bash")
_BASH = "/bin/bash"

_TIMEOUT = 40.0
"""Seconds; what libxl gives a hotplug script (LIBXL_HOTPLUG_TIMEOUT)."""

_AT_ONCE = 4
_PASSED_ON = ("XENSTORED_PATH", "XENSTORED_RUNDIR")
"""What else of our own environment a hook's xenstore-read needs."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_hooks(directory: Path = DIRECTORY) -> tuple[str, ...]:
    """Return the hooks that the stock scripts would run: executable files named *.hook, in order."""
    try:
        return tuple(sorted(str(path) for path in directory.glob("*.hook") if os.access(path, os.X_OK)))
    except OSError:
        return ()


@dataclass(frozen=True, slots=True)
class _Job:
    title: str
    environment: dict[str, str]


class Hooks:
    """A queue of hook runs, worked on by a few workers. `enabled` is `[daemon] hooks`."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()

    def run(self, command: str, vif: Vif, dev: str, bridge: str = "") -> None:
        """Have the hooks run for one vif or tap (`online`, `offline`, `add`, `remove`). Returns at once."""
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
        self._jobs.put_nowait(_Job(f"{command} {dev}", environment))

    async def work(self) -> None:
        """Run what is queued, until cancelled."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(_AT_ONCE):
                workers.create_task(self._work())

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            hooks = find_hooks()
            if hooks:
                await _run(job, hooks)


async def _run(job: _Job, hooks: tuple[str, ...]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            _BASH,
            str(_RUNNER),
            *hooks,
            env=job.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        _log.error("hooks could not be run", job=job.title, why=str(error))
        return
    try:
        async with asyncio.timeout(_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        _log.error("hooks took too long and were killed", job=job.title, seconds=_TIMEOUT)
        _kill(process)
        await process.wait()
        return
    except asyncio.CancelledError:
        _kill(process)
        raise
    level = _log.info if process.returncode == 0 else _log.error
    level("hooks have run", job=job.title, status=process.returncode, output=visible(output.strip(), 500))


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the hooks' whole session: what they started goes with them."""
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        return

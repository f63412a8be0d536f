"""Messages to systemd (sd_notify(3)): ready, reloading, stopping, a line of status, and the watchdog."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

from systemd.daemon import notify


def ready(status: str) -> None:
    """Tell systemd that the daemon serves, with a line of status."""
    notify(f"READY=1\nSTATUS={status}")


def reloading() -> None:
    """Tell systemd that a reload has begun. `ready` ends it (the RELOADING=1 protocol of sd_notify(3))."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def status(text: str) -> None:
    """Show one line in `systemctl status`."""
    notify(f"STATUS={text}")


def stopping() -> None:
    """Tell systemd that the daemon is stopping."""
    notify("STOPPING=1")


async def watchdog(probe: Callable[[], Awaitable[None]]) -> None:
    """Tell systemd at a third of WatchdogSec= that the daemon is alive, each time after `probe` has returned.

    Returns at once if the unit has no WatchdogSec=.
    """
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    interval = int(microseconds) / 1e6 / 3
    while True:
        await probe()
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)

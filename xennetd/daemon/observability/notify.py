"""Messages to systemd (sd_notify(3)): ready, reloading, stopping, a line of status, and the watchdog.

Rule: no message holds up the daemon. systemd.daemon.notify() sleeps while systemd's queue is full, for as long as
systemd does not read, so the socket here is a non-blocking one. What can't be delivered is delivered later.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable

_AGAIN = 0.2
"""Seconds between two attempts to deliver what systemd did not take."""


class ServiceManager:
    """systemd as the manager of this service. Outside of a unit (no NOTIFY_SOCKET) all messages go nowhere.

    `lost` counts the messages that a later one of the same kind replaced before they could be delivered.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._refusal: str | None = None
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self._socket: socket.socket | None = None
        self._waiting: dict[str, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None

    def ready(self, status: str) -> None:
        """Tell systemd that the daemon serves, with a line of status."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Tell systemd that a reload has begun. `ready` ends it (the RELOADING=1 protocol of sd_notify(3))."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`."""
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """Tell systemd that the daemon is stopping."""
        self._send("STOPPING=1")

    async def watchdog(self, probe: Callable[[], Awaitable[None]]) -> None:
        """Tell systemd at a third of WatchdogSec= that the daemon is alive, each time after `probe` has returned.

        Returns at once if the unit has no WatchdogSec=.
        """
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return
        interval = int(microseconds) / 1e6 / 3
        while True:
            await probe()
            self._send("WATCHDOG=1")
            await asyncio.sleep(interval)

    def problem(self) -> str | None:
        """Return a sentence if systemd takes no messages now."""
        if self._refusal is None:
            return None
        return f"systemd takes no messages from xennetd ({self._refusal}; {self.lost} lost): see `systemctl status`"

    def close(self) -> None:
        """Close the socket. What was not delivered is lost."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.close()

    def _send(self, message: str) -> None:
        if not self._address:
            return
        kind = message.partition("=")[0]
        if self._waiting.pop(kind, None) is not None:
            self.lost += 1
        self._waiting[kind] = message.encode()
        if self._timer is None:
            self._deliver()

    def _deliver(self) -> None:
        """Send what waits, in its order, as far as systemd takes it."""
        self._timer = None
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            for kind, message in tuple(self._waiting.items()):
                self._socket.sendto(message, self._address)
                del self._waiting[kind]
        except OSError as error:
            self._refusal = error.strerror or str(error)
            self._timer = asyncio.get_running_loop().call_later(_AGAIN, self._deliver)
        else:
            self._refusal = None

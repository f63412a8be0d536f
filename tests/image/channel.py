"""The host's end of the virtio-serial port: runs commands in the machine (agent.py is the other end)."""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.image.host import ImageError


class Done(NamedTuple):
    """A command's exit status and its output, stdout and stderr together."""

    status: int
    output: str


class Channel:
    """A connection to the agent of one machine. One command at a time."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._received = b""
        self._id = int.from_bytes(os.urandom(6), "big")

    def close(self) -> None:
        self._socket.close()

    def wait(self, timeout: float) -> None:
        """Wait until the agent answers; TimeoutError if it does not."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self.run("true", timeout=min(5.0, max(0.1, deadline - time.monotonic())))
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def run(self, *argv: str, data: bytes = b"", timeout: float = 60.0) -> Done:
        """Run a command to its end; `timeout` is the seconds without output until it is killed (TimeoutError)."""
        output: list[str] = []
        for part in self.follow(*argv, data=data, timeout=timeout):
            if isinstance(part, int):
                return Done(part, "".join(output))
            output.append(part)
        raise AssertionError("a command ends with its status")

    def follow(self, *argv: str, data: bytes = b"", timeout: float = 60.0) -> Iterator[str | int]:
        """Run a command and yield its output as it comes, then its exit status."""
        self._id += 1
        self._send({"id": self._id, "argv": argv, "input": base64.b64encode(data).decode()})
        while True:
            try:
                message = self._receive(timeout)
            except TimeoutError:
                self.kill()
                raise TimeoutError(f"{' '.join(argv)[:80]}: no output for {timeout:.0f} s") from None
            if message.get("id") != self._id:
                continue
            if "status" in message:
                yield int(message["status"])
                return
            yield message["out"]

    def kill(self) -> None:
        """Kill the command that runs, if any; its status is not waited for."""
        self._send({"id": self._id, "kill": True})

    def _send(self, message: dict[str, object]) -> None:
        self._socket.settimeout(60.0)
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while True:
            line, newline, rest = self._received.partition(b"\n")
            if newline:
                self._received = rest
                try:
                    return dict(json.loads(line))
                except ValueError:  # cut by an earlier host's departure
                    continue
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            data = self._socket.recv(1 << 16)
            if not data:
                raise ImageError("the machine is gone")
            self._received += data

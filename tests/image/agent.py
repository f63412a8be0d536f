"""Runs in the machine and executes what comes down the virtio-serial port, one command at a time.

Each line is a JSON object. From the host: {"id": 7, "argv": [...], "input": "<base64>"} starts a command, {"id": 7,
"kill": true} ends it. To the host: {"id": 7, "out": "..."} as its output comes (stdout and stderr together), and
{"id": 7, "status": 0}. A host that comes late or leaves loses lines, and tells its own from older ones by the id.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any


class Agent:
    """Serves one port for ever."""

    def __init__(self, path: str) -> None:
        self._port = os.open(path, os.O_RDWR)
        self._received = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._port, selectors.EVENT_READ)
        self._process: subprocess.Popen[bytes] | None = None
        self._id = 0

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._port:
                    self._receive()
                else:
                    self._output()

    def _receive(self) -> None:
        data = os.read(self._port, 1 << 16)
        if not data:  # no host at the other end
            time.sleep(0.2)
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            try:
                request = json.loads(line)
            except ValueError:  # the tail of what was sent to somebody before us
                continue
            if "kill" in request:
                if self._process is not None and request["id"] == self._id:
                    os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._start(request)

    def _start(self, request: dict[str, Any]) -> None:
        if self._process is not None:  # a host that left in the middle of it
            os.killpg(self._process.pid, signal.SIGKILL)
            self._finish()
        self._id = request["id"]
        with tempfile.TemporaryFile() as given:
            given.write(base64.b64decode(request.get("input", "")))
            given.seek(0)
            try:
                self._process = subprocess.Popen(
                    request["argv"],
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd="/root",
                    start_new_session=True,
                )
            except OSError as error:
                self._send({"id": self._id, "out": f"{error}\n"})
                self._send({"id": self._id, "status": 127})
                return
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def _output(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        data = os.read(self._process.stdout.fileno(), 1 << 16)
        if data:
            self._send({"id": self._id, "out": data.decode("utf-8", "replace")})
        else:
            self._finish()

    def _finish(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._selector.unregister(self._process.stdout)
        self._process.stdout.close()
        self._send({"id": self._id, "status": self._process.wait()})
        self._process = None

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._port, data) :]


if __name__ == "__main__":
    Agent(sys.argv[1]).run()

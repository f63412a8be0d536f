"""`Pinging`: a ping that goes on while something happens, and which of its requests were not answered."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.bed.netns import NetNs


class Pinging:
    """Pings an address from a namespace, 20 times a second, from the first answers on until `lost` is asked."""

    INTERVAL = 0.05

    def __init__(self, namespace: NetNs, address: str) -> None:
        self._address = address
        descriptor, self._output = tempfile.mkstemp()
        command = ("ping", "-n", "-i", str(self.INTERVAL), address)
        with namespace, open(descriptor, "w") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def __enter__(self) -> Pinging:
        if self._await(3, 5.0):
            return self
        self._end()
        raise TimeoutError(f"{self._address} does not answer: {self._said()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        Path(self._output).unlink()

    def lost(self) -> list[int]:
        """End it after some more answers. Return the numbers of the requests without one, that under way aside."""
        self._await(len(self._answered()) + 2, 2.0)
        self._end()
        sent = re.search(r"(\d+) packets transmitted", self._said())
        assert sent is not None, self._said()
        answered = self._answered()
        return [number for number in range(1, int(sent[1])) if number not in answered]

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()

    def _await(self, count: int, timeout: float) -> bool:
        """Wait until so many requests have been answered. Returns whether they were, in time."""
        deadline = time.monotonic() + timeout
        while len(self._answered()) < count:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _answered(self) -> set[int]:
        return {int(number) for number in re.findall(r"bytes from .* icmp_seq=(\d+) .*time=", self._said())}

    def _said(self) -> str:
        return Path(self._output).read_text()

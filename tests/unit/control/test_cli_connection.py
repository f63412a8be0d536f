"""How xennetctl reaches a daemon that many others want to speak to, or that takes nobody's call."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from xennetd.cli import connection


@pytest.fixture
def crowded(path: str) -> Iterator[socket.socket]:
    """A socket on which nobody takes calls, and that has no room for one more."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(1)
        with contextlib.suppress(BlockingIOError):
            while True:
                peer = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                peer.connect(path)
        yield listener


def test_a_call_waits_for_room(path: str, crowded: socket.socket) -> None:
    def answer() -> None:
        time.sleep(0.3)
        while True:
            conn, _ = crowded.accept()
            with conn:
                conn.settimeout(0.05)
                with contextlib.suppress(OSError):
                    if b"Status" in conn.recv(1000):
                        conn.sendall(b'{"parameters":{"ready":true}}\0')
                        return

    answering = threading.Thread(target=answer)
    answering.start()
    assert connection.call(path, "Status") == {"ready": True}
    answering.join()


def test_a_call_that_nobody_takes_ends_with_its_time_limit(path: str, crowded: socket.socket) -> None:
    began = time.monotonic()
    with pytest.raises(connection.Unreachable, match="xennetd does not take calls on"):
        connection.call(path, "Status", timeout=0.4)
    assert 0.4 < time.monotonic() - began < 2


def test_a_refusal_before_the_question_is_heard(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def refuse() -> None:
            conn, _ = listener.accept()
            conn.sendall(b'{"error":"org.xennetd.Control.Refused","parameters":{"reason":"too many"}}\0')
            conn.close()

        refusing = threading.Thread(target=refuse)
        refusing.start()
        # More than the socket takes: it can't all be sent before the other end is closed.
        with pytest.raises(connection.Refusal) as refused:
            connection.call(path, "Show", vif="x" * 10_000_000)
        refusing.join()
    assert refused.value.parameters == {"reason": "too many"}

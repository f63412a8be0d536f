"""What systemd gives a service, played by two listening sockets: the notify socket and the journal's native socket.

`Notify` collects sd_notify(3) messages; `Journal` stands where systemd-journald does and parses the entries it is
sent (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/), those passed in a sealed memfd included. It can stall, too.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")

Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Message:
    """One datagram, parsed: the monotonic time at which it was taken in, and its fields."""

    time: float
    fields: Fields


class _Listener:
    """A datagram socket at a path, whose messages a thread collects."""

    def __init__(self, path: Path, parse: Callable[[bytes], Fields]) -> None:
        self.path = path
        self.messages: list[Message] = []
        self._parse = parse
        self._arrived = threading.Condition()
        self._gate = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=path.name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; the path goes, as when the service behind it is stopped."""
        self._wake.close()
        self._thread.join()
        self._socket.close()
        self._woken.close()
        self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def stall(self) -> Iterator[None]:
        """Take nothing in while the block runs: senders find the socket full soon."""
        with self._gate:
            yield

    def wait(self, wanted: Callable[[Fields], bool], timeout: float = 10.0) -> Message:
        """The first message that is `wanted`, past or to come; TimeoutError tells what came instead."""
        deadline = time.monotonic() + timeout
        seen = 0
        with self._arrived:
            while True:
                for message in self.messages[seen:]:
                    if wanted(message.fields):
                        return message
                seen = len(self.messages)
                if not self._arrived.wait(deadline - time.monotonic()):
                    last = [dict(message.fields) for message in self.messages[-5:]]
                    raise TimeoutError(f"no such message at {self.path} in {timeout} s; the last of {seen}: {last}")

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            selector.register(self._socket, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        return
                    with self._gate:
                        self._take()

    def _take(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._socket, 1 << 20, 8)
        now = time.monotonic()
        for descriptor in descriptors:
            if not data:
                size = os.fstat(descriptor).st_size
                with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as passed:
                    data = passed[:]
            os.close(descriptor)
        with self._arrived:
            self.messages.append(Message(now, self._parse(data)))
            self._arrived.notify_all()


class Notify(_Listener):
    """Listens at what a service finds in NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, parse_notification)

    def ready(self, timeout: float = 10.0) -> Message:
        return self.wait(lambda fields: fields.get("READY") == "1", timeout)

    def status(self) -> str:
        """The latest STATUS=, empty when there was none."""
        statuses = [message.fields["STATUS"] for message in self.messages if "STATUS" in message.fields]
        return statuses[-1] if statuses else ""


class Journal(_Listener):
    """Listens where journald does; within a `Host`, or it would take the machine's own journal away."""

    def __init__(self, path: Path = JOURNAL_SOCKET) -> None:
        super().__init__(path, parse_entry)

    @property
    def entries(self) -> list[Fields]:
        """Every entry so far, in their order."""
        return [message.fields for message in self.messages]

    def having(self, **fields: str) -> list[Fields]:
        """The entries so far that have all these values."""
        return [entry for entry in self.entries if fields.items() <= entry.items()]

    def catch_up(self) -> None:
        """Take in all that has been sent until now."""
        mark = {"CATCH_UP": str(time.monotonic_ns())}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(f"CATCH_UP={mark['CATCH_UP']}\n".encode(), str(self.path))
        message = self.wait(lambda fields: fields == mark)
        with self._arrived:
            self.messages.remove(message)

    def wait_for(self, timeout: float = 10.0, **fields: str) -> Fields:
        """The first entry that has all these values, past or to come."""
        return self.wait(lambda entry: fields.items() <= entry.items(), timeout).fields


def parse_notification(data: bytes) -> Fields:
    """`KEY=VALUE` lines."""
    pairs = (line.partition("=") for line in data.decode("utf-8", "surrogateescape").splitlines())
    return {key: value for key, _, value in pairs}


def parse_entry(data: bytes) -> Fields:
    """One native entry: lines `KEY=VALUE`, or `KEY`, a little-endian 64-bit length and as many bytes.

    ValueError on anything that journald would refuse. A field given twice keeps its last value.
    """
    fields = {}
    while data:
        line, newline, rest = data.partition(b"\n")
        if not newline:
            raise ValueError(f"journal entry cut short: {line!r}")
        key, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            if len(value) != size or rest[:1] != b"\n":
                raise ValueError(f"journal field {key!r} is not as long as it says")
            rest = rest[1:]
        if not key or key.strip(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") or key[:1] in b"0123456789_" or len(key) > 64:
            raise ValueError(f"journald takes no field named {key!r}")
        fields[key.decode()] = value.decode("utf-8", "surrogateescape")
        data = rest
    return fields

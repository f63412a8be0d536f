"""The two ways to xenstored: its unix socket, and the kernel's device (drivers/xen/xenbus/xenbus_dev_frontend.c).

Both are non-blocking and drive the running loop's reader; a channel knows bytes and whole messages, not their meaning.
`received` is called with what came in, `lost` once, with the reason, when nothing can come in any more.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from xennetd.model.errors import ToolstackError

DEVICE: Final = "/dev/xen/xenbus"
_CHUNK: Final = 64 * 1024
"""Below malloc's mmap threshold: a larger receive buffer costs page faults each time."""


class ConnectionLost(ToolstackError):
    """There is no connection to xenstored, or none any more."""


class Channel(Protocol):
    """Takes whole messages out and gives bytes in."""

    def send(self, messages: Sequence[bytes]) -> None:
        """Send whole messages, now or as soon as xenstored takes them, in this order."""
        ...

    def answered(self, count: int) -> None:
        """Take note that `count` more requests have been answered."""
        ...

    def close(self) -> None:
        """Close for good, without calling `lost`."""
        ...


class SocketChannel:
    """xenstored's unix socket: a stream, in which any number of requests may be outstanding.

    What is sent first in a turn of the loop goes at once, all else together with the turn's end: a call for a whole
    burst of vifs, not one for each.
    """

    def __init__(
        self, sock: socket.socket, received: Callable[[bytes], None], lost: Callable[[ConnectionLost], None]
    ) -> None:
        self._sock = sock
        self._received = received
        self._lost = lost
        self._unsent = bytearray()
        self._blocked = False
        self._sent_this_turn = False
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)

    def send(self, messages: Sequence[bytes]) -> None:
        self._unsent += b"".join(messages)
        if not self._sent_this_turn and not self._blocked:
            self._sent_this_turn = True
            self._loop.call_soon(self._turn_over)
            self._flush()

    def answered(self, count: int) -> None:
        pass

    def close(self) -> None:
        self._unsent.clear()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()

    def _turn_over(self) -> None:
        self._sent_this_turn = False
        if self._unsent and not self._blocked:
            self._flush()

    def _flush(self) -> None:
        try:
            del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(f"the connection to xenstored broke: {error.strerror}")
            return
        if self._blocked != bool(self._unsent):
            self._blocked = not self._blocked
            if self._blocked:
                self._loop.add_writer(self._sock, self._flush)
            else:
                self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(f"the connection to xenstored broke: {error.strerror}")
            return
        if data:
            self._received(data)
        else:
            self._fail("xenstored closed the connection")

    def _fail(self, reason: str) -> None:
        self.close()
        self._lost(ConnectionLost(reason))


class DeviceChannel:
    """The kernel's xenbus device: one whole message a write(2), and the next when that one has been answered.

    The device has one buffer for what is written, and the kernel's thread takes a request's payload out of it some time
    after write(2) has returned. A second request before the answer to the first overwrites that one: nodes are then
    read, and written, that nobody named (seen with Linux 6.12). What is behind a whole message in a write is discarded.

    poll(2) never says that the device is writable, so it is written to at once. That blocks for a copy; if a watch is
    set or taken away, until xenstored has answered.
    """

    def __init__(self, fd: int, received: Callable[[bytes], None], lost: Callable[[ConnectionLost], None]) -> None:
        self._fd = fd
        self._received = received
        self._lost = lost
        self._waiting: deque[bytes] = deque()
        self._busy = False
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    def send(self, messages: Sequence[bytes]) -> None:
        self._waiting.extend(messages)
        self._pump()

    def answered(self, count: int) -> None:
        if count:
            self._busy = False
            self._pump()

    def close(self) -> None:
        self._waiting.clear()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _pump(self) -> None:
        if self._busy or not self._waiting:
            return
        self._busy = True
        try:
            os.write(self._fd, self._waiting.popleft())
        except OSError as error:
            self._fail(f"writing to the xenbus device failed: {error.strerror}")

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(f"reading from the xenbus device failed: {error.strerror}")
            return
        if data:
            self._received(data)
        else:
            self._fail("the xenbus device was closed")

    def _fail(self, reason: str) -> None:
        self.close()
        self._lost(ConnectionLost(reason))


def endpoints(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return where xenstored may be found, in the order in which libxenstore's xs_open() looks."""
    if path := environ.get("XENSTORED_PATH"):
        return (path,)
    if rundir := environ.get("XENSTORED_RUNDIR"):
        return (f"{rundir}/socket", DEVICE)
    return ("/run/xenstored/socket", "/var/run/xenstored/socket", DEVICE)


def open_channel(
    paths: Sequence[str], received: Callable[[bytes], None], lost: Callable[[ConnectionLost], None]
) -> tuple[str, Channel]:
    """Open the first of `paths` that exists and return it with its channel.

    A socket that exists and refuses is a xenstored that is down. Going on to the device then would be wrong: the
    kernel takes requests for a dead xenstored and never answers them.
    """
    for path in paths:
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISSOCK(mode):
                return path, SocketChannel(_connect(path), received, lost)
            return path, DeviceChannel(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK), received, lost)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConnectionLost(f"xenstored can't be reached at {path}: {error.strerror}") from error
    raise ConnectionLost(f"xenstored is not running: no {' and no '.join(paths)}")


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock

"""The two channels to xenstored: its unix socket, and the kernel's device (drivers/xen/xenbus/xenbus_dev_frontend.c).

Both are non-blocking and add a reader to the running event loop. A channel does not interpret messages. It calls
`received` with the bytes that have come in, and `lost` once, with the reason, when the connection has broken.
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
"""Bytes of the receive buffer. It is below malloc's mmap threshold: a larger buffer costs page faults at every read."""


class ConnectionLost(ToolstackError):
    """There is no connection to xenstored."""


class Channel(Protocol):
    """Sends whole messages, and hands over the bytes that come in."""

    def send(self, messages: Sequence[bytes]) -> None:
        """Send whole messages in this order, at once or as soon as xenstored takes them."""
        ...

    def answered(self, count: int) -> None:
        """Take note that `count` more requests have been answered."""
        ...

    def close(self) -> None:
        """Close for good, without calling `lost`."""
        ...


class SocketChannel:
    """xenstored's unix socket: a stream with any number of outstanding requests.

    In one turn of the event loop, the first `send` goes out at once, and all others together at the turn's end: a burst
    of vifs costs one system call, not one per vif.
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
        """Send whole messages in this order, at once or as soon as xenstored takes them."""
        self._unsent += b"".join(messages)
        if not self._sent_this_turn and not self._blocked:
            self._sent_this_turn = True
            self._loop.call_soon(self._turn_over)
            self._flush()

    def answered(self, count: int) -> None:
        """Do nothing: requests on the socket need not wait for answers."""

    def close(self) -> None:
        """Close for good, without calling `lost`. Unsent messages are dropped."""
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
    """The kernel's xenbus device: one whole message per write(2), and the next one only after the answer.

    The device has one buffer for requests, and a kernel thread reads a request's payload from it some time after
    write(2) has returned. A second request before the answer overwrites the first: the kernel then reads and writes
    wrong nodes (seen with Linux 6.12). The device discards bytes that follow a whole message in one write.

    poll(2) never reports the device as writable, so messages are written at once. A write blocks while the kernel
    copies the message. A request that sets or removes a watch blocks until xenstored has answered.
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
        """Queue whole messages, and send the first if no request is outstanding."""
        self._waiting.extend(messages)
        self._pump()

    def answered(self, count: int) -> None:
        """Send the next message if `count` is not 0."""
        if count:
            self._busy = False
            self._pump()

    def close(self) -> None:
        """Close for good, without calling `lost`. Waiting messages are dropped."""
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
    """Return the paths at which to look for xenstored, in the order of libxenstore's xs_open()."""
    if path := environ.get("XENSTORED_PATH"):
        return (path,)
    if rundir := environ.get("XENSTORED_RUNDIR"):
        return (f"{rundir}/socket", DEVICE)
    return ("/run/xenstored/socket", "/var/run/xenstored/socket", DEVICE)


def open_channel(
    paths: Sequence[str], received: Callable[[bytes], None], lost: Callable[[ConnectionLost], None]
) -> tuple[str, Channel]:
    """Open the first of `paths` that exists, and return the path and its channel. Raises ConnectionLost.

    If a socket exists but refuses the connection, xenstored is down. The device is not tried then, because the kernel
    accepts requests for a dead xenstored and never answers them.
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

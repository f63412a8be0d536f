"""The listening socket of the control interface: the one that systemd passed, or one of our own at a path."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
from contextlib import suppress

import structlog
from asyncvarlink import get_listen_fd

from xennetd.daemon.control_path import PATIENCE, AnotherXennetd, occupied, untrusted
from xennetd.model.errors import HostError

_BACKLOG = 512
"""Connections that wait to be accepted. Where the line is full, root can't join it either (unix(7), EAGAIN)."""

_PASSED = ("control", "xennetd.socket")  # FileDescriptorName= of the socket unit, or its name

_log = structlog.get_logger()


class Listener:
    """Listens at `path`, or on the socket that systemd passed (sd_listen_fds(3)).

    Members of `group` may open a socket that is made here. Raises HostError when the socket can't be made.
    """

    def __init__(self, path: str, group: str) -> None:
        self._path = path
        self._group = group
        self._file: tuple[int, int] | None = None
        """Device and inode of our own socket's file. The inode is not used again as long as the socket is open."""
        passed = _passed_socket()
        self.socket = passed if passed is not None else self._make()

    def is_gone(self) -> bool:
        """Return whether somebody has removed or replaced the file of our own socket, so that nobody can connect."""
        return self._file is not None and _file(self._path) != self._file

    def renew(self) -> socket.socket:
        """Listen on a new socket at the path, in place of the one whose file is gone. Raises HostError.

        Returns the old one, which the caller must close.
        """
        new = self._make(patience=0.0)  # The loop must not wait for whatever listens there.
        old, self.socket = self.socket, new
        return old

    def close(self) -> None:
        """Stop listening, and remove the socket's file unless systemd made it or somebody has replaced it."""
        if self._file is not None and not self.is_gone():
            with suppress(OSError):  # Somebody else may remove it at this moment.
                os.unlink(self._path)
        self._file = None
        self.socket.close()

    def _make(self, patience: float = PATIENCE) -> socket.socket:
        path = self._path
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _make_way(path, patience)
            mask = os.umask(0o177)  # so that nobody else can connect between bind() and chmod()
            try:
                sock.bind(path)
            finally:
                os.umask(mask)
            self._give_to(self._group)
            sock.listen(_BACKLOG)
            self._file = _identity(os.stat(path))
        except OSError as error:
            sock.close()
            problem = error.strerror or error
            raise HostError(f"the control socket {path} can't be made: {problem}", errno=error.errno or 0) from error
        except HostError:
            sock.close()
            raise
        return sock

    def _give_to(self, group: str) -> None:
        """Let members of the group open the socket. Without a group, or the right to give it away, only root can."""
        path = self._path
        try:
            gid = grp.getgrnam(group).gr_gid
            if os.stat(path).st_gid != gid:  # Under systemd the daemon makes its files for this group (Group=).
                os.chown(path, -1, gid)
            os.chmod(path, 0o660)
        except KeyError:
            return
        except PermissionError:
            _log.warning("The control socket can't be given to its group, so only root can open it", group=group)


async def readable(listening: socket.socket) -> None:
    """Wait until a connection can be accepted. Cancelled at any moment it accepts none.

    loop.sock_accept() may accept a connection just when it is cancelled. Then the connection is lost, and the loop logs
    an InvalidStateError (seen with Python 3.11).
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(listening, tell)
    try:
        await ready
    finally:
        loop.remove_reader(listening)


def _passed_socket() -> socket.socket | None:
    for name in _PASSED:
        passed = get_listen_fd(name)
        if passed is not None:
            sock = socket.socket(fileno=int(passed))
            passed.take()
            sock.setblocking(False)
            sock.set_inheritable(False)
            return sock
    return None


def _file(path: str) -> tuple[int, int] | None:
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _make_way(path: str, patience: float) -> None:
    """Remove the socket that a dead daemon left. Raises HostError if anything else is there, or the place is unfit."""
    try:
        reason = untrusted(path) or occupied(path, patience)
    except AnotherXennetd:
        raise HostError(f"another xennetd is running: it listens on the control socket {path}") from None
    if reason:
        raise HostError(f"the control socket {path} can't be made: {reason}")
    with suppress(FileNotFoundError):
        os.unlink(path)

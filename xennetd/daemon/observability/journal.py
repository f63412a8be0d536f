"""The journal's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram for each entry.

Rule 1: nothing here ever waits. When journald stalls or is absent, the entry goes to standard error. When standard
error does not take it either, the entry counts as lost; the next entry that gets through reports the number.
Rule 2: nothing here raises because of journald or of standard error. Logging never fails the work that is logged.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import socket
import stat
import sys
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"

ERR, WARNING, NOTICE, INFO, DEBUG = 3, 4, 5, 6, 7
"""PRIORITY values (syslog(3))."""

JournalFields = Mapping[str, str | int]
"""An entry: field names as systemd.journal-fields(7) wants them, and their values."""

_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_SEND_BUFFER = 8 << 20
_SO_SNDBUFFORCE = 32  # socket(7); the socket module does not have it
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_BARE = re.compile(r"[!#-<>-\[\]-~]+")


def encode(fields: JournalFields) -> bytes:
    """Return an entry's datagram. A value with a newline is sent with its length, so any text is safe."""
    out = bytearray()
    for name, value in fields.items():
        data = str(value).encode("utf-8", "backslashreplace")
        if b"\n" in data:
            out += b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
        else:
            out += b"%b=%b\n" % (name.encode(), data)
    return bytes(out)


def line(fields: JournalFields) -> bytes:
    """Return an entry as one line of `NAME=value`. A value with blanks, quotes or controls becomes a JSON string."""
    words = (
        f"{name}={text if _BARE.fullmatch(text) else json.dumps(text)}"
        for name, text in ((name, str(value)) for name, value in fields.items())
    )
    return " ".join(words).encode("ascii") + b"\n"


class Stderr:
    """Standard error. Writing never waits, and does not change the open file for other processes that share it.

    O_NONBLOCK belongs to the open file description, which a shell or a supervisor may share. So a pipe or a terminal is
    opened anew. A socket (journald's stream) can't be opened anew; MSG_DONTWAIT makes each send non-blocking.
    """

    def __init__(self, fd: int = 2) -> None:
        self._socket: socket.socket | None = None
        self._fd = -1
        self._torn = False
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                self._socket = socket.socket(fileno=os.dup(fd))
            else:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC
                self._fd = os.open(f"/proc/self/fd/{fd}", flags)
        except OSError:
            pass  # Standard error is closed, or a pipe without a reader: every write fails.

    def write(self, text: bytes) -> bool:
        """Write `text`, which consists of whole lines. Returns whether all of it was taken.

        After a write that took only a part, the next one begins with a newline.
        """
        data = b"\n" + text if self._torn else text
        try:
            if self._socket is not None:
                written = self._socket.send(data, _SEND_FLAGS)
            elif self._fd >= 0:
                written = os.write(self._fd, data)
            else:
                return False
        except OSError:
            return False
        self._torn = written < len(data)
        return not self._torn


class Journal:
    """Sends entries to journald, else to standard error. `lost` counts the entries that neither took."""

    def __init__(self, path: str = SOCKET, *, stderr: Stderr | None = None, identifier: str = "xennetd") -> None:
        self.lost = 0
        self._unreported = 0
        self._path = path
        self._stderr = Stderr() if stderr is None else stderr
        self._identity: dict[str, str | int] = {"SYSLOG_IDENTIFIER": identifier}
        # The socket is not connected: each send looks the path up, and so reaches a restarted journald too.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
        except OSError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    def send(self, fields: JournalFields) -> None:
        """Send one entry, or count it as lost. `fields` has MESSAGE and PRIORITY at least."""
        if self._unreported and self._put(self._loss()):
            self._unreported = 0
        if not self._put(fields):
            self.lost += 1
            self._unreported += 1

    def _loss(self) -> JournalFields:
        entries = "1 journal entry was" if self._unreported == 1 else f"{self._unreported} journal entries were"
        return {"MESSAGE": f"{entries} not delivered", "PRIORITY": WARNING, "XENNET_LOST": self._unreported}

    def _put(self, fields: JournalFields) -> bool:
        entry = {**fields, **self._identity}
        return self._deliver(encode(entry)) or self._stderr.write(line(entry))

    def _deliver(self, entry: bytes) -> bool:
        try:
            self._socket.sendto(entry, _SEND_FLAGS, self._path)
        except OSError as error:
            return error.errno in (errno.EMSGSIZE, errno.ENOBUFS) and self._deliver_sealed(entry)
        return True

    def _deliver_sealed(self, entry: bytes) -> bool:
        """Send an entry that is too large for a datagram, as a sealed file (memfd_create(2))."""
        try:
            fd = os.memfd_create("xennetd-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return False
        try:
            with open(fd, "wb", buffering=0, closefd=False) as file:
                file.write(entry)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            # socket.send_fds() of Python 3.11 ignores its flags and its address, so it can't be used here.
            passed = (socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))
            self._socket.sendmsg([], [passed], _SEND_FLAGS, self._path)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

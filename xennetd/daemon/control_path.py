"""Whether the control socket may be at a path: nobody else may own the place, the file there, or a socket in use.

Root's xennetctl believes whoever listens at the path, and xennetd removes what a dead daemon has left there. So whoever
can rename a directory of the path, or has made the file, must be root.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from pathlib import Path

from xennetd.model.places import RUNTIME
from xennetd.model.text import visible

PATIENCE = 1.0
"""Seconds that a listener may take to say what it is."""

_GET_INFO = b'{"method":"org.varlink.service.GetInfo"}\0'
_LONGEST_INFO = 1 << 16
_UCRED = struct.Struct("3i")  # pid, uid, gid: SO_PEERCRED of unix(7)

_OF_THE_SYSTEM = ("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "sys", "usr")
"""Top-level directories of which no part is for sockets of services (hier(7))."""

_OF_PROGRAMS = ("run", "var")
"""Top-level directories in which a directory belongs to one program."""

_FOR_ALL = ("/dev/shm", "/run", "/run/lock", "/var/tmp")  # noqa: S108 # nothing is made there


class AnotherXennetd(Exception):
    """An xennetd listens at the path."""


def unfit(path: str) -> str:
    """Return why the control socket can't be at `path`, in words to follow a colon; empty if it can.

    An xennetd that listens there is no reason.
    """
    try:
        return _directories(Path(path).parent) or _neighbours(Path(path)) or occupied(path)
    except AnotherXennetd:
        return ""
    except OSError as error:
        return f"{error.strerror}: {error.filename or path}"


def untrusted(path: str) -> str:
    """Return why others than root could replace a socket at `path`, in words as `unfit`; empty if they can't.

    Directories that do not exist are not looked at. Raises OSError.
    """
    return _directories(Path(path).parent)


def occupied(path: str, patience: float = PATIENCE) -> str:
    """Return why what is at `path` now must stay, in words as `unfit`.

    Empty if nothing is there, or a socket of ours that nobody listens on. A listener has `patience` seconds to say what
    it is. Raises AnotherXennetd, and OSError.
    """
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link of that name exists: name the socket itself in daemon.control, or remove the link"
    if not stat.S_ISSOCK(status.st_mode):
        return "a file of that name exists and is no socket: choose another path for daemon.control, or remove the file"
    if status.st_uid not in _trusted():
        return f"a socket of that name belongs to user {status.st_uid}: choose another path, or remove the socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(patience)
        try:
            probe.connect(path)
            return _listener(probe)
        except ConnectionRefusedError:
            return ""
        except (BlockingIOError, TimeoutError):  # The listener's backlog is full.
            return (
                "a program listens there whose line of connections is full, maybe another xennetd: "
                "end it, or those who connect to it, or choose another path for daemon.control"
            )


def _listener(conn: socket.socket) -> str:
    """Return who is at the other end. Raises AnotherXennetd, and OSError."""
    pid, uid, _ = _UCRED.unpack(conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        name = visible(Path(f"/proc/{pid}/comm").read_text(errors="replace").strip(), 40)
    except OSError:
        name = "?"
    # An xennetd that hangs says nothing, and has at least its name.
    if uid in _trusted() and (_product(conn) == "xennetd" or name == "xennetd"):
        raise AnotherXennetd
    return (
        f'another program, "{name}" (pid {pid}, user {uid}), listens there: choose another path for daemon.control, or '
        "stop that program"
    )


def _product(conn: socket.socket) -> object:
    """Return what the listener calls itself (org.varlink.service), None if it does not say so in time."""
    received = b""
    try:
        conn.sendall(_GET_INFO, socket.MSG_NOSIGNAL)
        while not received.endswith(b"\0"):
            chunk = conn.recv(4096)
            received += chunk
            if not chunk or len(received) > _LONGEST_INFO:
                return None
        return json.loads(received[:-1])["parameters"]["product"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _directories(directory: Path) -> str:
    """Return who but root could replace one of the directories or symbolic links on the way, if anybody could.

    The sticky bit keeps whoever may write to a directory from replacing what root has there.
    """
    real = Path(os.path.realpath(directory))
    for path in dict.fromkeys((*_way(directory), *_way(real))):
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISLNK(status.st_mode):
            if status.st_uid not in _trusted():
                return f"the symbolic link {path} belongs to user {status.st_uid}, who could change it"
        elif not stat.S_ISDIR(status.st_mode):
            return f"{path} is no directory"
        elif status.st_uid not in _trusted():
            return (
                f"the directory {path} belongs to user {status.st_uid}, who could put another socket there: "
                "choose a directory of root's for daemon.control"
            )
        elif status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            return (
                f"everyone may write to the directory {path} (mode {stat.S_IMODE(status.st_mode):04o}): "
                "run chmod o-w on it, or choose another directory for daemon.control"
            )
        elif status.st_mode & stat.S_IWGRP and not status.st_mode & stat.S_ISVTX and status.st_gid != 0:
            return (
                f"group {status.st_gid} may write to the directory {path} (mode {stat.S_IMODE(status.st_mode):04o}): "
                "run chmod g-w on it, or choose another directory for daemon.control"
            )
    return ""


def _way(directory: Path) -> tuple[Path, ...]:
    return (*reversed(directory.parents), directory)


def _neighbours(path: Path) -> str:
    """Return whose directory it is, if it is the system's or another program's. Raises OSError."""
    directory = Path(os.path.realpath(path.parent))
    top = directory.parts[1] if len(directory.parts) > 1 else ""
    if str(directory) in _FOR_ALL or directory == Path(RUNTIME):
        return ""
    if top in _OF_THE_SYSTEM:
        return f"/{top} is no place for sockets: choose a path like {RUNTIME}/control for daemon.control"
    if top not in _OF_PROGRAMS or "xennetd" in directory.name or not directory.is_dir():
        return ""
    others = sorted(entry for entry in os.listdir(directory) if entry != path.name)
    if not others:
        return ""
    return (
        f"{directory} is another program's directory, with {visible(others[0], 40)} in it: choose a path like "
        f"{RUNTIME}/control for daemon.control"
    )


def _trusted() -> tuple[int, int]:
    return 0, os.geteuid()

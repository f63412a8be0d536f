"""A blocking Varlink client: one socket for each call. It starts in 3 ms; the imports of asyncio alone take 60 ms."""

from __future__ import annotations

import errno
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

INTERFACE = "org.xennetd.Control"

TIMEOUT = 10.0
"""Seconds that the daemon may take for an answer."""

RELOAD_TIMEOUT = 120.0
"""Seconds that the daemon may take for a reload, in which it reconciles every vif."""

_CHUNK = 1 << 20
_TIMEVAL = struct.Struct("@ll")  # struct timeval: seconds, microseconds


class Unreachable(Exception):
    """The daemon can't be reached. The text says why, and what the user can do about it."""


class Refusal(Exception):
    """The daemon answered with an error. `name` is the Varlink error's name, without xennetd's interface."""

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        super().__init__(name)
        self.name = name.removeprefix(INTERFACE + ".")
        self.parameters = parameters


def call(path: str, method: str, timeout: float = TIMEOUT, **parameters: Any) -> dict[str, Any]:
    """Call a method of `org.xennetd.Control` on the socket at `path`, and return the parameters of the reply.

    `timeout` is in seconds. Raises Refusal for an error from the daemon, Unreachable if there is no answer.
    """
    with _connect(path, timeout) as conn:
        return _result(next(_replies(conn, path, {"method": f"{INTERFACE}.{method}", "parameters": parameters})))


def stream(path: str, method: str, **parameters: Any) -> Iterator[dict[str, Any]]:
    """Call a method that streams, and yield the parameters of each reply. Raises Refusal or Unreachable.

    The first reply must come within TIMEOUT seconds, later ones may take any time. A daemon that stops causes
    Unreachable.
    """
    with _connect(path, TIMEOUT) as conn:
        request = {"method": f"{INTERFACE}.{method}", "parameters": parameters, "more": True}
        for reply in _replies(conn, path, request):
            conn.settimeout(None)  # The daemon answers; the next event may take any time.
            yield _result(reply)


def _connect(path: str, timeout: float) -> socket.socket:
    conn = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Python's own timeout would make the socket non-blocking, and a full line of peers an error at once (unix(7),
        # EAGAIN). With the kernel's, whoever connects waits in line.
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(timeout), int(timeout % 1 * 1e6)))
        conn.connect(path)
    except OSError as error:
        conn.close()
        raise Unreachable(_why_not(path, error)) from None
    conn.settimeout(timeout)
    return conn


def _why_not(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return f"nothing listens on {path}: is xennetd running? See: systemctl status xennetd"
    if isinstance(error, PermissionError):
        return f"no permission to open {path}: be root, or join the group xennet"
    if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN:
        return f"xennetd does not take calls on {path}. See: systemctl status xennetd; journalctl -u xennetd"
    return f"{path} can't be opened: {error.strerror or error}"


def _replies(conn: socket.socket, path: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Send `request` and yield the replies."""
    received = b""
    try:
        with suppress(BrokenPipeError):  # A daemon that has refused already has said why.
            conn.sendall(json.dumps(request).encode() + b"\0", socket.MSG_NOSIGNAL)
        while True:
            chunks = [received]
            while b"\0" not in chunks[-1]:
                chunks.append(conn.recv(_CHUNK))
                if not chunks[-1]:
                    raise Unreachable("xennetd has closed the connection. See: journalctl -u xennetd")
            message, _, received = b"".join(chunks).partition(b"\0")
            reply = json.loads(message)
            if not isinstance(reply, dict):
                raise ValueError
            yield reply
    except TimeoutError:
        raise Unreachable("xennetd does not answer. See: systemctl status xennetd; journalctl -u xennetd") from None
    except OSError as error:
        raise Unreachable(f"the connection to xennetd broke: {error.strerror}") from None
    except ValueError:
        raise Unreachable(f"the program that listens on {path} does not speak Varlink") from None


def _result(reply: dict[str, Any]) -> dict[str, Any]:
    parameters = reply.get("parameters") or {}
    if "error" in reply:
        raise Refusal(str(reply["error"]), parameters)
    return dict(parameters)

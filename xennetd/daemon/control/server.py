"""The control socket: serves the Varlink interface of interface.py to whoever may open it.

Rule 1: a peer has one request answered after the other, and the next is looked at when the reply has left. What one
peer can make the daemon hold is one request, one reply and a bounded number of events.
Rule 2: no peer can keep another out: when all places are taken, one that was silent for long makes room.
Rule 3: a peer is a task, and ending it is cancelling that task.

The framing is done here and asyncvarlink's transport is not used: its reader never pauses for a peer that never ceases
to send, and it stops listening when descriptors run out. Calls, types, errors and the interface's description are
asyncvarlink's. Replies are encoded by msgspec, straight from the model's values: 1 ms for 1,000 vifs, where converting
them by their types takes 50.
"""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import structlog
from asyncvarlink import (
    VarlinkErrorReply,
    VarlinkInterfaceRegistry,
    VarlinkMethodCall,
    get_listen_fd,
)
from asyncvarlink.conversion import ConversionError
from asyncvarlink.serviceinterface import InvalidParameter, VarlinkServiceInterface

from xennetd.daemon.control.interface import Control, Daemon, Refused
from xennetd.daemon.observability.audit import Audit
from xennetd.model.errors import HostError, XennetdError

GROUP = "xennet"
"""Who may read, besides root."""

MAX_PEERS = 64

MAX_REQUEST = 64 << 10
"""Bytes; a peer that sends a longer request is cut off."""

_UCRED = struct.Struct("3i")  # pid, uid, gid: SO_PEERCRED of unix(7)
_PASSED = ("control", "xennetd.socket")  # FileDescriptorName= of the socket unit, or its name

_log = structlog.get_logger()


class ControlServer:
    """Serves `daemon` on the socket at `path`, or on the one that systemd passed (sd_listen_fds(3)).

    Raises HostError when the socket can't be had.
    """

    def __init__(self, daemon: Daemon, audit: Audit, path: str, *, version: str, group: str = GROUP) -> None:
        self._daemon = daemon
        self._audit = audit
        self._version = version
        self._peers: dict[_Peer, None] = {}  # the one that was silent longest first
        self._socket, self._remove = _passed_socket() or _own_socket(path, group)

    async def serve(self) -> None:
        """Serve until cancelled; then all connections are closed, and the socket file removed if it is ours."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    try:
                        conn, _ = await loop.sock_accept(self._socket)
                    except OSError as error:  # Out of descriptors or memory, or the peer has gone already.
                        _log.warning("A control connection could not be accepted", error=error.strerror)
                        await asyncio.sleep(0.1)
                    else:
                        tasks.create_task(self._converse(conn))
                        await asyncio.sleep(0)  # sock_accept() does not wait while peers queue: let others run.
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        self._remove()

    async def _converse(self, conn: socket.socket) -> None:
        """Serve one peer until it leaves, breaks the rules or must make room."""
        try:
            peer = await _Peer.meet(conn)
        except OSError:
            conn.close()
            return
        try:
            self._admit(peer)
            registry = self._registry(peer.uid)
            while (request := await peer.request()) is not None:
                self._heard(peer)
                async with aclosing(_answer(registry, request)) as replies:
                    async for reply in replies:
                        await peer.send(reply)
                        self._heard(peer)
        except (OSError, _ProtocolError) as error:
            _log.debug("A control connection has ended", uid=peer.uid, error=str(error))
        except Exception:
            _log.exception("A control connection has failed", uid=peer.uid)
        finally:
            self._peers.pop(peer, None)
            peer.close()

    def _registry(self, uid: int) -> VarlinkInterfaceRegistry:
        registry = VarlinkInterfaceRegistry()
        registry.register_interface(Control(self._daemon, self._audit, uid))
        registry.register_interface(
            VarlinkServiceInterface("xennetd", "xennetd", self._version, "man:xennetd(8)", registry)
        )
        return registry

    def _heard(self, peer: _Peer) -> None:
        if peer in self._peers:
            self._peers[peer] = self._peers.pop(peer)

    def _admit(self, newcomer: _Peer) -> None:
        """Take a peer in. When all places are taken the user who holds most gives one up; root gives only to root."""
        self._peers[newcomer] = None
        if len(self._peers) <= MAX_PEERS:
            return
        held = Counter(peer.uid for peer in self._peers if peer.uid != 0 or newcomer.uid == 0)
        greediest = held.most_common(1)[0][0]
        silent = next(peer for peer in self._peers if peer.uid == greediest)
        del self._peers[silent]
        silent.end()


class _ProtocolError(Exception):
    """The peer does not speak Varlink, or speaks too much of it."""


class _Reader(asyncio.StreamReader):
    """A stream reader that tells of the other side's hang-up when it happens, not when somebody reads."""

    hung_up: Callable[[], None]

    def feed_eof(self) -> None:
        super().feed_eof()
        self.hung_up()


class _Peer:
    """One connection, and the task that serves it."""

    def __init__(self, uid: int, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self.uid = uid
        self._reader = reader
        self._writer = writer
        self._task = asyncio.current_task()
        self._streaming = False
        self._gone = False
        reader.hung_up = self._hung_up

    @classmethod
    async def meet(cls, conn: socket.socket) -> _Peer:
        """Return the peer at the other end of an accepted connection, as the kernel knows it."""
        _, uid, _ = _UCRED.unpack(conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        loop = asyncio.get_running_loop()
        reader = _Reader(limit=MAX_REQUEST, loop=loop)
        reader.hung_up = lambda: None
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, conn)
        transport.set_write_buffer_limits(high=0)  # so that drain() means: it has left
        return cls(uid, reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def request(self) -> VarlinkMethodCall | None:
        """Return the next request, None when there will be none."""
        self._streaming = False
        try:
            message = await self._reader.readuntil(b"\0")
            return VarlinkMethodCall.fromjson(msgspec.json.decode(message[:-1]))
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            raise _ProtocolError("the request is too long") from None
        except (msgspec.MsgspecError, RecursionError, TypeError, ValueError) as error:
            raise _ProtocolError(str(error)) from None

    async def send(self, reply: dict[str, Any]) -> None:
        """Send a reply; return when all of it has left. A reply that others follow makes this a stream."""
        self._writer.write(msgspec.json.encode(reply) + b"\0")
        await self._writer.drain()
        self._streaming = reply.get("continues", False)
        if self._streaming and self._gone:
            raise _ProtocolError("the peer has hung up")

    def end(self) -> None:
        """Cut the connection, whatever is going on."""
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """Close the connection; what has not left by now is dropped."""
        self._writer.transport.abort()

    def _hung_up(self) -> None:
        # A peer that closes its sending side still gets the reply it waits for, but a stream would never end.
        self._gone = True
        if self._streaming:
            self.end()


async def _answer(registry: VarlinkInterfaceRegistry, call: VarlinkMethodCall) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the replies to `call`."""
    try:
        method, signature = registry.lookup_method(call)
        try:
            arguments = signature.parameter_type.fromjson(call.parameters)
        except ConversionError as error:
            raise InvalidParameter(parameter=str(error.location[0])) from None
        result = method(**arguments)
        if signature.more:
            async with aclosing(result) as stream:
                async for part in stream:
                    yield {"parameters": part.parameters, "continues": part.continues}
            return
        if signature.asynchronous:
            result = await result
        reply = {"parameters": result.parameters}
    except VarlinkErrorReply as error:
        reply = error.tojson()
    except XennetdError as error:
        reply = Refused(reason=error.detail).tojson()
    except Exception:
        _log.exception("A control request has failed", method=call.method)
        reply = Refused(reason="the daemon failed at it, which is a bug; its journal has the details").tojson()
    if not call.oneway:
        yield reply


def _passed_socket() -> tuple[socket.socket, Callable[[], None]] | None:
    """Return the listening socket that systemd made for us, if it did. Its file is systemd's to remove."""
    for name in _PASSED:
        passed = get_listen_fd(name)
        if passed is not None:
            sock = socket.socket(fileno=int(passed))
            passed.take()
            sock.setblocking(False)
            sock.set_inheritable(False)
            return sock, lambda: None
    return None


def _own_socket(path: str, group: str) -> tuple[socket.socket, Callable[[], None]]:
    """Return a listening socket at `path` and what removes its file later."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _remove_stale(path)
        mask = os.umask(0o177)  # Nobody gets in between bind() and chmod().
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        try:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
            os.chmod(path, 0o660)
        except KeyError:
            pass  # No such group: root's alone.
        except PermissionError:  # The same, and no reason to leave guests without their network.
            _log.warning("The control socket can't be given to its group: only root can open it", group=group)
        sock.listen(MAX_PEERS)
        made = os.stat(path).st_ino
    except OSError as error:
        sock.close()
        problem = error.strerror or error
        raise HostError(f"the control socket {path} can't be made: {problem}", errno=error.errno or 0) from error
    except HostError:
        sock.close()
        raise

    def remove() -> None:
        try:
            if os.stat(path).st_ino == made:
                os.unlink(path)
        except OSError:
            pass  # Somebody else has removed it.

    return sock, remove


def _remove_stale(path: str) -> None:
    """Remove a socket that a daemon left behind which is no more. Never one that somebody listens on."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise HostError(f"the control socket {path} can't be made: there is something else of that name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # Somebody listens who is busy.
    raise HostError(f"another xennetd is running: it listens on the control socket {path}")

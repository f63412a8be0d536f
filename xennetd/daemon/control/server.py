"""The control socket: serves the Varlink interface of interface.py to every peer that may open the socket.

Rule 1: the daemon answers one request of a peer at a time, and reads the next when the reply has left. So one peer can
make the daemon hold one request, one reply and a bounded number of events.
Rule 2: no peer can keep another out. When all places are taken, xennetd disconnects the peer that has been
silent longest.
Rule 3: other users than root get a tenth of the daemon's time, and root's requests never wait for theirs.
Rule 4: one task serves one peer. Cancelling the task ends the connection.

This module does the framing itself, for two reasons: the reader of asyncvarlink's transport never pauses for a peer
that never stops sending, and that transport stops listening when descriptors run out. Calls, types, errors and the
interface's description are asyncvarlink's. msgspec encodes replies directly from the model's values. That takes 1 ms
for 1,000 vifs; asyncvarlink's conversion by types takes 50 ms.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from typing import Any

import msgspec
import structlog
from asyncvarlink import (
    VarlinkErrorReply,
    VarlinkInterfaceRegistry,
    VarlinkMethodCall,
)
from asyncvarlink.conversion import ConversionError
from asyncvarlink.serviceinterface import InvalidParameter, VarlinkServiceInterface

from xennetd.daemon.control.interface import Control, Daemon, Refused
from xennetd.daemon.control.listener import MAX_PEERS, Listener
from xennetd.daemon.observability.audit import Audit
from xennetd.model.errors import HostError, XennetdError

GROUP = "xennet"
"""The group whose members may read, besides root."""

MAX_REQUEST = 64 << 10
"""Bytes. A peer that sends a longer request is disconnected."""

_LOOK = 2.0
"""Seconds between two looks at whether the socket's file is still there."""

_REST = 9
"""How many times as long as a request of another user than root has taken the next one of such a user waits."""

_UCRED = struct.Struct("3i")  # pid, uid, gid: SO_PEERCRED of unix(7)

_log = structlog.get_logger()


class ControlServer:
    """Serves `daemon` on the socket at `path`, or on the socket that systemd passed (sd_listen_fds(3)).

    Members of `group` may open a socket that is made here. `audit` is the trail that `Show` and `Monitor` read.
    `version` is xennetd's. Raises HostError when the socket can't be made.
    """

    def __init__(self, daemon: Daemon, audit: Audit, path: str, *, version: str, group: str = GROUP) -> None:
        self._daemon = daemon
        self._audit = audit
        self._version = version
        self._peers: dict[_Peer, None] = {}  # ordered: the peer that was silent longest comes first
        self._registries: dict[int, VarlinkInterfaceRegistry] = {}
        self._turns = _Turns()
        self._listener = Listener(path, group)
        self._renewal: str | None = None
        """Why the socket's file could not be made again, as last logged."""

    async def serve(self) -> None:
        """Serve until cancelled. Then close all connections, and remove the socket's file unless systemd made it.

        A socket whose file somebody removes is made again.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                accepting = tasks.create_task(self._accept(tasks))
                while True:
                    await asyncio.sleep(_LOOK)
                    if self._listener.is_gone() and self._renew():
                        accepting.cancel()
                        accepting = tasks.create_task(self._accept(tasks))
        except asyncio.CancelledError:
            self.close()
            raise

    async def _accept(self, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                conn, _ = await loop.sock_accept(self._listener.socket)
            except OSError as error:  # Descriptors or memory ran out, or the peer has hung up already.
                _log.warning("A control connection could not be accepted", error=error.strerror)
                await asyncio.sleep(0.1)
            else:
                tasks.create_task(self._converse(conn))
                await asyncio.sleep(0)  # sock_accept() does not wait while peers queue: let other tasks run.

    def _renew(self) -> bool:
        """Make the socket's file again. Returns whether that was possible; logs a new reason why not."""
        try:
            self._listener.renew()
        except HostError as error:
            if self._renewal != error.detail:
                self._renewal = error.detail
                _log.error("the control socket was removed, and xennetctl can't reach xennetd", why=error.detail)
            return False
        self._renewal = None
        _log.warning("somebody removed the control socket; xennetd has made it again")
        return True

    def close(self) -> None:
        """Stop listening, and remove the socket's file unless systemd made it."""
        self._listener.close()

    async def _converse(self, conn: socket.socket) -> None:
        """Serve one peer until it hangs up, violates the protocol or must make room."""
        try:
            peer = await _Peer.meet(conn)
        except OSError:
            conn.close()
            return
        try:
            self._admit(peer)
            registry = self._registries.get(peer.uid) or self._registry(peer.uid)
            while (request := await peer.request()) is not None:
                self._heard(peer)
                turn = nullcontext() if peer.uid == 0 else self._turns.take()
                async with aclosing(_answer(registry, request, turn)) as replies:
                    async for reply in replies:
                        await peer.send(reply)
                        self._heard(peer)
        except (OSError, _ProtocolError) as error:
            _log.debug("A control connection has ended", uid=peer.uid, error=str(error))
            error.with_traceback(None)  # Its frames refer to the future that has the error.
        except Exception:
            _log.exception("A control connection failed because of a defect in xennetd", uid=peer.uid)
        finally:
            self._peers.pop(peer, None)
            peer.close()

    def _registry(self, uid: int) -> VarlinkInterfaceRegistry:
        """Return a new registry for a user's requests, and keep it: as a cycle, each would stay in memory anyway."""
        if len(self._registries) >= MAX_PEERS:
            self._registries.clear()
        registry = self._registries[uid] = VarlinkInterfaceRegistry()
        registry.register_interface(Control(self._daemon, self._audit, uid))
        registry.register_interface(
            VarlinkServiceInterface("xennetd", "xennetd", self._version, "man:xennetd(8)", registry)
        )
        return registry

    def _heard(self, peer: _Peer) -> None:
        """Note that a peer was not silent just now."""
        if peer in self._peers:
            self._peers[peer] = self._peers.pop(peer)

    def _admit(self, newcomer: _Peer) -> None:
        """Add a peer. When all places are taken, the user with the most connections loses the most silent one.

        Root's connections make room only for another one of root.
        """
        self._peers[newcomer] = None
        if len(self._peers) <= MAX_PEERS:
            return
        connections = Counter(peer.uid for peer in self._peers if peer.uid != 0 or newcomer.uid == 0)
        greediest_uid = connections.most_common(1)[0][0]
        silent = next(peer for peer in self._peers if peer.uid == greediest_uid)
        del self._peers[silent]
        silent.end()


class _ProtocolError(Exception):
    """The peer sent something that is not Varlink, sent too long a request, or hung up during a stream."""


class _Reader(asyncio.StreamReader):
    """A stream reader that calls `hung_up` as soon as the peer hangs up, even while nothing reads."""

    hung_up: Callable[[], None]

    def feed_eof(self) -> None:
        """Take the end of the stream from the transport."""
        super().feed_eof()
        self.hung_up()

    def set_exception(self, exc: Exception) -> None:
        """Take the error that ended the connection, without its traceback, whose frames refer to this reader."""
        super().set_exception(exc.with_traceback(None))


def _nothing() -> None:
    """Stand in for `_Reader.hung_up` where nobody is to be told."""


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
        """Return the peer of an accepted connection; its uid comes from the kernel. Raises OSError if it has gone."""
        _, uid, _ = _UCRED.unpack(conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        loop = asyncio.get_running_loop()
        reader = _Reader(limit=MAX_REQUEST, loop=loop)
        reader.hung_up = _nothing
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, conn)
        transport.set_write_buffer_limits(high=0)  # so that drain() returns when all bytes have left
        return cls(uid, reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def request(self) -> VarlinkMethodCall | None:
        """Return the next request, None after the last. Raises _ProtocolError for what is not a request."""
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
        """Send a reply and return when all of it has left.

        A reply with `continues` begins or continues a stream. Raises _ProtocolError for a stream whose peer hung up.
        """
        self._writer.write(msgspec.json.encode(reply) + b"\0")
        await self._writer.drain()
        self._streaming = reply.get("continues", False)
        if self._streaming and self._gone:
            raise _ProtocolError("the peer has hung up")

    def end(self) -> None:
        """End the connection at once, by cancelling the task that serves it."""
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """Close the connection. Bytes that have not left by now are dropped.

        The reader does not refer to the peer any more. As a cycle they would stay in memory until the garbage collector
        runs, which in this daemon is after thousands of connections.
        """
        self._writer.transport.abort()
        self._reader.hung_up = _nothing

    def _hung_up(self) -> None:
        # A peer that closes its sending side still gets the reply that it waits for. A stream would never end.
        self._gone = True
        if self._streaming:
            self.end()


class _Turns:
    """Gives all users but root together a tenth of the daemon's time: they may look on, and guests come first."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[None, None]:
        """Wait for the turn of one request. After it nobody has a turn for nine times as long as it took."""
        await self._lock.acquire()
        began = time.perf_counter()
        try:
            yield
        finally:
            pause = _REST * (time.perf_counter() - began)
            asyncio.get_running_loop().call_later(pause, self._lock.release)


async def _answer(
    registry: VarlinkInterfaceRegistry, call: VarlinkMethodCall, turn: AbstractAsyncContextManager[None]
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the replies to `call`. A reply is made within `turn`; the events of a stream are not."""
    try:
        method, signature = registry.lookup_method(call)
        try:
            arguments = signature.parameter_type.fromjson(call.parameters)
        except ConversionError as error:
            raise InvalidParameter(parameter=str(error.location[0])) from None
        if signature.more:
            async with aclosing(method(**arguments)) as stream:
                async for part in stream:
                    yield {"parameters": part.parameters, "continues": part.continues}
            return
        async with turn:
            result = method(**arguments)
            if signature.asynchronous:
                result = await result
        reply = {"parameters": result.parameters}
    except VarlinkErrorReply as error:
        reply = error.tojson()
    except XennetdError as error:
        reply = Refused(reason=error.detail).tojson()
    except Exception:
        _log.exception("A control request failed because of a defect in xennetd", method=call.method)
        reply = Refused(reason="this request met a bug in xennetd; its journal has the details").tojson()
    if not call.oneway:
        yield reply

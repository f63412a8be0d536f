"""The control socket: serves the Varlink interface of interface.py to every peer that may open the socket.

Rule 1: the daemon answers one request of a peer at a time, and reads the next when the reply has left. So one peer can
make the daemon hold one request, one piece of a reply (replies.py) and a bounded number of events.
Rule 2: no peer can keep another out (peers.py).
Rule 3: other users than root get a tenth of the daemon's time, and root's requests never wait for theirs (turns.py).
Rule 4: one task serves one peer. Cancelling the task ends the connection.

This module does the framing itself, for two reasons: the reader of asyncvarlink's transport never pauses for a peer
that never stops sending, and that transport stops listening when descriptors run out. Calls, types, errors and the
interface's description are asyncvarlink's.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
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

from xennetd.cancellation import heed_cancellation
from xennetd.daemon.control.interface import Caller, Control, Daemon, Refused
from xennetd.daemon.control.listener import Listener, readable
from xennetd.daemon.control.peers import MAX_PEERS, Crowd, Peer, PeerError, refuse, uid_of
from xennetd.daemon.control.replies import encoded, pieces, some_of, streamed
from xennetd.daemon.control.turns import REST, Shared, Turns
from xennetd.daemon.observability.audit import Audit
from xennetd.model.errors import HostError, XennetdError

GROUP = "xennet"
"""The group whose members may read, besides root."""

_LOOK = 2.0
"""Seconds between two looks at whether the socket's file is still there."""

_MINUTE = 60.0

_BATCH = 16
"""Connections that are accepted before other tasks run. To accept and refuse one takes some 10 microseconds."""

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
        self._crowd = Crowd()
        self._registries: dict[int, VarlinkInterfaceRegistry] = {}
        self._turns = Turns()
        self._check = {True: Shared(daemon.check, rest=0), False: Shared(daemon.check, rest=REST)}
        """The check of the configuration, by whether it is for root."""
        self._listener = Listener(path, group)
        self._refused: tuple[str, float] = "", 0.0
        """Why a connection could not be accepted, as last logged, and when."""
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
                    if self._listener.is_gone() and (old := self._renew()) is not None:
                        accepting.cancel()
                        await asyncio.wait([accepting])  # It watches the old socket.
                        old.close()
                        accepting = tasks.create_task(self._accept(tasks))
        except asyncio.CancelledError:
            self.close()
            raise

    async def _accept(self, tasks: asyncio.TaskGroup) -> None:
        listening = self._listener.socket
        while True:
            try:
                await readable(listening)
                for _ in range(_BATCH):
                    conn, _ = listening.accept()
                    conn.setblocking(False)
                    self._receive(conn, tasks)
            except BlockingIOError:
                continue  # All have been accepted.
            except OSError as error:  # Descriptors or memory ran out, or the peer has hung up already.
                self._tell_refused(error.strerror or str(error))
                await asyncio.sleep(0.1)

    def _tell_refused(self, why: str) -> None:
        """Log that a connection could not be accepted: a new reason at once, the same one once a minute."""
        now = time.monotonic()
        if self._refused[0] != why or now - self._refused[1] > _MINUTE:
            self._refused = why, now
            _log.warning("control connections can't be accepted now", why=why)

    def _receive(self, conn: socket.socket, tasks: asyncio.TaskGroup) -> None:
        """Serve an accepted connection if there is room for it. Raises OSError."""
        try:
            uid = uid_of(conn)
        except OSError:
            conn.close()
            raise
        if self._crowd.admits(uid):
            tasks.create_task(self._converse(uid, conn)).add_done_callback(lambda _: self._crowd.leaves(uid))
        else:
            refuse(conn)

    def _renew(self) -> socket.socket | None:
        """Make the socket's file again. Returns the old socket, None if that is impossible; logs a new reason why."""
        try:
            old = self._listener.renew()
        except HostError as error:
            if self._renewal != error.detail:
                self._renewal = error.detail
                _log.error("the control socket was removed, and xennetctl can't reach xennetd", why=error.detail)
            return None
        self._renewal = None
        _log.warning("somebody removed the control socket; xennetd has made it again")
        return old

    def close(self) -> None:
        """Stop listening, and remove the socket's file unless systemd made it."""
        self._listener.close()

    async def _converse(self, uid: int, conn: socket.socket) -> None:
        """Serve one peer until it hangs up, violates the protocol or must make room."""
        try:
            peer = await Peer.meet(uid, conn)
        except OSError:
            conn.close()
            return
        try:
            self._crowd.add(peer)
            registry = self._registries.get(uid) or self._registry(uid)
            turn = self._turn(uid)
            while (message := await peer.message()) is not None:
                self._crowd.heard(peer, waits=True)
                async with aclosing(_answer(registry, message, turn)) as replies:
                    async for reply, continues in replies:
                        self._crowd.sends(peer, len(reply))
                        await peer.send(reply, continues=continues)
                        self._crowd.heard(peer, waits=not continues)
                self._crowd.heard(peer)
        except (OSError, PeerError) as error:
            _log.debug("A control connection has ended", uid=uid, error=str(error))
            error.with_traceback(None)  # Its frames refer to the future that has the error.
        except Exception:
            _log.exception("A control connection failed because of a defect in xennetd", uid=uid)
        finally:
            self._crowd.remove(peer)
            peer.close()

    def _turn(self, uid: int) -> _Turn:
        return nullcontext if uid == 0 else self._turns.take

    def _registry(self, uid: int) -> VarlinkInterfaceRegistry:
        """Return a new registry for a user's requests, and keep it: as a cycle, each would stay in memory anyway."""
        if len(self._registries) >= MAX_PEERS:
            self._registries.clear()
        registry = self._registries[uid] = VarlinkInterfaceRegistry()
        caller = Caller(uid, self._turn(uid), self._check[uid == 0].result)
        registry.register_interface(Control(self._daemon, self._audit, caller))
        registry.register_interface(
            VarlinkServiceInterface("xennetd", "xennetd", self._version, "man:xennetd(8)", registry)
        )
        return registry


_Turn = Callable[[], AbstractAsyncContextManager[None]]


async def _answer(
    registry: VarlinkInterfaceRegistry, message: bytes, turn: _Turn
) -> AsyncGenerator[tuple[bytes, bool], None]:
    """Yield the replies to a message in pieces, each with whether it is part of a stream that goes on.

    All work on the loop is done in turns. Raises PeerError for a message that is no call, and after a piece of a reply
    that can't be finished.
    """
    call, begun = None, False
    try:
        async with turn():
            call = _call(message)
            method, arguments, signature = _lookup(registry, call)
            answer = method(**arguments)
            if not signature.more and not signature.asynchronous:
                made = pieces(answer.parameters)
                piece = some_of(made)
                del answer  # It may be long, and the peer may not read.
        if signature.more:
            async with aclosing(answer) as stream:
                async for part in stream:
                    async with turn():
                        piece = streamed(part.parameters, continues=part.continues)
                    yield piece, part.continues
            return
        if signature.asynchronous:
            result = await answer
            async with turn():
                made = pieces(result.parameters)
                piece = some_of(made)
                del result
        if call.oneway:
            return
        while piece:
            begun = True
            yield piece, False
            async with turn():
                piece = some_of(made)
        return
    except PeerError:
        raise
    except Exception as error:
        heed_cancellation()
        refusal = _refusal(error, call)
    if begun:
        raise PeerError("a reply can't be finished")
    if call is None or not call.oneway:
        yield refusal, False


def _refusal(error: Exception, call: VarlinkMethodCall | None) -> bytes:
    """Return the reply to a call that has failed. Logs what is a defect."""
    if isinstance(error, XennetdError):
        error = Refused(reason=error.detail)
    elif not isinstance(error, VarlinkErrorReply):
        _log.exception("A control request failed because of a defect in xennetd", method=call and call.method)
        error = Refused(reason="this request met a bug in xennetd; its journal has the details")
    return encoded(error.tojson()) + b"\0"


def _call(message: bytes) -> VarlinkMethodCall:
    try:
        return VarlinkMethodCall.fromjson(msgspec.json.decode(message))
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError) as error:
        raise PeerError(str(error)) from None


def _lookup(registry: VarlinkInterfaceRegistry, call: VarlinkMethodCall) -> tuple[Callable[..., Any], Any, Any]:
    """Return a call's method, its arguments and its signature. Raises VarlinkErrorReply."""
    method, signature = registry.lookup_method(call)
    try:
        return method, signature.parameter_type.fromjson(call.parameters), signature
    except ConversionError as error:
        raise InvalidParameter(parameter=str(error.location[0])) from None

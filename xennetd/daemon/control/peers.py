"""The peers of the control socket: one connection each, and how many there may be.

Rule 1: a connection of another user than root is refused, quickly and with a reason, when the user has USER_PEERS
already that have all spoken lately. A peer that has been silent for longer makes room.
Rule 2: there is always room for root. When all places are taken, another user's most silent peer makes room.
Rule 3: a peer that waits for the daemon never makes room. Where all peers wait, a newcomer other than root has to go.
Rule 4: of all that peers of other users than root do not read, MAX_UNREAD bytes are kept. Beyond that, the user who has
most of them loses the connection that has most of them.
Rule 5: a peer that takes less than 64 KiB of its reply in STALLED seconds is disconnected. A monitor is not: it loses
events.
Rule 6: no reference cycle of ours remains of a connection. It would stay in memory until the garbage collector runs,
which in this daemon is after thousands of connections.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec

from xennetd.daemon.control.interface import Refused

MAX_PEERS = 64
"""Connections at the same time. Root may have more while all of them wait for the daemon."""

USER_PEERS = 16
"""Connections at the same time of one user other than root."""

MAX_REQUEST = 64 << 10
"""Bytes. A peer that sends a longer request is disconnected."""

MAX_UNREAD = 16 << 20
"""Bytes of replies that are kept for all peers of other users than root together."""

STALLED = 30.0
"""Seconds in which a peer must take the next _CHUNK bytes of a reply."""

_CHUNK = 64 << 10
"""Bytes of a reply that are given to the transport, which copies them, at a time."""

_SILENT = 1.0
"""Seconds after which a silent peer makes room for a newcomer of the same user. Refusing a newcomer takes less time."""

_TOO_MANY = Refused(reason=f"this user has {USER_PEERS} connections to xennetd already; close some of them").tojson()
_TOO_MANY_BYTES = msgspec.json.encode(_TOO_MANY) + b"\0"

_UCRED = struct.Struct("3i")  # pid, uid, gid: SO_PEERCRED of unix(7)


class PeerError(Exception):
    """The peer sent something that is not Varlink, sent too long a request, or hung up during a stream."""


def uid_of(conn: socket.socket) -> int:
    """Return the user at the other end, of whom the kernel knows. Raises OSError."""
    _, uid, _ = _UCRED.unpack(conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def refuse(conn: socket.socket) -> None:
    """Tell an accepted peer that there is no room, and close its connection. Never waits."""
    with suppress(OSError):
        conn.send(_TOO_MANY_BYTES, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    conn.close()


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


class Peer:
    """One connection, and the task that serves it."""

    def __init__(self, uid: int, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self.uid = uid
        self.waits = False
        """Whether the daemon works on an answer for the peer."""
        self.unread = 0
        """Bytes, at most, that are kept for the peer until it reads them."""
        self._reader = reader
        self._writer = writer
        self._task = asyncio.current_task()
        self._streaming = False
        self._gone = False
        reader.hung_up = self._hung_up

    @classmethod
    async def meet(cls, uid: int, conn: socket.socket) -> Peer:
        """Return the peer of an accepted connection. Raises OSError if it has gone."""
        loop = asyncio.get_running_loop()
        reader = _Reader(limit=MAX_REQUEST, loop=loop)
        reader.hung_up = _nothing
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, conn)
        transport.set_write_buffer_limits(high=0)  # so that drain() returns when all bytes have left
        return cls(uid, reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def message(self) -> bytes | None:
        """Return the next message without its NUL, None after the last. Raises PeerError for one too long."""
        self._streaming = False
        try:
            return (await self._reader.readuntil(b"\0"))[:-1]
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            raise PeerError("the request is too long") from None

    async def send(self, reply: bytes, *, continues: bool = False) -> None:
        """Send bytes of a reply and return when all have left, and others have had the loop.

        With `continues` the reply begins or continues a stream. Raises PeerError for a stream whose peer hung up, and
        for a reply that the peer does not take.
        """
        for at in range(0, len(reply), _CHUNK):
            self._writer.write(memoryview(reply)[at : at + _CHUNK])
            try:
                async with asyncio.timeout(None if continues else STALLED):
                    await self._writer.drain()
            except TimeoutError:
                raise PeerError("the peer does not read its reply, or too slowly") from None
        await asyncio.sleep(0)  # drain() does not wait while the kernel takes all.
        self._streaming = continues
        if continues and self._gone:
            raise PeerError("the peer has hung up")

    def end(self) -> None:
        """End the connection at once, by cancelling the task that serves it."""
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """Close the connection. Bytes that have not left by now are dropped."""
        self._writer.transport.abort()
        self._reader.hung_up = _nothing
        self._task = None  # A task that was cancelled keeps the error, whose frames refer to this peer and its reply.

    def _hung_up(self) -> None:
        # A peer that closes its sending side still gets the reply that it waits for. A stream would never end.
        self._gone = True
        if self._streaming:
            self.end()


class Crowd:
    """The peers that are connected, and who has to go for a newcomer."""

    def __init__(self) -> None:
        self._heard: dict[Peer, float] = {}  # Ordered: the peer that was silent longest comes first.
        self._connections: Counter[int] = Counter()

    def admits(self, uid: int) -> bool:
        """Count a new connection of a user. False: there is no room for it, and it is not counted.

        The user's most silent peer makes room if it has been silent for a while.
        """
        if uid != 0 and self._connections[uid] >= USER_PEERS and not self._end_silent(uid):
            return False
        self._connections[uid] += 1
        return True

    def leaves(self, uid: int) -> None:
        """Count a connection less."""
        self._connections[uid] -= 1
        if not self._connections[uid]:
            del self._connections[uid]

    def add(self, newcomer: Peer) -> None:
        """Add a peer. When all places are taken, the user with the most peers loses the most silent one.

        A user with fewer peers than the newcomer's user loses none, and root only for another peer of root. Where
        nobody can make room, the newcomer is ended, unless it is root's.
        """
        self._heard[newcomer] = _now()
        if len(self._heard) <= MAX_PEERS:
            return
        peers = Counter(peer.uid for peer in self._heard)
        root, mine = newcomer.uid == 0, peers[newcomer.uid]
        greedy = [uid for uid, count in peers.most_common() if uid != 0 and (root or count >= mine)]
        for uid in [*greedy, 0] if root else greedy:
            silent = next((peer for peer in self._silent(uid) if peer is not newcomer), None)
            if silent is not None:
                self._end(silent)
                return
        if not root:
            self._end(newcomer)

    def remove(self, peer: Peer) -> None:
        """Remove a peer, if it is there."""
        self._heard.pop(peer, None)

    def sends(self, peer: Peer, size: int) -> None:
        """Note that `size` bytes are about to be sent to a peer. Where too many are unread, peers are ended."""
        peer.waits, peer.unread = False, size
        if peer.uid == 0:
            return
        unread = Counter[int]()
        for each in self._heard:
            if each.uid != 0:
                unread[each.uid] += each.unread
        while unread.total() > MAX_UNREAD:
            greediest_uid = unread.most_common(1)[0][0]
            greediest = max((each for each in self._heard if each.uid == greediest_uid), key=lambda each: each.unread)
            unread[greediest_uid] -= greediest.unread
            self._end(greediest)

    def heard(self, peer: Peer, *, waits: bool = False) -> None:
        """Note that a peer was not silent just now: it has asked, or has read all that was sent.

        `waits` is whether the daemon works on an answer for it from now on.
        """
        peer.waits, peer.unread = waits, 0
        if self._heard.pop(peer, None) is not None:
            self._heard[peer] = _now()

    def _end_silent(self, uid: int) -> bool:
        silent = next(self._silent(uid), None)
        if silent is None or _now() - self._heard[silent] < _SILENT:
            return False
        self._end(silent)
        return True

    def _silent(self, uid: int) -> Iterator[Peer]:
        """Yield a user's peers that don't wait for the daemon, the most silent one first."""
        return (peer for peer in self._heard if peer.uid == uid and not peer.waits)

    def _end(self, peer: Peer) -> None:
        del self._heard[peer]
        peer.end()


def _now() -> float:
    return asyncio.get_running_loop().time()

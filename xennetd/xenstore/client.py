"""An asyncio client of xenstored. Requests are pipelined: a batch of any size is one send and one future.

Rule 1: requests on one connection are answered in the order in which they were made.
Rule 2: when the connection breaks, every waiting request fails at once with ConnectionLost, and all watches are
forgotten. `connect` may be called again.
Methods raise ConnectionLost without a connection, and XenstoreError if xenstored refuses the request.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from msgspec import Struct

from xennetd.model.errors import ToolstackError
from xennetd.model.text import visible
from xennetd.model.vif import DOMID_FIRST_RESERVED
from xennetd.xenstore import codec
from xennetd.xenstore.channel import Channel, ConnectionLost, endpoints, open_channel
from xennetd.xenstore.codec import Decoder, ProtocolError, XenstoreError, path_payload

TRANSACTIONS_PRIVILEGED: Final = 32
TRANSACTIONS_UNPRIVILEGED: Final = 8
"""Transactions at a time. xenstored allows an unprivileged domain 10, and the domain's kernel needs some of them."""

ATTEMPTS: Final = 12
"""How often a transaction or a long listing is tried while other clients' writes interfere: for half a second."""

_ALL_OPEN: Final = (errno.ENOSPC, errno.EDQUOT)
"""The refusals of a transaction because the quota, which the daemon shares with its domain's kernel, is used up."""

_NO_PARTS: Final = (
    "it has more names than one message through the kernel's device holds, and this xenstored has no DIRECTORY_PART; "
    "only its socket gives them all"
)

Reply = bytes | int
"""The payload of a reply, or the errno of a refusal."""


class Request(NamedTuple):
    """One request, without a request id."""

    op: int
    transaction_id: int
    payload: bytes


class WriteNode(Struct, frozen=True):
    """Within a transaction: write a node, and make it and its parents if they are missing.

    If the write is `optional`, its refusal is no error.
    """

    path: str
    value: bytes
    optional: bool = False


class RemoveNode(Struct, frozen=True):
    """Within a transaction: remove a node and all below it. Removing a missing node is no error."""

    path: str


NodeChange = WriteNode | RemoveNode


class _TryAgain(Exception):
    """Another client came between: a transaction has failed that may succeed the next time."""


class _Batch:
    """Requests that were sent together, with ids from `first` on, and their replies. `future` None: nobody waits."""

    __slots__ = ("first", "future", "missing", "replies", "requests")

    def __init__(self, first: int, requests: Sequence[Request], future: asyncio.Future[list[Reply]] | None) -> None:
        self.first = first
        self.requests = requests
        self.future = future
        self.replies: list[Reply] = [errno.EIO] * len(requests)
        self.missing = len(requests)


class XenstoreClient:
    """One connection to xenstored.

    `path` is the socket's or the device's path. `own_domid` is the daemon's own domain, None if xenstore does not name
    it, as in dom0.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self.own_domid: int | None = None
        self._channel: Channel | None = None
        self._reason = ConnectionLost("xenstored has not been reached yet")
        self._on_lost: Callable[[], None] | None = None
        self._decoder = Decoder()
        self._pending: dict[int, _Batch] = {}
        self._next_id = 1
        self._unanswered_since = 0.0
        self._watches: dict[str, Callable[[str], None]] = {}
        self._transactions = asyncio.Semaphore(TRANSACTIONS_UNPRIVILEGED)

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._channel is not None

    @property
    def watched(self) -> Collection[str]:
        """The paths that have a watch."""
        return self._watches.keys()

    @property
    def silence(self) -> float:
        """Seconds for which requests have been waiting without an answer to any; 0 if none is waiting."""
        return time.monotonic() - self._unanswered_since if self._pending else 0.0

    def require(self) -> None:
        """Raise ConnectionLost, with the reason, if there is no connection."""
        if self._channel is None:
            raise ConnectionLost(self._reason.sentence)

    async def connect(self, on_lost: Callable[[], None] | None = None) -> None:
        """Connect, if there is no connection, and read `own_domid`. `on_lost` is called when the connection breaks.

        The path of the first connection is kept. While xenstored restarts its socket is missing for a moment, and the
        client must not use the device instead.
        """
        if self._channel is not None:
            return
        paths = (self.path,) if self.path is not None else endpoints(os.environ)
        self._decoder = Decoder()
        path, self._channel = open_channel(paths, self._received, self._lost)
        try:
            await self.identify()
        except ToolstackError:
            self.close()
            raise
        self.path = path
        self._on_lost = on_lost
        self._transactions = asyncio.Semaphore(TRANSACTIONS_UNPRIVILEGED if self.own_domid else TRANSACTIONS_PRIVILEGED)

    def close(self) -> None:
        """Close the connection. Waiting requests fail with ConnectionLost."""
        self._lost(ConnectionLost("the connection to xenstored was closed"))

    async def identify(self) -> int | None:
        """Read `own_domid` from the domain's home directory, and return it. Raises ProtocolError for a bad number."""
        value = await self.read("domid")
        if value is not None and not (value.isdigit() and len(value) < 6 and int(value) < DOMID_FIRST_RESERVED):
            raise ProtocolError(f'xenstore gives "{visible(value)}" as the domid of this domain, but it is not a domid')
        self.own_domid = None if value is None else int(value)
        return self.own_domid

    async def read(self, path: str) -> bytes | None:
        """Return a node's value, None if it does not exist or may not be read."""
        return (await self.read_many((path,)))[0]

    async def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return the values of nodes in one batch; None for a node that does not exist or may not be read."""
        return _values(await self.exchange([Request(codec.READ, 0, path_payload(path)) for path in paths]))

    async def directory(self, path: str) -> list[str] | None:
        """Return the names of a node's children, None if the node does not exist. For limits see `directory_many`."""
        return (await self.directory_many((path,)))[0]

    async def directory_many(self, paths: Sequence[str]) -> list[list[str] | None]:
        """Return the names of the children of several nodes in one batch; None for a node that does not exist.

        For names beyond 4096 bytes xenstored answers E2BIG, and they are read in parts. oxenstored sends them in one
        message; up to codec.LISTING_MAX bytes are accepted. Through the kernel's device it answers E2BIG too but has
        no parts, which raises XenstoreError.
        """
        listings: list[list[str] | None] = []
        replies = await self.exchange([Request(codec.DIRECTORY, 0, path_payload(path)) for path in paths])
        for path, reply in zip(paths, replies, strict=True):
            if reply == errno.E2BIG:
                listings.append(await self._directory_in_parts(path))
            else:
                value = _value(reply)
                listings.append(None if value is None else codec.parse_names(value))
        return listings

    async def watch(self, path: str, callback: Callable[[str], None]) -> None:
        """Call `callback` with the path of every event at or below `path`. The first event is about `path` itself.

        A path has one watch at a time.
        """
        for refusal in await self.watch_many((path,), callback):
            raise refusal

    async def watch_many(self, paths: Sequence[str], callback: Callable[[str], None]) -> list[XenstoreError]:
        """Set watches on several paths in one batch. Returns the refusals; all other watches are set."""
        self.require()
        requests = [Request(codec.WATCH, 0, codec.join_strings((codec.check_path(path), path))) for path in paths]
        self._watches.update(dict.fromkeys(paths, callback))
        refusals = []
        for path, reply in zip(paths, await self.exchange(requests), strict=True):
            if isinstance(reply, int):
                self._watches.pop(path, None)  # A lost connection has cleared them meanwhile.
                refusals.append(XenstoreError(reply, path))
        return refusals

    async def unwatch_many(self, paths: Sequence[str]) -> None:
        """Remove the watches on several paths in one batch. Events that xenstored has sent already still arrive."""
        requests = [Request(codec.UNWATCH, 0, codec.join_strings((codec.check_path(path), path))) for path in paths]
        # A refusal means that xenstored has no such watch, which is fine.
        await self.exchange(requests)
        for path in paths:
            self._watches.pop(path, None)

    async def transact(
        self, paths: Sequence[str], decide: Callable[[list[bytes | None]], Sequence[NodeChange] | None]
    ) -> bool:
        """Read nodes, decide, change nodes: one transaction in three round trips. Returns False if `decide` gave up.

        `decide` gets the values of `paths`, and returns the changes, or None to give up. It must be pure, since it is
        called again after a conflict with another client's write (EAGAIN). Raises XenstoreError if the transaction or a
        change is refused. A refused change does not prevent the other changes.
        """
        for attempt in range(ATTEMPTS):
            try:
                async with self._transactions:
                    return await self._attempt(paths, decide)
            except _TryAgain:
                await _pause(attempt)
        raise XenstoreError(errno.EAGAIN, paths[0])

    def exchange(self, requests: Sequence[Request]) -> asyncio.Future[list[Reply]]:
        """Send requests together, and return the future of their replies in the same order."""
        future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        if self._channel is None:
            future.set_exception(ConnectionLost(self._reason.sentence))
        elif requests:
            self._send(self._channel, requests, future)
        else:
            future.set_result([])
        return future

    def _send(self, channel: Channel, requests: Sequence[Request], future: asyncio.Future[list[Reply]] | None) -> None:
        first = self._next_id
        if first + len(requests) > codec.REQUEST_ID_LIMIT:
            first = 1
        encode = codec.encode
        messages = [encode(op, number, tx, payload) for number, (op, tx, payload) in enumerate(requests, first)]
        self._next_id = first + len(requests)
        if not self._pending:
            self._unanswered_since = time.monotonic()
        self._pending.update(dict.fromkeys(range(first, self._next_id), _Batch(first, requests, future)))
        channel.send(messages)

    def _received(self, data: bytes) -> None:
        answered = 0
        pending = self._pending
        try:
            for op, number, _, payload in self._decoder.feed(data):
                if op == codec.WATCH_EVENT:
                    self._event(payload)
                    continue
                batch = pending.pop(number, None)
                if batch is None:
                    raise ProtocolError("xenstored answered a request that was never made")
                index = number - batch.first
                if op == codec.ERROR:
                    batch.replies[index] = codec.parse_errno(payload)
                elif op == batch.requests[index].op:
                    batch.replies[index] = payload
                else:
                    raise ProtocolError(f"xenstored answered operation {batch.requests[index].op} with {op}")
                answered += 1
                batch.missing -= 1
                if not batch.missing:
                    self._complete(batch)
        except ProtocolError as error:
            self._lost(ConnectionLost(error.sentence))
        if answered:
            self._unanswered_since = time.monotonic()
        if self._channel is not None:
            self._channel.answered(answered)

    def _complete(self, batch: _Batch) -> None:
        if batch.future is None:
            return
        if not batch.future.done():
            batch.future.set_result(batch.replies)
            return
        # The caller was cancelled. A transaction that stays open would count against the domain's quota for ever.
        for request, reply in zip(batch.requests, batch.replies, strict=True):
            if request.op == codec.TRANSACTION_START and isinstance(reply, bytes):
                self._abandon(codec.parse_transaction_id(reply))

    def _event(self, payload: bytes) -> None:
        event = codec.parse_event(payload)
        callback = self._watches.get(event.token)
        if callback is None:
            raise ProtocolError("xenstored sent an event for a watch that was never set")
        callback(event.path)

    def _lost(self, reason: ConnectionLost) -> None:
        if self._channel is None:
            return
        self._channel.close()
        self._channel = None
        self._reason = reason
        self._watches.clear()
        batches = {id(batch): batch for batch in self._pending.values()}
        self._pending.clear()
        for batch in batches.values():
            if batch.future is not None and not batch.future.done():
                batch.future.set_exception(ConnectionLost(reason.sentence))
        if self._on_lost is not None:
            self._on_lost()

    async def _directory_in_parts(self, path: str) -> list[str] | None:
        """List a node whose children do not fit into one message. Start again if they change meanwhile."""
        for attempt in range(ATTEMPTS):
            listing = codec.DirectoryParts()
            while not listing.complete:
                payload = codec.join_strings((codec.check_path(path), str(listing.offset)))
                [reply] = await self.exchange((Request(codec.DIRECTORY_PART, 0, payload),))
                if reply == errno.ENOSYS:
                    raise XenstoreError(errno.E2BIG, path, _NO_PARTS)
                value = _value(reply)
                if value is None:
                    return None
                if not listing.add(value):
                    break
            else:
                return listing.names()
            await _pause(attempt)
        raise XenstoreError(errno.EAGAIN, path)

    async def _attempt(
        self, paths: Sequence[str], decide: Callable[[list[bytes | None]], Sequence[NodeChange] | None]
    ) -> bool:
        [opened] = await self.exchange((Request(codec.TRANSACTION_START, 0, b"\0"),))
        if opened in _ALL_OPEN:
            raise _TryAgain
        if isinstance(opened, int):
            raise XenstoreError(opened)
        transaction_id = codec.parse_transaction_id(opened)
        committing = False
        try:
            reads = [Request(codec.READ, transaction_id, path_payload(path)) for path in paths]
            changes = decide(_values(await self.exchange(reads)))
            if changes is None:
                return False
            requests = [_request(change, transaction_id) for change in changes]
            committing = True
        finally:
            if not committing:
                self._abandon(transaction_id)
        requests.append(Request(codec.TRANSACTION_END, transaction_id, b"T\0"))
        *replies, ended = await self.exchange(requests)
        if ended == errno.EAGAIN:
            raise _TryAgain
        if isinstance(ended, int):
            raise XenstoreError(ended)
        for change, reply in zip(changes, replies, strict=True):
            if isinstance(reply, int) and not (isinstance(change, WriteNode) and change.optional):
                raise XenstoreError(reply, change.path)
        return True

    def _abandon(self, transaction_id: int) -> None:
        if self._channel is not None:
            self._send(self._channel, (Request(codec.TRANSACTION_END, transaction_id, b"F\0"),), None)


async def _pause(attempt: int) -> None:
    """Let other clients finish their writes. The pause doubles with each attempt, from 0.5 ms up to 100 ms."""
    await asyncio.sleep(min(0.0005 * 2**attempt, 0.1))


def _request(change: NodeChange, transaction_id: int) -> Request:
    match change:
        case WriteNode(path, value):
            return Request(codec.WRITE, transaction_id, path_payload(path) + value)
        case RemoveNode(path):
            return Request(codec.RM, transaction_id, path_payload(path))


def _value(reply: Reply) -> bytes | None:
    if isinstance(reply, bytes):
        return reply
    if reply in (errno.ENOENT, errno.EACCES):
        return None
    raise XenstoreError(reply)


def _values(replies: Sequence[Reply]) -> list[bytes | None]:
    return [reply if isinstance(reply, bytes) else _value(reply) for reply in replies]

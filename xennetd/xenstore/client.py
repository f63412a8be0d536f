"""An asyncio client of xenstored: requests are pipelined, a batch of any size is one send and one future.

Rules: requests on one connection are answered in the order they were made. When the connection drops, every waiting
request fails at once with ConnectionLost, watches are forgotten, and `connect` may be called again.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from xennetd.model.errors import ToolstackError
from xennetd.model.text import visible
from xennetd.model.vif import DOMID_FIRST_RESERVED
from xennetd.xenstore import codec
from xennetd.xenstore.channel import Channel, ConnectionLost, endpoints, open_channel
from xennetd.xenstore.codec import Decoder, ProtocolError, XenstoreError, path_payload

TRANSACTIONS_PRIVILEGED: Final = 32
TRANSACTIONS_UNPRIVILEGED: Final = 8
"""At a time. xenstored allows an unprivileged domain 10, and its kernel needs some."""

ATTEMPTS: Final = 12
"""How often a transaction, or a long listing, is begun that another's writes keep spoiling: for half a second."""

Reply = bytes | int
"""A request's payload, or the errno it was refused with."""


class Request(NamedTuple):
    """One request, not yet numbered."""

    op: int
    transaction_id: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """Within a transaction: write a node, creating it and its parents where they are missing.

    `optional`: go without where we are not allowed to.
    """

    path: str
    value: bytes
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Within a transaction: remove a node and all below it. Removing a missing node is no error."""

    path: str


Change = Write | Remove


class _Batch:
    """Requests sent together, numbered from `first`, and what has come back. No future: nobody waits."""

    __slots__ = ("first", "future", "missing", "replies", "requests")

    def __init__(self, first: int, requests: Sequence[Request], future: asyncio.Future[list[Reply]] | None) -> None:
        self.first = first
        self.requests = requests
        self.future = future
        self.replies: list[Reply] = [errno.EIO] * len(requests)
        self.missing = len(requests)


class XenstoreClient:
    """One connection to xenstored. `path` is where it is; `own_domid` is None where xenstore does not say (dom0)."""

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self.own_domid: int | None = None
        self._channel: Channel | None = None
        self._reason = ConnectionLost("xenstored has not been reached yet")
        self._on_lost: Callable[[], None] | None = None
        self._decoder = Decoder()
        self._pending: dict[int, _Batch] = {}
        self._next_id = 1
        self._watches: dict[str, Callable[[str], None]] = {}
        self._transactions = asyncio.Semaphore(TRANSACTIONS_UNPRIVILEGED)

    @property
    def connected(self) -> bool:
        """Whether requests can be made."""
        return self._channel is not None

    @property
    def watched(self) -> Collection[str]:
        """The paths that have a watch."""
        return self._watches.keys()

    def require(self) -> None:
        """Raise ConnectionLost, with the reason, unless requests can be made."""
        if self._channel is None:
            raise ConnectionLost(self._reason.sentence)

    async def connect(self, on_lost: Callable[[], None] | None = None) -> None:
        """Connect, unless we are, and find out which domain we are. `on_lost` is called when the connection drops.

        The path that answered first is kept: a restarting xenstored's socket is gone for a moment, and the device must
        not be taken for it then.
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
        """Drop the connection; waiting requests fail."""
        self._lost(ConnectionLost("the connection to xenstored was closed"))

    async def identify(self) -> int | None:
        """Read which domain we are from our home directory; None where xenstore does not say."""
        value = await self.read("domid")
        if value is not None and not (value.isdigit() and len(value) < 6 and int(value) < DOMID_FIRST_RESERVED):
            raise ProtocolError(f'our own domid in xenstore is "{visible(value)}", which is no domain\'s number')
        self.own_domid = None if value is None else int(value)
        return self.own_domid

    async def read(self, path: str) -> bytes | None:
        """Return a node's value, None if it is not there (or not for us to see)."""
        return (await self.read_many((path,)))[0]

    async def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return the values of nodes, in one go; None for those that are not there (or not for us to see)."""
        return _values(await self.exchange([Request(codec.READ, 0, path_payload(path)) for path in paths]))

    async def directory(self, path: str) -> list[str] | None:
        """Return the names of a node's children, however many, or None if there is no such node."""
        return (await self.directory_many((path,)))[0]

    async def directory_many(self, paths: Sequence[str]) -> list[list[str] | None]:
        """Return the names of the children of several nodes, in one go."""
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
        """Have `callback` called with the path of each event at or below `path`, first of all with `path` itself.

        A path has one watch at a time.
        """
        for refusal in await self.watch_many((path,), callback):
            raise refusal

    async def watch_many(self, paths: Sequence[str], callback: Callable[[str], None]) -> list[XenstoreError]:
        """Set a watch on each of several paths, in one go. Returns the refusals; all other watches are set."""
        self.require()
        requests = [Request(codec.WATCH, 0, codec.join_strings((codec.check_path(path), path))) for path in paths]
        self._watches.update(dict.fromkeys(paths, callback))
        refusals = []
        for path, reply in zip(paths, await self.exchange(requests), strict=True):
            if isinstance(reply, int):
                del self._watches[path]
                refusals.append(XenstoreError(reply, path))
        return refusals

    async def unwatch_many(self, paths: Sequence[str]) -> None:
        """Take away the watches on several paths, in one go. What xenstored has sent before that still comes."""
        requests = [Request(codec.UNWATCH, 0, codec.join_strings((codec.check_path(path), path))) for path in paths]
        # A refusal says that xenstored has no such watch, which is what was wanted.
        await self.exchange(requests)
        for path in paths:
            self._watches.pop(path, None)

    async def transact(
        self, paths: Sequence[str], decide: Callable[[list[bytes | None]], Sequence[Change] | None]
    ) -> bool:
        """Read nodes, decide, change nodes: one transaction, in three round trips. Returns whether it changed anything.

        `decide` gets the values of `paths` and returns the changes, or None to give up, and must be pure: it is asked
        again when another's write has come between (EAGAIN). Raises XenstoreError when a change or the transaction
        itself is refused; a change that is refused does not hold up the others.
        """
        for attempt in range(ATTEMPTS):
            try:
                async with self._transactions:
                    return await self._attempt(paths, decide)
            except XenstoreError as error:
                # ENOSPC: our kernel, on the same quota, has all transactions open.
                if error.errno not in (errno.EAGAIN, errno.ENOSPC):
                    raise
            await _pause(attempt)
        raise XenstoreError(errno.EAGAIN, paths[0])

    def exchange(self, requests: Sequence[Request]) -> asyncio.Future[list[Reply]]:
        """Send requests together and return the future of their replies, in the same order."""
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
        if self._channel is not None:
            self._channel.answered(answered)

    def _complete(self, batch: _Batch) -> None:
        if batch.future is None:
            return
        if not batch.future.done():
            batch.future.set_result(batch.replies)
            return
        # Whoever asked was cancelled: a transaction that nobody knows of would count against our quota for ever.
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
        """List a node whose children don't fit into one message; anew when they change on the way."""
        listing = bytearray()
        generation: bytes | None = None
        restarts = 0
        while restarts < ATTEMPTS:
            payload = codec.join_strings((codec.check_path(path), str(len(listing))))
            [reply] = await self.exchange((Request(codec.DIRECTORY_PART, 0, payload),))
            value = _value(reply)
            if value is None:
                return None
            now, part = codec.parse_directory_part(value)
            if generation is not None and now != generation:
                listing.clear()
                generation = None
                await _pause(restarts)
                restarts += 1
                continue
            generation = now
            listing += part
            # The list ends with an empty name; no part ends within a name.
            if len(listing) <= 1 or listing.endswith(b"\0\0"):
                return codec.parse_names(bytes(listing[:-1]))
        raise XenstoreError(errno.EAGAIN, path)

    async def _attempt(
        self, paths: Sequence[str], decide: Callable[[list[bytes | None]], Sequence[Change] | None]
    ) -> bool:
        [opened] = await self.exchange((Request(codec.TRANSACTION_START, 0, b"\0"),))
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
        if isinstance(ended, int):
            raise XenstoreError(ended)
        for change, reply in zip(changes, replies, strict=True):
            if isinstance(reply, int) and not (isinstance(change, Write) and change.optional):
                raise XenstoreError(reply, change.path)
        return True

    def _abandon(self, transaction_id: int) -> None:
        if self._channel is not None:
            self._send(self._channel, (Request(codec.TRANSACTION_END, transaction_id, b"F\0"),), None)


async def _pause(attempt: int) -> None:
    """Let others finish their writes, the longer the more often they came between."""
    await asyncio.sleep(min(0.0005 * 2**attempt, 0.1))


def _request(change: Change, transaction_id: int) -> Request:
    match change:
        case Write(path, value):
            return Request(codec.WRITE, transaction_id, path_payload(path) + value)
        case Remove(path):
            return Request(codec.RM, transaction_id, path_payload(path))


def _value(reply: Reply) -> bytes | None:
    if isinstance(reply, bytes):
        return reply
    if reply in (errno.ENOENT, errno.EACCES):
        return None
    raise XenstoreError(reply)


def _values(replies: Sequence[Reply]) -> list[bytes | None]:
    return [reply if isinstance(reply, bytes) else _value(reply) for reply in replies]

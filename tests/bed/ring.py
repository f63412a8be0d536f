"""A domain's side of its xenstore ring (`struct xenstore_domain_interface`, xen/include/public/io/xs_wire.h).

`Ring` is the shared page and its event channel. `DomainSocket` does what the Linux kernel does with /dev/xen/xenbus:
lets several programs of one domain share its one ring, here through a unix socket at a path. xenstored sees one
unprivileged domain with Xen's own permissions, quotas and write rate limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import selectors
import socket
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tests.bed.xs import HEADER, PAYLOAD_MAX, Op

RING = 1024
PORT_VIRQ = 1
PORT_FIRST = 16


class _Indexes(ctypes.Structure):
    _fields_ = (
        ("req_cons", ctypes.c_uint32),
        ("req_prod", ctypes.c_uint32),
        ("rsp_cons", ctypes.c_uint32),
        ("rsp_prod", ctypes.c_uint32),
    )


def notify(directory: Path, port: int) -> None:
    """Send an event to xenstored; one that finds the FIFO full is merged with those before it.

    It goes nowhere when xenstored is not running (ENXIO), or ends just now (EPIPE).
    """
    try:
        events = os.open(directory / "events", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
        os.write(events, struct.pack("=I", port))
    os.close(events)


def notify_virq(directory: Path) -> None:
    """VIRQ_DOM_EXC: xenstored looks which of its domains are still alive."""
    notify(directory, PORT_VIRQ)


class Ring:
    """The page a domain shares with xenstored, and the event channel between them. The domain must be introduced."""

    def __init__(self, directory: Path, domid: int) -> None:
        self._directory = directory
        self._port = PORT_FIRST + domid
        with (directory / f"page.{domid}").open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self._index = _Indexes.from_buffer(self._page, 2 * RING)
        channel = directory / f"evtchn.{domid}"
        if not channel.exists():
            os.mkfifo(channel)
        self._channel = os.open(channel, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._channel)
        del self._index
        self._page.close()

    def fileno(self) -> int:
        """Readable when xenstored has notified us."""
        return self._channel

    def drain(self) -> None:
        """Forget the notifications so far."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._channel, 65536)

    def write(self, data: bytes | bytearray) -> int:
        """Put as much of `data` into the request ring as fits, and return how much that was."""
        total = 0
        index = self._index
        while total < len(data):
            produced = index.req_prod
            offset = produced % RING
            room = min(RING - (produced - index.req_cons) % 2**32, RING - offset)
            chunk = bytes(data[total : total + room])
            if not chunk:
                break
            self._page[offset : offset + len(chunk)] = chunk
            index.req_prod = (produced + len(chunk)) % 2**32
            total += len(chunk)
        if total:
            notify(self._directory, self._port)
        return total

    def read(self) -> bytes:
        """Take all that is in the response ring."""
        data = bytearray()
        index = self._index
        while consumed := (index.rsp_prod - index.rsp_cons) % 2**32:
            offset = index.rsp_cons % RING
            size = min(consumed, RING - offset)
            data += self._page[RING + offset : RING + offset + size]
            index.rsp_cons = (index.rsp_cons + size) % 2**32
        if data:
            notify(self._directory, self._port)
        return bytes(data)


@dataclass(eq=False, slots=True)
class _Client:
    """One program on the domain's socket, and what it would leave behind in xenstored."""

    number: int
    socket: socket.socket
    input: bytearray = field(default_factory=bytearray)
    output: bytearray = field(default_factory=bytearray)
    watches: set[tuple[bytes, bytes]] = field(default_factory=set)
    transactions: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request under way: whose it is (None: nobody's, its client has gone) and the id its client knows it by."""

    client: _Client | None
    identity: int
    op: int


class DomainSocket:
    """A unix stream socket at `path` whose clients speak to xenstored as domain `domid`.

    Request ids and watch tokens are the domain's own on the ring and the client's own on its socket; what a client
    leaves open when it goes, watches and transactions, is closed for it.
    """

    def __init__(self, directory: Path, domid: int) -> None:
        """Serve clients, from a thread, until `close`. The domain must be introduced, and its ring never used."""
        self.path = directory / f"domain.{domid}"
        self._ring = Ring(directory, domid)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(16)
        self._stop, stopped = socket.socketpair()
        switchboard = _Switchboard(self._ring, listener, stopped)
        self._thread = threading.Thread(target=switchboard.run, name=f"xenstore of domain {domid}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Drop every client; none can connect any more."""
        self._stop.close()
        self._thread.join()
        self._ring.close()
        self.path.unlink()


class _Switchboard:
    """Carries messages between the ring and the clients, in one thread."""

    def __init__(self, ring: Ring, listener: socket.socket, stopped: socket.socket) -> None:
        self._ring = ring
        self._listener = listener
        self._stopped = stopped
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, _Client] = {}
        self._numbers = 0
        self._asked: dict[int, _Asked] = {}
        self._identities = 0
        self._requests = bytearray()
        self._answers = bytearray()

    def run(self) -> None:
        for source in (self._ring, self._listener, self._stopped):
            self._selector.register(source, selectors.EVENT_READ)
        while True:
            for key, ready in self._selector.select():
                if key.fileobj is self._stopped:
                    self._close()
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._ring:
                    self._ring.drain()
                elif isinstance(key.data, _Client) and self._clients.get(key.data.number) is key.data:
                    self._serve(key.data, ready)
            # The ring makes progress whenever anything happens at all: an event is only a hint to look at it.
            self._take_answers()
            del self._requests[: self._ring.write(self._requests)]

    def _close(self) -> None:
        for client in self._clients.values():
            client.socket.close()
        self._listener.close()
        self._stopped.close()
        self._selector.close()

    # Clients

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        self._numbers += 1
        client = _Client(self._numbers, connection)
        self._clients[client.number] = client
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _serve(self, client: _Client, ready: int) -> None:
        try:
            if ready & selectors.EVENT_WRITE:
                self._flush(client)
            if ready & selectors.EVENT_READ:
                data = client.socket.recv(65536)
                if not data:
                    raise ConnectionResetError
                client.input += data
                self._take_requests(client)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)

    def _flush(self, client: _Client) -> None:
        with contextlib.suppress(BlockingIOError):
            while client.output:
                del client.output[: client.socket.send(client.output)]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.output else 0)
        self._selector.modify(client.socket, wanted, client)

    def _drop(self, client: _Client) -> None:
        del self._clients[client.number]
        self._selector.unregister(client.socket)
        client.socket.close()
        for identity, asked in self._asked.items():
            if asked.client is client:
                self._asked[identity] = _Asked(None, asked.identity, asked.op)
        for path, token in client.watches:
            self._ask(None, Op.UNWATCH, 0, 0, path + b"\0" + token + b"\0")
        for tx in client.transactions:
            self._ask(None, Op.TRANSACTION_END, 0, tx, b"F\0")

    # Messages

    def _take_requests(self, client: _Client) -> None:
        while len(client.input) >= HEADER.size:
            op, identity, tx, length = HEADER.unpack_from(client.input)
            if length > PAYLOAD_MAX:
                raise ConnectionResetError
            if len(client.input) < HEADER.size + length:
                return
            payload = bytes(client.input[HEADER.size : HEADER.size + length])
            del client.input[: HEADER.size + length]
            if op in (Op.WATCH, Op.UNWATCH) and payload.count(b"\0") == 2:
                path, token, _ = payload.split(b"\0")
                token = b"%d:%s" % (client.number, token)
                payload = path + b"\0" + token + b"\0"
                (client.watches.add if op == Op.WATCH else client.watches.discard)((path, token))
            elif op == Op.TRANSACTION_END:
                client.transactions.discard(tx)
            self._ask(client, op, identity, tx, payload)

    def _ask(self, client: _Client | None, op: int, identity: int, tx: int, payload: bytes) -> None:
        self._identities = (self._identities + 1) % 2**32
        self._asked[self._identities] = _Asked(client, identity, op)
        self._requests += HEADER.pack(op, self._identities, tx, len(payload)) + payload

    def _take_answers(self) -> None:
        self._answers += self._ring.read()
        while len(self._answers) >= HEADER.size:
            kind, identity, tx, length = HEADER.unpack_from(self._answers)
            if len(self._answers) < HEADER.size + length:
                return
            payload = bytes(self._answers[HEADER.size : HEADER.size + length])
            del self._answers[: HEADER.size + length]
            if kind == Op.WATCH_EVENT:
                path, token = payload.split(b"\0")[:2]
                number, _, token = token.partition(b":")
                self._tell(self._clients.get(int(number)), kind, 0, 0, path + b"\0" + token + b"\0")
                continue
            asked = self._asked.pop(identity)
            if kind == Op.TRANSACTION_START and asked.client is not None:
                asked.client.transactions.add(int(payload.rstrip(b"\0")))
            elif kind == Op.TRANSACTION_START:
                self._ask(None, Op.TRANSACTION_END, 0, int(payload.rstrip(b"\0")), b"F\0")
            self._tell(asked.client, kind, asked.identity, tx, payload)

    def _tell(self, client: _Client | None, kind: int, identity: int, tx: int, payload: bytes) -> None:
        if client is None or client.number not in self._clients:
            return
        client.output += HEADER.pack(kind, identity, tx, len(payload)) + payload
        try:
            self._flush(client)
        except OSError:
            self._drop(client)

"""Where xenstored is looked for, how its socket is spoken to, and the kernel's device: a message a write."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from xennetd.xenstore import codec
from xennetd.xenstore.channel import (
    DEVICE,
    ConnectionLost,
    DeviceChannel,
    SocketChannel,
    endpoints,
    open_channel,
)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XENSTORED_PATH": "/a/b", "XENSTORED_RUNDIR": "/c"}, ("/a/b",)),
        ({"XENSTORED_RUNDIR": "/c"}, ("/c/socket", DEVICE)),
        ({}, ("/run/xenstored/socket", "/var/run/xenstored/socket", DEVICE)),
        ({"XENSTORED_PATH": "", "XENSTORED_RUNDIR": ""}, endpoints({})),
    ],
)
def test_the_environment_is_honoured_as_libxenstore_does(environ: dict[str, str], expected: tuple[str, ...]) -> None:
    assert endpoints(environ) == expected


def test_nothing_there_is_said_with_all_the_places(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost, match=r"no .*/a and no .*/b"):
        open_channel([f"{tmp_path}/a", f"{tmp_path}/b"], print, print)


def test_a_dead_socket_is_not_passed_over_for_the_device(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    with pytest.raises(ConnectionLost, match="Connection refused"):
        open_channel([str(path), "/dev/null"], print, print)


def test_the_socket_gets_the_first_of_a_turn_at_once_and_the_others_together() -> None:
    async def run() -> list[list[bytes]]:
        xenstored, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # it keeps sends apart
        xenstored.setblocking(False)
        channel = SocketChannel(ours, lambda data: None, lambda reason: None)

        def came() -> list[bytes]:
            packets: list[bytes] = []
            with suppress(BlockingIOError):
                while True:
                    packets.append(xenstored.recv(5000))
            return packets

        seen = []
        for turn in (b"1", b"2"):
            channel.send([turn + b"a", turn + b"b"])
            seen.append(came())
            channel.send([turn + b"c"])
            channel.send([turn + b"d", turn + b"e"])
            seen.append(came())
            await asyncio.sleep(0)
            seen.append(came())
        channel.close()
        xenstored.close()
        return seen

    assert asyncio.run(run()) == [[b"1a1b"], [], [b"1c1d1e"], [b"2a2b"], [], [b"2c2d2e"]]


def test_the_socket_loses_and_repeats_nothing_while_xenstored_is_slow() -> None:
    messages = [codec.encode(codec.READ, number, 0, bytes(number % 50)) for number in range(5000)]

    async def run() -> bytes:
        xenstored, ours = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        xenstored.setblocking(False)
        channel = SocketChannel(ours, lambda data: None, lambda reason: None)
        came = bytearray()

        async def more(size: int) -> bytes:
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(xenstored, size), 1)

        for start in range(0, len(messages), 50):
            channel.send(messages[start : start + 20])
            channel.send(messages[start + 20 : start + 50])
            await asyncio.sleep(0)
            if start % 200 == 0:
                came += await more(1000)
        while len(came) < sum(map(len, messages)):
            came += await more(65536)
        await asyncio.sleep(0.01)
        assert not asyncio.get_running_loop().remove_writer(ours), "it goes on waiting for room"
        channel.close()
        xenstored.close()
        return bytes(came)

    assert asyncio.run(run()) == b"".join(messages)


@pytest.mark.parametrize(
    "before",
    [pytest.param(0, id="at once"), pytest.param(1, id="with what was held"), pytest.param(10_000_000, id="when full")],
)
def test_a_socket_that_breaks_is_reported_once(before: int) -> None:
    async def run() -> list[ConnectionLost]:
        xenstored, ours = socket.socketpair()
        lost: list[ConnectionLost] = []
        channel = SocketChannel(ours, lambda data: None, lost.append)
        if before:
            channel.send([bytes(before)])
        xenstored.close()
        channel.send([b"last"])
        await asyncio.sleep(0.01)
        channel.close()
        return lost

    [reason] = asyncio.run(run())
    assert "xenstored" in reason.sentence


def test_the_device_gets_one_message_a_write_and_no_other_before_the_answer() -> None:
    """A sequenced-packet socket stands for the device: it keeps writes apart, as the device does."""
    sent = [codec.encode(codec.READ, number, 0, bytes(number)) for number in range(35)]

    async def run() -> tuple[list[bytes], list[int], list[bytes]]:
        kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kernel.setblocking(False)
        received: asyncio.Queue[bytes] = asyncio.Queue()
        channel = DeviceChannel(ours.detach(), received.put_nowait, lambda reason: None)
        channel.send(sent[:20])
        channel.send(sent[20:])
        writes: list[bytes] = []
        at_a_time: list[int] = []
        answers: list[bytes] = []
        while len(writes) < len(sent):
            before = len(writes)
            with suppress(BlockingIOError):
                while True:
                    writes.append(kernel.recv(5000))
            at_a_time.append(len(writes) - before)
            for message in writes[before:]:
                kernel.send(message)
                answers.append(await asyncio.wait_for(received.get(), 1))
            channel.answered(len(writes) - before)
        channel.close()
        assert kernel.recv(1) == b""
        kernel.close()
        return writes, at_a_time, answers

    writes, at_a_time, received = asyncio.run(run())
    assert writes == received == sent
    assert at_a_time == [1] * len(sent)


def test_a_device_that_fails_is_reported_once() -> None:
    async def run() -> list[ConnectionLost]:
        kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lost: list[ConnectionLost] = []
        channel = DeviceChannel(ours.detach(), print, lost.append)
        kernel.close()
        channel.send([codec.encode(codec.READ, 1, 0, b"domid\0")] * 2)
        await asyncio.sleep(0.01)
        return lost

    [reason] = asyncio.run(run())
    assert "Broken pipe" in reason.sentence

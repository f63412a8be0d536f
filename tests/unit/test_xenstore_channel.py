"""Where xenstored is looked for, and how the kernel's device is spoken to: a message a write, one at a time."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from xennetd.xenstore import codec
from xennetd.xenstore.channel import DEVICE, ConnectionLost, DeviceChannel, endpoints, open_channel


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

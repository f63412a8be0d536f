"""The control socket itself: who may open it, what was there before, and its end."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.unit.control.bed import FakeDaemon, Served, serving
from tests.unit.control.peer import NOBODY, Peer, ask_as, monitor, needs_root, run
from xennetd.cli import connection
from xennetd.daemon.control import server
from xennetd.daemon.control.listener import Listener, readable
from xennetd.daemon.control.server import ControlServer
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.journal import Journal
from xennetd.model.errors import HostError


@needs_root
def test_the_group_may_open_the_socket_and_nobody_else(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        state = os.stat(path)
        assert (stat.S_IMODE(state.st_mode), state.st_gid) == (0o660, NOBODY)
        assert "PermissionError" in await ask_as(NOBODY, NOBODY - 1, path, [("Status", {})])

    run(scenario, path, group=grp.getgrgid(NOBODY).gr_name)


def test_without_the_group_the_socket_is_roots_alone(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    run(scenario, path, group="no-such-group-here")


def test_a_group_that_it_must_not_be_given_to_is_no_reason_to_fail(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def chown(path: str, uid: int, gid: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)

    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    run(scenario, path, group="nogroup")


def test_a_stale_socket_is_replaced_and_ours_is_removed_at_the_end(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(path)

    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        assert "parameters" in await (await Peer.connect(path)).call("Status")

    run(scenario, path)
    assert not os.path.exists(path)


def test_a_socket_that_another_program_listens_on_is_left_alone(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen(0)
        with pytest.raises(
            HostError, match=rf"can't be made: another program, .* \(pid {os.getpid()}, user 0\), listens"
        ):
            ControlServer(FakeDaemon(), Audit(Journal("/nonexistent")), path, version="1.2")
        assert stat.S_ISSOCK(os.stat(path).st_mode)


def test_another_xennetd_is_named(path: str, served: Served) -> None:
    with pytest.raises(HostError, match=f"another xennetd is running: it listens on the control socket {path}"):
        ControlServer(FakeDaemon(), Audit(Journal("/nonexistent")), path, version="1.2")
    assert connection.call(path, "Status")


def test_a_file_of_that_name_is_left_alone(path: str) -> None:
    Path(path).write_text("precious")
    with pytest.raises(HostError, match="a file of that name exists and is no socket"):
        ControlServer(FakeDaemon(), Audit(Journal("/nonexistent")), path, version="1.2")
    assert Path(path).read_text() == "precious"


def test_a_path_that_cannot_be_is_a_named_error(path: str) -> None:
    with pytest.raises(HostError, match=r"/control can't be made: No such file"):
        ControlServer(FakeDaemon(), Audit(Journal("/nonexistent")), path + "/not/there/control", version="1.2")
    with pytest.raises(HostError, match="too long"):
        ControlServer(FakeDaemon(), Audit(Journal("/nonexistent")), path + "x" * 200, version="1.2")


def test_another_daemons_socket_is_not_removed_at_the_end(path: str) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)

    run(scenario, path)
    assert os.path.exists(path)


ACTIVATED = """
import asyncio, os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
sys.path.insert(0, sys.argv[2])
from tests.unit.control.bed import FakeDaemon, Served, serving
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.journal import Journal
async def main():
    async with serving(FakeDaemon(), Audit(Journal("/nonexistent")), "/nonexistent/control"):
        print("up", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["control", "xennetd.socket"])
def test_systemds_socket_is_served_and_left_to_systemd(name: str, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        server = subprocess.Popen(
            [sys.executable, "-c", ACTIVATED, str(listening.fileno()), str(Path(__file__).parents[3])],
            pass_fds=[listening.fileno()],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None
        assert server.stdout.readline() == b"up\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b'{"method":"org.xennetd.Control.Status"}\0')
            assert client.recv(65536).startswith(b'{"parameters":')
        server.communicate()
        assert server.returncode == 0
        assert os.path.exists(path)


def test_stopping_ends_all_conversations(path: str) -> None:
    async def main() -> None:
        audit = Audit(Journal("/nonexistent"))
        async with serving(FakeDaemon(), audit, path):
            idle, watching = await Peer.connect(path), await monitor(path)
            await watching.receive()
        assert await idle.is_cut_off()
        assert await watching.is_cut_off()
        assert not audit._subscriptions
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_running_out_of_descriptors_ends_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(daemon: FakeDaemon, audit: Audit, path: str) -> None:
        failures = [OSError(24, "Too many open files")]

        async def fails_once(listening: socket.socket) -> None:
            if failures:
                raise failures.pop()
            await readable(listening)

        monkeypatch.setattr(server, "readable", fails_once)
        for _ in range(3):
            assert "parameters" in await (await Peer.connect(path)).call("Status")
        assert not failures

    run(scenario, path)


def test_a_wait_that_is_cancelled_as_somebody_connects_loses_nobody(path: str) -> None:
    """loop.sock_accept() accepts the connection then, and raises InvalidStateError in the event loop."""

    async def main() -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listening:
            listening.bind(path)
            listening.listen()
            waiting = asyncio.ensure_future(readable(listening))
            await asyncio.sleep(0.01)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                asyncio.get_running_loop().call_soon(waiting.cancel)  # in the round in which the loop sees the client
                await asyncio.wait([waiting])
                await asyncio.sleep(0.01)
                assert told == []
                listening.accept()[0].close()

    asyncio.run(main())


OTHER_FILESYSTEM = """
import os, socket, subprocess, sys
sys.path.insert(0, sys.argv[2])
from xennetd.daemon.control.listener import Listener
directory = sys.argv[1]
def mount():
    subprocess.run(["mount", "-t", "tmpfs", "-o", "inode32", "none", directory], check=True)
mount()
listener = Listener(f"{directory}/control", "no-such-group-here")
before, gone = os.stat(f"{directory}/control"), listener.is_gone()
mount()
with socket.socket(socket.AF_UNIX) as other:
    other.bind(f"{directory}/control")
after = os.stat(f"{directory}/control")
print(before.st_ino == after.st_ino, gone, listener.is_gone())
listener.close()
print(os.path.exists(f"{directory}/control"))
"""


@needs_root
def test_a_socket_of_the_same_inode_on_another_file_system_is_not_ours(path: str) -> None:
    checkout = str(Path(__file__).parents[3])
    command = ["unshare", "-m", sys.executable, "-c", OTHER_FILESYSTEM, os.path.dirname(path), checkout]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "False", "True", "True"], done.stderr


@pytest.mark.parametrize("where", ["/run", "/dev/shm"])
def test_the_inode_of_our_socket_is_not_used_again_while_we_listen(where: str, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=where if os.access(where, os.W_OK) else tmp_path) as directory:
        os.chmod(directory, 0o755)
        path = f"{directory}/control"
        listener = Listener(path, "no-such-group-here")
        for _ in range(200):
            os.unlink(path)
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(path)
                assert listener.is_gone()
        listener.close()
        assert os.path.exists(path)


def test_a_socket_that_takes_the_place_of_ours_as_we_stop_is_not_removed(path: str) -> None:
    listener = Listener(path, "no-such-group-here")
    ours = listener.socket

    class Closing:
        """Our socket, in whose place another one is made as soon as it is closed: with the same inode, on ext4."""

        def close(self) -> None:
            if os.path.exists(path):
                os.unlink(path)
            ours.close()
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(path)

    listener.socket = Closing()  # type: ignore[assignment] # another takes its place as it is closed
    listener.close()
    assert os.path.exists(path)

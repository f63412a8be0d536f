"""Where the control socket may be, and what is said of where it may not."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from xennetd.daemon.control_path import AnotherXennetd, occupied, unfit

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: a socket's has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def test_where_nothing_is_and_where_a_dead_daemon_has_left_a_socket(place: Path) -> None:
    assert unfit("/run/xennetd/control") == ""
    assert unfit(f"{place}/control") == ""
    assert unfit(f"{place}/not/there/control") == ""
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(f"{place}/control")
    assert unfit(f"{place}/control") == ""
    assert (place / "control").is_socket()


def test_no_file_is_taken_for_a_socket(place: Path) -> None:
    for path in ("/etc/passwd", "/etc/xennetd/control", "/proc/nowhere/control", "/usr/lib/control"):
        assert f"/{path.split('/')[1]} is no place for sockets" in unfit(path)
    (place / "file").write_text("precious")
    (place / "link").symlink_to(place / "nowhere")
    (place / "directory").mkdir()
    assert "a file of that name exists and is no socket" in unfit(f"{place}/file")
    assert "a file of that name exists and is no socket" in unfit(f"{place}/directory")
    assert "a symbolic link of that name exists" in unfit(f"{place}/link")
    assert f"{place}/file is no directory" in unfit(f"{place}/file/control")


def test_another_programs_directory_is_named_with_what_is_in_it(place: Path) -> None:
    assert "/var/lib/dpkg is another program's directory, with " in unfit("/var/lib/dpkg/control")
    for path in ("/run/control", "/var/run/control", "/tmp/control", "/run/xennetd-lab/control"):
        assert unfit(path) == ""


def test_a_directory_that_everyone_may_write_to_is_refused_wherever_it_is_on_the_way(place: Path) -> None:
    (place / "open" / "inner").mkdir(parents=True)
    (place / "open").chmod(0o777)
    for directory in ("open", "open/inner"):
        assert f"everyone may write to the directory {place}/open (mode 0777): run chmod o-w" in unfit(
            f"{place}/{directory}/control"
        )
    (place / "link").symlink_to("open")
    assert f"everyone may write to the directory {place}/open" in unfit(f"{place}/link/control")
    (place / "open").chmod(0o1777)
    assert unfit(f"{place}/open/inner/control") == ""
    assert unfit(f"{place}/link/control") == "", "a link of ours to such a directory is as good"


@needs_root
def test_a_directory_that_a_group_may_write_to_is_refused_unless_it_is_roots(place: Path) -> None:
    (place / "shared" / "inner").mkdir(parents=True)
    (place / "shared").chmod(0o2775)
    for directory in ("shared", "shared/inner"):
        os.chown(place / "shared", 0, 50)
        (place / "shared").chmod(0o2775)
        path = f"{place}/{directory}/control"
        assert f"group 50 may write to the directory {place}/shared (mode 2775): run chmod g-w" in unfit(path)
        (place / "shared").chmod(0o3775)
        assert unfit(path) == "", "the sticky bit keeps them from replacing a socket"
        (place / "shared").chmod(0o2755)
        assert unfit(path) == ""
        os.chown(place / "shared", 0, 0)
        (place / "shared").chmod(0o775)
        assert unfit(path) == ""


@needs_root
def test_what_belongs_to_others_is_refused(place: Path) -> None:
    (place / "theirs" / "inner").mkdir(parents=True)
    os.chown(place / "theirs", NOBODY, NOBODY)
    for directory in ("theirs", "theirs/inner"):
        assert f"the directory {place}/theirs belongs to user {NOBODY}" in unfit(f"{place}/{directory}/control")
    (place / "link").symlink_to(place)
    os.lchown(place / "link", NOBODY, NOBODY)
    assert f"the symbolic link {place}/link belongs to user {NOBODY}" in unfit(f"{place}/link/control")
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(f"{place}/control")
    os.chown(place / "control", NOBODY, NOBODY)
    assert f"a socket of that name belongs to user {NOBODY}" in unfit(f"{place}/control")


ANSWERS = {
    "nothing": None,
    "the end": b"",
    "junk": b"SSH-2.0-OpenSSH\r\n",
    "junk in JSON": b'[{"parameters":7}]\0',
    "another product": b'{"parameters":{"product":"resolved"}}\0',
    "nesting": b"[" * 100_000 + b"\0",
    "no end": b"x" * 1_000_000,
}


def answering(listener: socket.socket, answer: bytes | None) -> None:
    conn, _ = listener.accept()
    with conn, contextlib.suppress(OSError):
        conn.settimeout(5)
        if answer:
            conn.sendall(answer)
        while answer != b"" and conn.recv(4096):
            pass


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_another_program_that_listens_is_named_and_left_alone(place: Path, answer: bytes | None) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}/control")
        listener.listen()
        thread = threading.Thread(target=answering, args=[listener, answer])
        thread.start()
        said = occupied(f"{place}/control", 0.2)
        thread.join()
    name = Path("/proc/self/comm").read_text().strip()
    uid = os.geteuid()
    assert said.startswith(f'another program, "{name}" (pid {os.getpid()}, user {uid}), listens there: choose another')
    assert (place / "control").is_socket()


def test_an_xennetd_that_listens_is_known_by_its_answer(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{place}/control")
        listener.listen()
        for look in (occupied, unfit):
            answer = b'{"parameters":{"vendor":"xennetd","product":"xennetd"}}\0'
            thread = threading.Thread(target=answering, args=[listener, answer])
            thread.start()
            if look is unfit:
                assert unfit(f"{place}/control") == ""
            else:
                with pytest.raises(AnotherXennetd):
                    occupied(f"{place}/control")
            thread.join()


def test_one_whose_line_is_full_is_waited_for_no_longer_than_allowed(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(f"{place}/control")
        listener.listen(0)
        first.connect(f"{place}/control")
        assert "a program listens there whose line of connections is full, maybe another xennetd: end it" in occupied(
            f"{place}/control", 0.1
        )

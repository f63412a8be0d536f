"""The journal sender, against real datagram sockets and real pipes."""

from __future__ import annotations

import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xennetd.daemon.observability.journal import INFO, Journal, Stderr, encode, line

FIELDS: dict[str, str | int] = {"MESSAGE": "vif7.0 is part of xenbr0", "PRIORITY": INFO, "XENNET_VIF": "vif7.0"}


def decode(data: bytes) -> dict[str, str]:
    """Read an entry as journald does."""
    fields = {}
    while data:
        name, _, rest = data.partition(b"\n")
        if b"=" in name:
            name, _, value = name.partition(b"=")
            data = rest
        else:
            size = int.from_bytes(rest[:8], "little")
            value, data = rest[8 : 8 + size], rest[8 + size + 1 :]
        fields[name.decode()] = value.decode()
    return fields


class Journald:
    """A journald that can stall (nobody reads), be drained, stop, and start again."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.start()

    def start(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(self.path)

    def stop(self) -> None:
        self.socket.close()
        os.unlink(self.path)

    def drain(self) -> list[dict[str, str]]:
        entries: list[dict[str, str]] = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
            except BlockingIOError:
                return entries
            for fd in fds:
                with open(fd, "rb") as file:
                    file.seek(0)
                    data += file.read()
            entries.append(decode(data))


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    server = Journald(tmp_path / "socket")
    yield server
    server.socket.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def read(fd: int) -> str:
    text = b""
    while True:
        try:
            text += os.read(fd, 1 << 20)
        except BlockingIOError:
            return text.decode()


def test_an_entry_arrives_with_its_fields_and_who_sent_it(journald: Journald) -> None:
    Journal(journald.path).send(FIELDS)
    assert journald.drain() == [
        {"MESSAGE": FIELDS["MESSAGE"], "PRIORITY": "6", "XENNET_VIF": "vif7.0", "SYSLOG_IDENTIFIER": "xennetd"}
    ]


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text(), min_size=1))
def test_no_value_can_forge_a_field(fields: dict[str, str]) -> None:
    expected = {k: v.encode("utf-8", "backslashreplace").decode() for k, v in fields.items()}
    assert decode(encode(fields)) == expected


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text(), min_size=1))
def test_a_line_is_one_line_of_printable_ascii(fields: dict[str, str]) -> None:
    text = line(fields)
    assert text.endswith(b"\n")
    assert all(0x20 <= byte < 0x7F for byte in text[:-1])


def test_a_line_quotes_what_needs_it() -> None:
    text = line({"MESSAGE": 'a "b"\nc', "N": 3, "E": "", "X": "vif7.0"})
    assert text == b'MESSAGE="a \\"b\\"\\nc" N=3 E="" X=vif7.0\n'


def test_a_large_entry_goes_as_a_sealed_file(journald: Journald) -> None:
    size = 20 << 20
    Journal(journald.path).send({"MESSAGE": "x" * size, "PRIORITY": INFO})
    data, fds, _, _ = socket.recv_fds(journald.socket, 1 << 20, 1)
    assert data == b""
    with open(fds[0], "r+b") as file:
        file.seek(0)
        assert decode(file.read())["MESSAGE"] == "x" * size
        with pytest.raises(PermissionError):
            os.write(fds[0], b"later")


def test_a_restarted_journald_is_found_again(journald: Journald, pipe: tuple[int, int]) -> None:
    journal = Journal(journald.path, stderr=Stderr(pipe[1]))
    journal.send(FIELDS)
    journald.stop()
    journal.send({**FIELDS, "MESSAGE": "while it was away"})
    journald.start()
    journal.send({**FIELDS, "MESSAGE": "back"})
    assert [entry["MESSAGE"] for entry in journald.drain()] == ["back"]
    assert 'MESSAGE="while it was away"' in read(pipe[0])
    assert journal.lost == 0


@pytest.mark.parametrize("where", ["absent", "a file", "nobody listens"])
def test_without_journald_the_same_fields_go_to_stderr(where: str, tmp_path: Path, pipe: tuple[int, int]) -> None:
    path = tmp_path / "socket"
    if where == "a file":
        path.write_text("")
    elif where == "nobody listens":
        Journald(path).socket.close()
    Journal(str(path), stderr=Stderr(pipe[1])).send(FIELDS)
    assert read(pipe[0]) == (
        'MESSAGE="vif7.0 is part of xenbr0" PRIORITY=6 XENNET_VIF=vif7.0 SYSLOG_IDENTIFIER=xennetd\n'
    )


def waits() -> int:
    """How often this thread has waited for something. A busy machine, which makes it wait its turn, does not count."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def test_a_stalled_journald_and_a_stalled_stderr_never_block_and_the_loss_is_told(
    journald: Journald, pipe: tuple[int, int]
) -> None:
    journal = Journal(journald.path, stderr=Stderr(pipe[1]))
    waited = waits()
    for number in range(3000):
        journal.send({"MESSAGE": str(number), "PRIORITY": INFO, "XENNET_X": "x" * 200})
    assert waits() - waited < 10

    entries = journald.drain()
    lines = read(pipe[0]).splitlines()
    journal.send({"MESSAGE": "after", "PRIORITY": INFO})
    *reports, after = journald.drain()
    assert after["MESSAGE"] == "after"
    assert reports[-1]["MESSAGE"].endswith("journal entries were not delivered")
    told = [int(report["XENNET_LOST"]) for report in reports]
    told += [int(found[1]) for text in lines if (found := re.search(r"XENNET_LOST=(\d+)", text))]
    arrived = len(entries) + sum("XENNET_X" in text for text in lines)
    assert entries
    assert lines
    assert sum(told) == journal.lost == 3000 - arrived > 0

    journal.send({"MESSAGE": "later", "PRIORITY": INFO})
    assert [entry["MESSAGE"] for entry in journald.drain()] == ["later"], "a loss is told once"


def test_stderr_of_others_is_left_blocking(pipe: tuple[int, int]) -> None:
    Stderr(pipe[1]).write(b"x\n")
    assert os.get_blocking(pipe[1])


def test_a_line_that_was_torn_is_ended_before_the_next(pipe: tuple[int, int]) -> None:
    stderr = Stderr(pipe[1])
    assert not stderr.write(b"x" * 100_000 + b"\n")
    os.read(pipe[0], 1 << 20)
    assert stderr.write(b"next\n")
    assert read(pipe[0]) == "\nnext\n"


def test_stderr_that_is_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    with path.open("a") as file:
        assert Stderr(file.fileno()).write(b"after\n")
    assert path.read_text() == "before\nafter\n"


def test_stderr_that_is_a_full_stream_socket_never_blocks() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stderr = Stderr(ours.fileno())
        assert any(not stderr.write(b"x" * 4096) for _ in range(1000))


@pytest.mark.parametrize("fd", ["closed", "a pipe that nobody reads"])
def test_stderr_that_is_gone_is_no_error(fd: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    if fd == "closed":
        os.close(writer)
    assert not Stderr(writer).write(b"x\n")


LOG = """
import logging, os, sys
from xennetd.daemon.observability import log
from xennetd.daemon.observability.journal import Journal
import structlog
log.configure(Journal(sys.argv[1]))
logger = structlog.get_logger()
logger.debug("too fine")
logger.info("a bridge\\nappeared", bridge="xenbr0", **{"odd key!": 1}, absent=None)
try:
    1 / 0
except ZeroDivisionError:
    logger.exception("our bug")
logging.getLogger("asyncio").error("%s took long", "a callback")
logging.getLogger("asyncio").info("too fine")
assert "rich" not in sys.modules
"""


def test_the_log_goes_to_the_journal_as_fields(journald: Journald) -> None:
    run = subprocess.run([sys.executable, "-c", LOG, journald.path], capture_output=True, text=True, check=True)
    entry, bug, library = journald.drain()
    assert entry == {
        "MESSAGE": "a bridge\nappeared",
        "PRIORITY": "6",
        "XENNET_BRIDGE": "xenbr0",
        "XENNET_ODD_KEY_": "1",
        "SYSLOG_IDENTIFIER": "xennetd",
    }
    assert (bug["MESSAGE"], bug["PRIORITY"]) == ("our bug", "3")
    assert "ZeroDivisionError" in bug["EXCEPTION_TEXT"]
    assert (library["MESSAGE"], library["XENNET_LOGGER"]) == ("a callback took long", "asyncio")
    assert run.stderr == ""


def test_on_a_terminal_the_log_is_lines_for_a_person(journald: Journald) -> None:
    ours, theirs = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    subprocess.run([sys.executable, "-c", LOG, journald.path], stderr=theirs, env=environment, check=True)
    text = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    assert "info     a bridge\\nappeared  bridge=xenbr0" in text
    assert "our bug" in text
    assert "ZeroDivisionError: division by zero" in text
    assert len(journald.drain()) == 1, "what libraries log"


DEBUG_LOG = """
import sys
import structlog
logger = structlog.get_logger()
from xennetd.daemon.observability import log
from xennetd.daemon.observability.journal import Journal
log.configure(Journal(sys.argv[1]), debug=sys.argv[2] == "True")
logger.debug("first", vif="vif7.0")
for message in ("second", "third"):
    log.toggle_debug()
    logger.debug(message)
"""


@pytest.mark.parametrize("debug", [False, True])
def test_debug_messages_are_switched_on_and_off_for_loggers_in_use(journald: Journald, debug: bool) -> None:
    subprocess.run([sys.executable, "-c", DEBUG_LOG, journald.path, str(debug)], check=True)
    entries = [(entry["MESSAGE"], entry["PRIORITY"]) for entry in journald.drain()]
    on, off = ("debug messages are logged from now on", "6"), ("debug messages are no longer logged", "6")
    assert entries == ([("first", "7"), off, on, ("third", "7")] if debug else [on, ("second", "7"), off])


@pytest.mark.parametrize("first", ["main", "reconcile.reconciler", "toolstack.hooks", "observability.journal"])
def test_the_daemon_never_imports_rich(first: str) -> None:
    """structlog would: 60 ms and 6 MiB. The module that is imported first does not matter."""
    code = f"import sys, xennetd.daemon.{first}, structlog; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_standard_logging_never_blocks_either() -> None:
    """`logging.lastResort` would print to standard error and wait for it."""
    code = (
        "import logging; from xennetd.daemon.observability import log;"
        "from xennetd.daemon.observability.journal import Journal;"
        "log.configure(Journal('/nonexistent'));"
        "print([type(handler).__name__ for handler in logging.getLogger().handlers])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "['_FromLogging']\n"

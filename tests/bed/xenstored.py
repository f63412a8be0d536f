"""The two real stores over `hypervisor.c`, started, killed and restarted as a test wants it.

`Xenstored` is Xen's own, in C. `Oxenstored` is the one in OCaml, which XCP-ng and XenServer have.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.bed import xen
from tests.bed.ring import DomainSocket, notify_virq
from tests.bed.xs import Node, Op, Request, Xs


class Dump(NamedTuple):
    """Everything that xenstored holds but watches, transactions and permissions of @introduceDomain/@releaseDomain."""

    nodes: tuple[Node, ...]
    introduced: tuple[int, ...]


def hypervisor() -> Path:
    """Compile `hypervisor.c` into the cache when it has changed, and return the library. Safe for concurrent runs."""
    source = Path(__file__).with_name("hypervisor.c")
    library = xen.CACHE / "hypervisor.so"
    if library.exists() and library.stat().st_mtime_ns > source.stat().st_mtime_ns:
        return library
    compiler = xen.program("cc", "gcc")
    xen.CACHE.mkdir(exist_ok=True)
    fresh = library.with_suffix(f".{os.getpid()}")
    subprocess.run([compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", fresh, source], check=True)
    fresh.rename(library)
    return library


class Xenstored:
    """A running xenstored in a directory of its own.

    `socket` is the path clients connect to, as dom0. `quotas` raises its limits on unprivileged domains by the names
    of `xenstored --help`: `{"entry-nb": 100000, "watch-nb": 10000, "quota": "outstanding=1000"}`. Without it the
    limits are Xen's own. Domains are alive until `destroy_domain`. It ends with the thread that started it.
    """

    def __init__(self, quotas: Mapping[str, int | str] | None = None) -> None:
        self.xen = xen.find()
        self.directory = Path(tempfile.mkdtemp(prefix="xenstored-"))
        self.socket = self.directory / "socket"
        self._quotas = dict(quotas or {})
        self._library = hypervisor()
        self._process: subprocess.Popen[bytes] | None = None
        self._domains: dict[int, DomainSocket] = {}
        self._played: set[int] = set()
        os.mkfifo(self.directory / "events")
        self.start()

    def __enter__(self) -> Xenstored:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        assert self._process is not None, "xenstored is not running"
        return self._process.pid

    def environment(self) -> dict[str, str]:
        """What a program (xenstore-read, a stock script, xennetd) needs to speak to this xenstored as dom0."""
        return {**self.xen.environment(), "XENSTORED_PATH": str(self.socket), "XENSTORED_RUNDIR": str(self.directory)}

    def connect(self) -> Xs:
        """A new connection as dom0."""
        return Xs(self.socket)

    # The process

    def start(self, contents: Dump | None = None) -> None:
        """Start xenstored, with `contents` if given; no client can connect before these are in place."""
        assert self._process is None, "xenstored is running already"
        command, variables, private = self._program()
        private.unlink(missing_ok=True)
        log = (self.directory / "log").open("ab")
        self._process = subprocess.Popen(
            command,
            env={
                **self.xen.environment(),
                "LD_PRELOAD": str(self._library),
                "XENNETD_BED_DIR": str(self.directory),
                **variables,
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        with self._first_connection(private) as xs:
            if contents is not None:
                xs.restore(contents.nodes)
                for domid in contents.introduced:
                    xs.introduce(domid)
        # Only now under the name that clients know.
        private.rename(self.socket)
        for domid in self._played & set(self.introduced()):
            self._domains[domid] = DomainSocket(self.directory, domid)

    def _program(self) -> tuple[list[str | Path], dict[str, str], Path]:
        """The command, what it needs in its environment, and the socket that it makes."""
        private = self.directory / "socket.new"
        variables = {
            "XENSTORED_PATH": str(private),
            "XENSTORED_RUNDIR": str(self.directory),
            "XENSTORED_ROOTDIR": str(self.directory),
        }
        limits = [f"--{name}={value}" for name, value in self._quotas.items()]
        return [self.xen.xenstored, "-N", *limits], variables, private

    def _first_connection(self, path: Path) -> Xs:
        deadline = time.monotonic() + 10
        while True:
            try:
                return Xs(path)
            except (FileNotFoundError, ConnectionRefusedError):
                if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"xenstored did not start: {self.log()}") from None
                time.sleep(0.002)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process with a signal; every connection drops. The directory stays for `start`."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(10)
        self.socket.unlink(missing_ok=True)
        for domain in self._domains.values():
            domain.close()
        self._domains.clear()
        for page in self.directory.glob("page.*"):
            page.unlink()

    def kill9(self) -> None:
        self.stop(signal.SIGKILL)

    def restart(self, contents: Dump | None = None, down: float = 0.0) -> None:
        """kill -9 and start again after `down` seconds with what it held (or with `contents`)."""
        if contents is None:
            contents = self.dump()
        self.kill9()
        time.sleep(down)
        self.start(contents)

    def close(self) -> None:
        """End it and remove its directory."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """What xenstored wrote to its standard output and error."""
        return (self.directory / "log").read_text(errors="replace")

    def watches(self) -> int:
        """How many watches it keeps for all its clients, by its own report of the memory that it uses."""
        report = self.directory / "memory"
        report.unlink(missing_ok=True)  # it appends
        with self.connect() as xs:
            xs.request(Request.of(Op.CONTROL, "memreport", str(report)))
        return report.read_text().count("struct watch ")

    def dump(self) -> Dump:
        with self.connect() as xs:
            return Dump(tuple(xs.dump()), tuple(self.introduced()))

    # Domains

    def introduced(self) -> list[int]:
        """The domains introduced at present, but dom0: xenstored has each one's page mapped."""
        return sorted(int(page.suffix[1:]) for page in self.directory.glob("page.*") if page.suffix != ".0")

    def create_domain(self, domid: int) -> None:
        """Let the hypervisor know `domid` again after a `destroy_domain`."""
        (self.directory / f"dead.{domid}").unlink(missing_ok=True)

    def destroy_domain(self, domid: int) -> None:
        """Let the hypervisor forget `domid` and say so to xenstored, which fires `@releaseDomain`.

        As on a real host the domain's nodes stay until the toolstack deletes them, but for those it owned itself.
        """
        (self.directory / f"dead.{domid}").touch()
        notify_virq(self.directory)
        self._played.discard(domid)
        domain = self._domains.pop(domid, None)
        if domain is not None:
            domain.close()

    def domain_socket(self, domid: int) -> Path:
        """The path where who connects speaks to xenstored as the introduced domain `domid`, over its ring.

        A restart drops the connections, as it does dom0's, and opens the path again.
        """
        if domid not in self._domains:
            self._domains[domid] = DomainSocket(self.directory, domid)
            self._played.add(domid)
        return self._domains[domid].path


class Oxenstored(Xenstored):
    """A running oxenstored in a directory of its own; in all else like `Xenstored`.

    `quotas` goes by the names in oxenstored.conf: `{"quota-maxwatch": 1000}`. Without it the limits are those of the
    package's oxenstored.conf.
    """

    def _program(self) -> tuple[list[str | Path], dict[str, str], Path]:
        program = self.xen.oxenstored
        run = self.directory / "run"  # its /run/xenstored
        run.mkdir(exist_ok=True)
        limits = "".join(f"{name} = {value}\n" for name, value in self._quotas.items())
        (run / "conf").write_text(f"{self.xen.oxenstored_conf.read_text()}\n{limits}")
        arguments = ("--no-fork", "--no-access-log", "--config-file", "/run/xenstored/conf")
        return [program, *arguments], {"XENNETD_BED_RUN": str(run)}, run / "socket"

    def log(self) -> str:
        """What oxenstored wrote to its standard output and error, and its own log."""
        own = self.directory / "run/log"
        return super().log() + (own.read_text(errors="replace") if own.exists() else "")

    def watches(self) -> int:
        """How many watches it keeps for all its clients."""
        with self.connect() as xs:
            return xs.request(Request.of(Op.CONTROL, "watches", "")).count(b"watch ")

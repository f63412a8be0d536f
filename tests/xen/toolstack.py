"""The real toolstack and its guests, from dom0: `xl`, a `Guest` with its console, and what lies in xenstore."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import subprocess
import termios
import time
import tty
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.bed.xs import Xs
from tests.image import journal

BRIDGE = "xenbr0"
BOOT_ADDRESS = "10.9.0.10"  # of the guest that xendomains starts

_IMAGES = Path("/var/lib/xen/guest")
_RUN = Path("/run/xennetd-test")
_MEMORY = 128  # MiB, what Debian's kernel needs to start

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended; `output` is stdout and stderr together; `seconds` is how long it took."""

    status: int
    output: str
    seconds: float


def run(*argv: str, timeout: float = 240.0) -> Result:
    """Run a command to its end."""
    started = time.monotonic()
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
    )
    return Result(done.returncode, done.stdout, time.monotonic() - started)


def do(*argv: str, timeout: float = 240.0) -> str:
    """Run a command that must succeed, and return its output."""
    result = run(*argv, timeout=timeout)
    assert result.status == 0, f"{' '.join(argv)} ended with status {result.status}:\n{result.output}"
    return result.output


def until(what: Callable[[], T], timeout: float = 90.0, every: float = 0.2) -> T:
    """Return what `what` returns as soon as that is true; TimeoutError with the last answer if it never is."""
    deadline = time.monotonic() + timeout
    while True:
        answer = what()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout} s: {what.__doc__ or what}; last: {answer!r}")
        time.sleep(every)


# xenstore


def xenstore() -> Xs:
    """A connection to the host's xenstored."""
    return Xs("/run/xenstored/socket", timeout=60.0)


def node(path: str) -> str | None:
    """Return a node's value, None if there is none."""
    with xenstore() as xs:
        return xs.get(path)


def nodes(path: str) -> dict[str, str]:
    """Return every node below a path, and itself; nothing if it is not there."""
    with xenstore() as xs:
        return xs.tree(path)


# xennetd


def rows() -> list[dict[str, Any]]:
    """Return what `xennetctl list` says."""
    return list(json.loads(do("xennetctl", "list", "--json")))


def row(vif: str) -> dict[str, Any] | None:
    """Return what `xennetctl list` says of one vif."""
    return next((row for row in rows() if row["vif"] == vif), None)


def ready() -> None:
    """Wait until xennetd runs and has told systemd that it is ready."""
    until(lambda: run("systemctl", "is-active", "xennetd").status == 0, 180.0)


class Trail:
    """The audit trail from now on, as it lies in the journal."""

    def __init__(self) -> None:
        self._start = journal.mark()

    def entries(self) -> list[dict[str, str]]:
        """Return every record so far, oldest first."""
        unit = journal.since(self._start, "_SYSTEMD_UNIT=xennetd.service")
        return [entry for entry in unit if "XENNET_EVENT" in entry]

    def of(self, name: str) -> list[str]:
        """Return the events of one VM, in their order."""
        return [entry["XENNET_EVENT"] for entry in self.entries() if entry.get("XENNET_VM") == name]


# The kernel


def links() -> dict[str, dict[str, Any]]:
    """Return every link by its name, as `ip -json -details link` shows it."""
    return {link["ifname"]: link for link in json.loads(do("ip", "-json", "-details", "link"))}


def master(name: str) -> str | None:
    """Return the bridge that a link is a port of."""
    found = links()[name].get("master")
    return str(found) if found is not None else None


def ping(address: str, *, count: int = 1, within: float = 5.0, interval: float = 0.2) -> int:
    """Return how many of `count` pings were answered."""
    output = run(
        "ping", "-n", "-q", "-c", str(count), "-i", str(interval), "-W", str(within), address, timeout=300
    ).output
    answered = re.search(r"(\d+) received", output)
    assert answered, output
    return int(answered[1])


def answers(address: str, timeout: float = 120.0) -> float:
    """Wait until a guest answers a ping, and return the seconds that took; TimeoutError if it does not."""
    started = time.monotonic()
    until(lambda: ping(address, within=1.0), timeout, every=0.0)
    return time.monotonic() - started


# Guests

_numbers = itertools.count(20)


@dataclass(slots=True)
class Guest:
    """A guest of xl. Its first interface has `address`; `vifs` are xl's own words for each, without the MAC."""

    name: str
    vifs: Sequence[str] = (f"bridge={BRIDGE}",)
    address: str = ""
    addresses: Sequence[str] = ()  # of the further interfaces
    number: int = field(default_factory=lambda: next(_numbers))
    domid: int = -1
    backend_domid: int = 0  # of the domain that serves its interfaces
    _console: Console | None = None

    def __post_init__(self) -> None:
        self.address = self.address or f"10.9.0.{self.number}"

    def mac(self, devid: int = 0) -> str:
        return f"00:16:3e:09:{devid:02x}:{self.number:02x}"

    @property
    def config(self) -> Path:
        """xl's configuration of this guest, freshly written."""
        _RUN.mkdir(exist_ok=True)
        path = _RUN / f"{self.name}.cfg"
        addresses = [f"address={self.address}/24", *(f"address{i}={a}/24" for i, a in enumerate(self.addresses, 1))]
        vifs = [", ".join(filter(None, (f"mac={self.mac(devid)}", vif))) for devid, vif in enumerate(self.vifs)]
        words = ["console=hvc0", "quiet", "mitigations=off", "rodata=off", *addresses]
        path.write_text(
            f'name = "{self.name}"\n'
            f"memory = {_MEMORY}\n"
            f'kernel = "{_IMAGES}/vmlinux"\n'
            f'ramdisk = "{_IMAGES}/initramfs"\n'
            f'extra = "{" ".join(words)}"\n'
            f"vif = {json.dumps(vifs)}\n"
        )
        return path

    def create(self, *options: str, timeout: float = 240.0) -> Guest:
        """`xl create`, which must succeed."""
        do("xl", "create", *options, str(self.config), timeout=timeout)
        self.find()
        return self

    def find(self) -> int:
        """Learn the domid, which is another one after a reboot or a restore."""
        self.domid = int(do("xl", "domid", self.name))
        self.close()
        return self.domid

    def close(self) -> None:
        if self._console is not None:
            self._console.close()
            self._console = None

    def vif(self, devid: int = 0) -> str:
        return f"vif{self.domid}.{devid}"

    def backend(self, leaf: str, devid: int = 0) -> str | None:
        return node(f"/local/domain/{self.backend_domid}/backend/vif/{self.domid}/{devid}/{leaf}")

    def connected(self, devid: int = 0, timeout: float = 120.0) -> Guest:
        """Wait until netback says that this interface is connected."""
        with xenstore() as xs:
            xs.until(f"/local/domain/{self.backend_domid}/backend/vif/{self.domid}/{devid}/state", "4", timeout)
        return self

    def up(self) -> Guest:
        """Wait until it is connected and answers a ping."""
        self.connected()
        answers(self.address)
        return self

    def run(self, command: str, timeout: float = 60.0) -> str:
        """Run a shell command in the guest, on its console; it must succeed. Returns its output."""
        if self._console is None:
            self._console = Console(str(node(f"/local/domain/{self.domid}/console/tty")))
        return self._console.run(command, timeout)

    def destroy(self) -> None:
        """`xl destroy`, if it is there."""
        self.close()
        run("xl", "destroy", self.name)

    def remains(self) -> dict[str, object]:
        """Return what is left of it in xenstore, in the kernel and in xennetd's list: nothing, once it is gone."""
        return {
            what: left
            for what, left in {
                "xenstore": nodes(f"/local/domain/{self.backend_domid}/backend/vif/{self.domid}"),
                "links": [name for name in links() if name.startswith(f"vif{self.domid}.")],
                "xennetctl list": [row for row in rows() if row["domid"] == self.domid],
            }.items()
            if left
        }

    def gone(self, timeout: float = 90.0) -> None:
        """Wait until nothing is left of it; TimeoutError says what is."""
        deadline = time.monotonic() + timeout
        while remains := self.remains():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{timeout} s after {self.name} is gone there is still {remains}")
            time.sleep(0.2)


class Console:
    """A guest's console, with a shell at its other end."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        with contextlib.suppress(termios.error):
            tty.setraw(self._fd)
        self._number = 0
        self.run("PS1= PS2=; stty -echo", 60.0)

    def close(self) -> None:
        os.close(self._fd)

    def run(self, command: str, timeout: float) -> str:
        """Run a command and return its output. AssertionError if it fails, TimeoutError if it does not end."""
        self._number += 1
        mark = f"end{self._number}"
        # The console echoes what is typed, so what is typed must not be what is waited for.
        self._write(f"{{ {command}\n}} 2>&1; echo =$?=''{mark}=\n")
        last = re.compile(rf"=(\d+)={mark}=\r?\n")
        text = self._read_until(last, timeout)
        end = last.search(text)
        assert end is not None
        output = text[: end.start()].replace("\r", "")
        assert end[1] == "0", f"{command!r} in the guest ended with status {end[1]}: {output}"
        return output

    def _write(self, text: str) -> None:
        data = text.encode()
        while data:
            select.select([], [self._fd], [], 10.0)
            data = data[os.write(self._fd, data) :]

    def _read_until(self, wanted: re.Pattern[str], timeout: float) -> str:
        deadline = time.monotonic() + timeout
        text = ""
        while not wanted.search(text):
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the guest's console says no more than {text[-500:]!r}")
            with contextlib.suppress(BlockingIOError):
                text += os.read(self._fd, 4096).decode("utf-8", "replace")
        return text

"""One emulated machine: qemu with the base's disk and the project's, its console, journal and commands."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from tests.image import host
from tests.image.base import Base, base
from tests.image.channel import Channel
from tests.image.host import ImageError
from tests.image.layer import layer
from tests.image.suite import Suite

_KERNEL = "root=/dev/vda rw init=/sbin/layer-init quiet loglevel=4 mitigations=off systemd.show_status=0"

_TERMINAL = ("-serial", "mon:stdio")


class Machine:
    """A machine that starts at once. It keeps nothing: what it writes goes with it.

    `logs` gets console.log and journal.log, both live. With `terminal` the console is ours instead of a file. `kernel`
    is what else is put on the kernel's command line; it is for a machine without Xen.
    """

    def __init__(self, suite: Suite, *, xen: bool, logs: Path, terminal: bool = False, kernel: str = "") -> None:
        host.require()
        host.require_memory(4 if xen else 1)
        self.suite = suite
        self.xen = xen
        self.logs = logs
        with host.locked(suite.name):
            made = base(suite)
            project = layer(made)
        logs.mkdir(parents=True, exist_ok=True)
        for name in ("console.log", "journal.log"):
            (logs / name).unlink(missing_ok=True)
        # A socket's path is short (108 bytes), a checkout's may not be.
        self._directory = tempfile.TemporaryDirectory(prefix="xennetd-machine-")
        self.socket = Path(self._directory.name) / "agent"
        self._channel: Channel | None = None
        self._process = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", *(_xen(made) if xen else _plain(made, kernel)),
                "-drive", f"file={made.disk},format=raw,if=virtio,cache=unsafe,snapshot=on",
                "-drive", f"file={project},format=raw,if=virtio,cache=unsafe,readonly=on",
                # The base once more, as it was made: the root of a driver domain (tests/xen/driver_domain.py).
                *(("-drive", f"file={made.disk},format=raw,if=virtio,cache=unsafe,readonly=on") if xen else ()),
                "-nodefaults", "-display", "none",
                *(_TERMINAL if terminal else ("-serial", f"file:{logs / 'console.log'}", "-monitor", "none")),
                "-device", "virtio-serial-pci",
                "-chardev", f"socket,id=agent,path={self.socket},server=on,wait=off",
                "-device", "virtserialport,chardev=agent,name=xennetd.agent",
                "-chardev", f"file,id=journal,path={logs / 'journal.log'}",
                "-device", "virtserialport,chardev=journal,name=xennetd.journal",
            ],
            stdin=None if terminal else subprocess.DEVNULL,
            stdout=None if terminal else (logs / "qemu.log").open("wb"),
            stderr=None if terminal else subprocess.STDOUT,
            env={**os.environ, "PATH": host.search_path()},
        )  # fmt: skip

    def booted(self, timeout: float) -> Channel:
        """Wait until the machine runs commands and systemd says that it is up; ImageError says what the console did."""
        deadline = time.monotonic() + timeout
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ImageError(f"qemu did not start:\n{(self.logs / 'qemu.log').read_text(errors='replace')}")
            time.sleep(0.1)
        self._channel = Channel(self.socket)
        try:
            self._channel.wait(deadline - time.monotonic())
            self._channel.run("systemctl", "is-system-running", "--wait", timeout=deadline - time.monotonic())
        except (TimeoutError, ImageError) as error:
            raise ImageError(f"the machine did not boot in {timeout:.0f} s ({error}):\n{self.console_tail()}") from None
        return self._channel

    def console_tail(self, lines: int = 30) -> str:
        """Return the last lines of the console, which is also where a kernel's or Xen's last words are."""
        log = self.logs / "console.log"
        if not log.exists():
            return ""
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the machine is off."""
        return self._process.wait(timeout)

    def close(self) -> None:
        """Switch the machine off, as pulling its plug does."""
        if self._channel is not None:
            self._channel.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._directory.cleanup()


def _plain(image: Base, kernel: str) -> list[str]:
    """With two processors the kernel panics now and then, in code that it has just patched: the emulator goes on for a
    moment with what was there before."""
    return [
        "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", "1024",
        "-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", f"{_KERNEL} console=ttyS0 {kernel}",
    ]  # fmt: skip


def _xen(image: Base) -> list[str]:
    """With `-cpu max` dom0 crashes: its Xen offers features that the emulator has only in part."""
    return [
        "-accel", "tcg,thread=multi", "-cpu", "Westmere", "-smp", "1", "-m", "4096",
        "-kernel", str(image.xen),
        "-append", "dom0_mem=1536M,max:1536M console=com1 com1=115200,8n1 noreboot=1 sched=credit spec-ctrl=no xpti=no",
        "-initrd", f"{image.kernel} {_KERNEL.replace(',', ',,')} console=hvc0,{image.initrd}",
    ]  # fmt: skip

"""A driver domain: a PV guest that runs netback and xennetd as dom0 does, and serves the interfaces of other guests.

Its root is the host's own, read-only (machine.py gives dom0 the base's disk once more), below what tests/image/
driver-domain holds: systemd starts the installed xennetd.service, and a shell on the console. Its network card is a vif
of dom0's, so that guests behind it reach dom0 and are reached from there.
"""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.xen.toolstack import Guest, do, node, run, until

_PARTS = Path(__file__).resolve().parents[1] / "image" / "driver-domain"
_MADE = Path("/var/tmp/driver-domain")
_BASE, _PROJECT = "/dev/vdc", "/dev/vdb"
_MODULES = ("xen-blkfront", "ext4", "overlay")
# networkd would make the host's own bridge, with the host's own address, a second time; the others only take time.
_MASKED = (
    "systemd-networkd.service", "systemd-networkd.socket", "systemd-network-generator.service",
    "systemd-binfmt.service", "systemd-journal-flush.service", "systemd-modules-load.service",
    "systemd-udev-load-credentials.service", "systemd-udev-trigger.service",
)  # fmt: skip
_TRIES = 3
_MEMORY = 320  # MiB; xennetd, systemd and Python in 200, and what is written to its root


@dataclass(slots=True)
class DriverDomain(Guest):
    """A driver domain called `name`."""

    name: str = "netdom"
    address: str = "10.9.0.250"

    @property
    def config(self) -> Path:
        """xl's configuration of it, freshly written."""
        _MADE.mkdir(exist_ok=True)
        words = ["console=hvc0", "quiet", "mitigations=off", "systemd.show_status=0"]
        words += ["systemd.unit=driver-domain.target", *(f"systemd.mask={unit}" for unit in _MASKED)]
        path = _MADE / f"{self.name}.cfg"
        path.write_text(
            f'name = "{self.name}"\n'
            "driver_domain = 1\n"
            f"memory = {_MEMORY}\n"
            'kernel = "/var/lib/xen/guest/vmlinux"\n'
            f'ramdisk = "{_initramfs()}"\n'
            f'extra = "{" ".join(words)}"\n'
            f'disk = ["phy:{_BASE},xvda,r", "phy:{_PROJECT},xvdb,r"]\n'
            f'vif = ["mac={self.mac()},bridge=xenbr0"]\n'
        )
        return path

    def boot(self) -> DriverDomain:
        """Create it and wait until its xennetd is ready, and its shell.

        An emulated kernel dies in its first seconds once in a while, returning to an address that is none, and is then
        given another try.
        """
        for _ in range(_TRIES):
            self.create()
            until(lambda: self._is_ready() or not self._exists(), 400.0, every=2.0)
            if self._is_ready():
                return self
        raise AssertionError(f"{self.name} died {_TRIES} times: see its console's log")

    def _is_ready(self) -> bool:
        return node(f"/local/domain/{self.domid}/data/ready") == "yes"

    def _exists(self) -> bool:
        return run("xl", "domid", self.name).status == 0

    def guest(self, name: str) -> Guest:
        """Return a guest, not yet created, whose interface it serves."""
        return Guest(name, (f"backend={self.name},bridge=xenbr0",), backend_domid=self.domid)

    def status(self) -> dict[str, Any]:
        """Return what `xennetctl status` says in it."""
        return dict(json.loads(self.run("xennetctl status --json")))

    def row(self, vif: str) -> dict[str, Any] | None:
        """Return what `xennetctl list` says in it of one vif."""
        rows: list[dict[str, Any]] = json.loads(self.run("xennetctl list --json"))
        return next((row for row in rows if row["vif"] == vif), None)

    def events(self, vif: str) -> list[str]:
        """Return the events of one vif in its audit trail, oldest first."""
        fields = "--output-fields=XENNET_EVENT"
        output = self.run(f"journalctl --sync; journalctl --quiet --output=json {fields} XENNET_VIF={vif}")
        return [json.loads(line)["XENNET_EVENT"] for line in output.splitlines()]

    def tells(self, vif: str, *events: str) -> None:
        """Wait until these are the events of one vif: what they tell of is done before they are recorded."""
        until(lambda: self.events(vif) == list(events), 60.0)

    def master(self, link: str) -> str:
        """Return the bridge in it that a link is a port of."""
        return self.run(f"basename $(readlink /sys/class/net/{link}/master)").strip()

    def mtu(self, link: str) -> int:
        """Return the MTU of a link in it."""
        return int(self.run(f"cat /sys/class/net/{link}/mtu"))


def _initramfs() -> Path:
    """Pack what finds the root: busybox, the drivers of its disks and file systems, the layer, and `init`."""
    root = _MADE / "initramfs"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "dev", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    shutil.copy(_PARTS / "init", root)
    shutil.copytree(_PARTS / "etc", root / "layer" / "etc")
    order: list[str] = []
    for line in do("modprobe", "--show-depends", "--all", *_MODULES).splitlines():
        kind, path = line.split()[:2]
        name = Path(path).name.removesuffix(".xz")
        if kind == "insmod" and name not in order:
            order.append(name)
            data = Path(path).read_bytes()
            (root / "modules" / name).write_bytes(lzma.decompress(data) if path.endswith(".xz") else data)
    (root / "modules" / "order").write_text("".join(f"{name}\n" for name in order))
    packed = _MADE / "initramfs.cpio"
    with packed.open("wb") as output:
        subprocess.run(["sh", "-c", "find . | cpio -o -H newc --quiet"], cwd=root, stdout=output, check=True)
    return packed

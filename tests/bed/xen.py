"""Where Xen's programs are: installed, or unpacked from Debian's packages into a directory of their own."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"


class Missing(Exception):
    """This machine lacks something the bed needs; the text says what, in one line."""


@dataclass(frozen=True, slots=True)
class Xen:
    """One Xen's userland: its programs (`/usr/lib/xen-*/bin`), the stock scripts, and the libraries beside them."""

    bin: Path
    scripts: Path
    libraries: tuple[Path, ...]

    @property
    def xenstored(self) -> Path:
        return self.bin / "xenstored"

    @property
    def oxenstored(self) -> Path:
        """Raises Missing if the package has none."""
        program = self.bin / "oxenstored"
        if not program.exists():
            raise Missing(f"no oxenstored in {self.bin}")
        return program

    @property
    def oxenstored_conf(self) -> Path:
        """oxenstored's configuration as Debian ships it. oxenstored doesn't start without it."""
        return self.scripts.parent / "oxenstored.conf"

    @property
    def test_xenstore(self) -> Path:
        """Xen's own test of a running xenstored."""
        return self.bin / "test-xenstore"

    def environment(self) -> dict[str, str]:
        """Our own environment, changed so that these programs find their libraries and each other."""
        environment = dict(os.environ)
        root = self.scripts.parents[2]
        path = environment.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        # The xenstore tools may be installed, or unpacked beside the rest.
        environment["PATH"] = f"{self.bin}:{path}:{root / 'usr/bin'}"
        if self.libraries:
            environment["LD_LIBRARY_PATH"] = ":".join(map(str, self.libraries))
        return environment


def find() -> Xen:
    """Find Xen's programs below XENNETD_XEN_ROOT, else in the system, else below the checkout's .cache/xen."""
    named = os.environ.get("XENNETD_XEN_ROOT")
    roots = [Path(named)] if named else [Path("/"), CACHE / "xen"]
    for root in roots:
        found = sorted(root.glob("usr/lib/xen-*/bin/xenstored"))
        if found:
            unpacked = root != Path("/")
            return Xen(
                bin=found[-1].parent,
                scripts=root / "etc/xen/scripts",
                libraries=tuple(root.glob("usr/lib/*-linux-gnu")) if unpacked else (),
            )
    raise Missing(f"no xenstored (Debian's package xen-utils-4.x) below {' or '.join(map(str, roots))}")


def require() -> None:
    """Raise Missing unless everything the bed needs is here."""
    require_root()
    find()
    program("ip", "iproute2")
    program("cc", "gcc")
    if not Path("/dev/net/tun").exists():
        raise Missing("no /dev/net/tun: this kernel has no tap devices, or its module tun isn't loaded")


def require_root() -> None:
    """Raise Missing unless namespaces can be made here."""
    if os.geteuid() != 0:
        raise Missing("the test bed needs root: it makes network and mount namespaces")


def program(name: str, package: str) -> str:
    """Return the path of `name`, or raise Missing naming the Debian package it is in."""
    path = shutil.which(name)
    if path is None:
        raise Missing(f"no {name} (Debian's package {package})")
    return path


if __name__ == "__main__":
    # `python -m tests.bed.xen` says in one line why the kernel lane can't run here, or nothing.
    try:
        require()
    except Missing as missing:
        sys.exit(f"kernel lane: {missing}")

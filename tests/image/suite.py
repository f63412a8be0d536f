"""The Debian releases that xennetd runs on, and what an image of each holds."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tests.image.host import ImageError

_PACKAGES = (
    # The system.
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps", "ca-certificates", "xz-utils", "zstd", "cpio",
    "linux-image-amd64", "initramfs-tools",
    # What a Xen host has, and what xennetd and its tests use.
    "xenstore-utils", "busybox-static", "iproute2", "iputils-ping", "nftables", "dnsmasq-base", "bridge-utils",
    "man-db", "python3", "python3-venv", "python3-systemd", "python3-nftables", "python3-pytest",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Suite:
    """One Debian release and the Xen in it."""

    name: str
    xen: str

    @property
    def packages(self) -> tuple[str, ...]:
        return (*_PACKAGES, f"xen-utils-{self.xen}", f"xen-hypervisor-{self.xen}-amd64")


_SUITES = {suite.name: suite for suite in (Suite("trixie", "4.20"), Suite("bookworm", "4.17"))}


def suite(name: str | None = None) -> Suite:
    """Return the suite of that name, else the one that XENNETD_SUITE names, else the default."""
    name = name or os.environ.get("XENNETD_SUITE") or "trixie"
    try:
        return _SUITES[name]
    except KeyError:
        raise ImageError(f"no suite {name!r}: it is one of {', '.join(_SUITES)}") from None

"""The base of an image: Debian with its kernel and Xen on a disk of its own, made once for a suite and kept."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.image import host
from tests.image.host import ImageError
from tests.image.suite import Suite

_SPACE = 5  # GB, while it is being made
_DISK = "3G"  # sparse; the lanes save guests to it


@dataclass(frozen=True, slots=True)
class Base:
    """A finished base. `rootfs` is the same system as a directory, for what is to be made inside of it."""

    suite: Suite
    directory: Path

    @property
    def rootfs(self) -> Path:
        return self.directory / "rootfs"

    @property
    def disk(self) -> Path:
        return self.directory / "disk.img"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd.img"

    @property
    def xen(self) -> Path:
        return self.directory / "xen.elf"


def base(suite: Suite) -> Base:
    """Return the base of a suite, making it if it is not in the cache (about 6 minutes); `host.locked` is held."""
    scripts = [Path(__file__), Path(__file__).with_name("customise.sh"), Path(__file__).with_name("guest-init")]
    key = hashlib.sha256("\n".join([repr(suite.packages), *(path.read_text() for path in scripts)]).encode())
    found = Base(suite, host.CACHE / f"{suite.name}-{key.hexdigest()[:16]}")
    if not found.directory.exists():
        _make(found)
    return found


def _make(wanted: Base) -> None:
    host.require()
    host.require_space(_SPACE)
    started = time.monotonic()
    print(f"making the {wanted.suite.name} image, once, in {wanted.directory}", flush=True)
    fresh = Base(wanted.suite, wanted.directory.with_name(f"{wanted.directory.name}.{os.getpid()}"))
    for left in host.CACHE.glob(f"{wanted.suite.name}-*.*"):  # by one that was killed
        shutil.rmtree(left)
    fresh.rootfs.mkdir(parents=True)
    try:
        _debootstrap(fresh)
        _customise(fresh)
        _boot_files(fresh)
        _run(["mkfs.ext4", "-q", "-L", "root", "-E", "lazy_itable_init=0", "-d", fresh.rootfs, fresh.disk, _DISK])
        for old in set(host.CACHE.glob(f"{wanted.suite.name}-*")) - {fresh.directory}:
            shutil.rmtree(old)
        fresh.directory.rename(wanted.directory)
    except BaseException:
        shutil.rmtree(fresh.directory, ignore_errors=True)
        raise
    print(f"made in {time.monotonic() - started:.0f} s", flush=True)


def _debootstrap(image: Base) -> None:
    _run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(image.suite.packages)}",
            image.suite.name,
            image.rootfs,
            host.mirror(),
        ]
    )


def _customise(image: Base) -> None:
    """Run customise.sh inside, with /proc, /sys and /dev/pts that vanish with its mount namespace."""
    for name in ("customise.sh", "guest-init"):
        shutil.copy(Path(__file__).with_name(name), image.rootfs / "root" / name)
    root = str(image.rootfs)
    mounts = f'mount -t proc proc "{root}/proc" && mount -t tmpfs tmp "{root}/tmp"'
    _run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            f'{mounts} && exec chroot "{root}" sh -e /root/customise.sh',
        ]
    )


def _boot_files(image: Base) -> None:
    """Copy out what the emulator itself loads."""
    boot = image.rootfs / "boot"
    shutil.copy(_only(boot, "vmlinuz-*"), image.kernel)
    shutil.copy(_only(boot, "initrd.img-*"), image.initrd)
    # The emulator's multiboot loader takes an ELF file, not a compressed one.
    with gzip.open(_only(boot, "xen-*.gz")) as packed, image.xen.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)


def _only(directory: Path, pattern: str) -> Path:
    found = list(directory.glob(pattern))
    if len(found) != 1:
        raise ImageError(f"{len(found)} files {pattern} in {directory}, not one")
    return found[0]


def _run(argv: list[str | Path]) -> None:
    environment = {**os.environ, **host.proxies(), "PATH": host.search_path(), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if line.startswith(("E:", "W:"))]
        tail = "\n".join(errors[-5:] or done.stdout.splitlines()[-15:])
        raise ImageError(f"{argv[0]} failed with status {done.returncode}:\n{tail}")

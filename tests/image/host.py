"""What this machine must have to make and run images, and where its apt gets Debian from."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache" / "image"

_MIRROR = "http://deb.debian.org/debian"
_PROGRAMS = {
    "debootstrap": "debootstrap",
    "mkfs.ext4": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
    "unshare": "util-linux",
}


class Missing(Exception):
    """This machine lacks something; the text says what, in one line."""


class ImageError(Exception):
    """An image could not be made or booted; the text says why."""


def require() -> None:
    """Raise Missing unless images can be made and run here."""
    if os.geteuid() != 0:
        raise Missing("images are made by root (debootstrap, chroot)")
    if platform.machine() != "x86_64":
        raise Missing(f"images are made of Debian's amd64 in a chroot, which a {platform.machine()} can't run")
    for program, package in _PROGRAMS.items():
        if shutil.which(program, path=search_path()) is None:
            raise Missing(f"no {program} (Debian's package {package})")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        raise Missing("images are made in a mount namespace, and here it can't be had (a container without rights?)")


def require_memory(gigabytes: int) -> None:
    """Raise Missing unless a machine of that size fits."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) / (1 << 20)
            if free < gigabytes:
                raise Missing(f"the emulated machine needs {gigabytes} GB of memory, and {free:.1f} GB are free")


def require_space(gigabytes: int) -> None:
    """Raise ImageError unless the cache has that much room."""
    CACHE.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(CACHE).free
    if free < gigabytes << 30:
        raise ImageError(f"{CACHE} needs {gigabytes} GB free to make an image, and has {free / (1 << 30):.1f}")


@contextlib.contextmanager
def locked(suite: str) -> Iterator[None]:
    """Let one process at a time make a suite's images; another waits here, and then finds them made."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def search_path() -> str:
    """Return a PATH that has the sbin directories, wherever we were started from."""
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"


def mirror() -> str:
    """Return the Debian mirror that this machine's own apt uses, whatever suite it runs itself."""
    try:
        argv = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(LABEL) $(COMPONENT)"]
        listing = subprocess.run([*argv, "Created-By: Packages"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return _MIRROR
    for line in listing.splitlines():
        uri, _, what = line.partition(" ")
        if what == "Debian Debian main" and uri.startswith(("http://", "https://", "file:")):
            return uri.rstrip("/")
    return _MIRROR


def proxies() -> dict[str, str]:
    """Return the environment in which debootstrap and pip use the proxy that this machine's apt uses."""
    environment = {}
    for name in ("http", "https"):
        try:
            shown = subprocess.run(
                ["apt-config", "shell", "PROXY", f"Acquire::{name}::Proxy"], capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            continue
        if shown.startswith("PROXY='") and shown != "PROXY=''":
            environment[f"{name}_proxy"] = shown.removeprefix("PROXY='").removesuffix("'")
    return environment

"""The project's disk: what packaging/install puts on a host, as a layer over the base, made anew when it changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.image import host
from tests.image.base import Base
from tests.image.host import ImageError

_SOURCES = ("pyproject.toml", "README.md", "xennetd", "systemd", "conf", "packaging")
_OURS = ("agent.py", "etc")  # beside this file: what makes the host a test machine
_CA = Path("/etc/ssl/certs/ca-certificates.crt")

_INSTALL = """
set -e
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount -t devtmpfs dev "$ROOT/dev"
mount -t tmpfs tmp "$ROOT/tmp"
mount -t tmpfs run "$ROOT/run"
mkdir -p "$ROOT/tmp/source" "$ROOT/tmp/pip"
mount --bind "$SOURCE" "$ROOT/tmp/source"
mount --bind "$PIP" "$ROOT/tmp/pip"
mount --bind /etc/resolv.conf "$ROOT/etc/resolv.conf"
[ ! -e "$CA" ] || mount --bind "$CA" "$ROOT$CA"
exec chroot "$ROOT" sh -e /tmp/source/tests/image/install-layer.sh
"""


def layer(base: Base) -> Path:
    """Return the project's disk for a base, made if it is not in the cache (half a minute). `host.locked` is held."""
    key = hashlib.sha256(base.directory.name.encode())
    for path in _sources():
        mode = stat.S_IMODE(path.stat().st_mode) & 0o111
        key.update(f"{path.relative_to(host.REPOSITORY)} {mode} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    disk = base.directory / f"layer-{key.hexdigest()[:16]}.img"
    if not disk.exists():
        _make(base, disk)
    return disk


def _sources() -> Iterator[Path]:
    """Yield every file that goes in, in a fixed order."""
    here = Path(__file__).parent
    roots = [*(host.REPOSITORY / name for name in _SOURCES), *(here / name for name in _OURS)]
    for root in (*roots, Path(__file__), here / "install-layer.sh"):
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _make(base: Base, disk: Path) -> None:
    host.require()
    host.require_space(1)
    print(f"putting the project on the {base.suite.name} image", flush=True)
    work = base.directory / f"layer.{os.getpid()}"
    for name in ("upper", "work", "root", "source"):
        (work / name).mkdir(parents=True)
    pip = host.CACHE / "pip"
    pip.mkdir(exist_ok=True)
    try:
        for path in _sources():
            copy = work / "source" / path.relative_to(host.REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        _install(base, work, pip)
        _drop_removals(work / "upper")
        fresh = work / "disk.img"
        size = sum(path.lstat().st_size + 4096 for path in (work / "upper").rglob("*")) * 5 // 4 + (16 << 20)
        _run(
            ["mkfs.ext4", "-q", "-L", "xennetd", "-d", str(work / "upper"), str(fresh), f"{size >> 10}k"],
            dict(os.environ),
        )
        for old in base.directory.glob("layer-*.img"):
            old.unlink()
        fresh.rename(disk)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _install(base: Base, work: Path, pip: Path) -> None:
    """Install in a chroot whose writes all go to the layer; its mounts vanish with its mount namespace."""
    environment = {
        **host.proxies(),
        **{
            name: value
            for name, value in os.environ.items()
            if name.lower().endswith("_proxy") or name == "PIP_INDEX_URL"
        },
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "LOWER": str(base.rootfs),
        "UPPER": str(work / "upper"),
        "WORK": str(work / "work"),
        "ROOT": str(work / "root"),
        "SOURCE": str(work / "source"),
        "PIP": str(pip),
        "PIP_CACHE_DIR": "/tmp/pip",
        "PIP_CERT": str(_CA),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "CA": str(_CA),
    }
    _run(["unshare", "--mount", "--propagation", "private", "sh", "-c", _INSTALL], environment)


def _drop_removals(upper: Path) -> None:
    """Delete overlayfs's marks for what was removed from the base: the layer only adds."""
    for path in upper.rglob("*"):
        if stat.S_ISCHR(path.lstat().st_mode):
            path.unlink()


def _run(argv: list[str], environment: dict[str, str]) -> None:
    environment = {**environment, "PATH": host.search_path()}
    done = subprocess.run(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise ImageError(f"the project could not be put on the image ({argv[0]}, status {done.returncode}):\n{tail}")

"""dnsmasq's files below STATE: the directory of each instance, with its configuration, its guests and its leases.

Rule 1: a file is replaced as a whole, and only if its text differs. dnsmasq reads either the old file or the new one.
Rule 2: a file may be gone, or be anybody's text. What can't be read counts as missing.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from xennetd.dnsmasq.access import protect
from xennetd.dnsmasq.process import CONFIGURATION, written
from xennetd.dnsmasq.upkeep import Stamp, identity
from xennetd.kernel.link_names import index_of
from xennetd.model.errors import HostError
from xennetd.model.objects import DhcpHost, DhcpService
from xennetd.model.places import STATE
from xennetd.render.dnsmasq_files import directory, host_file, host_of, names_file, served_link

_HOSTS = "hosts"
NAMES = "names"
PARTS = {NAMES: names_file, _HOSTS: host_file}
"""The directories that dnsmasq watches, with the function that writes a guest's file; in the order of writing."""

LEASES = "leases"

_GONE = ".gone-"
"""The beginning of the name of a directory that is to be deleted."""

_INDEX = "# The index of its link: "
"""The start of the comment that ends the configuration file.

dnsmasq binds its sockets to a link. A new link of the same name has another index, which changes the file and so
restarts dnsmasq.
"""

_MAC = re.compile(r"[0-9a-f]{12}")


@lru_cache(64)
def directory_of(instance: str) -> Path:
    """Return an instance's directory."""
    return Path(directory(instance))


@lru_cache(64)
def part_of(instance: str, part: str) -> Path:
    """Return a file or directory in an instance's directory."""
    return directory_of(instance) / part


def configuration_of(instance: str) -> Path:
    """Return an instance's configuration file."""
    return part_of(instance, CONFIGURATION)


def guest_file(host: DhcpHost, part: str) -> Path:
    """Return a guest's file in one of the directories PARTS."""
    return part_of(host.instance, part) / host.mac.replace(":", "")


def instances() -> list[str]:
    """Return the instances that have a configuration file, sorted."""
    found = (file.parent.name for file in Path(STATE).glob(f"*/{CONFIGURATION}"))
    return sorted(name for name in found if not name.startswith(_GONE))


def set_aside(instance: str) -> None:
    """Give the directory of an instance a name of no instance, so that it can be deleted while a new one is made."""
    with contextlib.suppress(OSError):  # Something is mounted there, the disk is read-only, or somebody has removed it.
        directory_of(instance).rename(Path(STATE, f"{_GONE}{instance}.{time.time_ns()}"))


def set_aside_earlier() -> list[Path]:
    """Return the directories that were set aside and are not deleted yet."""
    return list(Path(STATE).glob(f"{_GONE}*"))


def macs_of(instance: str) -> list[str]:
    """Return the MACs of an instance's guests that have a file, sorted."""
    names: set[str] = set()
    for part in PARTS:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names.update(os.listdir(part_of(instance, part)))
    return [bytes.fromhex(name).hex(":") for name in sorted(names) if _MAC.fullmatch(name)]


def read_host(instance: str, mac: str) -> DhcpHost | None:
    """Return the guest that the file of names describes, None without such a file."""
    text = read(guest_file(DhcpHost(instance, mac, (), None), NAMES))
    return host_of(instance, mac, text) if text is not None else None


def configuration_text(service: DhcpService) -> str | None:
    """Return the text of a service's configuration file, None while the link that it serves does not exist.

    Raises OSError if the kernel can't be asked for the link.
    """
    index = index_of(served_link(service.configuration))
    if index is None:
        return None
    return written(directory_of(service.instance), f"{service.configuration}{_INDEX}{index}\n")


def read_service(instance: str) -> tuple[DhcpService, str] | None:
    """Return the service in an instance's configuration file, and the file's text. None without a file of xennetd's."""
    text = read(configuration_of(instance))
    if not text:
        return None
    configuration = text.partition(_INDEX)[0]
    try:
        return DhcpService(instance, configuration, link=served_link(configuration)), text
    except ValueError:
        return None


@lru_cache(64)
def _stamped(instance: str) -> tuple[str, tuple[str, ...], str]:
    """Return the paths of which a stamp is made."""
    return (
        str(configuration_of(instance)),
        tuple(str(part_of(instance, part)) for part in PARTS),
        str(part_of(instance, LEASES)),
    )


def stamp_of(instance: str) -> Stamp:
    """Return what tells a later change of an instance's files."""
    configuration, directories, leases_file = _stamped(instance)
    found = tuple(identity(path) for path in directories)
    return Stamp(identity(configuration), found, os.access(leases_file, os.F_OK))


def make_directory(path: Path) -> None:
    """Make a directory and its parents. dnsmasq can read them after it has dropped root's privileges.

    `protect` keeps everybody else out of STATE.
    """
    if not path.is_dir():
        if not path.parent.is_dir():
            make_directory(path.parent)
        path.mkdir()
        path.chmod(0o755)
        if path == Path(STATE):
            protect(path)


def read(path: Path) -> str | None:
    """Return a file's text, with any bytes and ends of lines in it; None if it can't be read."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return None


def put(path: Path, text: str) -> bool:
    """Give a file this text, unless it has it already. Returns whether the file existed with another text."""
    before = read(path)
    if before == text:
        return False
    new = path.with_name(f".{path.name}.new")  # dnsmasq ignores file names that begin with a dot.
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text.encode("utf-8", "surrogateescape"))
        new.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        error.filename = str(path)  # A refused write(2) names no file.
        raise
    return before is not None


@contextlib.contextmanager
def named(failure: str) -> Iterator[None]:
    """Turn an OSError in the block into a HostError that begins with `failure`."""
    try:
        yield
    except OSError as error:
        raise HostError(f"{failure}: {error.strerror}", errno=error.errno or 0, detail=f"{failure}: {error}") from error

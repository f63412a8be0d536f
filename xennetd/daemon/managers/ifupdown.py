"""What ifupdown, ifupdown2 or ifupdown-ng configures: /etc/network/interfaces (interfaces(5)) and what it includes."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from xennetd.daemon.managers.host_files import HostFiles
from xennetd.model.manager_claim import Addressing, ManagerClaim, stronger

_INTERFACES = "/etc/network/interfaces"
_STATE = "/run/network/ifstate"
_PROGRAMS = ("/usr/sbin/ifup", "/sbin/ifup")

_MOST_FILES = 200
"""How many files are read. Each is read once, whatever includes it."""

_PART = re.compile(r"[A-Za-z0-9_-]+")
"""The names of the files that `source-directory` includes."""

_STANZAS = frozenset({"auto", "mapping", "template", "no-auto-down", "no-scripts", "rename", "source-directory"})
"""Words that end a stanza, as do `iface`, `source` and `allow-*`."""

_METHODS: Mapping[tuple[str, str], Addressing] = {
    ("inet", "dhcp"): "DHCP",
    ("inet6", "dhcp"): "DHCP",
    ("inet", "static"): "static",
    ("inet6", "static"): "static",
    ("inet6", "v4tunnel"): "static",
    ("inet", "ppp"): "DHCP",
    ("inet6", "auto"): "automatic",
}
_PORTS = frozenset({"bridge-ports", "bond-slaves", "slaves"})
_MASTER = "bond-master"
_MAKES = frozenset({"bond-mode", "vlan-raw-device", "vlan-id"})
"""Options of links that ifupdown makes, besides those of bridges and those with ports."""

_NO_PORTS = frozenset({"none", "all", "regex", "noregex", "glob"})


@dataclass(frozen=True, slots=True)
class _Stanza:
    """An `iface`: a link's name, the file, and what it says so far."""

    name: str
    file: str
    addressing: Addressing = ""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def ports(self) -> list[str]:
        words = [word for key in _PORTS for word in self.options.get(key, "").split()]
        return [word for word in words if word not in _NO_PORTS]

    @property
    def makes(self) -> bool:
        # interfaces(5): a name with a dot is a VLAN.
        made = _MAKES | _PORTS
        return "." in self.name or any(key in made or key.startswith("bridge-") for key in self.options)

    @property
    def gives(self) -> Addressing:
        return stronger(self.addressing, "static" if "address" in self.options else "")


def of_ifupdown(files: HostFiles) -> Iterator[ManagerClaim]:
    """Yield a claim for each link of a stanza, and for each port that a stanza names."""
    if not any(map(files.exists, _PROGRAMS)):
        return  # its files have outlived it
    stanzas = list(_stanzas(files))
    logical = dict(_up(files))
    named: dict[str, list[_Stanza]] = {}
    for stanza in stanzas:
        named.setdefault(stanza.name, []).append(stanza)
    masters = {port: stanza for stanza in stanzas for port in stanza.ports}
    # A link may have come up by the stanza of another name: `ifup eth0=home`.
    for name in sorted({*named, *masters, *logical} - {"lo"}):
        mine = named.get(logical.get(name, name), [])
        if not mine and name not in masters:
            continue
        addressing: Addressing = ""
        for stanza in mine:
            addressing = stronger(addressing, stanza.gives)
        master = next((stanza.options[_MASTER] for stanza in mine if _MASTER in stanza.options), None)
        sources = [*mine, masters[name]] if name in masters else mine
        yield ManagerClaim(
            manager="ifupdown",
            link=name,
            files=tuple(dict.fromkeys(stanza.file for stanza in sources)),
            makes=any(stanza.makes for stanza in mine),
            addressing=addressing,
            master=masters[name].name if name in masters else master,
        )


def _up(files: HostFiles) -> Iterator[tuple[str, str]]:
    """Yield the links that are up with the names of their stanzas: lines like `eth0=home`."""
    for line in files.read(_STATE).splitlines():
        link, equals, stanza = line.strip().partition("=")
        if equals and link and stanza and link != stanza:
            yield link, stanza


def _stanzas(files: HostFiles) -> Iterator[_Stanza]:
    current: _Stanza | None = None
    for file, line in _lines(files):
        word, _, rest = line.partition(" ")
        if word == "iface":
            name, family, method, *_ = (*rest.split(), "", "", "")
            # A further address was once an interface with a label: eth0:1.
            base = name.partition(":")[0]
            current = _Stanza(base, file, _METHODS.get((family, method), "")) if base else None
            if current is not None:
                yield current
        elif word in _STANZAS or word.startswith("allow-"):
            current = None
        elif current is not None:
            current.options.setdefault(word.replace("_", "-"), rest)


def _lines(files: HostFiles) -> Iterator[tuple[str, str]]:
    """Yield the file and the text of each line, those of included files in their place, with single spaces."""
    seen: set[str] = set()

    def of_file(path: str) -> Iterator[tuple[str, str]]:
        if path in seen or len(seen) == _MOST_FILES:
            return
        seen.add(path)
        for line in files.read(path).replace("\\\n", " ").splitlines():
            text = " ".join(line.split())
            word, _, rest = text.partition(" ")
            if word in {"source", "source-directory"}:
                yield path, "source-directory"
                for included in _included(files, rest, directory=word == "source-directory"):
                    yield from of_file(included)
            elif text and not text.startswith("#"):
                yield path, text

    return of_file(_INTERFACES)


def _included(files: HostFiles, words: str, *, directory: bool) -> Iterable[str]:
    """Return the paths of the files that a line includes. Wildcards count in the last part of a path only."""
    for word in words.split():
        path = word if word.startswith("/") else f"/etc/network/{word}"
        if directory:
            yield from (each for each in files.list(path) if _PART.fullmatch(each.rpartition("/")[2]))
        elif any(character in path for character in "*?["):
            yield from fnmatch.filter(files.list(path.rpartition("/")[0]), path)
        else:
            yield path

"""Our nftables table as libnftables, in process, writes and lists it: transactions as text, listings as JSON.

Versions of nft print rules differently, so each rule carries a comment with a short hash of the text that it was made
from; a listing is compared by these. Sets and maps are declared here, with the type of each part of their elements.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from ipaddress import IPv6Address
from typing import Any

from xennetd.model.errors import HostError
from xennetd.model.ground import TABLE, Chain, Rules
from xennetd.policy.firewall import OPENED

Key = tuple[str, ...]

MEMORY = "memory"
"""What settings were before us: link and number of the setting, and the value."""

SETS: dict[str, tuple[Key, Key]] = {
    "masquerade4": (("ipv4_addr", "ifname"), ()),
    "forward4": (("inet_proto", "inet_service"), ("ipv4_addr", "inet_service")),
    "forward6": (("inet_proto", "inet_service"), ("ipv6_addr", "inet_service")),
    MEMORY: (("ifname", "mark"), ("mark",)),
    **dict.fromkeys(OPENED.values(), (("ifname",), ())),
}
"""Our sets and maps: the types of a key's parts and of a value's."""

LASTING = frozenset({MEMORY, *OPENED.values()})
"""Those that hold what nobody else knows."""

_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}


@dataclass(frozen=True, slots=True)
class ListedChain:
    """A base chain as it is: its hook, and its rules by their comments."""

    kind: str
    hook: str
    priority: int
    policy: str
    comments: tuple[str, ...]


@dataclass(slots=True)
class Listing:
    """Our table as it is: nothing at all where there is none."""

    exists: bool = False
    chains: dict[str, ListedChain] = field(default_factory=dict)
    sets: dict[str, dict[Key, Key]] = field(default_factory=lambda: {name: {} for name in SETS})


class Nft:
    """libnftables. It is used when it is first needed: a host with bridges alone can do without."""

    def __init__(self) -> None:
        self._library: Any = None

    def commit(self, text: str) -> str:
        """Do all of `text` in one transaction, or nothing. Returns why not, in nft's words, empty when it is done."""
        library = self._load()
        library.set_json_output(False)
        failed, _, errors = library.cmd(text)
        return (errors or "nft gives no reason") if failed else ""

    def read(self) -> Listing:
        """Return our table as it is."""
        library = self._load()
        library.set_json_output(True)
        tables = self._ask("list tables inet")
        if not any(each.get("table", {}).get("name") == TABLE for each in tables):
            return Listing()
        return parse_listing(self._ask(f"list table inet {TABLE}"))

    def _ask(self, command: str) -> list[dict[str, Any]]:
        failed, output, errors = self._library.cmd(command)
        if failed:
            raise HostError(
                f"nftables can't be used: {first_line(errors)}; the kernel needs nf_tables with family inet",
                detail=f"nft {command}: {errors.strip()}",
            )
        found: list[dict[str, Any]] = json.loads(output)["nftables"] if output else []
        return found

    def _load(self) -> Any:
        if self._library is None:
            if lack := absent():
                raise HostError(f"nftables can't be used: {lack}")
            try:
                import nftables

                self._library = nftables.Nftables()
            except (ImportError, OSError) as error:
                raise HostError(f"nftables can't be used: {error}") from None
        return self._library


def absent() -> str:
    """Return which part of libnftables is not installed here, and the remedy; empty where it can be used.

    The module loads the library only when it is used, and from PyPI it comes without.
    """
    if find_spec("nftables") is None:
        return "the Python module nftables is not installed: apt install python3-nftables"
    try:
        _library()
    except OSError as error:
        return f"{error}: apt install libnftables1"
    return ""


@cache
def _library() -> ctypes.CDLL:
    """Load the library, if it is not loaded yet. A failure is not remembered: it may be installed later."""
    return ctypes.CDLL("libnftables.so.1")


def first_line(errors: str) -> str:
    """Return the first line of nft's errors without its heading."""
    return errors.strip().partition("\n")[0].removeprefix("Error: ")


def parse_listing(objects: Iterable[Mapping[str, Any]]) -> Listing:
    """Return what `nft -j list table` says. What nobody of ours makes there is left out."""
    listing = Listing(exists=True)
    comments: dict[str, list[str]] = {}
    heads: dict[str, Mapping[str, Any]] = {}
    for each in objects:
        for kind, what in each.items():
            if kind == "chain":
                heads[what["name"]] = what
            elif kind == "rule":
                comments.setdefault(what["chain"], []).append(what.get("comment", ""))
            elif kind in ("set", "map") and what["name"] in SETS:
                listing.sets[what["name"]] = dict(map(_element, what.get("elem", ())))
    for name, head in heads.items():
        parts = (head.get("type", ""), head.get("hook", ""), head.get("prio", 0), head.get("policy", ""))
        listing.chains[name] = ListedChain(*parts, tuple(comments.get(name, ())))
    return listing


def _element(listed: Any) -> tuple[Key, Key]:
    key, value = listed if isinstance(listed, list) else (listed, None)
    return _parts(key), _parts(value) if value is not None else ()


def _parts(listed: Any) -> Key:
    if isinstance(listed, dict) and "elem" in listed:
        listed = listed["elem"]["val"]
    parts = listed["concat"] if isinstance(listed, dict) else [listed]
    return plain(str(part) for part in parts)


def plain(parts: Iterable[str]) -> Key:
    """Return an element's parts as they are compared, however nft was made to print them."""
    return tuple(str(IPv6Address(part)) if ":" in part else part.strip('"') for part in parts)


def as_listed(chain: Chain) -> ListedChain:
    """Return how a chain is listed when it is as it should be: `hook` is `type nat hook output priority dstnat`."""
    _type, kind, _hook, hook, _priority, *priority = chain.hook.split()
    name, offset = priority[0], int("".join(priority[1:]) or 0)
    number = _PRIORITIES[name] if name in _PRIORITIES else int(name)
    return ListedChain(kind, hook, number + offset, "accept", tuple(map(comment, chain.rules)))


def comment(rule: str) -> str:
    """Return the comment that tells this rule from all others."""
    return hashlib.blake2s(rule.encode(), digest_size=6).hexdigest()


def declarations() -> Iterator[str]:
    """Yield what makes our table and its sets; what is there already stays as it is."""
    yield f"add table inet {TABLE}"
    for name, (key, value) in SETS.items():
        kind = f"type {' . '.join(key)}" + (f" : {' . '.join(value)}" if value else "")
        yield f"add {'map' if value else 'set'} inet {TABLE} {name} {{ {kind}; }}"


def changes(rules: Rules | None, now: Listing) -> Iterator[str]:
    """Yield what makes the chains of our table be these and no others. Chains that are right are left alone."""
    wanted = {chain.name: chain for chain in rules.chains} if rules is not None else {}
    for name, there in now.chains.items():
        chain = wanted.get(name)
        if chain is None or _head(there) != _head(as_listed(chain)):
            yield f"flush chain inet {TABLE} {name}"
            yield f"delete chain inet {TABLE} {name}"
    for name, chain in wanted.items():
        if now.chains.get(name) == as_listed(chain):
            continue
        yield f"add chain inet {TABLE} {name} {{ {chain.hook}; policy accept; }}"
        yield f"flush chain inet {TABLE} {name}"
        for rule in chain.rules:
            yield f'add rule inet {TABLE} {name} {rule} comment "{comment(rule)}"'


def _head(chain: ListedChain) -> tuple[str, str, int]:
    return chain.kind, chain.hook, chain.priority


def element_text(name: str, key: Key, value: Key = ()) -> str:
    """Return an element as nft reads it: names of links in quotation marks, as they may be words of its language."""
    kinds = SETS[name]
    sides = (
        " . ".join(f'"{part}"' if kind == "ifname" else part for part, kind in zip(parts, types, strict=True))
        for parts, types in zip((key, value), kinds, strict=True)
        if parts
    )
    return " : ".join(sides)

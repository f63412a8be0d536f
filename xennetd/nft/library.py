"""Our nftables table as libnftables, in process, writes and lists it: transactions as text, listings as JSON.

Versions of nft print rules differently, so each rule carries a comment with a short hash of the text that it was made
from; a listing is compared by these. Sets and maps are declared here, with the type of each part of their elements.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from ipaddress import IPv6Address
from typing import Any

from xennetd.model.errors import HostError
from xennetd.model.marks import TABLE
from xennetd.model.objects import Chain, Ruleset
from xennetd.render.nft_ruleset import GUEST_ONLY_LINKS

Parts = tuple[str, ...]
"""A set element's parts, or its value's, as text. A link is named by its index."""

SAVED_SYSCTLS = "saved_sysctls"
"""What sysctls were before us: the index of the link and the number of the sysctl, and the value."""

_LINK = "iface_index"

SETS: dict[str, tuple[Parts, Parts]] = {
    "masquerade4": (("ipv4_addr", _LINK), ()),
    "forward4": (("inet_proto", "inet_service"), ("ipv4_addr", "inet_service")),
    "forward6": (("inet_proto", "inet_service"), ("ipv6_addr", "inet_service")),
    SAVED_SYSCTLS: (("mark", "mark"), ("mark",)),
    **dict.fromkeys(GUEST_ONLY_LINKS.values(), ((_LINK,), ())),
}
"""Our sets and maps: the types of a key's parts and of a value's."""

LASTING = frozenset({SAVED_SYSCTLS, *GUEST_ONLY_LINKS.values()})
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
    sets: dict[str, dict[Parts, Parts]] = field(default_factory=lambda: {name: {} for name in SETS})


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
                listing.sets[what["name"]] = dict(_element(what["name"], each) for each in what.get("elem", ()))
    for name, head in heads.items():
        parts = (head.get("type", ""), head.get("hook", ""), head.get("prio", 0), head.get("policy", ""))
        listing.chains[name] = ListedChain(*parts, tuple(comments.get(name, ())))
    return listing


def _element(name: str, listed: Any) -> tuple[Parts, Parts]:
    key, value = listed if isinstance(listed, list) else (listed, None)
    parts = _parts(key)
    if _LINK in SETS[name][0]:
        parts = tuple(_index(part) if kind == _LINK else part for part, kind in zip(parts, SETS[name][0], strict=True))
    return parts, _parts(value) if value is not None else ()


def _parts(listed: Any) -> Parts:
    if isinstance(listed, dict) and "elem" in listed:
        listed = listed["elem"]["val"]
    parts = listed["concat"] if isinstance(listed, dict) else [listed]
    return plain(str(part) for part in parts)


def _index(link: str) -> str:
    """Return the index of a link that nft lists by its name while there is one, and by its index when it has gone."""
    try:
        return str(socket.if_nametoindex(link))
    except OSError:
        return link


def plain(parts: Iterable[str]) -> Parts:
    """Return an element's parts as they are compared, however nft was made to print them."""
    return tuple(str(IPv6Address(part)) if ":" in part else part for part in parts)


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


def changes(rules: Ruleset | None, now: Listing) -> Iterator[str]:
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


def element_text(parts: Parts, value: Parts = ()) -> str:
    """Return an element as nft reads it."""
    return " : ".join(" . ".join(side) for side in (parts, value) if side)

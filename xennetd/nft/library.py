"""xennetd's nftables table in the language of libnftables: transactions as text, listings as JSON.

libnftables runs inside the process. "Our table" is the one named TABLE, of family inet. Versions of nft print rules
differently, so every rule carries a comment with a short hash of its text, and listings are compared by the comments.
The sets and maps are declared here too, with the types of their elements' parts.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.util import find_spec
from ipaddress import IPv6Address
from typing import Any

from xennetd.kernel.link_names import index_of
from xennetd.model.errors import HostError
from xennetd.model.marks import TABLE
from xennetd.model.objects import Chain, Ruleset
from xennetd.render.nft_ruleset import GUEST_ONLY_LINKS

Parts = tuple[str, ...]
"""The parts of a set element's key, or of its value, as text. A link is given by its index."""

SAVED_SYSCTLS = "saved_sysctls"
"""The map of sysctls' original values. Its keys are the link's index and the sysctl's number (`kernel.sysctls`)."""

_LINK = "iface_index"
_NUMBER = "mark"

SETS: dict[str, tuple[Parts, Parts]] = {
    "masquerade4": (("ipv4_addr", _LINK), ()),
    "forward4": (("inet_proto", "inet_service"), ("ipv4_addr", "inet_service")),
    "forward6": (("inet_proto", "inet_service"), ("ipv6_addr", "inet_service")),
    SAVED_SYSCTLS: ((_NUMBER, _NUMBER), (_NUMBER,)),
    **dict.fromkeys(GUEST_ONLY_LINKS.values(), ((_LINK,), ())),
}
"""The sets and maps of our table, by name: the types of the key's parts, and of the value's parts (none for a set)."""

LASTING = frozenset({SAVED_SYSCTLS, *GUEST_ONLY_LINKS.values()})
"""The sets and maps whose contents are recorded nowhere else."""

_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}


@dataclass(frozen=True, slots=True)
class ListedChain:
    """A base chain as nft lists it: its type, hook and priority, and the comments of its rules in order."""

    kind: str
    hook: str
    priority: int
    policy: str
    comments: tuple[str, ...]


@dataclass(slots=True)
class Listing:
    """The contents of our table as nft lists them. Without the table, `exists` is False and all else is empty.

    `dormant`: another program has set the flag with which the kernel does not use the rules. `unreadable`: the table
    holds something that xennetd can't have made or nft can't print. Only what could be read is listed.
    """

    exists: bool = False
    dormant: bool = False
    unreadable: bool = False
    chains: dict[str, ListedChain] = field(default_factory=dict)
    sets: dict[str, dict[Parts, Parts]] = field(default_factory=lambda: {name: {} for name in SETS})


_NOT_OURS = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What the reading of a listing raises that is not in the form of xennetd's table, or no JSON at all."""


class UnreadableTable(HostError):
    """nft lists our table in a form that is not xennetd's, or in no form at all."""


class Nft:
    """libnftables. It is loaded at its first use: a host that has only bridges does not need it.

    Rule: a context in which a command has failed is not used again. Its socket may hold answers that were not read, and
    libnftables takes them for answers to its next question: then it ends the process (__abi_breakage() of libnftnl).
    Methods raise HostError if libnftables or the kernel's nf_tables can't be used.
    """

    def __init__(self) -> None:
        self._context: Any = None

    def commit(self, text: str) -> str:
        """Carry out the commands in `text` as one transaction. Returns nft's error message, empty for success."""
        failed, _, errors = self._run(text, as_json=False)
        return (errors or "nft gives no reason") if failed else ""

    def read(self) -> Listing:
        """Return the contents of our table, which must exist. Raises UnreadableTable.

        Other programs' tables are not listed: nothing in them may prevent the reading of ours.
        """
        command = f"list table inet {TABLE}"
        try:
            failed, output, errors = self._run(command, as_json=True)
            if failed:
                raise HostError(
                    f"nftables can't be used: {first_line(errors)}; the kernel needs nf_tables with family inet",
                    detail=f"nft {command}: {errors.strip()}",
                )
            return parse_listing(json.loads(output)["nftables"])
        except _NOT_OURS as error:
            raise UnreadableTable(f"nft {command}: {error}") from error

    def _run(self, commands: str, *, as_json: bool) -> tuple[int, str, str]:
        """Return the status (0 for success), the output and the error messages of these commands."""
        context, self._context = self._context or _new_context(), None
        context.set_json_output(as_json)
        failed, output, errors = context.cmd(commands)
        if not failed:
            self._context = context
        return failed, output, errors


def _new_context() -> Any:
    if missing := absent():
        raise HostError(f"nftables can't be used: {missing}")
    try:
        import nftables

        return nftables.Nftables()
    except (ImportError, OSError) as error:
        raise HostError(f"nftables can't be used: {error}") from None


def absent() -> str:
    """Return which part of libnftables is not installed, with the remedy; empty if libnftables can be used.

    The Python module loads the C library only at its first use, and the module from PyPI does not bring the library.
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
    """Return the loaded library. A failure is not cached, since the library may be installed later."""
    return ctypes.CDLL("libnftables.so.1")


def first_line(errors: str) -> str:
    """Return the first line of nft's error message, without `Error: `."""
    return errors.strip().partition("\n")[0].removeprefix("Error: ")


def parse_listing(objects: Iterable[Mapping[str, Any]]) -> Listing:
    """Return the listing in the items of `nft -j list table`. Sets and maps that are not in SETS are left out.

    A set that xennetd can't have made makes the listing `unreadable`. Raises _NOT_OURS for anything else of that kind.
    """
    listing = Listing(exists=True)
    comments: dict[str, list[str]] = {}
    heads: dict[str, Mapping[str, Any]] = {}
    for item in objects:
        for kind, listed in item.items():
            if kind == "chain":
                heads[listed["name"]] = listed
            elif kind == "rule":
                comments.setdefault(listed["chain"], []).append(listed.get("comment", ""))
            elif kind in ("set", "map") and (name := listed["name"]) in SETS:
                try:
                    _check_types(name, listed)
                    listing.sets[name] = dict(_element(name, element) for element in listed.get("elem", ()))
                except _NOT_OURS:
                    listing.unreadable = True
    for name, head in heads.items():
        parts = (head.get("type", ""), head.get("hook", ""), head.get("prio", 0), head.get("policy", ""))
        listing.chains[name] = ListedChain(*parts, tuple(comments.get(name, ())))
    return listing


def _check_types(name: str, listed: Mapping[str, Any]) -> None:
    """Raise ValueError if a set or map has other types than in SETS."""
    for found, wanted in zip((listed.get("type"), listed.get("map", ())), SETS[name], strict=True):
        types = found.split(" . ") if isinstance(found, str) else found
        # Some versions print other forms, of which only the elements can be checked.
        if isinstance(types, list | tuple) and all(isinstance(kind, str) for kind in types) and tuple(types) != wanted:
            raise ValueError(f"{name} has the type {' . '.join(types)}")


def _element(name: str, listed: Any) -> tuple[Parts, Parts]:
    key, value = listed if isinstance(listed, list) else (listed, None)
    key_types, value_types = SETS[name]
    return _typed(_parts(key), key_types), _typed(_parts(value) if value is not None else (), value_types)


def _typed(parts: Parts, types: Parts) -> Parts:
    """Return the parts with links by their index. Raises ValueError for another number of parts, or for no number."""
    for part, kind in zip(parts, types, strict=True):
        if kind == _NUMBER and part != str(int(part)):
            raise ValueError(f"{part} is no number")
    return tuple(_index(part) if kind == _LINK else part for part, kind in zip(parts, types, strict=True))


def _parts(listed: Any) -> Parts:
    if isinstance(listed, dict) and "elem" in listed:
        listed = listed["elem"]["val"]
    parts = listed["concat"] if isinstance(listed, dict) else [listed]
    return plain(str(part) for part in parts)


def _index(link: str) -> str:
    """Return the index of a listed link. nft lists an existing link by its name, and a deleted one by its index."""
    index = index_of(link)
    return str(index) if index is not None else link


def plain(parts: Iterable[str]) -> Parts:
    """Return an element's parts in the form in which they are compared: nft prints IPv6 addresses in several forms."""
    return tuple(str(IPv6Address(part)) if ":" in part else part for part in parts)


def as_listed(chain: Chain) -> ListedChain:
    """Return the listing of a correct chain. `chain.hook` is like `type nat hook output priority dstnat`."""
    _type, kind, _hook, hook, _priority, *priority = chain.hook.split()
    name, offset = priority[0], int("".join(priority[1:]) or 0)
    number = _PRIORITIES[name] if name in _PRIORITIES else int(name)
    return ListedChain(kind, hook, number + offset, "accept", tuple(map(comment, chain.rules)))


@lru_cache(maxsize=8192)  # A look at the networks asks for all rules once for each network.
def comment(rule: str) -> str:
    """Return the comment that identifies a rule: 12 hexadecimal digits, a hash of the rule's text."""
    return hashlib.blake2s(rule.encode(), digest_size=6).hexdigest()


def declarations() -> Iterator[str]:
    """Yield the commands that make our table and its sets. What exists already stays as it is."""
    yield f"add table inet {TABLE}"
    for name, (key, value) in SETS.items():
        kind = f"type {' . '.join(key)}" + (f" : {' . '.join(value)}" if value else "")
        yield f"add {'map' if value else 'set'} inet {TABLE} {name} {{ {kind}; }}"


def changes(rules: Ruleset | None, now: Listing) -> Iterator[str]:
    """Yield the commands that give our table exactly the chains of `rules`; None removes all chains.

    `now` is the current listing. A chain that is right already gets no command.
    """
    wanted = {chain.name: chain for chain in rules.chains} if rules is not None else {}
    listings = {name: as_listed(chain) for name, chain in wanted.items()}
    differing = [name for name in now.chains if now.chains[name] != listings.get(name)]
    # All of them first: a rule of one chain may refer to another one, which can't be deleted then.
    yield from (f"flush chain inet {TABLE} {name}" for name in differing)
    for name in differing:
        if name not in wanted or _head(now.chains[name]) != _head(listings[name]):
            yield f"delete chain inet {TABLE} {name}"
    for name, chain in wanted.items():
        if now.chains.get(name) == listings[name]:
            continue
        yield f"add chain inet {TABLE} {name} {{ {chain.hook}; policy accept; }}"
        yield f"flush chain inet {TABLE} {name}"
        for rule in chain.rules:
            yield f'add rule inet {TABLE} {name} {rule} comment "{comment(rule)}"'


def _head(chain: ListedChain) -> tuple[str, str, int]:
    return chain.kind, chain.hook, chain.priority


def element_text(parts: Parts, value: Parts = ()) -> str:
    """Return a set element, or with `value` a map element, in nft's syntax."""
    return " : ".join(" . ".join(side) for side in (parts, value) if side)

"""Changes inputs at random, each in the structure of its own format, so that most of them get past the first check.

Rule: the random numbers are all that decides. The same generator in the same state gives the same input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from struct import Struct, error
from typing import Any

LARGEST = 1 << 15
"""Bytes of an input."""

Mutate = Callable[[Random, bytes], bytes]

_NUMBERS: tuple[int, ...] = (
    0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 129, 254, 255, 256, 1023, 4095, 4096, 4097, 32767, 32768,
    65535, 65536, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 64) - 1,
)  # fmt: skip
_SCRAPS: tuple[bytes, ...] = (
    b"", b"\0", b"\n", b"\r", b" ", b"\x1b[0m", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8", b"\xff", b"\xed\xa0\x80",
    b"\xd9\xa2", b"\xc2\xb2", b"'", b'"', b"\\", b"%s", b"/", b"../", b":", b"::", b"0", b"-1", b"1e9", b"NaN",
    b"9" * 40, b"9" * 5000, b"a" * 300, b"[" * 3000, b"{" * 100, b'{"a":' * 1500, b"vif1.0", b"vif-1-0", b"lo",
    b"10.0.0.1", b"255.255.255.255", b"10.0.0.0/24", b"0.0.0.0/0", b"fd00::1", b"::ffff:1.2.3.4", b"fe80::1%lo",
)  # fmt: skip


def number(random: Random) -> int:
    """Return a number that is at the edge of something."""
    return random.choice(_NUMBERS)


def scrap(random: Random) -> bytes:
    """Return a short text that some parser may take for something."""
    return random.choice(_SCRAPS)


def bytewise(random: Random, data: bytes) -> bytes:
    """Flip, insert, copy, repeat or remove bytes anywhere."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(changed) + 1)
        stop = min(len(changed), at + random.choice((1, 1, 2, 4, 16, 64)))
        match random.randrange(7):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << random.randrange(8)
            case 1 if changed:
                changed[at % len(changed)] = random.randrange(256)
            case 2:
                del changed[at:stop]
            case 3:
                changed[at:at] = scrap(random)
            case 4:
                changed[at:at] = changed[at:stop]
            case 5:
                del changed[at:]
            case _:
                value = number(random) & 0xFFFFFFFF
                changed[at:stop] = value.to_bytes(4, random.choice(("little", "big")))[: stop - at]
    return bytes(changed[:LARGEST])


def spliced(random: Random, data: bytes, other: bytes, separator: bytes = b"") -> bytes:
    """Return the beginning of one input and the end of another; with a separator, cut where it is."""
    if separator:
        first, second = data.split(separator), other.split(separator)
        joined = first[: random.randrange(len(first) + 1)] + second[random.randrange(len(second)) :]
        return separator.join(joined)[:LARGEST]
    return (data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :])[:LARGEST]


def by_records(separator: bytes, words: Sequence[bytes]) -> Mutate:
    """Return what changes an input of records: moves, repeats, drops them, and puts `words` into them."""

    def mutate(random: Random, data: bytes) -> bytes:
        records = data.split(separator)
        for _ in range(random.choice((1, 1, 2, 3))):
            at = random.randrange(len(records))
            match random.randrange(6):
                case 0 if len(records) > 1:
                    del records[at]
                case 1:
                    records.insert(random.randrange(len(records) + 1), records[at])
                case 2:
                    records.insert(at, random.choice(words) if words else scrap(random))
                case 3:
                    records[at] = _with_word(random, records[at], words)
                case _:
                    records[at] = bytewise(random, records[at])
        return separator.join(records)[:LARGEST]

    return mutate


_TOKEN = re.compile(rb"[A-Za-z0-9_.:/-]+|\s+|.", re.DOTALL)


def _with_word(random: Random, record: bytes, words: Sequence[bytes]) -> bytes:
    """Put a word in the place of one of the record's."""
    tokens = _TOKEN.findall(record)
    if not tokens:
        return random.choice(words) if words else scrap(random)
    word = random.choice(words) if words and random.random() < 0.7 else scrap(random)
    tokens[random.randrange(len(tokens))] = word
    return b"".join(tokens)


def jsonwise(words: Sequence[Any]) -> Mutate:
    """Return what changes a JSON text as a tree: values are dropped, repeated, nested, or become one of `words`."""

    def mutate(random: Random, data: bytes) -> bytes:
        try:
            tree = json.loads(data)
        except (ValueError, RecursionError):
            return bytewise(random, data)
        for _ in range(random.choice((1, 1, 2, 4))):
            tree = _changed_tree(random, tree, words)
        return json.dumps(tree, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")[:LARGEST]

    return mutate


def _changed_tree(random: Random, tree: Any, words: Sequence[Any]) -> Any:
    if isinstance(tree, dict | list) and tree and random.random() < 0.8:
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        key = random.choice(keys)
        match random.randrange(10):
            case 0:
                del tree[key]
            case 1 if isinstance(tree, list):
                tree.insert(random.randrange(len(tree) + 1), json.loads(json.dumps(tree[key])))
            case 1 if isinstance(tree, dict):
                tree[str(random.choice(words))] = tree[key]
            case 2 if isinstance(tree, dict):
                tree[str(random.choice(words))] = tree.pop(key)
            case _:
                tree[key] = _changed_tree(random, tree[key], words)
        return tree
    match random.randrange(5):
        case 0:
            return [tree]
        case 1:
            return {str(random.choice(words)): tree}
        case 2:
            return number(random) * random.choice((1, 1, -1))
        case 3:
            return scrap(random).decode("utf-8", "surrogateescape")
        case _:
            return json.loads(json.dumps(random.choice(words)))


_HEADER = Struct("=IHHII")
_ATTRIBUTE = Struct("=HH")
BODIES = {16: 16, 17: 16, 20: 8, 21: 8, 24: 12, 25: 12, 28: 12, 29: 12, 80: 4, 81: 4, 2: 4, 3: 4, 0xA00: 4, 0xA0F: 4}
"""The bytes of a message's fixed part, by its type: rtnetlink(7), netlink(7), and nf_tables."""

Tree = list[tuple[int, "bytes | Tree"]]
"""Attributes: the type with its flags, and the value or the attributes within."""


def netlinkwise(random: Random, data: bytes) -> bytes:
    """Change a datagram of netlink(7) by messages, headers and attributes; lengths are made right again, mostly."""
    found = _messages(data)
    if not found:
        return bytewise(random, data)
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(found))
        kind, head, body = found[at]
        match random.randrange(9):
            case 0:
                found.insert(random.randrange(len(found) + 1), found[at])
            case 1 if len(found) > 1:
                del found[at]
            case 2:
                found[at] = random.choice(tuple(BODIES)), head, body
            case 3:
                found[at] = kind, bytes(head[:8]), _bytes_changed(random, body, 16)
            case _:
                size = BODIES.get(kind, 4)
                tree = _attributes(body[size:])
                _change_attributes(random, tree)
                found[at] = kind, head, body[:size] + _joined(random, tree)
    return b"".join(_message(random, *message) for message in found)[:LARGEST]


def _messages(data: bytes) -> list[tuple[int, bytes, bytes]]:
    """Return the messages: type, the rest of the header, and the body."""
    found, at = [], 0
    while at + 16 <= len(data):
        length, kind, *rest = _HEADER.unpack_from(data, at)
        if length < 16 or at + length > len(data):
            break
        found.append((kind, Struct("=HII").pack(*rest), data[at + 16 : at + length]))
        at += (length + 3) & ~3
    return found


def _message(random: Random, kind: int, rest: bytes, body: bytes) -> bytes:
    length = 16 + len(body)
    if random.random() < 0.02:
        length = number(random) & 0xFFFFFFFF
    flags, seq, pid = Struct("=HII").unpack(rest.ljust(10, b"\0")[:10])
    padding = b"\0" * (-len(body) & 3)
    return _HEADER.pack(length, kind, flags, seq, pid) + body + padding


def _attributes(data: bytes, depth: int = 0) -> Tree:
    """Return the attributes in `data`. A value that looks like attributes is taken for such."""
    found: Tree = []
    at = 0
    while at + 4 <= len(data):
        try:
            length, kind = _ATTRIBUTE.unpack_from(data, at)
        except error:
            break
        if length < 4 or at + length > len(data):
            break
        value = data[at + 4 : at + length]
        nested = depth < 4 and len(value) >= 4 and (kind & 0x8000 or kind in (18, 26, 12, 52, 5, 9))
        inner = _attributes(value, depth + 1) if nested else []
        found.append((kind, inner or value))
        at += (length + 3) & ~3
    return found


def _change_attributes(random: Random, tree: Tree) -> None:
    if not tree:
        tree.append((random.randrange(64), scrap(random)))
        return
    at = random.randrange(len(tree))
    kind, value = tree[at]
    if isinstance(value, list) and random.random() < 0.7:
        _change_attributes(random, value)
        return
    match random.randrange(8):
        case 0:
            del tree[at]
        case 1:
            tree.insert(random.randrange(len(tree) + 1), (kind, value))
        case 2:
            tree[at] = (random.randrange(70) | (kind & 0x8000), value)
        case 3:
            tree[at] = (kind, number(random).to_bytes(8, "little")[: random.choice((0, 1, 2, 4, 8))])
        case 4:
            tree[at] = (kind, scrap(random)[:LARGEST])
        case 5:
            tree[at] = (kind, [(random.randrange(64), value)])
        case _ if isinstance(value, bytes):
            tree[at] = (kind, _bytes_changed(random, value, len(value)))


def _bytes_changed(random: Random, value: bytes, first: int) -> bytes:
    """Change one of the first bytes, or the length."""
    if not value or random.random() < 0.2:
        return value[: random.randrange(len(value) + 1)] + scrap(random)[: random.randrange(5)]
    changed = bytearray(value)
    changed[random.randrange(min(len(value), max(first, 1)))] = random.choice((0, 1, 2, 7, 10, 128, 254, 255, 120))
    return bytes(changed)


def _joined(random: Random, tree: Tree) -> bytes:
    parts = []
    for kind, value in tree:
        data = value if isinstance(value, bytes) else _joined(random, value)
        length = 4 + len(data) if random.random() > 0.01 else number(random)
        parts.append(_ATTRIBUTE.pack(length & 0xFFFF, kind & 0xFFFF) + data + b"\0" * (-len(data) & 3))
    return b"".join(parts)

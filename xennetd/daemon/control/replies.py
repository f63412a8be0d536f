"""Replies as they go over the wire, in pieces.

A long list or text is made while it is sent, a piece at a time. So a peer that reads slowly, or never, makes the daemon
hold one piece, not the whole. Everything else is one piece.

msgspec encodes directly from the model's values. That takes 1 ms for 1,000 vifs; asyncvarlink's conversion by types
takes 50 ms.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

SLICE = 100
"""Values of a long list that make one piece. To make and encode them takes less than 1 ms."""

_ENOUGH = 64 << 10
"""Bytes that are sent together, at least, if they are made within _TIME."""

_TIME = 0.0005
"""Seconds after which no further piece is added to those that are sent together."""


class Rows:
    """A list in a reply, of values that are made when their turn comes."""

    def __init__(self, values: Iterator[Any]) -> None:
        self._values = values

    def encoded(self) -> Iterator[bytes]:
        """Yield the list as JSON, in parts."""
        opening = b"["
        while part := list(islice(self._values, SLICE)):
            yield opening + encoded(part)[1:-1]
            opening = b","
        yield b"]" if opening == b"," else b"[]"


class Composed:
    """An object in a reply. The values of its fields may be made when their turn comes."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def encoded(self) -> Iterator[bytes]:
        """Yield the object as JSON, in parts."""
        opening = b"{"
        for name, value in self._values.items():
            yield opening + encoded(name) + b":"
            if isinstance(value, Composed | Rows | Text):
                yield from value.encoded()
            else:
                yield encoded(value)
            opening = b","
        yield b"}" if opening == b"," else b"{}"


class Text:
    """A text in a reply, whose parts are made when their turn comes."""

    def __init__(self, parts: Iterator[str]) -> None:
        self._parts = parts

    def encoded(self) -> Iterator[bytes]:
        """Yield the text as a JSON string, in parts."""
        yield b'"'
        for part in self._parts:
            yield encoded(part)[1:-1]
        yield b'"'


def pieces(parameters: Mapping[str, Any]) -> Iterator[bytes]:
    """Return the pieces of a reply, at least one, with its NUL at the end.

    A value may be a `Composed`, a `Rows` or a `Text`. Without these, the result holds nothing but the encoded reply.
    """
    if any(isinstance(value, Composed | Rows | Text) for value in parameters.values()):
        return _pieces(parameters)
    return iter((encoded({"parameters": parameters}) + b"\0",))


def _pieces(parameters: Mapping[str, Any]) -> Iterator[bytes]:
    yield b'{"parameters":'
    yield from Composed(parameters).encoded()
    yield b"}\0"


def some_of(made: Iterator[bytes]) -> bytes:
    """Return the next pieces that are to be sent together; nothing after the last."""
    found, size, until = [], 0, time.perf_counter() + _TIME
    for piece in made:
        found.append(piece)
        size += len(piece)
        if size >= _ENOUGH or (size and time.perf_counter() > until):  # An empty result would be the end.
            break
    return b"".join(found) if len(found) != 1 else found[0]


def streamed(parameters: Mapping[str, Any], *, continues: bool) -> bytes:
    """Return one reply of a stream, with its NUL."""
    return encoded({"parameters": parameters, "continues": continues}) + b"\0"


def encoded(value: Any) -> bytes:
    """Return a value as JSON. Bytes of a file's name that are not UTF-8 (os.fsdecode()) are escaped."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_escaped(value))


def _escaped(value: Any) -> Any:
    """Return a value with every surrogate in its texts escaped: UTF-8, and so JSON, has none."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_escaped(key): _escaped(item) for key, item in value.items()}
        case list():
            return [_escaped(item) for item in value]
        case None | int() | float():
            return value
        case _:
            return _escaped(msgspec.to_builtins(value))

"""Frozen values as JSON and back. `xennetctl show --debug` prints this JSON; a test can replay a decision from it.

A value of a type that JSON lacks becomes an object with one key, the name of the type: `{"Link": {...}}`,
`{"IPv4Network": "10.0.0.0/24"}`, `{"frozenset": [...]}`. Attributes with their default values are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from itertools import count, islice
from typing import Any

from xennetd.model.errors import XennetdError
from xennetd.model.value import is_value, set_attributes

_IP: dict[str, type] = {
    cls.__name__: cls for cls in (IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)
}


def to_json(value: Any) -> Any:
    """Return a value in a form that json.dumps() takes. Raises TypeError for a type that has no such form."""
    name = type(value).__name__
    if isinstance(value, Enum):
        return {name: value.name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: [to_json(item) for item in value]}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, frozenset | set):
        return {"frozenset": sorted(map(to_json, value), key=repr)}
    if isinstance(value, Mapping):
        return {"dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
    if isinstance(value, XennetdError):
        texts = {"sentence": value.sentence, "detail": value.detail, "errno": getattr(value, "errno", 0)}
        return {name: {**texts, "waits_on": sorted(value.waits_on)}}
    if is_value(value):
        return {name: {attribute: to_json(content) for attribute, content in set_attributes(value).items()}}
    if name in _IP:
        return {name: str(value)}
    raise TypeError(f"{name} has no JSON")


SLICE = 20
"""Items of a long list that make one part of a text. To make it takes about 1 ms."""


def to_text(value: Any) -> Iterator[str]:
    """Yield `json.dumps(to_json(value))` in parts. Raises TypeError as `to_json` does.

    Long lists and mappings are cut where they are attributes of `value`, or of such an attribute.
    """
    name = type(value).__name__
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        yield json.dumps(to_json(value))
    elif isinstance(value, tuple | list):
        yield from _listed("[", value, "]")
    elif isinstance(value, Mapping):
        yield from _listed('{"dict": [', map(list, value.items()), "]}")
    elif is_value(value) and not isinstance(value, Enum | XennetdError):
        opening = f'{{"{name}": {{'
        for attribute, content in set_attributes(value).items():
            yield f'{opening}"{attribute}": '
            yield from to_text(content)
            opening = ", "
        yield opening.removesuffix(", ") + "}}"
    else:
        yield json.dumps(to_json(value))


def _listed(opening: str, items: Iterable[Any], closing: str) -> Iterator[str]:
    left = iter(items)
    while part := list(islice(left, SLICE)):
        yield opening + json.dumps(to_json(part))[1:-1]
        opening = ", "
    yield opening.removesuffix(", ") + closing


class TextOnce:
    """`to_text` of one value for many readers: each part is made when the first of them needs it, and kept."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self._made: list[str] = []
        self._fresh = to_text(value)

    def parts(self) -> Iterator[str]:
        """Yield the parts."""
        for number in count():
            if number == len(self._made):
                part = next(self._fresh, None)
                if part is None:
                    return
                self._made.append(part)
            yield self._made[number]


def from_json(value: Any, types: Iterable[type]) -> Any:
    """Return the value that `to_json` made this JSON from.

    `types` are the values, enumerations, named tuples and errors that occur in it. Lists come back as tuples.
    """
    return _read(value, {cls.__name__: cls for cls in types})


def _read(value: Any, known: Mapping[str, type]) -> Any:
    if isinstance(value, list):
        return tuple(_read(item, known) for item in value)
    if not isinstance(value, dict):
        return value
    ((name, content),) = value.items()
    if name == "frozenset":
        return frozenset(_read(item, known) for item in content)
    if name == "dict":
        return {_read(key, known): _read(item, known) for key, item in content}
    if name in _IP:
        return _IP[name](content)
    cls: Any = known[name]
    if issubclass(cls, Enum):
        return cls[content]
    if issubclass(cls, tuple):
        return cls(*(_read(item, known) for item in content))
    if issubclass(cls, XennetdError):
        error = cls(content["sentence"], detail=content["detail"], waits_on=frozenset(content["waits_on"]))
        if content["errno"]:
            error.errno = content["errno"]
        return error
    return cls(**{key: _read(item, known) for key, item in content.items()})

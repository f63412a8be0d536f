"""Frozen values as JSON and back. `xennetctl show --debug` prints this JSON; a test can replay a decision from it.

A value of a type that JSON lacks becomes an object with one key, the name of the type: `{"Link": {...}}`,
`{"IPv4Network": "10.0.0.0/24"}`, `{"frozenset": [...]}`. Attributes with their default values are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
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

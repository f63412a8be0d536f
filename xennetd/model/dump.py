"""Frozen values as JSON and back: what `xennetctl show --debug` prints, and what a test makes a decision from again.

Whatever JSON has no word for is an object with one key, the name of its type: `{"Link": {...}}`, `{"IPv4Network":
"10.0.0.0/24"}`, `{"frozenset": [...]}`. Fields with their default values are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any

from xennetd.model.errors import XennetdError

_IP: dict[str, type] = {
    each.__name__: each for each in (IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)
}


def to_json(value: Any) -> Any:
    """Return a value as what json.dumps() takes."""
    name = type(value).__name__
    if isinstance(value, Enum):
        return {name: value.name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: [to_json(each) for each in value]}
    if isinstance(value, tuple | list):
        return [to_json(each) for each in value]
    if isinstance(value, frozenset | set):
        return {"frozenset": sorted(map(to_json, value), key=repr)}
    if isinstance(value, Mapping):
        return {"dict": [[to_json(key), to_json(each)] for key, each in value.items()]}
    if isinstance(value, XennetdError):
        told = {"sentence": value.sentence, "detail": value.detail, "errno": getattr(value, "errno", 0)}
        return {name: {**told, "waits_on": sorted(value.waits_on)}}
    if is_dataclass(value):
        told = {each.name: getattr(value, each.name) for each in fields(value)}
        differs = {each.name: each for each in fields(value) if told[each.name] != _default(each)}
        return {name: {key: to_json(told[key]) for key in differs}}
    if name in _IP:
        return {name: str(value)}
    raise TypeError(f"{name} has no JSON")


def from_json(value: Any, types: Iterable[type]) -> Any:
    """Return the value of `to_json`. `types` are the dataclasses, enumerations, named tuples and errors that occur."""
    known = {each.__name__: each for each in types}
    return _read(value, known)


def _read(value: Any, known: Mapping[str, type]) -> Any:
    if isinstance(value, list):
        return tuple(_read(each, known) for each in value)
    if not isinstance(value, dict):
        return value
    ((name, told),) = value.items()
    if name == "frozenset":
        return frozenset(_read(each, known) for each in told)
    if name == "dict":
        return {_read(key, known): _read(each, known) for key, each in told}
    if name in _IP:
        return _IP[name](told)
    made: Any = known[name]
    if issubclass(made, Enum):
        return made[told]
    if issubclass(made, tuple):
        return made(*(_read(each, known) for each in told))
    if issubclass(made, XennetdError):
        error = made(told["sentence"], detail=told["detail"], waits_on=frozenset(told["waits_on"]))
        if told["errno"]:
            error.errno = told["errno"]
        return error
    return made(**{key: _read(each, known) for key, each in told.items()})


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else MISSING

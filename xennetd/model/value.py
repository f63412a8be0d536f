"""Frozen values: how one is copied with changes, and how its attributes are listed.

A value that is made for each event (`Link`, `Vif`, `Observation`, a Step of a link) is a frozen `msgspec.Struct`. To
make a frozen dataclass takes five times as long, with twenty attributes thirteen times, and an attach makes forty
values. A value of the configuration, and one whose equality leaves attributes out, is a frozen dataclass. `replace`
works for both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct, structs

__all__ = ["is_value", "replace", "set_attributes"]

_Value = TypeVar("_Value")

_NO_DEFAULT = object()


if TYPE_CHECKING:
    from dataclasses import replace  # The checker knows the attributes' names and types, of a Struct too.
else:

    def replace(value: _Value, /, **changes: Any) -> _Value:
        """Return a copy of a frozen value with some changes. Raises TypeError for an attribute that it lacks."""
        copy = structs.replace if isinstance(value, Struct) else dataclasses.replace
        return copy(value, **changes)


def is_value(value: object) -> bool:
    """Return whether this is a Struct or the instance of a dataclass."""
    return isinstance(value, Struct) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def set_attributes(value: Any) -> Mapping[str, Any]:
    """Return the attributes of a value that differ from their defaults, by name."""
    found = {name: getattr(value, name) for name in _names(value)}
    defaults = _defaults(value)
    return {name: content for name, content in found.items() if content != defaults.get(name, _NO_DEFAULT)}


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, Struct):
        return value.__struct_fields__
    return tuple(field.name for field in dataclasses.fields(value))


def _defaults(value: Any) -> dict[str, Any]:
    if isinstance(value, Struct):
        defaults = value.__struct_defaults__
        return dict(zip(value.__struct_fields__[-len(defaults) :], defaults, strict=True)) if defaults else {}
    found = {}
    for field in dataclasses.fields(value):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found

"""The contract of an adapter, which observes, makes, changes and removes the host objects of one kind."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Adapter(Protocol[T]):
    """Observes and changes the host objects of one kind. An adapter keeps no memory of what the host itself knows.

    `apply` and `remove` act at once and return None. Where the engine answers later, they return an awaitable instead.
    So does `list_owned` where the answer takes long.
    """

    def present(self, wanted: T) -> T | None:
        """Return the object with the key of `wanted` as the host has it now, None if the host has none.

        The result equals `wanted` if the host has the object as it must be.
        """
        ...

    def apply(self, wanted: Sequence[T]) -> Awaitable[None] | None:
        """Make the objects, or change the existing ones. Raises HostError that names the first object refused."""
        ...

    def remove(self, objects: Sequence[T]) -> Awaitable[None] | None:
        """Remove the objects. An object that is absent, or that has another owner by now, is skipped without error."""
        ...

    def list_owned(self) -> Collection[T] | Awaitable[Collection[T]]:
        """Return every object of this kind that carries xennetd's mark now, whichever process made it."""
        ...


Adapters = Mapping[str, Adapter[Any]]
"""The adapters, by the `kind` of a key."""

"""The contract of an adapter: what observes, makes, changes and removes the host objects of one kind."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Adapter(Protocol[T]):
    """Knows the objects of one kind. An adapter remembers nothing that the host knows.

    `apply` and `remove` act at once; an adapter of an engine that answers later returns what is to be awaited.
    """

    def present(self, wanted: T) -> T | None:
        """Return the object with this key as it is now, equal to `wanted` if it is right; None if there is none."""
        ...

    def apply(self, wanted: Sequence[T]) -> Awaitable[None] | None:
        """Make objects, or change those that are there. Raises HostError that names the first that is refused."""
        ...

    def remove(self, objects: Sequence[T]) -> Awaitable[None] | None:
        """Remove objects. To remove what is not there, or is another's by now, is no error and does nothing."""
        ...

    def list_owned(self) -> Collection[T]:
        """Return everything that carries our mark now, whoever made it."""
        ...


Adapters = Mapping[str, Adapter[Any]]
"""The adapter for each kind of key."""

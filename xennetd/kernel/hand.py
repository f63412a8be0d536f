"""What makes the objects of one type that the host must have, and takes them away: the protocol of all such hands."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from xennetd.kernel.netlink import Ack
from xennetd.model.errors import HostError
from xennetd.model.ground import GroundObject

T = TypeVar("T")


class Hand(Protocol[T]):
    """Makes and takes away what there is of one type in `model.ground`. It remembers nothing that the host knows."""

    def holds(self, needed: T) -> bool:
        """Return whether an object is there, and is as it should be."""
        ...

    def ensure(self, needed: Sequence[T]) -> None:
        """Make objects, those that are there already included. Raises HostError naming the first that is refused."""
        ...

    def release(self, objects: Sequence[T]) -> None:
        """Take objects away. To release what is not there, or is another's by now, is no error and does nothing."""
        ...

    def ours(self) -> Collection[T]:
        """Return everything that carries our mark now, whoever made it."""
        ...


def refused(needed: GroundObject, ack: Ack) -> HostError:
    """Return the error for an object that the kernel does not make or take away."""
    sentence = f"the kernel refuses `{needed.describe()}`: {os.strerror(ack.errno)}"
    return HostError(sentence, errno=ack.errno, detail=f"{sentence} ({ack.text})" if ack.text else sentence)

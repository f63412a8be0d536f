"""The nodes of a directory as one input of bytes: `name=value`, with a record separator between them."""

from __future__ import annotations

from collections.abc import Mapping

SEPARATOR = b"\x1e"


def pack(nodes: Mapping[str, str | bytes]) -> bytes:
    """Return the input that these nodes are."""
    values = ((name, value.encode() if isinstance(value, str) else value) for name, value in nodes.items())
    return SEPARATOR.join(name.encode() + b"=" + value for name, value in values)


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the nodes in any input. A record without `=` is a node without a value."""
    records = (record.partition(b"=") for record in data.split(SEPARATOR))
    return {name.decode("latin-1"): value for name, _, value in records}

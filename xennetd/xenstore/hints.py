"""Where to look next in xenstore: what watch events have hinted at since the last look, merged."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from xennetd.model.vif import VifId
from xennetd.xenstore.parse import NODES, parse_id, parse_number

ROOT: Final = "backend/vif"
"""The one directory that is watched, relative to our own domain's home."""

ALL_NODES: Final = frozenset(NODES)


class Hints:
    """Where to look: at everything, at whole domains, at some nodes of some vifs, at vifs whose domain may be gone or
    renamed."""

    __slots__ = ("domains", "everything", "gone", "renamed", "vifs")

    def __init__(self) -> None:
        self.everything = False
        self.gone = False
        self.domains: set[int] = set()
        self.renamed: set[int] = set()
        self.vifs: dict[VifId, frozenset[str]] = {}

    def __bool__(self) -> bool:
        return self.everything or self.gone or bool(self.domains or self.renamed or self.vifs)

    def add(self, path: str, known: Container[VifId]) -> None:
        """Take an event's path. What can't be a vif's directory or a node we read is ignored."""
        if not path.startswith(f"{ROOT}/"):
            # The watched directory itself: it or one above it came or went, and nothing else tells what that did below.
            self.everything = True
            return
        parts = path.split("/")[2:]
        if len(parts) == 1:
            domid = parse_number(parts[0])
            if domid is not None:
                self.domains.add(domid)
            return
        vif = parse_id(parts[0], parts[1])
        if vif is None:
            return
        if len(parts) == 2 or vif not in known:
            self.vifs[vif] = ALL_NODES
        elif len(parts) == 3 and parts[2] in ALL_NODES:
            self.vifs[vif] = self.vifs.get(vif, frozenset()) | {parts[2]}

    def add_name(self, path: str) -> None:
        """Take the path of an event on a domain's name, `/local/domain/7/name`."""
        _, _, untrusted_domid = path.removesuffix("/name").rpartition("/")
        domid = parse_number(untrusted_domid)
        if domid is not None:
            self.renamed.add(domid)

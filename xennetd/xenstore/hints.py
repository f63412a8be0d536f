"""What to read next in xenstore: the watch events since the last read, merged."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from xennetd.model.vif import VifId
from xennetd.xenstore.parse import NODES, parse_id, parse_number

ROOT: Final = "backend/vif"
"""The watched directory, relative to the home directory of the daemon's domain."""

ALL_NODES: Final = frozenset(NODES)


class Hints:
    """What to read again.

    `everything`: all vifs. `domains`: all vifs of these domains. `vifs`: these nodes of these vifs. `gone`: the vifs of
    domains that may have ended. `renamed`: the names of these domains. `heard`: the time of the first event about each
    of `vifs`.
    """

    __slots__ = ("domains", "everything", "gone", "heard", "renamed", "vifs")

    def __init__(self) -> None:
        self.heard: dict[VifId, float] = {}
        self.everything = False
        self.gone = False
        self.domains: set[int] = set()
        self.renamed: set[int] = set()
        self.vifs: dict[VifId, frozenset[str]] = {}

    def __bool__(self) -> bool:
        return self.everything or self.gone or bool(self.domains or self.renamed or self.vifs)

    def add(self, path: str, known: Container[VifId], now: float = 0.0) -> None:
        """Add an event's path. A path is ignored if it is neither a vif's directory nor a node in NODES.

        `known` are the vifs that are known already. `now` is the time of the event: monotonic clock, in seconds.
        """
        if not path.startswith(f"{ROOT}/"):
            # The watched directory, or one above it, was made or removed. There are no events for the nodes below it.
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
        else:
            return
        self.heard.setdefault(vif, now)

    def add_name(self, path: str) -> None:
        """Add the path of an event about a domain's name, like `/local/domain/7/name`."""
        _, _, untrusted_domid = path.removesuffix("/name").rpartition("/")
        domid = parse_number(untrusted_domid)
        if domid is not None:
            self.renamed.add(domid)

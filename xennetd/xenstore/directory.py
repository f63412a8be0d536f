"""The directory of vifs: all backend directories of this domain, parsed and kept current by watches.

Rule 1: an event is a hint. All waiting hints are read in one batch.
Rule 2: a vif is reported only if it differs from the view.
Rule 3: after a connect, no vif is reported as gone before everything has been read.

One watch covers all nodes below `backend/vif`. In dom0, one watch per domain covers the domain's name. Two nodes are
read without a watch. `/local/domain/D/vm` is read together with the name: the toolstack writes it once, before the
domain's first vif. The frontend's `mtu` is read together with a whole vif. It lies in the guest's directory, and only
decides whether the guest's MTU is written once more, so a guest that changes it harms only itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog
from msgspec import Struct

from xennetd.cancellation import heed_cancellation
from xennetd.model.errors import ToolstackError
from xennetd.model.vif import Vif, VifId
from xennetd.xenstore.client import XenstoreClient
from xennetd.xenstore.codec import XenstoreError
from xennetd.xenstore.hints import ALL_NODES, ROOT, Hints
from xennetd.xenstore.names import NameWatches
from xennetd.xenstore.parse import NODES, parse_id, parse_number, parse_vif, update_vif

DOMAIN_GONE: Final = "@releaseDomain"
RETRY_FIRST: Final = 0.02
RETRY_LONGEST: Final = 1.0
"""Seconds between attempts to reach xenstored: the first pause, and the longest."""

SETTLE: Final = 1.0
"""Seconds without a change after which a xenstored that had lost its contents counts as complete again."""

NAMES_AFTER: Final = 0.5
"""Seconds after a vif came or went, before watches on names are set and removed: the attach of a vif goes first."""

SILENT: Final = 3.0
"""Seconds without any answer after which xenstored counts as silent."""

_BATCH: Final = 64
"""Vifs per batch when everything is read: xenstored answers the next batch while this one is parsed."""

_NAME_ALONE: Final[frozenset[str]] = frozenset()
"""Stands for the nodes of a vif of which only the domain's name and `vm` are read."""

_UNHEARD: Final[Mapping[VifId, float]] = {}

_NO_NODES: Final[Mapping[str, None]] = dict.fromkeys(NODES)
_EMPTIED: Final = "xenstore has lost what it held; waiting for it to be filled again"


class _Entry(Struct, frozen=True):
    """A vif and the values that it was parsed from. Name and vm are None in a driver domain: it may not read them."""

    vif: Vif
    untrusted_nodes: Mapping[str, bytes | None]
    untrusted_name: bytes | None
    untrusted_vm: bytes | None
    untrusted_mtu: bytes | None


class Directory:
    """The live view of all vifs.

    `changed` is called with every vif that came, went or differs, after the view changed, and with the time when
    xennetd took the first event about that from xenstored's connection: monotonic clock, in seconds. Where no event
    names the vif, that is the time when the reading began.

    `loaded` is set once everything has been read for the first time. `reconnects` counts the reconnections to
    xenstored. `state` describes the connection in words.
    """

    def __init__(
        self,
        client: XenstoreClient,
        changed: Callable[[VifId, float], None],
        log: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        self.loaded = asyncio.Event()
        self.reconnects = 0
        self.state = "connecting to xenstored"
        self._client = client
        self._changed = changed
        self._log = log or structlog.get_logger()
        self._entries: dict[VifId, _Entry] = {}
        self._hints = Hints()
        self._wake = asyncio.Event()
        self._had_home = False
        self._names = NameWatches(client, self._name_event, self._log)
        self._names_timer: asyncio.TimerHandle | None = None
        self._names_due = False

    @property
    def own_domid(self) -> int:
        """The domid of the daemon's own domain; 0 if xenstore does not name it, as in dom0."""
        return self._client.own_domid or 0

    def problem(self) -> str | None:
        """Return what keeps xennetd from following xenstore, None if nothing does."""
        if not self._client.connected:
            return self.state
        if self._client.silence < SILENT:
            return None
        return (
            f"xenstored has not answered for {self._client.silence:.0f} s: it is stopped or overloaded, or it is an "
            "oxenstored that waits for another client to read its watch events"
        )

    def get(self, vif: VifId) -> Vif | None:
        """Return a vif as it was last read, None if it has no backend directory."""
        entry = self._entries.get(vif)
        return entry.vif if entry else None

    def ids(self) -> tuple[VifId, ...]:
        """Return the ids of all vifs."""
        return tuple(self._entries)

    def __iter__(self) -> Iterator[VifId]:
        return iter(self.ids())

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, vif: VifId, node: str, value: str | None) -> None:
        """Put a value that xennetd has just written into the view, so that no decision uses the old value.

        `value` None means that the node was removed. The event that follows reads the node once more.
        """
        old = self._entries.get(vif)
        if old is not None:
            untrusted_nodes = {**old.untrusted_nodes, node: None if value is None else value.encode()}
            entry = _entry(vif, untrusted_nodes, old.untrusted_name, old.untrusted_vm, old.untrusted_mtu, old)
            if entry is not None:
                self._entries[vif] = entry

    async def refresh(self, vif: VifId) -> Vif | None:
        """Read one vif again, with all nodes, and return it, None if it is gone. Raises ToolstackError."""
        began = time.monotonic()
        self._apply(await self._fetch({vif: ALL_NODES}), began)
        return self.get(vif)

    async def run(self) -> None:
        """Follow xenstore until cancelled. After a lost connection, reconnect and read everything again.

        The pause between attempts doubles from RETRY_FIRST up to RETRY_LONGEST.
        """
        pause = RETRY_FIRST
        while True:
            try:
                await self._client.connect(on_lost=self._wake.set)
                await self._start()
                pause = RETRY_FIRST
                await self._follow()
            except ToolstackError as error:
                self._client.close()
                heed_cancellation()
                self._report(error.sentence)
            except Exception:
                self._client.close()
                raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_LONGEST)

    async def _start(self) -> None:
        """Set the watches on vifs, then read everything. The watches on names come later."""
        self._names.forget()
        await self._client.watch(ROOT, self._event)
        # Some driver domains may not set this watch. It is only an additional hint.
        with suppress(XenstoreError):
            await self._client.watch(DOMAIN_GONE, self._domain_gone)
        await self._settle()
        # The hints so far, like the first event of every watch, are part of everything.
        self._hints = Hints()
        await self._read_everything()
        self._had_home = self._client.own_domid is not None
        self.state = f"connected to {self._client.path}"
        if self.loaded.is_set():
            self.reconnects += 1
            self._log.info("xenstored is back", path=self._client.path, vifs=len(self))
        self.loaded.set()

    async def _settle(self) -> None:
        """Wait while a xenstored that came back empty is filled again.

        The guests run on. If a missing vif counted as removed, its guest would lose its network. So the contents of
        xenstore count only once the own domid is there again and nothing has changed for SETTLE seconds.
        """
        if not self._had_home or self._client.own_domid is not None:
            return
        self._report(_EMPTIED)
        while await self._client.identify() is None or self._hints:
            self._hints = Hints()
            await asyncio.sleep(SETTLE)

    async def _follow(self) -> None:
        self._follow_names_later()
        while True:
            self._client.require()
            if self._hints:
                hints, self._hints = self._hints, Hints()
                await self._read(hints)
            elif self._names_due:
                await self._follow_names()
            else:
                await self._wake.wait()
                self._wake.clear()

    def _follow_names_later(self) -> None:
        if self._names_timer is None and not self.own_domid:
            self._names_timer = asyncio.get_running_loop().call_later(NAMES_AFTER, self._follow_names_now)

    def _follow_names_now(self) -> None:
        self._names_timer = None
        self._names_due = True
        self._wake.set()

    async def _follow_names(self) -> None:
        """Watch the names of the domains that have vifs, one batch at a time.

        A watch's first event lets the name be read once more, since it may have changed before the watch was set.
        """
        self._names_due = False
        if not await self._names.follow({vif.domid for vif in self._entries}):
            self._names_due = True

    def _report(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._log.warning("xennetd gets no events from xenstore", reason=state)

    def _event(self, untrusted_path: str) -> None:
        self._hints.add(untrusted_path, self._entries, time.monotonic())
        if self._hints:
            self._wake.set()

    def _name_event(self, untrusted_path: str) -> None:
        self._hints.add_name(untrusted_path)
        self._wake.set()

    def _domain_gone(self, _: str) -> None:
        self._hints.gone = True
        self._wake.set()

    async def _read(self, hints: Hints) -> None:
        """Read what the hints name, and update the view."""
        began = time.monotonic()
        if hints.everything:
            await self._read_everything(hints.heard)
            return
        vifs = hints.vifs
        if hints.gone:
            living = await self._client.directory("/local/domain")
            if living is not None:
                vifs |= {vif: ALL_NODES for vif in self._entries if str(vif.domid) not in living}
        if hints.renamed:
            for vif in self._entries:
                if vif.domid in hints.renamed:
                    nodes = vifs.get(vif)
                    vifs[vif] = nodes | {"state"} if nodes else _NAME_ALONE
        if hints.domains:
            vifs |= {vif: ALL_NODES for vif in self._entries if vif.domid in hints.domains}
            vifs |= dict.fromkeys(await self._list(hints.domains), ALL_NODES)
        if vifs:
            self._apply(await self._fetch(vifs), began, hints.heard)

    async def _read_everything(self, heard: Mapping[VifId, float] = _UNHEARD) -> None:
        began = time.monotonic()
        before = self.ids()
        names = await self._client.directory(ROOT) or ()
        vifs = await self._list([domid for name in names if (domid := parse_number(name)) is not None])
        batches = [vifs[start : start + _BATCH] for start in range(0, len(vifs), _BATCH)]
        entries: dict[VifId, _Entry | None] = dict.fromkeys(before)
        for batch in await asyncio.gather(*map(self._fetch_listed, batches)):
            entries |= batch
        self._apply(entries, began, heard)

    async def _list(self, domids: Iterable[int]) -> list[VifId]:
        """Return the vifs of some domains, from the names of their directories."""
        domids = tuple(domids)
        listings = await self._client.directory_many([f"{ROOT}/{domid}" for domid in domids])
        return [
            vif
            for domid, names in zip(domids, listings, strict=True)
            for name in names or ()
            if (vif := parse_id(str(domid), name)) is not None
        ]

    async def _fetch_listed(self, vifs: Sequence[VifId]) -> dict[VifId, _Entry | None]:
        """Read whole vifs, after listing their nodes: that costs a round trip and saves a third of the requests."""
        listings = await self._client.directory_many([vif.backend for vif in vifs])
        present = {vif: ALL_NODES.intersection(names or ()) for vif, names in zip(vifs, listings, strict=True)}
        return await self._fetch(present, whole=True)

    async def _fetch(
        self, wanted: Mapping[VifId, frozenset[str]], *, whole: bool = False
    ) -> dict[VifId, _Entry | None]:
        """Read nodes of vifs in one batch, and return the vifs; None for a vif that is gone.

        `whole` says that the vifs have no other nodes than the named ones.
        """
        # Before the watch on a domain's name is set, a rename has no event. So the name is read with every state.
        domids: tuple[int, ...] = ()
        if not self.own_domid:
            domids = tuple({vif.domid for vif, nodes in wanted.items() if "state" in nodes or nodes == _NAME_ALONE})
        paths = [f"{vif.backend}/{node}" for vif, nodes in wanted.items() for node in nodes]
        paths += [f"/local/domain/{domid}/{node}" for domid in domids for node in ("name", "vm")]
        # If the frontend's MTU is right already, as usual, a verdict need not write to the frontend's directory.
        fronts = [vif for vif, nodes in wanted.items() if whole or len(nodes) == len(ALL_NODES)]
        paths += [f"{vif.frontend}/mtu" for vif in fronts]
        values = iter(await self._client.read_many(paths))
        fresh = {vif: {node: next(values) for node in nodes} for vif, nodes in wanted.items()}
        domains = {domid: (next(values), next(values)) for domid in domids}
        mtus = dict(zip(fronts, values, strict=True))
        entries: dict[VifId, _Entry | None] = {}
        unclear: list[VifId] = []
        for vif, untrusted_nodes in fresh.items():
            old = self._entries.get(vif)
            others: Mapping[str, bytes | None] = _NO_NODES
            if not whole and len(untrusted_nodes) < len(ALL_NODES):
                if old is None or None in untrusted_nodes.values():
                    unclear.append(vif)
                    continue
                others = old.untrusted_nodes
            names = domains.get(vif.domid, (None, None))
            untrusted_mtu = mtus[vif] if vif in mtus or old is None else old.untrusted_mtu
            entries[vif] = _entry(vif, {**others, **untrusted_nodes}, *names, untrusted_mtu, old)
        if unclear:
            # The whole directories of these vifs may be gone, so all their nodes are read. The other vifs are read
            # again too, because the decision about one vif may depend on another vif that is leaving.
            return await self._fetch({**wanted, **dict.fromkeys(unclear, ALL_NODES)})
        return entries

    def _apply(
        self, entries: Mapping[VifId, _Entry | None], began: float, heard: Mapping[VifId, float] = _UNHEARD
    ) -> None:
        """Update the view with `entries` (None: the vif is gone), then report the differences.

        `began` is when the reading began, `heard` when the events about single vifs came.
        """
        differ = []
        came_or_went = False
        for vif, entry in entries.items():
            old = self._entries.get(vif)
            if entry is not None:
                self._entries[vif] = entry
            elif old is not None:
                del self._entries[vif]
            if (old and old.vif) != (entry and entry.vif):
                differ.append(vif)
            came_or_went = came_or_went or (old is None) != (entry is None)
        for vif in differ:
            self._changed(vif, heard.get(vif, began))
        if came_or_went:
            self._follow_names_later()


def _entry(
    vif: VifId,
    untrusted_nodes: Mapping[str, bytes | None],
    untrusted_name: bytes | None,
    untrusted_vm: bytes | None,
    untrusted_mtu: bytes | None,
    old: _Entry | None,
) -> _Entry | None:
    """Return the entry for a vif with these nodes, None if both `frontend` and `state` are missing.

    libxl writes both in one transaction. A directory that a late write has left behind has neither.
    """
    if untrusted_nodes["frontend"] is None and untrusted_nodes["state"] is None:
        return None
    if old is not None:
        # A domain's own directory is removed before its vifs, and the audit record of a detach needs the name.
        untrusted_name = untrusted_name or old.untrusted_name
        untrusted_vm = untrusted_vm or old.untrusted_vm
        untrusted_mtu = untrusted_mtu or old.untrusted_mtu
        others = untrusted_name, untrusted_vm, untrusted_mtu
        if others == (old.untrusted_name, old.untrusted_vm, old.untrusted_mtu):
            before = old.untrusted_nodes
            changed = [node for node, untrusted in untrusted_nodes.items() if untrusted != before[node]]
            if not changed:
                return old  # Usually the event of a value that xennetd itself has written.
            updated = update_vif(old.vif, untrusted_nodes, changed)
            if updated is not None:
                return _Entry(updated, untrusted_nodes, *others)
    parsed = parse_vif(vif, untrusted_nodes, untrusted_name, untrusted_vm, untrusted_mtu)
    return _Entry(parsed, untrusted_nodes, untrusted_name, untrusted_vm, untrusted_mtu)

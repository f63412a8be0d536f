"""The directory of vifs: every backend directory of ours in xenstore, parsed and kept current by watches.

Rules: an event is a hint of where to look, and all hints that are at hand are looked at in one batch; a vif is reported
only when it differs from what was known; nothing is reported as gone before a look at everything is complete.

One watch tells of all nodes below `backend/vif`; in dom0 one watch for each domain tells of its name. Two nodes are
read without a watch. `/local/domain/D/vm` is read together with the name: the toolstack writes it once, before the
domain's first vif. The frontend's `mtu` is read with a whole vif: it lies in the guest's directory and decides only
whether the guest is told its MTU once more, so a guest that changes it misleads nobody but itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from xennetd.model.errors import ToolstackError
from xennetd.model.vif import Vif, VifId
from xennetd.xenstore.client import XenstoreClient
from xennetd.xenstore.codec import XenstoreError
from xennetd.xenstore.hints import ALL_NODES, ROOT, Hints
from xennetd.xenstore.names import NameWatches
from xennetd.xenstore.parse import NODES, parse_id, parse_number, parse_vif

DOMAIN_GONE: Final = "@releaseDomain"
RETRY_FIRST: Final = 0.02
RETRY_LONGEST: Final = 1.0
"""Seconds between attempts to reach xenstored."""

SETTLE: Final = 1.0
"""Seconds without a change after which a xenstored that had lost its contents is taken to be whole again."""

NAMES_AFTER: Final = 0.5
"""Seconds from when a domain's vif came or went until its name is followed, or no longer: its attach goes first."""

_BATCH: Final = 64
"""Vifs read together in a look at everything: xenstored answers for the next while we parse these."""

_NAME_ALONE: Final[frozenset[str]] = frozenset()
"""Of a vif that is looked at: its domain's name and vm, none of its own nodes."""

_NO_NODES: Final[Mapping[str, None]] = dict.fromkeys(NODES)
_EMPTIED: Final = "xenstore has lost what it held; waiting for it to be filled again"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A vif and what it was parsed from. Name and vm are absent in a driver domain, which may not read them."""

    vif: Vif
    untrusted_nodes: Mapping[str, bytes | None]
    untrusted_name: bytes | None
    untrusted_vm: bytes | None
    untrusted_mtu: bytes | None


class Directory:
    """The live view. `changed` is called, once the view is current, with each vif that came, went or differs.

    `loaded` is set after the first complete look; `reconnects` counts how often xenstored was reached anew; `state`
    says in words how the connection is.
    """

    def __init__(
        self,
        client: XenstoreClient,
        changed: Callable[[VifId], None],
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
        """Return which domain we are; 0 where xenstore does not say."""
        return self._client.own_domid or 0

    def get(self, vif: VifId) -> Vif | None:
        """Return a vif as last seen, None if it has no backend directory."""
        entry = self._entries.get(vif)
        return entry.vif if entry else None

    def ids(self) -> tuple[VifId, ...]:
        """Return all vifs there are."""
        return tuple(self._entries)

    def __iter__(self) -> Iterator[VifId]:
        return iter(self.ids())

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, vif: VifId, node: str, value: str | None) -> None:
        """Take in what we have just written to a node ourselves, so that nobody decides by what was there before.

        The watch's event that follows finds it as it is, or as someone has changed it since.
        """
        old = self._entries.get(vif)
        if old is not None:
            untrusted_nodes = {**old.untrusted_nodes, node: None if value is None else value.encode()}
            entry = _entry(vif, untrusted_nodes, old.untrusted_name, old.untrusted_vm, old.untrusted_mtu, old)
            if entry is not None:
                self._entries[vif] = entry

    async def refresh(self, vif: VifId) -> Vif | None:
        """Look at one vif again, whole, and return it as it is now. Raises ToolstackError without a connection."""
        self._apply(await self._fetch({vif: ALL_NODES}))
        return self.get(vif)

    async def run(self) -> None:
        """Follow xenstore until cancelled; reconnect, ever more patiently, and look at everything after that."""
        pause = RETRY_FIRST
        while True:
            try:
                await self._client.connect(on_lost=self._wake.set)
                await self._start()
                pause = RETRY_FIRST
                await self._follow()
            except ToolstackError as error:
                self._client.close()
                self._tell(error.sentence)
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_LONGEST)

    async def _start(self) -> None:
        """Set the watches, then look at everything. Those on names come later."""
        self._names.forget()
        await self._client.watch(ROOT, self._event)
        # Not for every driver domain, and an extra hint only wherever it works.
        with suppress(XenstoreError):
            await self._client.watch(DOMAIN_GONE, self._domain_gone)
        await self._settle()
        # What was hinted until now (each watch's first event, at least) is looked at with everything else.
        self._hints = Hints()
        await self._look_at_everything()
        self._had_home = self._client.own_domid is not None
        self.state = f"connected to {self._client.path}"
        if self.loaded.is_set():
            self.reconnects += 1
            self._log.info("xenstored is back", path=self._client.path, vifs=len(self))
        self.loaded.set()

    async def _settle(self) -> None:
        """Wait out a xenstored that came back empty.

        Its guests run on. To take what it does not hold (yet) for removed would take their network away, so it is
        believed once our own domid is there again and nothing has changed for a while.
        """
        if not self._had_home or self._client.own_domid is not None:
            return
        self._tell(_EMPTIED)
        while await self._client.identify() is None or self._hints:
            self._hints = Hints()
            await asyncio.sleep(SETTLE)

    async def _follow(self) -> None:
        self._follow_names_later()
        while True:
            self._client.require()
            if self._hints:
                hints, self._hints = self._hints, Hints()
                await self._look(hints)
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
        """Watch the names of the domains that have vifs. Each watch's first event has the name read once more, since it
        may have changed between the first look at it and the watch."""
        self._names_due = False
        if not await self._names.follow({vif.domid for vif in self._entries}):
            self._names_due = True

    def _tell(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._log.warning("xenstore can't be followed", reason=state)

    def _event(self, untrusted_path: str) -> None:
        self._hints.add(untrusted_path, self._entries)
        if self._hints:
            self._wake.set()

    def _name_event(self, untrusted_path: str) -> None:
        self._hints.add_name(untrusted_path)
        self._wake.set()

    def _domain_gone(self, _: str) -> None:
        self._hints.gone = True
        self._wake.set()

    async def _look(self, hints: Hints) -> None:
        if hints.everything:
            await self._look_at_everything()
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
            self._apply(await self._fetch(vifs))

    async def _look_at_everything(self) -> None:
        before = self.ids()
        names = await self._client.directory(ROOT) or ()
        vifs = await self._list([domid for name in names if (domid := parse_number(name)) is not None])
        batches = [vifs[start : start + _BATCH] for start in range(0, len(vifs), _BATCH)]
        seen: dict[VifId, _Entry | None] = dict.fromkeys(before)
        for found in await asyncio.gather(*map(self._fetch_listed, batches)):
            seen |= found
        self._apply(seen)

    async def _list(self, domids: Iterable[int]) -> list[VifId]:
        """Return the vifs of some domains, by their directories."""
        domids = tuple(domids)
        listings = await self._client.directory_many([f"{ROOT}/{domid}" for domid in domids])
        return [
            vif
            for domid, names in zip(domids, listings, strict=True)
            for name in names or ()
            if (vif := parse_id(str(domid), name)) is not None
        ]

    async def _fetch_listed(self, vifs: Sequence[VifId]) -> dict[VifId, _Entry | None]:
        """Read vifs whole, asking first which nodes they have: a round trip more, a third of the requests less."""
        listings = await self._client.directory_many([vif.backend for vif in vifs])
        present = {vif: ALL_NODES.intersection(names or ()) for vif, names in zip(vifs, listings, strict=True)}
        return await self._fetch(present, whole=True)

    async def _fetch(
        self, wanted: Mapping[VifId, frozenset[str]], *, whole: bool = False
    ) -> dict[VifId, _Entry | None]:
        """Read nodes of vifs, in one go, and return what these vifs are now; `whole` if they have no other nodes."""
        # Until the watch on a domain's name is set, nothing tells of a rename: the name is read with each state.
        domids: tuple[int, ...] = ()
        if not self.own_domid:
            domids = tuple({vif.domid for vif, nodes in wanted.items() if "state" in nodes or nodes == _NAME_ALONE})
        paths = [f"{vif.backend}/{node}" for vif, nodes in wanted.items() for node in nodes]
        paths += [f"/local/domain/{domid}/{node}" for domid in domids for node in ("name", "vm")]
        # So that a verdict need not touch the frontend's directory when its MTU, as mostly, is right already.
        fronts = [vif for vif, nodes in wanted.items() if whole or len(nodes) == len(ALL_NODES)]
        paths += [f"{vif.frontend}/mtu" for vif in fronts]
        values = iter(await self._client.read_many(paths))
        fresh = {vif: {node: next(values) for node in nodes} for vif, nodes in wanted.items()}
        domains = {domid: (next(values), next(values)) for domid in domids}
        mtus = dict(zip(fronts, values, strict=True))
        found: dict[VifId, _Entry | None] = {}
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
            found[vif] = _entry(vif, {**others, **untrusted_nodes}, *names, untrusted_mtu, old)
        if unclear:
            # Their whole directories may be gone: look at all of these rather than report half of that. And anew at the
            # others, for what is done about one may depend on another that is leaving.
            return await self._fetch({**wanted, **dict.fromkeys(unclear, ALL_NODES)})
        return found

    def _apply(self, found: Mapping[VifId, _Entry | None]) -> None:
        """Make the view what was found, then report the differences."""
        differ = []
        others = False
        for vif, entry in found.items():
            old = self._entries.get(vif)
            if entry is not None:
                self._entries[vif] = entry
            elif old is not None:
                del self._entries[vif]
            if (old and old.vif) != (entry and entry.vif):
                differ.append(vif)
            others = others or (old is None) != (entry is None)
        for vif in differ:
            self._changed(vif)
        if others:
            self._follow_names_later()


def _entry(
    vif: VifId,
    untrusted_nodes: Mapping[str, bytes | None],
    untrusted_name: bytes | None,
    untrusted_vm: bytes | None,
    untrusted_mtu: bytes | None,
    old: _Entry | None,
) -> _Entry | None:
    """Return what a vif is by its nodes, or None where both `frontend` and `state` are missing.

    libxl writes both, in one transaction, and whatever a late write has left behind holds neither.
    """
    if untrusted_nodes["frontend"] is None and untrusted_nodes["state"] is None:
        return None
    if old is not None:
        # A domain's own directory goes before its vifs do, and the record of their end needs its name.
        untrusted_name = untrusted_name or old.untrusted_name
        untrusted_vm = untrusted_vm or old.untrusted_vm
        untrusted_mtu = untrusted_mtu or old.untrusted_mtu
        if (untrusted_nodes, untrusted_name, untrusted_vm, untrusted_mtu) == (
            old.untrusted_nodes,
            old.untrusted_name,
            old.untrusted_vm,
            old.untrusted_mtu,
        ):
            return old  # mostly the echo of what we have written ourselves
    parsed = parse_vif(vif, untrusted_nodes, untrusted_name, untrusted_vm, untrusted_mtu)
    return _Entry(parsed, untrusted_nodes, untrusted_name, untrusted_vm, untrusted_mtu)

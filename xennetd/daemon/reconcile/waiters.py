"""Which vifs a link is about: its own, the one a `vifname` gives it to, and those that wait for it to change."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from xennetd.kernel.links import DEFAULT_ROUTES, LinkChange, Links
from xennetd.model.link import Link
from xennetd.model.vif import Vif, VifId
from xennetd.policy.bridged import ANY_BRIDGE
from xennetd.policy.routed import DEFAULT_ROUTE


class _Index:
    """Names, each with the vifs it concerns."""

    def __init__(self) -> None:
        self._vifs: dict[str, set[VifId]] = {}

    def __bool__(self) -> bool:
        return bool(self._vifs)

    def get(self, name: str) -> Collection[VifId]:
        return self._vifs.get(name, ())

    def move(self, vif: VifId, before: Collection[str], after: Collection[str]) -> None:
        """File a vif under other names than before."""
        for name in before:
            vifs = self._vifs.get(name)
            if vifs is not None:
                vifs.discard(vif)
                if not vifs:
                    del self._vifs[name]
        for name in after:
            self._vifs.setdefault(name, set()).add(vif)


class LinkWaiters:
    """What only xenstore, or an error, knows of links by their names."""

    def __init__(self) -> None:
        self._names = _Index()
        self._awaited = _Index()

    def rename(self, vif: VifId, before: Vif | None, after: Vif | None) -> None:
        """Take note of a vif's `vifname`, which its tap has too."""
        self._names.move(vif, _names(before), _names(after))

    def wait(self, vif: VifId, before: Collection[str], after: Collection[str]) -> None:
        """Take note of the links that a vif waits for."""
        self._awaited.move(vif, before, after)

    def named(self, name: str) -> Collection[VifId]:
        """Return the vifs whose `vifname`, or whose tap's name, this is: two while one is being removed."""
        return self._names.get(name)

    def vifs_of(self, link: Link) -> Collection[VifId]:
        """Return the vifs whose link or tap this is."""
        vif = link.parent or VifId.parse(link.name.removesuffix("-emu"))
        return (vif,) if vif is not None else self._names.get(link.name)

    def waiting_for(self, change: LinkChange, links: Links) -> set[VifId]:
        """Return the vifs that have been waiting for a change like this one."""
        if not self._awaited:
            return set()
        old, new = change.old, change.new
        names = {link.name for link in (old, new) if link is not None}
        if old is not None and old.master and (new is None or new.master != old.master):
            bridge = links.by_index(old.master)
            if bridge is not None:
                names.add(bridge.name)  # it has room for a port now
        if new is not None and new.kind == "bridge" and old is None:
            names.add(ANY_BRIDGE)
        if change == DEFAULT_ROUTES:
            names.add(DEFAULT_ROUTE)
        return self.waiting_on(names)

    def waiting_on(self, names: Iterable[str]) -> set[VifId]:
        """Return the vifs that wait for one of these, which need not be links."""
        return {vif for name in names for vif in self._awaited.get(name)}


def _names(vif: Vif | None) -> Collection[str]:
    return (vif.vifname, vif.tap_name) if vif is not None and vif.vifname is not None else ()

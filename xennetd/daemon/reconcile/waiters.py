"""Finds the vifs that a link concerns: by its own name, by a `vifname`, or because they wait for it to change."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from xennetd.kernel.links import DEFAULT_ROUTES, LinkChange, Links
from xennetd.model.link import Link
from xennetd.model.vif import Vif, VifId
from xennetd.policy.bridged import ANY_BRIDGE
from xennetd.policy.routed import DEFAULT_ROUTE


class _Index:
    """Maps names to the vifs that they concern."""

    def __init__(self) -> None:
        self._vifs: dict[str, set[VifId]] = {}

    def __bool__(self) -> bool:
        return bool(self._vifs)

    def get(self, name: str) -> Collection[VifId]:
        """Return the vifs of a name, none for an unknown name."""
        return self._vifs.get(name, ())

    def move(self, vif: VifId, before: Collection[str], after: Collection[str]) -> None:
        """Move a vif from the names `before` to the names `after`."""
        for name in before:
            vifs = self._vifs.get(name)
            if vifs is not None:
                vifs.discard(vif)
                if not vifs:
                    del self._vifs[name]
        for name in after:
            self._vifs.setdefault(name, set()).add(vif)


class LinkWaiters:
    """The link names that vifs have by their `vifname` in xenstore, and the names that vifs in error wait for."""

    def __init__(self) -> None:
        self._names = _Index()
        self._awaited = _Index()

    def rename(self, vif: VifId, before: Vif | None, after: Vif | None) -> None:
        """Register a vif's change from `before` to `after`: its `vifname`, and the name that this gives to its tap."""
        self._names.move(vif, _names(before), _names(after))

    def wait(self, vif: VifId, before: Collection[str], after: Collection[str]) -> None:
        """Register the names that a vif waits for: `after` in place of `before`."""
        self._awaited.move(vif, before, after)

    def named(self, name: str) -> Collection[VifId]:
        """Return the vifs with this `vifname` or tap name. There are two of them while the older is being removed."""
        return self._names.get(name)

    def vifs_of(self, link: Link) -> Collection[VifId]:
        """Return the vifs whose own link or tap this link is, or may be by its name."""
        vif = link.parent or VifId.parse(link.name.removesuffix("-emu"))
        return (vif,) if vif is not None else self._names.get(link.name)

    def waiting_for(self, change: LinkChange, links: Links) -> set[VifId]:
        """Return the vifs that wait for this change of a link.

        `links` is the kernel's view after the change.
        """
        if not self._awaited:
            return set()
        old, new = change.old, change.new
        names = {link.name for link in (old, new) if link is not None}
        if old is not None and old.master and (new is None or new.master != old.master):
            bridge = links.by_index(old.master)
            if bridge is not None:
                names.add(bridge.name)  # The bridge has room for another port now.
        if new is not None and new.kind == "bridge" and old is None:
            names.add(ANY_BRIDGE)
        if change == DEFAULT_ROUTES:
            names.add(DEFAULT_ROUTE)
        return self.waiting_on(names)

    def waiting_on(self, names: Iterable[str]) -> set[VifId]:
        """Return the vifs that wait for one of these names, which may be names of other things than links."""
        return {vif for name in names for vif in self._awaited.get(name)}


def _names(vif: Vif | None) -> Collection[str]:
    return (vif.vifname, vif.tap_name) if vif is not None and vif.vifname is not None else ()

"""Which tap is a vif's: QEMU makes it under its own name, and we may have renamed it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from xennetd.daemon.record import Record
from xennetd.model.link import GUEST_PORT_ADDRESS, HostView, Link
from xennetd.plan.observation import incarnation


def tap_of(record: Record, links: HostView, namesakes: Callable[[str], Iterable[Record]]) -> Link | None:
    """Return the emulated NIC's tap: the one with QEMU's name for it, else the one that we have renamed.

    `namesakes` returns the vifs with a `vifname` that makes their tap's name this one.
    """
    vif = record.vif
    if vif.type != "vif_ioemu":
        return None
    tap = links.link(vif.id.tap)
    if tap is None or tap.kind != "tun":
        tap = links.link(vif.tap_name)
        if tap is None or tap.kind != "tun":
            return None
        if not _is_its(record, tap, [other for other in namesakes(tap.name) if other is not record]):
            return None
    if record.memory.tap_link != incarnation(tap):
        record.memory = replace(record.memory, tap_link=incarnation(tap))
    return tap


def _is_its(record: Record, tap: Link, others: list[Record]) -> bool:
    """Whether a tap with a `vifname` is this vif's: not somebody's who chose that name, nor an older vif's, in a
    reboot, which has the same."""
    if record.memory.tap_link == incarnation(tap):
        return True
    if any(other.memory.tap_link == incarnation(tap) for other in others):
        return False
    ours = record.vif.tap_status is not None or tap.address == GUEST_PORT_ADDRESS
    return ours and (not record.vif.removing or all(other.vif.removing for other in others))

"""Finds the tap of a vif's emulated NIC. QEMU makes it as `vif7.0-emu`; xennetd may have renamed it since."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from xennetd.daemon.record import Record
from xennetd.model.link import GUEST_PORT_ADDRESS, HostView, Link
from xennetd.model.value import replace
from xennetd.model.vif import Vif
from xennetd.plan.observation import incarnation


def tap_of(record: Record, links: HostView, namesakes: Callable[[str], Iterable[Record]]) -> Link | None:
    """Return the tap of the vif's emulated NIC, by QEMU's name for it or else by the name that xennetd gives it.

    `namesakes` returns the records of the vifs whose `vifname` leads to this tap name. Returns None if the vif has no
    emulated NIC, or its tap does not exist. A new tap is noted in the record's memory.
    """
    vif = record.vif
    tap = tap_by_name(vif, links)
    if tap is None:
        return None
    if tap.name != vif.id.tap and not _is_its(
        record, tap, [other for other in namesakes(tap.name) if other is not record]
    ):
        return None
    if record.memory.tap_link != incarnation(tap):
        record.memory = replace(record.memory, tap_link=incarnation(tap))
    return tap


def tap_by_name(vif: Vif, links: HostView) -> Link | None:
    """Return the tap with QEMU's name for the vif's emulated NIC, or else with xennetd's name for it."""
    if vif.type == "vif_ioemu":
        for name in (vif.id.tap, vif.tap_name):
            tap = links.link(name)
            if tap is not None and tap.kind == "tun":
                return tap
    return None


def is_guests_tap(vif: Vif, tap: Link) -> bool:
    """Return whether a tap that has the name from a `vifname` is a guest's at all, and not another program's."""
    return vif.tap_status is not None or tap.address == GUEST_PORT_ADDRESS


def _is_its(record: Record, tap: Link, others: list[Record]) -> bool:
    """Return whether a tap that has the name from a `vifname` belongs to this vif.

    It may also be another program's tap of that name, or, in a reboot, that of an older vif with the same `vifname`.
    """
    if record.memory.tap_link == incarnation(tap):
        return True
    if any(other.memory.tap_link == incarnation(tap) for other in others):
        return False
    return is_guests_tap(record.vif, tap) and (not record.vif.removing or all(other.vif.removing for other in others))

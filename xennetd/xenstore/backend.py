"""What is written into a vif's directories, each time as one guarded transaction.

Rule 1: a write first reads `state` and `online` in the same transaction and gives up when they are gone: a write into a
directory that is gone would make it again, an orphan that nobody ever removes.
Rule 2: `connected` is written only while the device is online and in state 2 or 4, or a late verdict would connect what
is being removed.
Rule 3: the frontend's directory belongs to the guest. It is written only where libxl must have put it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xennetd.model.vif import Vif, XenbusState
from xennetd.xenstore.client import Change, Remove, Write, XenstoreClient

CONNECTED = b"connected"
_TAP_NODE = "xennetd-tap"
_READY = (b"%d" % XenbusState.INIT_WAIT, b"%d" % XenbusState.CONNECTED)


async def write_verdict(
    client: XenstoreClient, vif: Vif, *, error: str | None = None, frontend_mtu: int | None = None
) -> bool:
    """Write `hotplug-status` (and `hotplug-error`), and the MTU for the frontend beside it if it is given.

    Returns False when there was nothing to write to any more. In a driver domain the frontend's directory may be
    forbidden; the verdict is written all the same.
    """
    guards = [f"{vif.id.backend}/{node}" for node in ("state", "online", "hotplug-error")]
    for_frontend: list[Change] = []
    if frontend_mtu is not None and (frontend := frontend_path(vif)) is not None:
        guards.append(f"{frontend}/backend")
        for_frontend.append(Write(f"{frontend}/mtu", b"%d" % frontend_mtu))

    def decide(values: list[bytes | None]) -> Sequence[Change] | None:
        state, online, stale, *present = values
        if state is None or online is None:
            return None
        if error is not None:
            return (
                Write(f"{vif.id.backend}/hotplug-error", error.encode("ascii", "backslashreplace")),
                Write(f"{vif.id.backend}/hotplug-status", b"error"),
            )
        if online != b"1" or state not in _READY:
            return None
        changes: list[Change] = [Write(f"{vif.id.backend}/hotplug-status", CONNECTED)]
        if stale is not None:
            changes.append(Remove(f"{vif.id.backend}/hotplug-error"))
        if present and present[0] is not None:
            changes += for_frontend
        return changes

    return await client.transact(guards, decide) is not None


async def write_tap_verdict(client: XenstoreClient, vif: Vif, text: str) -> bool:
    """Write the verdict on the emulated NIC's tap. Returns False when there was nothing to write to any more."""
    change = Write(f"{vif.id.backend}/{_TAP_NODE}", text.encode("ascii", "backslashreplace"))
    return await _guarded(client, vif, lambda online: (change,) if online else None)


async def clear_tap_verdict(client: XenstoreClient, vif: Vif) -> bool:
    """Take the verdict on a tap that is gone away. Returns False when its directory is gone too."""
    return await _guarded(client, vif, lambda _online: (Remove(f"{vif.id.backend}/{_TAP_NODE}"),))


async def remove_backend(client: XenstoreClient, vif: Vif) -> bool:
    """Remove the backend directory of a device that is closed and not online: a driver domain's part of a removal.

    Only the directory itself is ours there; the ones above it are the toolstack's. Returns False if it was not so.
    """

    def decide(values: list[bytes | None]) -> Sequence[Change] | None:
        state, online = values
        closed = state == b"%d" % XenbusState.CLOSED and online == b"0"
        return (Remove(vif.id.backend),) if closed else None

    return await client.transact([f"{vif.id.backend}/{node}" for node in ("state", "online")], decide) is not None


async def _guarded(client: XenstoreClient, vif: Vif, change: Callable[[bool], Sequence[Change] | None]) -> bool:
    def decide(values: list[bytes | None]) -> Sequence[Change] | None:
        state, online = values
        return change(online == b"1") if state is not None and online is not None else None

    return await client.transact([f"{vif.id.backend}/{node}" for node in ("state", "online")], decide) is not None


def frontend_path(vif: Vif) -> str | None:
    """Return the frontend's directory if it is where libxl puts it, for nothing else that a node says is trusted."""
    expected = f"/local/domain/{vif.id.domid}/device/vif/{vif.id.devid}"
    return expected if vif.frontend == expected else None

"""The writes to a vif's backend directory. Every write is a guarded transaction that never recreates the directory.

A write into a deleted directory would make it again, as an orphan that the toolstack never removes. So a transaction
first reads `state` and `online`, and gives up if one of them is missing, which is no error. If they change before the
transaction ends, xenstored refuses it (EAGAIN), and it is tried again. Every function returns whether it wrote, and
raises ToolstackError if a write was refused or xenstored can't be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from xennetd.model.vif import Vif
from xennetd.xenstore.client import NodeChange, RemoveNode, WriteNode, XenstoreClient

CONNECTED: Final = b"connected"
"""The exact value of `hotplug-status` that netback waits for."""

_SENTENCE_MAX: Final = 1024
"""Bytes of a sentence in a node. xenstored allows an unprivileged domain 2048 bytes in a node."""


async def write_verdict(
    client: XenstoreClient, vif: Vif, *, error: str | None, frontend_mtu: int | None = None, mac: str | None = None
) -> bool:
    """Write the result of the attach of `vif` for toolstack and netback: the sentence `error`, or None for success.

    `connected` is written only while netback may act on it: the vif is online, and its state is InitWait or Connected.
    `frontend_mtu` (bytes) and `mac` are written along for the guest, if the frontend's directory exists and belongs to
    this vif. A driver domain may write the nodes that libxl made there but may not make nodes; if one is missing, the
    guest does without. `mac` is written to the backend directory too, where other programs read it.
    """
    backend = vif.id.backend
    status, reason = f"{backend}/hotplug-status", f"{backend}/hotplug-error"
    if error is not None:
        failed = (WriteNode(reason, _text(error)), WriteNode(status, b"error"))
        return await _guarded(client, vif, lambda state, online, _: failed)

    frontend = vif.id.frontend
    absolute_backend = f"/local/domain/{client.own_domid or 0}/{backend}".encode()
    changes: tuple[NodeChange, ...] = (WriteNode(status, CONNECTED),)
    if vif.hotplug_status == "error":
        changes = (RemoveNode(reason), *changes)
    if mac is not None:
        changes = (WriteNode(f"{backend}/mac", mac.encode()), *changes)
    values = {"mtu": str(frontend_mtu) if frontend_mtu is not None else None, "mac": mac}
    for_guest = tuple(
        WriteNode(f"{frontend}/{node}", text.encode(), optional=True) for node, text in values.items() if text
    )

    def connect(state: bytes, online: bytes, untrusted_backend: bytes | None) -> Sequence[NodeChange] | None:
        if online != b"1" or state not in (b"2", b"4"):
            return None
        # The guest may change the node `backend`. Then it does not get its own MTU or MAC; nobody else is affected.
        return (*for_guest, *changes) if untrusted_backend == absolute_backend else changes

    also = f"{frontend}/backend" if for_guest and vif.frontend == frontend else None
    return await _guarded(client, vif, connect, also)


async def write_tap_verdict(client: XenstoreClient, vif: Vif, text: str) -> bool:
    """Write the tap's verdict for the hotplug script. `text` is `connected`, or `error: ` and a sentence."""
    changes = (WriteNode(f"{vif.id.backend}/xennetd-tap", _text(text)),)
    return await _guarded(client, vif, lambda state, online, _: changes)


async def clear_tap_verdict(client: XenstoreClient, vif: Vif) -> bool:
    """Remove the verdict of a tap that is gone, so that the hotplug script of the next tap waits for a new one."""
    changes = (RemoveNode(f"{vif.id.backend}/xennetd-tap"),)
    return await _guarded(client, vif, lambda state, online, _: changes)


async def repeat_verdict(client: XenstoreClient, vif: Vif, node: str) -> bool:
    """Write the current value of `node` once more, for a hotplug script whose watch came after the first write."""
    path = f"{vif.id.backend}/{node}"
    return await _guarded(client, vif, lambda state, online, value: (WriteNode(path, value),) if value else None, path)


async def write_pin(client: XenstoreClient, vif: Vif, on: bool) -> bool:
    """Write or remove the node that pins the vif. The node survives the daemon, and disappears with the vif."""
    pin = f"{vif.id.backend}/xennetd-pin"
    changes: tuple[NodeChange, ...] = (WriteNode(pin, b"1") if on else RemoveNode(pin),)
    return await _guarded(client, vif, lambda state, online, _: changes)


async def remove_backend(client: XenstoreClient, vif: Vif) -> bool:
    """Remove the backend directory of a vif that is Closed and not online. In a driver domain libxl waits for that.

    The directories above it belong to the toolstack and stay.
    """
    changes = (RemoveNode(vif.id.backend),)
    return await _guarded(client, vif, lambda state, online, _: changes if (state, online) == (b"6", b"0") else None)


async def _guarded(
    client: XenstoreClient,
    vif: Vif,
    decide: Callable[[bytes, bytes, bytes | None], Sequence[NodeChange] | None],
    also: str | None = None,
) -> bool:
    """If the directory exists, make the changes that `decide` returns for `state`, `online` and the node `also`."""

    def unless_gone(values: list[bytes | None]) -> Sequence[NodeChange] | None:
        state, online, *rest = values
        if state is None or online is None:
            return None
        return decide(state, online, rest[0] if rest else None)

    reads = [f"{vif.id.backend}/state", f"{vif.id.backend}/online"]
    if also is not None:
        reads.append(also)
    return await client.transact(reads, unless_gone)


def _text(sentence: str) -> bytes:
    return sentence.encode("ascii", "backslashreplace")[:_SENTENCE_MAX]

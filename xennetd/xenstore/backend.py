"""What we write for a vif: each write a guarded transaction, so that nothing is recreated in a directory that is gone.

A write into a deleted directory makes it anew, as an orphan that the toolstack never removes. So each transaction first
reads `state` and `online` and gives up where either is missing; if they change before its end, xenstored refuses it and
it is done again. Giving up is no error: each function returns whether it wrote, and raises ToolstackError when what had
to be written was refused or xenstored is out of reach.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from xennetd.model.vif import Vif
from xennetd.xenstore.client import Change, Remove, Write, XenstoreClient

CONNECTED: Final = b"connected"
"""What netback waits for in `hotplug-status`, to the byte."""

_SENTENCE_MAX: Final = 1024
"""Bytes of a sentence in a node; xenstored allows an unprivileged domain 2048."""


async def write_verdict(
    client: XenstoreClient, vif: Vif, *, error: str | None, frontend_mtu: int | None = None, mac: str | None = None
) -> bool:
    """Tell toolstack and netback how the attach of `vif` went; `error` is the sentence that says why it failed.

    `connected` is written only where netback may act on it: online, in InitWait or Connected. With it goes
    `frontend_mtu` and `mac`, for the guest, if the frontend's directory exists and is this vif's. A driver domain may
    write the nodes that libxl made there but make none itself: the guest then does without. `mac` goes into our own
    directory too, where others look for it.
    """
    backend = vif.id.backend
    status, reason = f"{backend}/hotplug-status", f"{backend}/hotplug-error"
    if error is not None:
        failed = (Write(reason, _text(error)), Write(status, b"error"))
        return await _guarded(client, vif, lambda state, online, _: failed)

    frontend = vif.id.frontend
    ours = f"/local/domain/{client.own_domid or 0}/{backend}".encode()
    changes: tuple[Change, ...] = (Write(status, CONNECTED),)
    if vif.hotplug_status == "error":
        changes = (Remove(reason), *changes)
    if mac is not None:
        changes = (Write(f"{backend}/mac", mac.encode()), *changes)
    news = {"mtu": str(frontend_mtu) if frontend_mtu is not None else None, "mac": mac}
    told = tuple(Write(f"{frontend}/{node}", text.encode(), optional=True) for node, text in news.items() if text)

    def connect(state: bytes, online: bytes, untrusted_backend: bytes | None) -> Sequence[Change] | None:
        if online != b"1" or state not in (b"2", b"4"):
            return None
        # The guest may change its node, which costs it its own MTU or MAC and nobody anything else.
        return (*told, *changes) if untrusted_backend == ours else changes

    return await _guarded(client, vif, connect, f"{frontend}/backend" if told and vif.frontend == frontend else None)


async def write_tap_verdict(client: XenstoreClient, vif: Vif, text: str) -> bool:
    """Tell the hotplug script how the emulated NIC's tap fares: `connected`, or `error: ` and a sentence."""
    changes = (Write(f"{vif.id.backend}/xennetd-tap", _text(text)),)
    return await _guarded(client, vif, lambda state, online, _: changes)


async def clear_tap_verdict(client: XenstoreClient, vif: Vif) -> bool:
    """Forget the verdict on a tap that is gone, so that the next one's script waits for its own."""
    changes = (Remove(f"{vif.id.backend}/xennetd-tap"),)
    return await _guarded(client, vif, lambda state, online, _: changes)


async def repeat_verdict(client: XenstoreClient, vif: Vif, node: str) -> bool:
    """Write once more what a verdict's node holds, for who set a watch on it too late to see that written."""
    path = f"{vif.id.backend}/{node}"
    return await _guarded(client, vif, lambda state, online, value: (Write(path, value),) if value else None, path)


async def write_pin(client: XenstoreClient, vif: Vif, on: bool) -> bool:
    """Write down, where a restart finds it and the vif's end ends it, that hands are to be kept off; or forget it."""
    pin = f"{vif.id.backend}/xennetd-pin"
    changes: tuple[Change, ...] = (Write(pin, b"1") if on else Remove(pin),)
    return await _guarded(client, vif, lambda state, online, _: changes)


async def remove_backend(client: XenstoreClient, vif: Vif) -> bool:
    """In a driver domain, end a vif's removal as libxl waits for it, if it is Closed and not online.

    Only the directory itself: those above it are the toolstack's.
    """
    changes = (Remove(vif.id.backend),)
    return await _guarded(client, vif, lambda state, online, _: changes if (state, online) == (b"6", b"0") else None)


async def _guarded(
    client: XenstoreClient,
    vif: Vif,
    decide: Callable[[bytes, bytes, bytes | None], Sequence[Change] | None],
    also: str | None = None,
) -> bool:
    """Make the changes that `decide` returns, given `state`, `online` and the node `also`, if the directory exists."""

    def unless_gone(values: list[bytes | None]) -> Sequence[Change] | None:
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

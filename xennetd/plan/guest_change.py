"""What a new configuration would change for a guest, in words for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from xennetd.model.attachment import Attachment
from xennetd.model.errors import Denied, XennetdError
from xennetd.model.placement import BridgePort, Routed
from xennetd.plan.decide import Decision
from xennetd.plan.observation import CONNECTED, Observation

_NAMED = 8
"""Guests with the same change that are named one by one. Of more only the number is told."""


def guest_change(
    seen: Observation, decision: Decision, error: XennetdError | None, around: tuple[str, ...] = ()
) -> str | None:
    """Return what becomes of a vif, None if nothing changes for it.

    `seen` is the vif under the new configuration, with the attachment that it has now, `before`. `decision` follows
    from it. `error` is the one that the vif has now. `around` says what changes of the network and the bridge that the
    vif stays in.
    """
    before, after = seen.before, decision.attachment
    if not seen.owned:
        return "not managed by xennetd any more" if before is not None else None
    if seen.vif.pinned or seen.vif.removing:
        return None
    if decision.error is not None:
        sentence = decision.error.detail
        if before is None:
            return f"refused ({sentence})" if error is None or error.detail != sentence else None
        if isinstance(decision.error, Denied) or not seen.established:
            return f"cut off ({sentence})"
        kept = f"left on its port in spite of an error ({sentence})"
        if around:
            return f"{kept}, and changed ({', '.join(around)})"
        return kept if error is None else None
    if after is None:
        return None
    if before is None:
        waits = error is None and seen.vif.hotplug_status != CONNECTED
        return None if waits else f"attached to {after.where}"
    return _difference(before, after, around)


def _difference(before: Attachment, after: Attachment, around: tuple[str, ...]) -> str | None:
    if before.where != after.where or before.network != after.network:
        return f"moved from {_place(before)} to {_place(after)}"
    if _index(before) != _index(after):
        return f"attached to {after.where} again"
    changed = [
        what
        for what, differs in (
            ("addresses", before.ips != after.ips),
            ("MAC", before.mac != after.mac),
            ("flags of its port", before.placement.flags != after.placement.flags),
            ("routes and rules", before.needs != after.needs or _routes(before) != _routes(after)),
        )
        if differs
    ]
    changed += around
    if changed:
        return f"changed ({', '.join(changed)})"
    warnings = [warning for warning in after.warnings if warning not in before.warnings]
    return f"warned ({'; '.join(warnings)})" if warnings else None


def _place(attachment: Attachment) -> str:
    network = f" (network {attachment.network})" if attachment.network is not None else ""
    return f"{attachment.where}{network}"


def _routes(attachment: Attachment) -> Routed | None:
    return attachment.placement if isinstance(attachment.placement, Routed) else None


def _index(attachment: Attachment) -> int:
    return attachment.placement.index if isinstance(attachment.placement, BridgePort) else 0


def grouped(changes: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each change with the guests that it concerns, in the order of their first guest.

    `changes` are pairs of a guest's title and its change.
    """
    guests: dict[str, list[str]] = {}
    for title, change in changes:
        guests.setdefault(change, []).append(title)
    return [f"{change}: {_names(titles)}" for change, titles in guests.items()]


def _names(titles: list[str]) -> str:
    more = len(titles) - _NAMED
    return ", ".join(titles) if more <= 0 else f"{', '.join(titles[:_NAMED])} and {more} more"

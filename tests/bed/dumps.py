"""`dump`: all that ip(8) shows of a namespace's links, addresses, routes, rules and permanent neighbour entries.

Left out is what changes by itself: counters, timers, neighbours that are learned, what the kernel derives from who
listens at a link (its promiscuity), the largest packet that a bridge's ports offload, and IPv6 link-local addresses
with their routes: a link that was down has another one if its MAC was changed while it was up, and a bridge gets one
with its first port.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from tests.bed.netns import NetNs

Dump = dict[str, list[str]]
"""Lines of JSON by what they are about, such as `link eth0` and `route eth0`."""

_VOLATILE = frozenset({"promiscuity", "allmulti", "tso_max_size"})
_COMMANDS = {
    "link": (("-details", "link", "show"),),
    "address": (("address", "show"),),
    "route": (("-4", "route", "show", "table", "all"), ("-6", "route", "show", "table", "all")),
    "rule": (("-4", "rule", "show"), ("-6", "rule", "show")),
    "neighbour": (("neighbour", "show", "nud", "permanent"),),
}


def dump(namespace: NetNs, links: Collection[str] | None = None) -> Dump:
    """All of it, or what is about some links only."""
    found: Dump = {}
    for what, commands in _COMMANDS.items():
        for command in commands:
            text = namespace.run("ip", "-json", *command).stdout
            for entry in json.loads(text) if text.strip() else ():
                name = _link_of(what, entry)
                if what == "address":
                    entry["addr_info"] = [each for each in entry["addr_info"] if not _is_link_local(each)]
                if what == "route" and entry["dst"].startswith(("fe80:", "ff00:")):
                    continue
                if links is None or name in links:
                    found.setdefault(f"{what} {name}", []).extend(_lines(what, _steady(entry)))
    for about, lines in found.items():
        if not about.startswith("address"):  # The order of a link's addresses says which one is preferred.
            lines.sort()
    return found


def _is_link_local(address: dict[str, Any]) -> bool:
    return bool(address["family"] == "inet6" and address["scope"] == "link")


def differences(before: Dump, after: Dump) -> list[str]:
    """What is in one of two dumps only, in the form of a diff(1)."""
    found = []
    for about in sorted(before.keys() | after.keys()):
        had, has = before.get(about, []), after.get(about, [])
        if had != has:
            found += [f"- {about}: {line}" for line in had if line not in has]
            found += [f"+ {about}: {line}" for line in has if line not in had]
            found += [f"! {about}: in another order"] if sorted(had) == sorted(has) else []
    return found


def _link_of(what: str, entry: dict[str, Any]) -> str:
    if what in {"link", "address"}:
        return str(entry["ifname"])
    return str(entry.get("dev") or entry.get("iif") or entry.get("oif") or "")


def _lines(what: str, entry: dict[str, Any]) -> list[str]:
    """A link has so many properties that each is a line; of all else an entry is one."""
    if what != "link":
        return [json.dumps(entry, sort_keys=True)]
    nested = entry.pop("linkinfo", {})
    parts = {**entry, **{key: value for key, value in nested.items() if not isinstance(value, dict)}}
    for part in ("info_data", "info_slave_data"):
        parts |= {f"{part} {key}": value for key, value in nested.get(part, {}).items()}
    return [f"{key} {json.dumps(value, sort_keys=True)}" for key, value in parts.items()]


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key for key in value if key not in _VOLATILE and not key.endswith("_timer")}
        return {key: _steady(value[key]) for key in value if key in kept}
    return [_steady(each) for each in value] if isinstance(value, list) else value

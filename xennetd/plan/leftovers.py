"""Which marked host objects nobody needs any more, so that they may be removed. Pure.

Rule 1: a marked object is a leftover if nobody wants its key.
Rule 2: a bridge that serves guests is none, whatever its name. Before the last guest leaves, it is known what becomes
of the bridge. Nor is a wanted bridge under another name: it gets its own name back as soon as no other link has that.
Rule 3: such a bridge keeps all that is on it. Keys hold the name of a link, so nobody wants them under this name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from xennetd.model.objects import HostObject, Key, ManagedBridge
from xennetd.plan.difference import by_key


def leftovers(marked: Collection[HostObject], desired: Mapping[Key, HostObject]) -> dict[Key, HostObject]:
    """Return the leftovers among `marked`, which holds all marked objects of the host."""
    bridges = {item.key: item for item in marked if isinstance(item, ManagedBridge)}
    missing = {item.address for key, item in desired.items() if isinstance(item, ManagedBridge) and key not in bridges}
    kept = {
        key for key, bridge in bridges.items() if key not in desired and (bridge.serves or bridge.address in missing)
    }
    return by_key([item for item in marked if not {item.key, *item.requires} & kept and item.key not in desired])

"""MAC addresses of guests: warnings about them, and a MAC that stays the same over all starts of a domain.

libxl has chosen a MAC before xennetd sees the vif. If the domain's configuration names none, libxl chooses a random
one, and another at every start. With `mac = "stable"` xennetd replaces it, in the frontend's and the backend's
directory, by a MAC that follows from the domain's uuid and the device's number. This works for a guest that is being
started, since libxl runs the guest only after its network is connected. It does not work for a device that is attached
to a running guest, whose driver may have read the node already. Nor does it work for an emulated NIC, whose MAC QEMU
has got already. For such guests write `mac=` into their configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from xennetd.model.vif import Vif
from xennetd.policy.addresses import Claim

_XEN = "00:16:3e"
"""The prefix that Xen assigns to guests (docs/misc/vif-configuration: the XenSource OUI)."""


def stable_mac(vif: Vif) -> str | None:
    """Return the MAC that follows from the domain's uuid and the device's number, None without a uuid."""
    if vif.uuid is None:
        return None
    digest = hashlib.sha256(f"{vif.uuid.lower()}/{vif.id.devid}".encode()).digest()
    return f"{_XEN}:{digest[0] & 0x7F:02x}:{digest[1]:02x}:{digest[2]:02x}"


def mac_warnings(vif: Vif, mac: str | None, place: str, namesakes: Collection[Claim]) -> list[str]:
    """Return warnings about a vif's MAC. `namesakes` are the other vifs with this MAC on the segment `place`."""
    if mac is None:
        return ["this vif has no MAC: set mac= in the domain's vif line"]
    warnings = []
    if not int(mac[:2], 16) & 2 and not mac.startswith(_XEN):
        warnings.append(f"mac {mac} is neither locally administered nor Xen's ({_XEN}): another device may have it")
    for claim in namesakes:
        # During a reboot or a migration, the old and the new vif of a domain have the same MAC for a while.
        if claim.uuid is None or claim.uuid != vif.uuid:
            warnings.append(f"mac {mac} is also the MAC of {claim.title}, on {place}: both will miss frames")
    return warnings

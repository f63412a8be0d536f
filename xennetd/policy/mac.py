"""MAC addresses: what there is to say of a guest's, and one that stays with its domain.

libxl has picked a MAC before we see the vif: a random one where the domain's configuration names none, and another at
each start. `mac = "stable"` puts one into the frontend's and the backend's directory that follows from the domain's
uuid and the device's number. That is in time for a guest that is being started, since libxl lets it run only after
its network is connected. It is not for a device attached to a running guest, whose driver may have read the node
already, nor for an emulated NIC, whose MAC QEMU has been told: with such a guest write `mac=` into its configuration.
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
    """Return what may go wrong with a MAC. `namesakes` are other vifs that have it in the same place."""
    if mac is None:
        return ["it has no MAC of its own: set mac= in the domain's vif line"]
    warnings = []
    if not int(mac[:2], 16) & 2 and not mac.startswith(_XEN):
        warnings.append(f"mac {mac} is neither locally administered nor Xen's ({_XEN}): it may be some other card's")
    for claim in namesakes:
        # In a reboot or migration a domain's old and new vif have the same MAC for a while.
        if claim.uuid is None or claim.uuid != vif.uuid:
            warnings.append(f"mac {mac} is that of {claim.title} too, on {place}: frames will go astray between them")
    return warnings

"""A guest's interface as xenstore describes it (xen/include/public/io/netif.h, docs/misc/xenstore-paths)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from xennetd.model.ip import IPInterface

_VIF_NAME = re.compile(r"vif(0|[1-9]\d{0,4})\.(0|[1-9]\d{0,4})")

DOMID_FIRST_RESERVED = 0x7FF0
"""Domids from here on never name a guest (xen/include/public/xen.h)."""


class VifId(NamedTuple):
    """Which vif: the frontend's domain and the device number within it."""

    domid: int
    devid: int

    def __str__(self) -> str:
        return f"vif{self.domid}.{self.devid}"

    @property
    def netdev(self) -> str:
        """The name netback gives the link, e.g. `vif7.0`."""
        return f"vif{self.domid}.{self.devid}"

    @property
    def tap(self) -> str:
        """The name QEMU gives the emulated NIC's tap, e.g. `vif7.0-emu`."""
        return f"vif{self.domid}.{self.devid}-emu"

    @property
    def backend(self) -> str:
        """The backend directory, relative to our own domain's home in xenstore."""
        return f"backend/vif/{self.domid}/{self.devid}"

    @property
    def frontend(self) -> str:
        """The frontend directory, where libxl puts it: the guest's, like all in it."""
        return f"/local/domain/{self.domid}/device/vif/{self.devid}"

    @classmethod
    def parse(cls, text: str) -> VifId | None:
        """Return the vif that `text` (`vif7.0`) names, or None."""
        match = _VIF_NAME.fullmatch(text)
        if match is None or int(match[1]) >= DOMID_FIRST_RESERVED:
            return None
        return cls(int(match[1]), int(match[2]))


class XenbusState(IntEnum):
    """`enum xenbus_state` of xen/include/public/io/xenbus.h."""

    UNKNOWN = 0
    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6
    RECONFIGURING = 7
    RECONFIGURED = 8


@dataclass(frozen=True, slots=True)
class Fault:
    """A backend node whose value can't be used. `sentence` is safe to show anyone, the guest included."""

    node: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Vif:
    """One backend directory, parsed. A node that is absent or empty is None; one that is unusable is in `faults`.

    `vm` is the domain's name without a migration suffix; `vm` and `uuid` are None where they can't be read (a driver
    domain). `frontend_mtu` is what the guest was told of its MTU, last time we looked. `tap_status` is the node
    `xennetd-tap`, the verdict on the emulated NIC's tap; `pinned` that there is a node `xennetd-pin`: an administrator
    has taken the vif out of our hands.
    """

    id: VifId
    state: XenbusState
    online: bool
    script: str = ""
    frontend: str = ""
    type: str = "vif"
    mac: str | None = None
    bridge: str | None = None
    ips: tuple[IPInterface, ...] = ()
    mtu: int | None = None
    vlan: str | None = None
    vifname: str | None = None
    gatewaydev: str | None = None
    vm: str | None = None
    uuid: str | None = None
    hotplug_status: str | None = None
    frontend_mtu: int | None = None
    hotplug_error: str | None = None
    tap_status: str | None = None
    pinned: bool = False
    faults: tuple[Fault, ...] = ()

    @property
    def link_name(self) -> str:
        """The name its link must have in the end."""
        return self.vifname or self.id.netdev

    @property
    def tap_name(self) -> str:
        """The name its tap must have in the end."""
        return f"{self.vifname}-emu" if self.vifname else self.id.tap

    @property
    def removing(self) -> bool:
        """Whether the toolstack is taking the device away for good (a reconnect keeps `online` at 1)."""
        return not self.online

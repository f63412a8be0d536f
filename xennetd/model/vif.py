"""A guest's interface as xenstore describes it (xen/include/public/io/netif.h, docs/misc/xenstore-paths)."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

from msgspec import Struct

from xennetd.model.ip import IPInterface

_VIF_NAME = re.compile(r"vif(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})")

DOMID_FIRST_RESERVED = 0x7FF0
"""The lowest domid that never names a guest (xen/include/public/xen.h)."""


class VifId(NamedTuple):
    """The identity of a vif: the domain of the frontend, and the device number within that domain."""

    domid: int
    devid: int

    def __str__(self) -> str:
        return f"vif{self.domid}.{self.devid}"

    @property
    def netdev(self) -> str:
        """The name that netback gives the link, for example `vif7.0`."""
        return f"vif{self.domid}.{self.devid}"

    @property
    def tap(self) -> str:
        """The name that QEMU gives the emulated NIC's tap, for example `vif7.0-emu`."""
        return f"vif{self.domid}.{self.devid}-emu"

    @property
    def backend(self) -> str:
        """The path of the backend directory, relative to the xenstore home of the domain that xennetd runs in."""
        return f"backend/vif/{self.domid}/{self.devid}"

    @property
    def frontend(self) -> str:
        """The path at which libxl makes the frontend directory. The guest owns this directory and all nodes in it."""
        return f"/local/domain/{self.domid}/device/vif/{self.devid}"

    @classmethod
    def parse(cls, text: str) -> VifId | None:
        """Return the vif that `text` (`vif7.0`) names, None if `text` names no guest's vif."""
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


class Fault(Struct, frozen=True):
    """A backend node whose value can't be used. `sentence` is safe to show to anyone, the guest included."""

    node: str
    sentence: str


class Vif(Struct, frozen=True):
    """One backend directory, parsed. A node that is absent or empty is None; an unusable one is in `faults`.

    `vm` is the domain's name without a migration suffix. `vm` and `uuid` are None where they can't be read (a driver
    domain). `frontend_mtu` is the MTU in the frontend's directory, as last observed. `tap_status` is the node
    `xennetd-tap`, the verdict on the emulated NIC's tap. `pinned` says that the node `xennetd-pin` exists: an
    administrator has told xennetd not to touch the vif.
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
        """The name that the vif's link must have once it is attached."""
        return self.vifname or self.id.netdev

    @property
    def tap_name(self) -> str:
        """The name that the vif's tap must have once it is attached."""
        return f"{self.vifname}-emu" if self.vifname else self.id.tap

    @property
    def removing(self) -> bool:
        """Whether the toolstack is removing the device for good. A mere reconnect keeps `online` at 1."""
        return not self.online

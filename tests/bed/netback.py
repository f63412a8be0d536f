"""`Netback` and `Netfront`: the two kernel drivers at a vif's ends, one step a method, as Linux does them.

From drivers/net/xen-netback/xenbus.c: netback writes state 2 and only then makes the link; it says 4 only when
`hotplug-status` is exactly `connected`; on removal it writes 6, deletes `hotplug-status` and then unregisters the
link. The link is one end of a veth pair whose other end, `eth0` in the guest's namespace, is netfront's. Its
alternative name `vif-D-N` stands in for the parent device that a real one has.

A whole life, step by step:

    vif = toolstack.add_vif(domain)
    netback.probe(vif)                   # state 2
    netback.create(vif, guest_namespace) # the link
    ...                                  # xennetd, or a script: hotplug-status
    netfront.connect(vif)                # frontend state 4, carrier
    netback.connect(vif)                 # state 4, once hotplug-status says connected
    toolstack.detach_vif(vif)            # online 0, state 5
    netfront.close(vif)                  # frontend states 5 and 6, no carrier
    netback.close(vif)                   # state 6, hotplug-status deleted
    netback.destroy(vif)                 # the link goes
    toolstack.forget_vif(vif)            # the directories go
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

from tests.bed.netns import FE_FF, NetNs
from tests.bed.toolstack import Vif
from tests.bed.xenstored import Xenstored
from tests.bed.xs import Xs

CONNECTED = "connected"
_MAC = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
FEATURES = {
    "feature-sg": "1",
    "feature-gso-tcpv4": "1",
    "feature-gso-tcpv6": "1",
    "feature-ipv6-csum-offload": "1",
    "feature-rx-copy": "1",
    "feature-xdp-headroom": "1",
    "feature-rx-flip": "0",
    "feature-multicast-control": "1",
    "feature-dynamic-multicast-control": "1",
}


def altname(vif: Vif) -> str:
    """The alternative name that stands in for a real link's parent device."""
    return f"vif-{vif.domid}-{vif.devid}"


class Netback:
    """The driver in the backend's domain, whose links appear in the namespace `host`.

    `xs` is the domain's connection: dom0's, or one to `Xenstored.domain_socket` when a driver domain is played.
    """

    def __init__(self, xenstored: Xenstored, host: NetNs, xs: Xs | None = None) -> None:
        self.xs = xs or xenstored.connect()
        self._host = host

    # Attach

    def probe(self, vif: Vif) -> None:
        """netback_probe up to InitWait: the features, then state 2. There is no link yet."""
        self.announce(vif)
        self.prepare(vif)

    def announce(self, vif: Vif) -> None:
        """`probe` until just before state 2, for who wants to know when that is written."""
        self.xs.transact(lambda tx: self.xs.write_all(vif.backend, FEATURES, tx))
        self.xs.write_all(
            vif.backend, {"feature-split-event-channels": "1", "multi-queue-max-queues": "2", "feature-ctrl-ring": "1"}
        )

    def create(self, vif: Vif, guest: NetNs, peer: str = "eth0") -> None:
        """The rest of netback_probe: the link, down and without a carrier."""
        self._host.rtnl.add_veth(vif.netdev, peer, guest.fd, address=FE_FF, altname=altname(vif))

    def create_all(self, vifs: Iterable[Vif], guest: NetNs) -> None:
        """Many links at once, all their far ends in one namespace and named `D.N`: for load."""
        pairs = [(vif.netdev, f"{vif.domid}.{vif.devid}", FE_FF, altname(vif)) for vif in vifs]
        self._host.rtnl.add_veths(pairs, guest.fd)

    def connect(self, vif: Vif, timeout: float = 10.0) -> None:
        """The frontend is at 4: state 4 once hotplug-status is `connected`; TimeoutError if it stays otherwise."""
        self.xs.until(f"{vif.backend}/hotplug-status", CONNECTED, timeout)
        self.xs.write(f"{vif.backend}/state", "4")

    # Reconnect: the frontend's driver goes and comes back (kexec, reload), `online` stays 1

    def disconnect(self, vif: Vif, *, forget_hotplug_status: bool = False) -> None:
        """States 5 and 6. Linux 5.11 to 5.17 delete hotplug-status on the way (`backend_disconnect`)."""
        self.xs.write(f"{vif.backend}/state", "5")
        if forget_hotplug_status:
            self.xs.rm(f"{vif.backend}/hotplug-status")
        self.xs.write(f"{vif.backend}/state", "6")

    def prepare(self, vif: Vif) -> None:
        """State 2; `connect` ends it."""
        self.xs.write(f"{vif.backend}/state", "2")

    # Detach

    def close(self, vif: Vif) -> None:
        """The frontend is at 6 and online is 0: state 6, then hotplug-status is deleted. The link is still there."""
        self.xs.write(f"{vif.backend}/state", "6")
        self.forget_hotplug_status(vif)

    def forget_hotplug_status(self, vif: Vif) -> None:
        """`netback_remove`'s first act, by itself. Like netback, ignore that the directory is gone already."""
        with suppress(FileNotFoundError):
            self.xs.rm(f"{vif.backend}/hotplug-status")

    def destroy(self, vif: Vif) -> None:
        """Unregister the link, whatever its name is by now."""
        self._host.rtnl.delete(altname(vif))


class Netfront:
    """The guest's driver; its `eth0` has a carrier when both ends are up."""

    def __init__(self, xenstored: Xenstored, xs: Xs | None = None) -> None:
        self.xs = xs or xenstored.connect()

    def connect(self, vif: Vif, guest: NetNs | None = None, peer: str = "eth0") -> None:
        """State 4, and the guest's end of the link up, with the MAC that the toolstack, or xennetd, has given it."""
        self.xs.write(f"{vif.frontend}/state", "4")
        if guest is not None:
            mac = self.xs.get(f"{vif.frontend}/mac") or ""
            guest.rtnl.set(peer, up=True, address=mac if _MAC.fullmatch(mac) else None)

    def close(self, vif: Vif, guest: NetNs | None = None, peer: str = "eth0") -> None:
        """States 5 and 6, and the guest's end down."""
        self.xs.write(f"{vif.frontend}/state", "5")
        if guest is not None:
            guest.rtnl.set(peer, up=False)
        self.xs.write(f"{vif.frontend}/state", "6")

    def reset(self, vif: Vif) -> None:
        """State 1: the driver has come back."""
        self.xs.write(f"{vif.frontend}/state", "1")

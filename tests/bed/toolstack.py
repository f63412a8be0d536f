"""`Toolstack`: what libxl writes to xenstore for a domain and its vifs, in libxl's order and with its permissions.

From libxl__domain_make (libxl_create.c), libxl__device_generic_add, libxl__initiate_device_generic_remove,
libxl__device_destroy (libxl_device.c) and libxl__set_xenstore_nic (libxl_nic.c). Running the script, as libxl then
does, is `hotplug.run`.
"""

from __future__ import annotations

import contextlib
import errno
import uuid
from dataclasses import dataclass
from itertools import count

from tests.bed.xenstored import Xenstored
from tests.bed.xs import Op, Request

SCRIPTS = "/etc/xen/scripts"
CONTROLS = ("shutdown", "feature-poweroff", "feature-reboot", "feature-suspend", "sysrq")
GUESTS_OWN = ("data", "drivers", "feature", "attr", "error")
"""Directories below its home that a guest may write in."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain as the toolstack made it."""

    domid: int
    name: str
    uuid: str

    @property
    def path(self) -> str:
        return f"/local/domain/{self.domid}"


@dataclass(frozen=True, slots=True)
class VifSpec:
    """A `vif=` line after libxl has filled in its defaults. `script` is a name below /etc/xen/scripts, or a path."""

    script: str = "vif-xennetd"
    bridge: str = "xenbr0"
    mac: str | None = None
    type: str = "vif"
    ip: str | None = None
    gatewaydev: str | None = None
    rate: str | None = None
    mtu: int = 1500
    vlan: str | None = None
    vifname: str | None = None
    backend_domid: int = 0

    @property
    def script_path(self) -> str:
        return self.script if self.script.startswith("/") else f"{SCRIPTS}/{self.script}"

    def back(self, domid: int, devid: int) -> dict[str, str]:
        """What goes into the backend directory besides `frontend`, in libxl's order."""
        nodes = {
            "frontend-id": str(domid),
            "online": "1",
            "state": "1",
            "script": self.script_path,
            "vifname": self.vifname,
            "mac": self.mac or default_mac(domid, devid),
            "ip": self.ip,
            "gatewaydev": self.gatewaydev,
            "rate": self.rate,
            "mtu": str(self.mtu) if self.mtu != 1500 else None,
            "vlan": self.vlan,
            "bridge": self.bridge,
            "handle": str(devid),
            "type": self.type,
            "hotplug-status": "",
        }
        return {name: value for name, value in nodes.items() if value is not None}

    def front(self, domid: int, devid: int) -> dict[str, str]:
        """What goes into the frontend directory besides `backend`, for the guest to change as it likes."""
        return {
            "backend-id": str(self.backend_domid),
            "state": "1",
            "handle": str(devid),
            "mac": self.mac or default_mac(domid, devid),
            "trusted": "1",
        }


@dataclass(frozen=True, slots=True)
class Vif:
    """A vif that the toolstack has added: where its directories are and what its devices are called."""

    domid: int
    devid: int
    spec: VifSpec

    @property
    def backend(self) -> str:
        return f"/local/domain/{self.spec.backend_domid}/backend/vif/{self.domid}/{self.devid}"

    @property
    def frontend(self) -> str:
        return f"/local/domain/{self.domid}/device/vif/{self.devid}"

    @property
    def libxl(self) -> str:
        return f"/libxl/{self.domid}/device/vif/{self.devid}"

    @property
    def script(self) -> str:
        """The hotplug script's path."""
        return self.spec.script_path

    @property
    def netdev(self) -> str:
        """The name netback gives the link."""
        return f"vif{self.domid}.{self.devid}"

    @property
    def tap(self) -> str:
        """The name QEMU gives the emulated NIC's tap."""
        return f"{self.netdev}-emu"


_NAMESPACE = uuid.UUID("5f1c1d52-8c59-4b0e-a3c8-6d7f0f3d3a10")
"""A domain's UUID is the same each time its test runs, and so are the addresses that depend on it."""


def default_mac(domid: int, devid: int) -> str:
    """A guest's MAC address in Xen's range, the same each time for the same vif."""
    return f"00:16:3e:{domid >> 8 & 0x7F:02x}:{domid & 0xFF:02x}:{devid & 0xFF:02x}"


class Toolstack:
    """libxl in dom0, one step a method; nothing here waits."""

    def __init__(self, xenstored: Xenstored) -> None:
        self.atomic = True
        """Whether to use libxl's transactions; without, a crowd is there twice as soon, if nobody looks meanwhile."""
        self.xenstored = xenstored
        self.xs = xenstored.connect()
        self._domids = count(1)
        self._created = count()
        # xen-init-dom0
        self.xs.write("/local/domain/0/domid", "0")
        self.xs.write("/local/domain/0/name", "Domain-0")

    # Domains

    def create_domain(
        self, name: str, *, domid: int | None = None, uuid_: str | None = None, introduce: bool = True
    ) -> Domain:
        """A domain with the next free domid, or `domid`; introduced, so that it may speak to xenstored.

        xenstored takes longer over every request the more domains it has been introduced to: to set up a thousand
        quickly, leave it out here and call `Xs.introduce` for each in the end.
        """
        if domid is None:
            domid = next(n for n in self._domids if not self.xs.exists(f"/local/domain/{n}"))
        self.xenstored.create_domain(domid)
        if uuid_ is None:
            uuid_ = str(uuid.uuid5(_NAMESPACE, f"{name} {next(self._created)}"))
        domain = Domain(domid, name, uuid_)
        path, vm, libxl = domain.path, f"/vm/{domain.uuid}", f"/libxl/{domid}"
        read_only = ("n0", f"r{domid}")
        own = (f"n{domid}",)
        requests: list[Request] = []

        def make(node: str, perms: tuple[str, ...]) -> None:
            requests.extend((Request.mkdir(node), Request.set_perms(node, *perms)))

        for node, perms in ((path, read_only), (vm, read_only), (libxl, ("n0",))):
            requests.append(Request.rm(node))
            make(node, perms)
        make(f"{libxl}/device", ("n0",))
        requests.append(Request.write(f"{path}/vm", vm))
        requests.append(Request.write(f"{path}/name", name))
        for node in ("cpu", "memory", "device", "control"):
            make(f"{path}/{node}", read_only)
        for node in ("device/suspend/event-channel", *(f"control/{flag}" for flag in CONTROLS), *GUESTS_OWN):
            make(f"{path}/{node}", own)
        requests.append(Request.write(f"{vm}/uuid", domain.uuid))
        requests.append(Request.write(f"{vm}/name", name))
        requests.append(Request.write(f"{path}/domid", str(domid)))
        self._apply(requests)
        if introduce:
            self.xs.introduce(domid)
        return domain

    def domain_of(self, domid: int) -> Domain:
        """The domain with this number."""
        vm = self.xs.read(f"/local/domain/{domid}/vm")
        return Domain(domid, self.xs.read(f"/local/domain/{domid}/name"), vm.removeprefix("/vm/"))

    def rename_domain(self, domain: Domain, name: str) -> None:
        """As `xl rename` and the end of a migration do: nothing below `backend/vif` changes."""

        def rename(tx: int) -> None:
            self.xs.write(f"{domain.path}/name", name, tx)
            self.xs.write(f"/vm/{domain.uuid}/name", name, tx)

        self.xs.transact(rename)

    def destroy_domain(self, domain: Domain) -> None:
        """The end of a domain whose devices are gone already: its directories, then the domain (@releaseDomain)."""
        for path in (f"/vm/{domain.uuid}", domain.path, f"/libxl/{domain.domid}"):
            with contextlib.suppress(FileNotFoundError):
                self.xs.rm(path)
        self.xenstored.destroy_domain(domain.domid)

    # Vifs

    def add_vif(self, domain: Domain, spec: VifSpec | None = None, devid: int = 0) -> Vif:
        """Write the vif's directories in one transaction: netback's cue."""
        vif = Vif(domain.domid, devid, spec or VifSpec())
        back = vif.spec.back(vif.domid, devid)
        backend_perms = (f"n{vif.spec.backend_domid}", f"r{vif.domid}")
        frontend_perms = (f"n{vif.domid}", f"r{vif.spec.backend_domid}")

        def with_perms(path: str, nodes: dict[str, str], perms: tuple[str, ...]) -> list[Request]:
            writes = [Request.write(f"{path}/{name}", value) for name, value in nodes.items()]
            return writes + [Request.set_perms(f"{path}/{name}", *perms) for name in nodes]

        def fresh(path: str, perms: tuple[str, ...]) -> list[Request]:
            return [Request.rm(path), Request.mkdir(path), Request.set_perms(path, *perms)]

        requests = [
            Request.rm(vif.libxl),
            Request.write(f"{vif.libxl}/frontend", vif.frontend),
            Request.write(f"{vif.libxl}/backend", vif.backend),
            *fresh(vif.frontend, frontend_perms),
            Request.write(f"{vif.frontend}/backend", vif.backend),
            *with_perms(vif.frontend, vif.spec.front(vif.domid, devid), frontend_perms),
            # The guest may read its MTU; only the backend may change it.
            *with_perms(vif.frontend, {"mtu": str(vif.spec.mtu)}, backend_perms),
            *fresh(vif.backend, backend_perms),
            Request.write(f"{vif.backend}/frontend", vif.frontend),
            *(Request.write(f"{vif.backend}/{name}", value) for name, value in back.items()),
            *(Request.write(f"{vif.libxl}/{name}", value) for name, value in back.items()),
        ]
        self._apply(requests)
        return vif

    def detach_vif(self, vif: Vif) -> None:
        """Begin a removal: `online` 0 and `state` 5. Then come netback's part, the script, and `forget_vif`."""

        def detach(tx: int) -> None:
            state = self.xs.get(f"{vif.backend}/state", tx)
            if state is not None:
                self.xs.write(f"{vif.backend}/online", "0", tx)
                if state != "6":
                    self.xs.write(f"{vif.backend}/state", "5", tx)

        self.xs.transact(detach)

    def forget_vif(self, vif: Vif) -> None:
        """End a removal: delete the directories, and those of their parents that this leaves empty."""

        def forget(tx: int) -> None:
            for path in (vif.frontend, vif.libxl, vif.backend):
                self._clean_up(path, tx)

        self.xs.transact(forget)

    def _apply(self, requests: list[Request]) -> None:
        """Send them all, in one transaction; that something to be removed is not there is no error."""

        def send(tx: int) -> None:
            for request, answer in zip(requests, self.xs.exchange(requests, tx), strict=True):
                if isinstance(answer, OSError) and (request.op is not Op.RM or answer.errno != errno.ENOENT):
                    raise answer

        if self.atomic:
            self.xs.transact(send)
        else:
            send(0)

    def _clean_up(self, path: str, tx: int) -> None:
        """libxl__xs_path_cleanup: a leaf that is gone already doesn't keep its empty parents."""
        try:
            self.xs.rm(path, tx)
        except FileNotFoundError:
            return
        while path := path.rpartition("/")[0]:
            if self.xs.get(path, tx) != "" or self.xs.ls(path, tx):
                return
            self.xs.rm(path, tx)

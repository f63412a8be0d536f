"""`Guest`: a domain with one vif, for tests that care about what comes after: created, connected, pinged, gone.

A test that cares about the steps in between takes `Toolstack`, `Netback` and `Netfront` themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bed import hotplug
from tests.bed.netback import Netback, Netfront
from tests.bed.netns import Host, NetNs
from tests.bed.toolstack import Domain, Toolstack, Vif, VifSpec
from tests.bed.xenstored import Xenstored


@dataclass(slots=True)
class Bed:
    """A whole Xen host: xenstored, its namespaces, its toolstack and the drivers at both ends of every vif.

    `patience` is how long a guest waits for its hotplug-status, in seconds.
    """

    xenstored: Xenstored
    host: Host
    patience: float = 10.0
    toolstack: Toolstack = field(init=False)
    netback: Netback = field(init=False)
    netfront: Netfront = field(init=False)

    def __post_init__(self) -> None:
        self.toolstack = Toolstack(self.xenstored)
        self.netback = Netback(self.xenstored, self.host)
        self.netfront = Netfront(self.xenstored)

    def close(self) -> None:
        """Close the connections; `xenstored` and `host` belong to whoever made them."""
        for part in (self.toolstack, self.netback, self.netfront):
            part.xs.close()

    def reconnect(self) -> None:
        """New connections, after a restart of xenstored."""
        self.close()
        for part in (self.toolstack, self.netback, self.netfront):
            part.xs = self.xenstored.connect()


def crowd(
    bed: Bed, specs: Sequence[VifSpec], *, per_domain: int = 1, links: bool = True, introduce: bool = True
) -> list[Vif]:
    """A vif for each spec, as many as a load test wants, all at state 2 with their links, before anybody looks.

    The guests' ends are all in one namespace, `crowd`, and called `D.N`. Without `links` these are for the caller to
    make (`Netback.create_all`). xenstored looks at every domain's ring for every request it serves, anybody's: with a
    thousand domains one takes 150 us, with 125 (`per_domain=8`) 50 us, and a thousand vifs take 8 s and 3 s to make.
    To leave that out of a measurement, don't `introduce` them.
    """
    vifs: list[Vif] = []
    domains: list[Domain] = []
    bed.toolstack.atomic = False
    for number, spec in enumerate(specs):
        if number % per_domain == 0:
            domains.append(bed.toolstack.create_domain(f"crowd-{len(domains)}", introduce=False))
        vifs.append(bed.toolstack.add_vif(domains[-1], spec, devid=number % per_domain))
        bed.netback.probe(vifs[-1])
    bed.toolstack.atomic = True
    if links:
        bed.netback.create_all(vifs, bed.host.guest("crowd"))
    if introduce:
        for domain in domains:
            bed.toolstack.xs.introduce(domain.domid)
    return vifs


class Guest:
    """A domain with the vif `spec`, and a namespace in which its `eth0` has `address`.

    Making it brings the vif to where xennetd, or a script, has its turn: the directories are there, state is 2, the
    link exists. `connect` does the rest.
    """

    def __init__(
        self,
        bed: Bed,
        name: str,
        spec: VifSpec | None = None,
        *,
        address: str = "",
        domid: int | None = None,
        uuid: str | None = None,
    ) -> None:
        self._bed = bed
        self.name = name
        self.domain: Domain = bed.toolstack.create_domain(name, domid=domid, uuid_=uuid)
        self.namespace: NetNs = bed.host.guest(f"{name}-{self.domain.domid}")
        self.vif: Vif = bed.toolstack.add_vif(self.domain, spec)
        bed.netback.probe(self.vif)
        bed.netback.create(self.vif, self.namespace)
        if address:
            self.namespace.rtnl.add_address("eth0", address)

    def connect(self, timeout: float | None = None) -> None:
        """Both drivers to state 4; TimeoutError if hotplug-status is not `connected` in time."""
        self._bed.netfront.connect(self.vif, self.namespace)
        self._bed.netback.connect(self.vif, self._bed.patience if timeout is None else timeout)

    def online(self) -> hotplug.Result:
        """Run the vif's script as libxl does after state 2."""
        return hotplug.run(self._bed.xenstored, self.vif, "online")

    def hotplug_status(self) -> str | None:
        return self._bed.toolstack.xs.get(f"{self.vif.backend}/hotplug-status")

    def hotplug_error(self) -> str | None:
        return self._bed.toolstack.xs.get(f"{self.vif.backend}/hotplug-error")

    def ping(self, address: str, count: int = 1) -> bool:
        return self.namespace.ping(address, count)

    def begin_removal(self) -> None:
        """The vif's removal until both drivers have closed: link and directories are still there."""
        bed = self._bed
        bed.toolstack.detach_vif(self.vif)
        bed.netfront.close(self.vif, self.namespace)
        bed.netback.close(self.vif)

    def detach(self, *, script: bool = False) -> None:
        """The vif's removal from beginning to end, with the script's `offline` where libxl runs it if `script`."""
        bed = self._bed
        self.begin_removal()
        if script:
            hotplug.run(bed.xenstored, self.vif, "offline")
        bed.netback.destroy(self.vif)
        bed.toolstack.forget_vif(self.vif)

    def destroy(self, *, script: bool = False) -> None:
        """`detach`, then the end of the domain."""
        self.detach(script=script)
        self._bed.toolstack.destroy_domain(self.domain)

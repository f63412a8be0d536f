"""`Gated`: a daemon whose guests lose their network by a configuration, before anybody looks at them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from tests.bed.guest import Bed, Guest
from tests.bed.netns import NetNs, Tap
from tests.bed.xenstored import Xenstored
from tests.kernel.defective import Defective
from tests.kernel.every_mode import policy

LAB = '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24"]\nuplink = "eth0"\n'
STORE = LAB.replace('"nat"', '"isolated"').replace('uplink = "eth0"\n', "")
ELSEWHERE = LAB.replace('"eth0"', '"up1"')
WITH_IPV6 = LAB.replace('/24"]', '/24", "fd77::/64"]')
FORWARD = LAB + 'forward = [{ proto = "tcp", port = 8080, to = "10.77.0.11:80" }]\n'
EDGE = '[network.edge]\nmode = "route"\n'
OBSERVE = '[daemon]\nmode = "observe"'
DENY = policy("lab-*", 'deny = "gone"')


class Gated(Defective):
    """A daemon that does not look at its guests while the gate is closed, as if thousands of others came first."""

    def __init__(self, xenstored: Xenstored, directory: Path, *, defect: str = "") -> None:
        gate = directory / "gate"
        defect = f"""
{defect}
import asyncio
from pathlib import Path
from xennetd.daemon.reconcile.reconciler import Reconciler
look_at_all = Reconciler.look_at_all
async def gated(self):
    while not Path({str(gate)!r}).exists():
        await asyncio.sleep(0.02)
    await look_at_all(self)
Reconciler.look_at_all = gated
run = Reconciler.run
async def run_gated(self):
    while not Path({str(gate)!r}).exists():
        await asyncio.sleep(0.02)
    await run(self)
Reconciler.run = run_gated
"""
        super().__init__(xenstored, directory, defect=defect)
        self.gate = gate

    def run(self, config: str) -> None:
        self.gate.touch()
        self.configure(config)
        self.start()

    def begin_again(self, config: str, change: Callable[[], object] = lambda: None) -> None:
        """Start again with another configuration; `change` happens while no daemon runs."""
        self.kill9()
        change()
        self.gate.unlink()
        self.configure(config)
        self.start(ready=False)

    def begin_reload(self, config: str) -> None:
        self.gate.unlink()
        self.configure(config)
        self.signal(signal.SIGHUP)

    def finish(self) -> None:
        self.gate.touch()
        self.wait_ready()


def filters(host: NetNs) -> str:
    """The rules and the forwarded ports. The other sets may change before."""
    listed = host.run("nft", "list", "table", "inet", "xennetd").stdout
    forwarded = host.run("nft", "list", "map", "inet", "xennetd", "forward4", check=False).stdout
    return listed[listed.index("chain ") :] + forwarded


def is_off(host: NetNs, guest: Guest) -> bool:
    """Whether a guest's port carries no frames."""
    link = host.links()[guest.vif.netdev]
    return "master" not in link and "UP" not in link["flags"]


def tap_of(bed: Bed, guest: Guest) -> Tap:
    """Give a guest the tap of an emulated NIC, which is attached."""
    tap = bed.host.tap(guest.vif.tap)
    bed.toolstack.xs.until(f"{guest.vif.backend}/xennetd-tap", "connected", 5.0)
    return tap

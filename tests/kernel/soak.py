"""`World`: a host with guests of every mode, and everything that happens to it in a soak, at random."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid5

from tests.bed.daemon import RUNTIME, STAND_IN, Daemon
from tests.bed.guest import Bed
from tests.bed.netns import NetNs
from tests.bed.toolstack import Domain, Vif, VifSpec
from tests.golden.examples import EXAMPLES
from tests.kernel.every_mode import EVERY_MODE
from tests.kernel.meddling import Meddler
from tests.kernel.wait import eventually
from tests.kernel.whole_host import STATE, whole_host

CONFIGURATIONS = {"none": STAND_IN, "every mode": EVERY_MODE} | {
    example.name: STAND_IN + example.text for example in EXAMPLES
}
"""The configurations that are reloaded, by name: all examples among them."""

_SPECS: dict[str, tuple[VifSpec, ...]] = {
    "desk": (VifSpec(),),
    "srv-1": (VifSpec(),),
    "web-quarantine": (VifSpec(),),
    "jump": (VifSpec(),),
    "web-1": (VifSpec(),),
    "db-1": (VifSpec(), VifSpec(), VifSpec()),
    "ns-1": (VifSpec(),),
    "mail": (VifSpec(),),
    "pub-1": (VifSpec(ip="192.0.2.17"),),
    "edge-1": (VifSpec(ip="192.0.2.19 203.0.113.11 2001:db8::17"),),
    "lab-1": (VifSpec(),),
    "lab-2": (VifSpec(),),
    "store-1": (VifSpec(),),
    "lan-1": (VifSpec(vifname="lan0"),),
    "alone-1": (VifSpec(script="vif-xennetd-route", ip="192.0.2.18 203.0.113.12 2001:db8:5::12"),),
    "alone-2": (VifSpec(script="vif-xennetd-nat"),),
}
"""The vif= lines of the machines, by name. No two of them want one address. A guest with `mac = "stable"` is not among
them: its MAC is that of the policy at its attach, and what came later does not change it."""

_FIXED = frozenset({"jump", "web-1"})
"""The machines to which one of the configurations gives a fixed address in a network where others let it have any."""

_NAMESPACE = UUID("d0c5b1d6-33a7-4a39-8a0b-3c1d1b9a5c11")


@dataclass(frozen=True)
class Machine:
    """A domain and its vifs."""

    domain: Domain
    vifs: tuple[Vif, ...]


class Readers(threading.Thread):
    """Ask for the list and for the check, and monitor, without a pause until `stop`."""

    def __init__(self, control: Path) -> None:
        super().__init__(daemon=True)
        self._control = str(control)
        self._ended = threading.Event()
        self.answers = 0

    def run(self) -> None:
        while not self._ended.is_set():
            with suppress(OSError), socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(1.0)
                peer.connect(self._control)
                for method in ("List", "Status", "Check", "List"):
                    peer.sendall(b'{"method": "org.xennetd.Control.%s"}\0' % method.encode())
                    while (received := peer.recv(1 << 16)) and not received.endswith(b"\0"):
                        pass
                    self.answers += 1
            time.sleep(0.01)

    def stop(self) -> None:
        self._ended.set()
        self.join()


class World:
    """The host, its guests and its daemon. `counts` tells how often everything has happened, `story` in which order."""

    def __init__(self, bed: Bed, daemon: Daemon, random: Random) -> None:
        self.bed, self.daemon, self.random = bed, daemon, random
        self.machines: dict[str, Machine] = {}
        self.configuration = "every mode"
        self.counts: dict[str, int] = {}
        self.story: list[str] = []
        self.running = False
        self._far_ends: NetNs = bed.host.guest("far-ends")
        self._domids = iter(range(1, 30_000))
        meddler = self._meddler = Meddler(bed, random)
        self._happenings: dict[str, tuple[int, Callable[[], str]]] = {
            "attach": (10, self._attach),
            "detach": (4, self._detach),
            "reboot": (5, self._reboot),
            "reconnect": (4, self._reconnect),
            "reload": (3, self._reload),
            "kill": (3, self._kill),
            "restart": (1, self._restart),
            "xenstored": (1, self._xenstored),
            "nft": (3, partial(self._meddle, meddler.nft)),
            "sysctl": (4, self._sysctl),
            "bridge": (3, partial(self._meddle, meddler.bridge)),
            "rename": (2, meddler.rename),
            "proxy": (1, self._proxy),
            "dnsmasq": (1, partial(self._meddle, meddler.dnsmasq)),
            "guest's link": (5, lambda: meddler.guest(self.vifs)),
        }

    @property
    def vifs(self) -> list[Vif]:
        return [vif for machine in self.machines.values() for vif in machine.vifs]

    def begin(self) -> None:
        """Start the daemon with the configuration."""
        self.daemon.configure(CONFIGURATIONS[self.configuration])
        self.daemon.start(timeout=60)
        self.running = True

    # Guests

    def create(self, name: str, domid: int) -> None:
        """Make a machine as libxl and netback do; `tend` does the rest."""
        toolstack, netback = self.bed.toolstack, self.bed.netback
        domain = toolstack.create_domain(name, domid=domid, uuid_=str(uuid5(_NAMESPACE, name)))
        vifs = []
        for devid, spec in enumerate(_SPECS[name]):
            vif = toolstack.add_vif(domain, spec, devid=devid)
            steps = [
                partial(netback.probe, vif),
                partial(netback.create, vif, self._far_ends, f"{vif.domid}.{vif.devid}"),
            ]
            self.random.shuffle(steps)
            for step in steps:
                step()
            self._far_ends.rtnl.set(f"{vif.domid}.{vif.devid}", up=True)
            self.bed.netfront.xs.write(f"{vif.frontend}/state", "4")
            vifs.append(vif)
        self.machines[name] = Machine(domain, tuple(vifs))

    def destroy(self, name: str) -> None:
        """End a machine, in the order of libxl and netback."""
        machine = self.machines.pop(name)
        for vif in machine.vifs:
            self.bed.toolstack.detach_vif(vif)
            self.bed.netfront.close(vif)
            self.bed.netback.close(vif)
            self.bed.netback.destroy(vif)
            self.bed.toolstack.forget_vif(vif)
        self.bed.toolstack.destroy_domain(machine.domain)

    def tend(self) -> bool:
        """Have netback go on where it may. Returns whether it could."""
        xs = self.bed.toolstack.xs
        went_on = False
        for vif in self.vifs:
            if xs.get(f"{vif.backend}/hotplug-status") == "connected" and xs.get(f"{vif.backend}/state") == "2":
                xs.write(f"{vif.backend}/state", "4")
                went_on = True
        return went_on

    # What happens

    def happen(self) -> None:
        """Have something happen, whatever."""
        names = list(self._happenings)
        name = self.random.choices(names, [weight for weight, _ in self._happenings.values()])[0]
        if what := self._happenings[name][1]():
            self.counts[name] = self.counts.get(name, 0) + 1
            self.story.append(f"{name}: {what}")
        with suppress(OSError):
            self.tend()
        time.sleep(self.random.choice((0, 0, 0.01, 0.05, 0.2)))

    def _attach(self) -> str:
        absent = sorted(_SPECS.keys() - self.machines.keys())
        if not absent:
            return ""
        name, domid = self.random.choice(absent), next(self._domids)
        self.create(name, domid)
        return f"{name} as {domid}"

    def _detach(self) -> str:
        if len(self.machines) < 4:
            return ""
        name = self.random.choice(sorted(self.machines))
        self.destroy(name)
        return name

    def _reboot(self) -> str:
        if not self.machines:
            return ""
        name, domid = self.random.choice(sorted(self.machines)), next(self._domids)
        self.destroy(name)
        self.create(name, domid)
        return f"{name} as {domid}"

    def _reconnect(self) -> str:
        connected = [vif for vif in self.vifs if self.bed.toolstack.xs.get(f"{vif.backend}/state") == "4"]
        if not connected:
            return ""
        vif = self.random.choice(connected)
        self.bed.netback.disconnect(vif, forget_hotplug_status=self.random.random() < 0.5)
        time.sleep(self.random.choice((0, 0.02)))
        self.bed.netback.prepare(vif)
        return vif.netdev

    def _reload(self) -> str:
        if not self.running:
            return ""
        self.configuration = self.random.choice(sorted(CONFIGURATIONS))
        self.daemon.configure(CONFIGURATIONS[self.configuration])
        told = self.daemon.ctl("reload", timeout=60)
        assert told.returncode == 0, told.stdout + told.stderr
        return self.configuration

    def _kill(self) -> str:
        """kill -9, perhaps again in the middle of a start; others go on meanwhile."""
        if not self.running:
            return ""
        self.daemon.kill9()
        self.running = False
        self.story.append("kill: dead")
        for _ in range(self.random.choice((0, 0, 1, 3))):
            self.happen()
        for _ in range(self.random.choice((0, 0, 1))):
            self.daemon.start(ready=False)
            time.sleep(self.random.uniform(0.1, 1.0))
            self.daemon.kill9()
            self.counts["kill"] = self.counts.get("kill", 0) + 1
        self.daemon.start(timeout=60)
        self.running = True
        return "alive"

    def _stop(self) -> None:
        """Stop the daemon. Its journal names the tasks that do not end."""
        try:
            assert self.daemon.terminate() == 0, self.daemon.stderr()[-3000:]
        except subprocess.TimeoutExpired:
            told = self.daemon.stderr()[-6000:]
            raise AssertionError(f"it does not stop after {self.story[-20:]}:\n{told}") from None

    def _restart(self) -> str:
        if not self.running:
            return ""
        self._stop()
        self.running = False
        for _ in range(self.random.choice((0, 1, 2))):
            self.happen()
        self.daemon.start(timeout=60)
        self.running = True
        return "alive"

    def _xenstored(self) -> str:
        self.bed.xenstored.restart(down=self.random.choice((0.0, 0.1)))
        self.bed.reconnect()
        return "new"

    def _proxy(self) -> str:
        return (what := self._meddle(self._meddler.proxy)) and f"{what}; reload: {self._reload()}"

    def _sysctl(self) -> str:
        """The kernel tells of all settings that are taken back but `accept_ra`, which a reload sees."""
        what = self._meddle(self._meddler.sysctl)
        return f"{what}; reload: {self._reload()}" if "accept_ra" in what else what

    def _meddle(self, how: Callable[[], str]) -> str:
        """Another program interferes. The daemon must be alive, and so see it: the kernel is its only memory."""
        return how() if self.running else ""

    # Calm

    def calm(self, timeout: float = 60.0) -> list[str]:
        """Wait until nothing changes any more, and return what the host holds. Bridges get their names back before."""
        self._meddler.name_again()
        deadline = time.monotonic() + timeout
        before: list[str] = []
        since = time.monotonic()
        while True:
            moved = self.tend()
            now = self._now()
            if moved or now != before or self._busy():
                before, since = now, time.monotonic()
            elif time.monotonic() - since > 1.5:
                return now
            assert time.monotonic() < deadline, "\n".join(["it never rests", *self.story[-30:], *self.rows()])
            time.sleep(0.3)

    def _now(self) -> list[str]:
        """What the host holds, but of a vif that is refused neither the verdict nor what every guest's link gets.

        A vif that was connected before keeps the verdict of then, and its link the MAC, the MTU and the addr_gen_mode.
        """
        rows = self._rows()
        refused = [row for row in rows if row["state"] != "connected"]
        nodes = "|".join(rf"^node \S*vif/{row['vif'][3:].replace('.', '/')}/" for row in refused)
        found = self.bed.host.links()
        names = [row["link"] for row in refused if row.get("link") in found]  # A vif without a link is still pending.
        either = "|".join(map(re.escape, names))
        links = rf"|^(?:link|ip -oneline link show:) (?:{either}):|^sysctl ipv6 (?:{either})/addr_gen_mode "
        hidden = re.compile(nodes + (links if names else "")) if refused else re.compile("$^")
        places = {name: [found[name].get(key) for key in ("master", "group", "ifalias")] for name in names}
        idle = [f"idle {name}: {'UP' in found[name]['flags']} {place}" for name, place in places.items()]
        left = (line for line in whole_host(self.bed, self.vifs) if not hidden.search(line))
        return [*left, *idle, *map(_text_of, rows)]

    def forget_addresses(self) -> None:
        """Create the machines anew to which some policy gives a fixed address, once xennetd has forgotten them.

        A guest keeps the address that it has, also under a policy that would give it another one.
        """
        fixed = sorted(self.machines.keys() & _FIXED)
        for name in fixed:
            self.destroy(name)
        eventually(lambda: not any(row.get("vm") in fixed for row in self.daemon.ask("list")), 20.0, 0.05)
        for name in fixed:
            self.create(name, next(self._domids))

    def rows(self) -> list[str]:
        return [_text_of(row) for row in self._rows()]

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.daemon.ask("list")
        return rows

    def _busy(self) -> bool:
        return any(row["state"] in {"pending", "detaching"} for row in self._rows())

    def untold(self) -> list[str]:
        """What the daemon knows of each vif in error of which it has told the toolstack nothing."""
        vifs = {vif.netdev: vif for vif in self.vifs}
        rows = [row["vif"] for row in self._rows() if row["state"] == "error" and row["vif"] in vifs]
        silent = [name for name in rows if self.bed.toolstack.xs.get(f"{vifs[name].backend}/hotplug-status") is None]
        return [self.daemon.ctl("show", "--debug", name).stdout for name in silent]

    def clear(self) -> None:
        """End all guests, all networks and then the daemon."""
        for name in sorted(self.machines):
            self.destroy(name)
        eventually(lambda: not self.daemon.ask("list"), 20.0, 0.05)
        self.daemon.reload(STAND_IN)
        eventually(lambda: not any(STATE.iterdir()), 20.0, 0.05)  # A dnsmasq takes its time to end.
        self._stop()
        self.running = False
        assert not RUNTIME.exists()


def _text_of(row: dict[str, Any]) -> str:
    keys = ("vm", "mac", "ips", "network", "mode", "bridge", "state", "error", "mtu", "link")
    return f"row {row['vif']} { {key: row.get(key) for key in keys} }"

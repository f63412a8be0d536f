"""The stock vif-bridge and ours, side by side in one boot: what the toolstack waits for, and what a user does."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.xen.toolstack import Guest, answers, do, master, run, until, xenstore

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Attach:
    """Seconds from the backend's state 2 to hotplug-status=connected, and what `xl network-attach` took in all."""

    connected: float
    xl: float


class Stopwatch(threading.Thread):
    """Notes when one backend shows state 2 and when `connected`."""

    def __init__(self, backend: str) -> None:
        super().__init__(daemon=True)
        self.times: dict[str, float] = {}
        self._backend = backend
        self._xs = xenstore()
        self._xs.watch(backend)
        self.start()

    def run(self) -> None:
        while "connected" not in self.times:
            self._xs.event(60.0)
            now = time.monotonic()
            if self._xs.get(f"{self._backend}/state") == "2":
                self.times.setdefault("state 2", now)
            if self._xs.get(f"{self._backend}/hotplug-status") == "connected":
                self.times["connected"] = now
        self._xs.close()

    def seconds(self) -> float:
        self.join()
        return self.times["connected"] - self.times["state 2"]


def attach(domid: int, devid: int, script: str) -> Attach:
    watch = Stopwatch(f"/local/domain/0/backend/vif/{domid}/{devid}")
    what = ("mac=00:16:3e:09:55:01", "bridge=xenbr1", f"script={script}", f"devid={devid}")
    took = run("xl", "network-attach", "boot", *what)
    assert took.status == 0, took.output
    assert master(f"vif{domid}.{devid}") == "xenbr1"
    seconds = watch.seconds()
    do("xl", "network-detach", "boot", str(devid))
    until(lambda: run("ip", "link", "show", "dev", f"vif{domid}.{devid}").status != 0)
    return Attach(seconds, took.seconds)


def test_ours_connects_sooner_than_the_stock_script(guest: Callable[..., Guest]) -> None:
    domid = int(do("xl", "domid", "boot"))
    attaches: dict[str, list[Attach]] = {"vif-bridge": [], "vif-xennetd": []}
    for _ in range(ROUNDS):
        for script, times in attaches.items():
            times.append(attach(domid, 5, script))
    pings = {}
    for script in attaches:
        web = guest(f"timed-{script}", f"bridge=xenbr0, script={script}")
        started = time.monotonic()
        web.create()
        answers(web.address)
        pings[script] = time.monotonic() - started
        web.destroy()
    print(f"\n{'seconds, medians':20}{'vif-bridge':>12}{'vif-xennetd':>12}")
    rows = {
        "state 2 → connected": [statistics.median(each.connected for each in times) for times in attaches.values()],
        "xl network-attach": [statistics.median(each.xl for each in times) for times in attaches.values()],
        "xl create → ping": list(pings.values()),
    }
    for name, (stock, ours) in rows.items():
        print(f"{name:20}{stock:12.3f}{ours:12.3f}")
    stock, ours = rows["state 2 → connected"]
    assert ours * 5 < stock

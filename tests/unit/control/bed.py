"""What tests of the control service and of xennetctl stand on: a daemon that only remembers what it was asked, and a
server for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from xennetd.daemon.control.server import ControlServer
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.journal import Journal
from xennetd.model.event import Event
from xennetd.model.status import DaemonStatus, LinkStatus, NetworkStatus, Planned, VifStatus
from xennetd.model.value import replace
from xennetd.model.vif import VifId


def row(domid: int, devid: int = 0, **values: Any) -> VifStatus:
    """A connected vif's row, with `values` in place of the usual."""
    plain = VifStatus(
        vif=f"vif{domid}.{devid}",
        domid=domid,
        devid=devid,
        vm=f"vm-{domid}",
        uuid=f"0f8e7c1a-36f5-4a5f-9d5c-{domid:012x}",
        mac=f"00:16:3e:00:{domid // 256:02x}:{domid % 256:02x}",
        ips=[],
        network=None,
        mode="bridge",
        bridge="xenbr0",
        vlan=None,
        state="connected",
        error=None,
        since=1_700_000_000.0,
        link=f"vif{domid}.{devid}",
        ifindex=100 + domid,
        mtu=1500,
        script="/etc/xen/scripts/vif-xennetd",
        duration_us=512,
    )
    return replace(plain, **values)


class FakeDaemon:
    """A daemon with four vifs. `problems`, `refusal` and `bug` are what it answers when they are set."""

    def __init__(self) -> None:
        self.rows = [
            row(3, vm="web-1"),
            row(7, vm="db", link="lan7"),
            row(7, 1, vm="db", state="error", error="there is no bridge xenbr9", bridge="xenbr9"),
            row(9, vm="a/b", state="pending", reason="no link vif9.0 yet"),
        ]
        self.problems: list[str] = []
        self.refusal: str | None = None
        self.bug: Exception | None = None
        self.all_links: list[LinkStatus] = []
        self.planned = Planned(["ip link set eth1 master xenbr1"], [])
        self.asked: list[str] = []
        self.listed = 0
        self.checks = 0
        self.check_takes = 0.0

    def status(self) -> DaemonStatus:
        counts = dict.fromkeys(("pending", "connected", "error", "detaching", "ignored"), 0)
        for vif in self.rows:
            counts[vif.state] += 1
        return DaemonStatus(
            version="1.2",
            pid=812,
            mode="enforce",
            ready=True,
            since=1_700_000_000.0,
            domid=0,
            config=["/etc/xennetd/xennetd.toml"],
            networks=[
                NetworkStatus("lan", "bridge", "xenbr0", [], None, False, 3, None),
                NetworkStatus("lab", "nat", "xn-lab", ["10.77.0.0/24"], "eth9", True, 1, "there is no eth9"),
            ],
            counts=counts,
            pinned=[vif.vif for vif in self.rows if vif.pinned],
            xenstore="connected",
            audit_dropped=0,
            netlink_resyncs=0,
            xenstore_reconnects=0,
            problems=[],
            notes=[],
        )

    def status_problems(self) -> Iterator[str]:
        return (f"{vif.vif} of {vif.vm}: {vif.error}" for vif in self.rows if vif.error)

    def status_notes(self) -> Iterator[str]:
        return (f"{vif.vif} is pinned: xennetd does not touch it until unpin" for vif in self.rows if vif.pinned)

    def vifs(self) -> Iterator[VifStatus]:
        self.listed += 1
        yield from self.rows

    def names(self) -> Iterator[tuple[VifId, str | None, str | None]]:
        return ((VifId(row.domid, row.devid), row.link, row.vm) for row in self.rows)

    def vif(self, vif: VifId) -> VifStatus | None:
        return next((found for found in self.rows if (found.domid, found.devid) == vif), None)

    def debug(self, vif: VifId) -> Iterator[str]:
        return iter(json.dumps({"version": "0", "observation": {"Observation": {"vif": str(vif)}}}).partition(" "))

    async def reload(self) -> list[str]:
        self.asked.append("reload")
        return self.problems

    async def as_configured(self) -> str:
        return "[bridge.xenbr0]\n"

    def links(self) -> Iterator[LinkStatus]:
        return iter(self.all_links)

    async def plan(self) -> Planned:
        return self.planned

    async def apply(self, confirm: int | None) -> Planned:
        self.asked.append("apply" if confirm is None else f"apply {confirm}")
        return self.planned

    async def confirm(self) -> Planned:
        self.asked.append("confirm")
        return Planned([], [self.refusal] if self.refusal else [], refused=self.refusal is not None)

    async def check(self) -> tuple[list[str], list[str]]:
        self.checks += 1
        done = time.perf_counter() + self.check_takes
        while time.perf_counter() < done:
            pass
        if self.bug is not None:
            raise self.bug
        return self.problems, ["no policy uses lan"]

    def retry(self, vif: VifId) -> str | None:
        return self._do("retry", vif)

    async def pin(self, vif: VifId) -> str | None:
        return self._do("pin", vif)

    async def unpin(self, vif: VifId) -> str | None:
        return self._do("unpin", vif)

    def _do(self, what: str, vif: VifId) -> str | None:
        self.asked.append(f"{what} {vif}")
        return self.refusal


@contextlib.asynccontextmanager
async def serving(daemon: FakeDaemon, audit: Audit, path: str, **options: Any) -> AsyncIterator[ControlServer]:
    """Serve `daemon` at `path` while the block runs."""
    server = ControlServer(daemon, audit, path, version="1.2", **options)
    task = asyncio.create_task(server.serve())
    try:
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Served:
    """A control server in a thread of its own."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.daemon = FakeDaemon()
        self.audit = Audit(Journal("/nonexistent"))
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._up = threading.Event()
        self._thread.start()
        self._up.wait(5)

    async def _serve(self) -> None:
        async with serving(self.daemon, self.audit, self.path, group="nogroup"):
            self._up.set()
            await self._stop.wait()

    def record(self, event: Event) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(self.audit.record, event)
        self._loop.call_soon_threadsafe(done.set)
        done.wait(5)

    def wait_for_monitor(self) -> None:
        deadline = time.monotonic() + 5
        while not self.audit._subscriptions and time.monotonic() < deadline:
            time.sleep(0.005)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(5)
            self._loop.close()

"""`Stage`: a host with xenstored and xennetd on which vifs are played, and the clocks that watch them."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tests.bed import guest, hotplug
from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.dhcp import kill_all
from tests.bed.guest import Bed
from tests.bed.netns import Host
from tests.bed.toolstack import Domain, Vif, VifSpec
from tests.bed.xen import REPOSITORY
from tests.bed.xenstored import Xenstored
from tests.bed.xs import Request, Xs
from xennetd.kernel import rtnl
from xennetd.kernel.sockets import RequestSocket

BRIDGES = ("xenbr0", "xenbr1")
OURS = VifSpec(script=str(REPOSITORY / "conf" / "vif-xennetd"))
STOCK = VifSpec(script="vif-bridge")
PER_DOMAIN = 8
"""Vifs in each domain of a crowd."""

_WATCHDOG = 30.0
"""WatchdogSec of the unit, in seconds."""

_BACKENDS = "/local/domain/0/backend/vif"


class Stage:
    """Two bridges, xenstored, xennetd, and all that plays around them; in the calling thread's namespaces."""

    def __init__(self, config: str = STAND_IN) -> None:
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="xennetd-bench-"))
            self.xenstored = stack.enter_context(Xenstored())
            self.host = stack.enter_context(contextlib.closing(Host()))
            self.bed = stack.enter_context(contextlib.closing(Bed(self.xenstored, self.host)))
            self.daemon = Daemon(self.xenstored, Path(directory), config, watchdog=_WATCHDOG)
            stack.callback(kill_all)
            stack.callback(self.daemon.close)
            self.requests = stack.enter_context(contextlib.closing(RequestSocket()))
            for number, bridge in enumerate(BRIDGES):
                self.host.bridge(bridge)
                self.host.uplink(bridge, f"eth{number}", address=f"10.{number}.0.254/24")
            self._far_ends = self.host.guest("guests")
            self._stack = stack.pop_all()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    # xennetd

    def start(self) -> float:
        """Start xennetd and return the seconds from its execution to READY=1."""
        began = time.monotonic()
        self.daemon.start(ready=False)
        return self.daemon.wait_ready(60.0).time - began

    def rest(self) -> None:
        """`settle`, once the kernel has told all of the ports that came up: its link watch takes up to a second."""
        time.sleep(1.2)
        self.settle()

    def cpu(self) -> float:
        """Return the seconds of processor time that xennetd has used, to the nanosecond."""
        tasks = Path(f"/proc/{self.daemon.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def settle(self) -> None:
        """Wait until xennetd has nothing to do any more."""
        idle = 0
        before = self.cpu()
        while idle < 3:
            time.sleep(0.004)
            now = self.cpu()
            idle = idle + 1 if now - before < 0.0002 else 0
            before = now

    @contextlib.contextmanager
    def without_xennetd(self) -> Iterator[None]:
        """Have xennetd stopped in its tracks: it uses no processor, and answers nobody."""
        self.daemon.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.daemon.signal(signal.SIGCONT)
            self.settle()

    # One vif

    def appear(self, spec: VifSpec) -> tuple[Domain, Vif]:
        """A domain with one vif, whose link is there already, just before `state=2`."""
        bed = self.bed
        domain = bed.toolstack.create_domain("bench")
        vif = bed.toolstack.add_vif(domain, spec)
        bed.netback.announce(vif)
        bed.netback.create(vif, self._far_ends, peer=f"{vif.domid}.{vif.devid}")
        self.settle()
        return domain, vif

    def vanish(self, domain: Domain, vif: Vif) -> None:
        """The rest of a removal that has begun."""
        bed = self.bed
        bed.netfront.close(vif)
        bed.netback.close(vif)
        bed.netback.destroy(vif)
        bed.toolstack.forget_vif(vif)
        bed.toolstack.destroy_domain(domain)
        self.settle()

    # Many

    def crowd(self, specs: Sequence[VifSpec]) -> list[Vif]:
        """Many vifs at once, at state 2 and with links; without xennetd looking on, which would only slow it down."""
        vifs = guest.crowd(self.bed, specs, per_domain=PER_DOMAIN, links=False, introduce=False)
        self.bed.netback.create_all(vifs, self._far_ends)
        return vifs

    def rewind(self, vifs: Sequence[Vif], state: int) -> None:
        """Make vifs again what they were before they were attached, at this backend state; xennetd must not run."""
        xs = self.bed.toolstack.xs
        xs.batch(
            Request.write(f"{vif.backend}/{node}", value)
            for vif in vifs
            for node, value in (("state", str(state)), ("hotplug-status", ""))
        )
        eui64 = 0
        self.requests.ask(
            [
                rtnl.set_link(self.requests.next_seq(), index, up=False, master=0, addr_gen_mode=eui64)
                for index in (self.host.rtnl.index(vif.netdev) for vif in vifs)
            ]
        )


class Verdicts:
    """Sees `hotplug-status` change, as netback would: the clock that every attach is stopped by."""

    def __init__(self, stage: Stage, vifs: Collection[Vif]) -> None:
        self._stage = stage
        self._xs: Xs = stage.xenstored.connect()
        self._waiting = {f"{vif.backend}/hotplug-status" for vif in vifs}
        self._all = tuple(self._waiting)
        self._xs.watch(self._all[0] if len(vifs) == 1 else _BACKENDS)
        self._xs.event()

    def __enter__(self) -> Verdicts:
        return self

    def __exit__(self, *exc: object) -> None:
        self._xs.close()

    def all_connected(self, timeout: float = 60.0) -> float:
        """Wait for every vif's verdict and return when (time.perf_counter) the last was seen.

        RuntimeError when one was another than `connected`, or none came for `timeout` seconds.
        """
        while self._waiting:
            try:
                self._waiting.discard(self._xs.event(timeout).path)
            except TimeoutError:
                waiting = f"no verdict for {min(self._waiting)} in {timeout:g} s"
                raise RuntimeError(f"{waiting}; xennetd said: {self._stage.daemon.stderr()[-2000:]}") from None
        seen = time.perf_counter()
        values = {path: self._xs.get(path) for path in self._all}
        others = {path: value for path, value in values.items() if value != "connected"}
        if others:
            why = {path: self._xs.get(path.replace("hotplug-status", "hotplug-error")) for path in others}
            raise RuntimeError(f"not connected: {others}, because of {why}")
        return seen


def run_script(stage: Stage, vif: Vif, command: str) -> float:
    """Run the vif's script as libxl does and return its seconds; RuntimeError when it fails."""
    result = hotplug.run(stage.xenstored, vif, command)
    if result.status:
        raise RuntimeError(f"{vif.script} {command}: {result.output}")
    return result.seconds

"""`AnyTopology`: applies topologies to the host that the test is in, and checks what must hold for any of them.

The daemon's own part for that (`HostTopology`) runs in the test, on the real kernel and with the real files of state.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from tests.bed.dumps import Dump, differences, dump
from tests.bed.netns import NetNs
from tests.topologies import MACS, NICS
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.journal import Journal
from xennetd.daemon.reconcile.host_topology import Applied, HostTopology
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.kernel.kernel import Kernel
from xennetd.model.configuration import Policy
from xennetd.model.topology import Topology
from xennetd.policy.load import load

FOREIGN = ("foreign", "foreignp", "")
"""Links that no topology names. The empty name stands for what is on no link."""

COMMANDS = """
link add foreign up type bridge forward_delay 0
link add foreignp master foreign type veth peer name foreignq
link set foreignp up
link set foreignq up
address add 198.51.100.1/24 dev foreign
address add 2001:db8:f::1/64 dev foreign nodad
route add 203.0.113.0/24 via 198.51.100.9
route add 203.0.113.0/24 dev foreign table 77 metric 5
route add blackhole 203.0.114.0/24 table 77
rule add from 198.51.100.0/24 table 77 priority 7700
neighbour add 198.51.100.9 lladdr 02:00:00:00:00:09 dev foreign nud permanent
"""

PATIENCE = 10.0
"""Seconds until IPv6 must know its link-local addresses again."""


class AnyTopology:
    """A host with `tests.topologies.NICS`, wired to `beyond`, with foreign objects, and with its topology at work."""

    def __init__(self, host: NetNs, beyond: NetNs, state: Path) -> None:
        self._host = host
        self._there = host.links().keys()
        for nic in NICS:
            host.rtnl.add_veth(nic, f"p-{nic}", beyond.fd, address=MACS[nic])
            host.rtnl.set(nic, up=True)
            beyond.rtnl.set(f"p-{nic}", up=True)
        for command in COMMANDS.strip().splitlines():
            host.run("ip", *command.split())
        self._state = state
        self._forget()
        self._runner = asyncio.Runner()
        self._kernel = Kernel(lambda _: None, lambda: None)
        self._topology = self._runner.run(self._started())
        self.refused = self.applied = 0

    async def _started(self) -> HostTopology:
        self._kernel.start()
        return HostTopology(InForce(Policy()), self._kernel, Audit(Journal()))

    async def _stopped(self) -> None:
        self._kernel.close()

    def __enter__(self) -> AnyTopology:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._runner.run(self._stopped())
        self._runner.close()
        self._forget()
        for name in self._host.links().keys() - self._there:
            self._host.run("ip", "link", "delete", name, check=False)  # A VLAN goes with what it is on.
        for command in ("rule flush priority 7700", "route flush table 77"):
            self._host.run("ip", *command.split())

    def _forget(self) -> None:
        for file in self._state.glob("*.json"):
            file.unlink()

    def apply(self, text: str) -> Applied:
        """Apply a configuration, which must be valid."""
        self._kernel.poll()
        return self._runner.run(self._topology.apply(_read(text)))

    def plan(self, text: str) -> list[str]:
        """What an apply would do, and why it would not."""
        self._kernel.poll()
        plan, _ = self._runner.run(self._topology.plan(_read(text)))
        return [*(step.describe() for step in plan.steps), *plan.refusals.values(), *plan.cautions]

    def goes_to(self, text: str) -> bool:
        """Whether an apply is not refused. A refused one has changed nothing, any other has done everything."""
        before, foreign = dump(self._host), dump(self._host, FOREIGN)
        applied = self.apply(text)
        if applied.refused:
            assert applied.problems
            self._becomes(before)
            self.refused += 1
            return False
        assert applied.problems == (), applied
        _is_nothing("left to do", self.plan(text))
        _is_nothing("changed of foreign objects", differences(foreign, dump(self._host, FOREIGN)))
        _is_nothing("cut off: a port with addresses", self._ports_with_addresses())
        self._kernel.poll()
        imported = self._topology.as_configured(())
        _is_nothing(f"different in the import\n{imported}", self.plan(imported))
        self.applied += 1
        return True

    def leads(self, commands: Iterable[str], texts: Iterable[str]) -> None:
        """From a host that the commands have furnished to each of the configurations, and back."""
        for command in commands:
            self._host.run("ip", *command.split())
        self._is_quiet()
        before = dump(self._host)
        for text in texts:
            self.goes_to(text)
        self.goes_back_to(before)

    def _is_quiet(self) -> None:
        """IPv6 takes a while to know a link-local address on each link."""
        deadline = time.monotonic() + PATIENCE
        while "tentative" in self._host.run("ip", "address").stdout and time.monotonic() < deadline:
            time.sleep(0.02)

    def _ports_with_addresses(self) -> list[str]:
        shown = json.loads(self._host.run("ip", "-json", "address", "show", "scope", "global").stdout)
        ports = {name for name, link in self._host.links().items() if "master" in link}
        return [
            f"{link['ifname']} {link['addr_info']}"
            for link in shown
            if link.get("addr_info") and link["ifname"] in ports
        ]

    def goes_back_to(self, before: Dump) -> None:
        """Without a topology the host is as it was before the first."""
        assert self.goes_to("")
        self._becomes(before)

    def _becomes(self, before: Dump) -> None:
        deadline = time.monotonic() + PATIENCE
        while differences(before, dump(self._host)) and time.monotonic() < deadline:
            time.sleep(0.05)
        _is_nothing("not as before", differences(before, dump(self._host)))


def _is_nothing(what: str, found: list[str]) -> None:
    assert not found, f"{what}:\n" + "\n".join(found)


def _read(text: str) -> Topology:
    policy = load([("test.toml", text.encode())])
    assert isinstance(policy, Policy), (policy, text)
    return policy.topology

"""Keeps the networks of the policy as the policy defines them, and remembers why a network can't be made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import structlog

from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.reconcile.care import take_care
from xennetd.daemon.reconcile.host_state import HostState
from xennetd.daemon.reconcile.in_force import InForce
from xennetd.daemon.reconcile.pace import Pace
from xennetd.daemon.shortage import Shortage, shortage
from xennetd.daemon.tasks import cause_of
from xennetd.kernel.links import DEFAULT_ROUTES, LinkChange, is_guest_port
from xennetd.model.configuration import Network
from xennetd.model.errors import HostError, PolicyError, XennetdError
from xennetd.model.event import Event, EventKind
from xennetd.model.link import HostView
from xennetd.model.objects import RULESET, HostObject
from xennetd.plan.difference import HostStep, Make
from xennetd.plan.steps import kind_of
from xennetd.policy.network_needs import lacks, made_bridges, named_links, needs, obstacle

_log = structlog.get_logger(__name__)

_UNDONE = 0.05
"""Seconds until a network is looked at again whose objects were gone again just after they were made."""

_FREE_FILTERS = 3
"""How often the filter is put back at once. A restart of nftables.service removes it twice within milliseconds."""


def network_key(name: str) -> str:
    """Return the name under which vifs wait, in an error's `waits_on`, for a network that can't be made now."""
    return f"network {name}"


class Networks:
    """All networks of the policy.

    `cured` is called with names that vifs may wait for (an error's `waits_on`), when these are available again.
    """

    def __init__(
        self, in_force: InForce, view: HostView, host: HostState, audit: Audit, cured: Callable[[Iterable[str]], None]
    ) -> None:
        self._in_force = in_force
        self._view = view
        self._host = host
        self._audit = audit
        self._cured = cured
        self._problems: dict[str, XennetdError] = {}
        self._known: set[str] = set()
        self._lacks: dict[str, str] = {}
        self._missing: dict[str, tuple[HostStep, ...]] = {}
        self._guests_move = False
        self._pace = Pace()
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self.read_policy()

    def read_policy(self) -> None:
        """Take over the names of links and bridges from the policy in force."""
        self._links = named_links(self._in_force.policy)
        self._bridges = made_bridges(self._in_force.policy)

    async def follow_policy(self) -> None:
        """Make the networks of a new policy. Host objects that only the old policy needed stay until `retire`."""
        self.read_policy()
        self._guests_move = True
        await self.look()

    def hint(self) -> None:
        """Ask for a `look`: a host object of a network may have changed."""
        self._wake.set()

    def links_changed(self, changes: Iterable[LinkChange]) -> None:
        """Take changed links from the kernel's view as a hint.

        Two kinds of links concern no network: links of guests, and links without addresses that no network names. The
        links of containers, which come and go, are of the second kind.
        """
        if self._links and any(map(self._concerns, changes)):
            self._wake.set()

    def _concerns(self, change: LinkChange) -> bool:
        return change == DEFAULT_ROUTES or any(
            link is not None and not is_guest_port(link) and (link.addresses or link.name in self._links)
            for link in (change.old, change.new)
        )

    async def catch_up(self) -> None:
        """Look at the networks now if there is a hint.

        A guest that is reconciled next then finds its network repaired, and gets no error about it.
        """
        if self._wake.is_set():
            self._wake.clear()
            try:
                await self.look()
            except Exception:
                self._wake.set()  # A defect in xennetd: `run` meets it too, and the guest is not at fault.

    def problem(self, name: str) -> XennetdError | None:
        """Return why a network can't be made now, None if it can.

        The guest may read the error's sentence; the detail is for the administrator.
        """
        problem = self._problems.get(name)
        if problem is None:
            return None
        waits_on = frozenset({network_key(name)})
        return PolicyError(problem.sentence, detail=problem.detail, waits_on=waits_on)

    def problems(self) -> list[str]:
        """Return a sentence for each problem of a network."""
        return [
            *(self._problems[name].detail for name in sorted(self._problems)),
            *self._lacks.values(),
            *self._host.problems(time.monotonic()),
        ]

    def _again(self, seconds: float) -> None:
        """Look again after some seconds. Of several such times the earliest counts."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if loop.time() < self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._wake.set)

    def remarks(self) -> list[str]:
        """Return a sentence for each network that would be changed if the daemon were not in observe mode."""
        would = {name: "; ".join(_words(missing)) for name, missing in self._missing.items()}
        return [
            f"network {name}: in enforce mode xennetd would do this: {text}" for name, text in would.items() if text
        ]

    async def look(self) -> None:
        """Make the missing host objects of all networks or, in observe mode, note which are missing.

        Host objects that a network does not need any more are removed, unless guests are still to leave them.
        """
        observes = self._in_force.observes
        before = set(self._problems)
        self._missing.clear()
        self._lacks.clear()
        for name, network in self._in_force.policy.networks.items():
            try:
                await self._look_at(network, observes=observes)
            except (HostError, PolicyError) as error:
                self._failed(name, error, "a network can't be made", why=error.detail)
            except Shortage as error:
                short = shortage(error)
                self._failed(name, short, "a network can't be made", why=short.detail)
            except Exception as error:
                sentence = (
                    f'network "{name}" is not ready: xennetd met a defect of its own: see `journalctl -t xennetd`'
                )
                defect = HostError(sentence, detail=f"{sentence} ({cause_of(error)})")
                self._failed(name, defect, "a defect in xennetd, please report it", exc_info=error)
        for name in self._problems.keys() - self._in_force.policy.networks.keys():
            del self._problems[name]
        if cured := before - self._problems.keys():
            self._cured({network_key(name) for name in cured})
        if self._problems and not before:
            self._wake.set()  # `run` waits without a time limit while there is no problem; now it must try again.

    def _failed(self, name: str, problem: XennetdError, event: str, **details: object) -> None:
        """Note a network's problem, and log it if it is new. The other networks are looked at all the same."""
        known = self._problems.get(name)
        if known is None or known.detail != problem.detail:
            _log.error(event, network=name, **details)
        self._problems[name] = problem

    async def _look_at(self, network: Network, *, observes: bool) -> None:
        """Make the missing host objects of one network. Raises HostError or PolicyError for the network's problem.

        A network with a problem keeps the objects that it has, since guests may be in it, and gives none up.
        """
        name = network.name
        needed = needs(self._in_force.policy, network, self._view, self._bridges)
        if (lack := lacks(network, self._view)) is not None:
            self._lacks[name] = lack
        problem: XennetdError | None = obstacle(network, self._view)
        if observes:
            if problem is not None:
                raise problem
            self._missing[name] = self._host.difference(name, needed)
            self._problems.pop(name, None)
            return
        self._known.add(name)
        if (conflict := self._host.conflict(name, needed)) is not None:
            problem = problem or conflict
            needed = tuple(wanted for wanted in needed if self._host.conflict(name, (wanted,)) is None)
        if problem is not None and not self._host.wants_any(name) and not self._exists(network):
            needed = ()  # It was never made.
        await self._make(network, needed, problem)

    async def _make(self, network: Network, needed: tuple[HostObject, ...], problem: XennetdError | None) -> None:
        """Make what is missing of the objects that a network needs; with a problem only the filter. Raises the problem.

        No guest joins a network while its filter is missing, not even while another program removes it all the time.
        """
        name = network.name
        missing = self._host.difference(name, needed)
        filters = tuple(step for step in missing if step.object.key == RULESET)
        wait = self._pace.wait(RULESET, filters, time.monotonic(), free=_FREE_FILTERS) if filters else 0.0
        if wait > 0:
            self._again(wait)
            problem = problem or self._problems.get(name) or HostError(_fight(name))
        elif problem is not None:
            absent = {step.object.key for step in missing if isinstance(step, Make)}
            await self._host.ensure(name, filters, wanted=[item for item in needed if item.key not in absent])
        elif (wait := self._pause(name, missing)) > 0:
            if filters and self._exists(network):
                await self._host.ensure(name, filters)
            self._again(wait)
        else:
            lost = [step for step in missing if self._host.wants(name, step.object)]
            await self._host.ensure(name, missing, wanted=needed)
            if not self._guests_move:
                self._cured(await self._host.settle(name, needed))
            if missing and self._host.difference(name, needed):
                # Somebody undid it before its events were read. Taken together these show no change, so none follows.
                self._again(_UNDONE)
            if self._problems.pop(name, None) is None and lost:
                message = f"network {name} repaired: {'; '.join(_words(lost))}"
                self._audit.repaired(Event(EventKind.DRIFT, message, network=name), kind_of(lost[0]))
        if problem is not None:
            raise problem

    def _pause(self, name: str, missing: Iterable[HostStep]) -> float:
        """Return the seconds to wait before a network is repaired, 0 for a new one. The filter has its own pace."""
        wait = self._host.pause([step for step in missing if step.object.key != RULESET], time.monotonic())
        return wait if self._host.wants_any(name) else 0.0

    def _exists(self, network: Network) -> bool:
        """Return whether the link exists on which a network serves its guests. Some routed networks need none."""
        link = self._view.link(network.served_link)
        return not network.served_link or (link is not None and link.is_own_bridge)

    def give_up_move(self) -> None:
        """Note that the guests' move to the policy in force has failed, and ask for a look."""
        self.read_policy()
        self._guests_move = False
        self.hint()

    async def retire(self) -> None:
        """Remove the host objects that only the old policy needed. All guests have moved to the new policy by now."""
        self._guests_move = False
        if self._in_force.observes:
            return
        await self.look()
        for name in self._known - self._in_force.policy.networks.keys():
            self._cured(await self._host.settle(name, ()))
        self._known &= self._in_force.policy.networks.keys()

    async def run(self) -> None:
        """Look at the networks after every hint. While a network has a problem, look again after a growing pause."""
        await take_care(self._wake, self.look, lambda: bool(self._problems))


def _fight(name: str) -> str:
    return f'network "{name}" is not ready: another program keeps removing the filter'


def _words(steps: Iterable[HostStep]) -> tuple[str, ...]:
    return tuple(step.describe() for step in steps)

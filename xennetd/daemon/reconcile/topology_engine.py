"""Observes the host's own links and their IP layer, and executes Steps on them: an apply, a repair or a roll-back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xennetd.daemon.host_sockets import inbound
from xennetd.daemon.shortage import Shortage, shortage
from xennetd.kernel.bridges import HostAddresses
from xennetd.kernel.host_links import HostLinks, HostPorts
from xennetd.kernel.ip_entries import IpEntries
from xennetd.kernel.kernel import Kernel
from xennetd.kernel.links import is_guest_port
from xennetd.model.adapter import Adapter
from xennetd.model.errors import HostError
from xennetd.model.ip_entry import IpEntry
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.objects import HostAddress, HostObject, Key, link_key
from xennetd.model.offload import Offload
from xennetd.model.topology import Topology
from xennetd.model.value import replace
from xennetd.plan.difference import HostStep, Remove, by_key, difference
from xennetd.plan.topology_plan import TopologyPlan, interrupted, topology_plan
from xennetd.policy.adoption import Adoption, adoption
from xennetd.policy.topology_objects import TopologyFacts, oversized_links, topology_objects

_ROUNDS = 8
"""How often Steps are executed until the host is as wanted. A bond that lost its ports for a change needs two."""

_MACHINE_ID = Path("/etc/machine-id")

Objects = Mapping[Key, HostObject]


@dataclass(frozen=True, slots=True)
class TopologyChange:
    """A plan, with the desired objects and those that are to be removed.

    An object with a successor goes only when that one is there (`policy.adoption.Adoption`). `vital` holds the keys
    without which the host would not have all that it had before. `moves` has the name of the link that gets the
    addresses and routes of a link by that link's name.
    """

    plan: TopologyPlan = field(default_factory=TopologyPlan)
    desired: Objects = field(default_factory=dict)
    surplus: Objects = field(default_factory=dict)
    successors: Mapping[Key, Key] = field(default_factory=dict)
    vital: frozenset[Key] = frozenset()
    moves: Mapping[str, str] = field(default_factory=dict)

    def part(self, keys: Collection[Key]) -> TopologyChange:
        """Return the change of these objects alone, without its plan."""
        return TopologyChange(
            desired={key: item for key, item in self.desired.items() if key in keys},
            surplus={key: item for key, item in self.surplus.items() if key in keys},
        )


@dataclass(frozen=True, slots=True)
class Brought:
    """What was done, in words, and what could not be done: sentences by the keys of the objects.

    `waiting` holds the keys of what needs something that could not be made. `stopped` says that the work was ended
    before its end.
    """

    done: tuple[str, ...] = ()
    failed: Mapping[Key, str] = field(default_factory=dict)
    waiting: frozenset[Key] = frozenset()
    stopped: bool = False


class TopologyEngine:
    """The adapters of the topology's objects at work."""

    def __init__(self, kernel: Kernel) -> None:
        self._links = kernel.links
        self._host_links = HostLinks(kernel.links, kernel.ask, kernel.read_link)
        self._entries = IpEntries(kernel.links, kernel.ask, kernel.dump)
        self._offloads = kernel.offloads
        self._adapters: Mapping[str, Adapter[Any]] = {
            "link": self._host_links,
            "port": HostPorts(kernel.links, kernel.ask),
            "address": HostAddresses(kernel.links, kernel.ask, may_have=lambda _: True),
            "offload": self._offloads,
            **dict.fromkeys(("ip address", "ip route", "ip rule", "ip neighbour"), self._entries),
        }

    def change(self, before: Topology, after: Topology, *, removes: bool = True) -> TopologyChange:
        """Return what leads from the host as it is to the topology `after`, where `before` is in force.

        Without `removes` nothing is removed but what moves to another link. Raises HostError where the host is short.
        """
        try:
            adopted = self._adoption(before, after)
            facts = self._facts(after)
            desired = {**by_key(topology_objects(after, facts)), **by_key(adopted.moved)}
            known: dict[Key, HostObject] = by_key(adopted.former)
            if removes:
                desired = {**self._given_back(before, desired), **desired}
                marked: list[HostObject] = [*self._host_links.list_owned(), *self._offloads.of_host()]
                known |= {**by_key(marked), **self._dropped(before, after)}
            else:
                desired = self._not_silenced(desired)
            surplus = {key: item for key, item in known.items() if key not in desired and self._is_there(item)}
            leased = {entry.key.name for entry in self._entries.read() if entry.leased} if removes else frozenset()
            addresses = {
                link.name: [
                    each for each in link.addresses if each.version == 4 or f"{each} on {link.name}" not in leased
                ]
                for link in self._links
                if link.addresses
            }
            named = before.names | after.names
            plan = topology_plan(desired, self._observed(desired, surplus), addresses, named)
            cautions = interrupted(plan, inbound(plan.gone | plan.shaken)) if removes else ()
            refusals = {**plan.refusals, **adopted.refusals, **self._interrupted(plan, desired)}
            refusals |= self._inhabited(plan)
            too_large = oversized_links(after, facts)
            refusals |= {key: too_large[key] for step in plan.steps if (key := step.object.key) in too_large}
            vital = frozenset(key for entry in adopted.moved for key in (entry.key, *entry.requires))
            plan = replace(plan, refusals=refusals, cautions=cautions, remarks=adopted.remarks)
            return TopologyChange(plan, desired, surplus, adopted.successors, vital, adopted.moves)
        except Shortage as error:
            raise shortage(error) from error

    def _dropped(self, before: Topology, after: Topology) -> dict[Key, HostObject]:
        """Return what the topology before wanted, but for addresses that a link keeps because it adopts from now on."""
        adopts = {link.name for link in after if link.adopts}
        found = self._desired(before)
        return {key: item for key, item in found.items() if not (isinstance(item, HostAddress) and item.link in adopts)}

    def _not_silenced(self, desired: Objects) -> dict[Key, HostObject]:
        """Return the objects; the host is not silenced on a link on which it has got an address meanwhile."""

        def speaks(item: HostLink) -> bool:
            link = self._links.link(item.name) if item.silent else None
            return link is not None and any(not address.is_link_local for address in link.addresses)

        return {
            key: replace(item, silent=None) if isinstance(item, HostLink) and speaks(item) else item
            for key, item in desired.items()
        }

    def _inhabited(self, plan: TopologyPlan) -> dict[Key, str]:
        """Return why links can't be deleted: guests are on them."""
        refusals = {}
        for step in plan.steps:
            if isinstance(step, Remove) and isinstance(step.object, HostLink):
                guests = self._host_links.guests_on(step.object.name)
                if guests:
                    names = ", ".join(guests)
                    refusals[step.object.key] = f'"{step.object.name}" can\'t go while guests are on it: {names}'
        return refusals

    def _given_back(self, before: Topology, desired: Objects) -> dict[Key, HostObject]:
        """Return the links that were there before xennetd, and that are to be as they were where nobody asked.

        That is: not silent, and with the kernel's default for router advertisements.
        """
        return {
            key: HostLink(
                item.kind,
                item.name,
                parent=item.parent,
                silent=False if item.silent else None,
                accept_ra=self._host_links.accept_ra("default") if item.accept_ra is not None else None,
            )
            for key, item in self._desired(before).items()
            if isinstance(item, HostLink) and (item.silent or item.accept_ra is not None) and key not in desired
            if (link := self._links.link(item.name)) is not None and not link.is_of_topology
        }

    def _interrupted(self, plan: TopologyPlan, desired: Objects) -> dict[Key, str]:
        """Return why NICs must not become ports of a bond: VLANs on them, which the topology does not name."""
        refusals = {}
        for step in plan.steps:
            port = step.object
            if not isinstance(port, HostPort) or isinstance(step, Remove):
                continue
            master = desired.get(link_key(port.master))
            vlans = [name for name in self._host_links.on_top(port.link) if link_key(name) not in desired]
            if vlans and isinstance(master, HostLink) and master.kind == "bond":
                names = ", ".join(sorted(vlans))
                refusals[port.key] = (
                    f"{port.link} must be down to become a port of {port.master}, which would interrupt {names} on it: "
                    f"name {names} on {port.master}, or remove it"
                )
        return refusals

    def _adoption(self, before: Topology, after: Topology) -> Adoption:
        if not any(link.adopts for topology in (before, after) for link in topology):
            return Adoption()
        names = {**self._host_links.find_nics(before), **self._host_links.find_nics(after)}
        return adoption(before, after, self._entries.read(), lambda name: names.get(name, name))

    def _desired(self, topology: Topology) -> dict[Key, HostObject]:
        return by_key(topology_objects(topology, self._facts(topology)))

    def _facts(self, topology: Topology) -> TopologyFacts:
        names = self._host_links.find_nics(topology)
        links = [link for link in self._links if not is_guest_port(link)] if topology else []
        macs = {link.name: link.address for link in links}
        mtus = {link.name: link.mtu for link in links}
        adopting = [link for link in topology if link.adopts]
        hearing = {link.name for link in adopting} | {topology.base(link) for link in adopting} - {None}
        values = ((name := names.get(str(each), str(each)), self._host_links.accept_ra(name)) for each in hearing)
        accepts = {name: value for name, value in values if value is not None}
        return TopologyFacts(names, macs, mtus, accepts, _machine())

    def _observed(self, desired: Objects, surplus: Objects) -> dict[Key, HostObject]:
        if any(isinstance(item, IpEntry) for item in (*desired.values(), *surplus.values())):
            self._entries.read()
        present = {key: self._adapters[key.kind].present(wanted) for key, wanted in desired.items()}
        found = {key: item for key, item in present.items() if item is not None}
        return {**found, **{key: item for key, item in surplus.items() if self._is_there(item)}}

    def _is_there(self, item: HostObject) -> bool:
        """Return whether the host has an object that is to go, and it is xennetd's to remove."""
        match item:
            case HostLink():
                link = self._links.link(item.name)
                return item.kind != "nic" and link is not None and link.is_of_topology
            case HostPort() | HostAddress() | IpEntry():
                return self._adapters[item.key.kind].present(item) == item
            case Offload():
                return any(self._offloads.of_host(item.link))
            case _:
                return False

    def capture(self, change: TopologyChange) -> tuple[HostObject, ...]:
        """Return what the host has of all that a change may touch, whole: `restore` makes it so again.

        That is every link that the change names, with its settings, its master, and its entries of the IP layer. Of
        offloads it is what xennetd has switched: what it switches from now on is removed again.
        """
        names = {
            name
            for item in (*change.desired.values(), *change.surplus.values())
            for name in _names(item)
            if self._links.link(name) is not None
        }
        found: list[HostObject] = []
        for name in sorted(names):
            found += (*self._host_links.whole(name), *self._offloads.of_host(name))
        entries = [entry for entry in self._entries.read() if names & set(entry.links)]
        return (*found, *entries)

    def indexes(self, captured: Collection[HostObject]) -> dict[str, int]:
        """Return the indexes of captured links, by which they are found again under another name."""
        links = (self._links.link(item.name) for item in captured if isinstance(item, HostLink))
        return {link.name: link.index for link in links if link is not None}

    def restoration(
        self, captured: Collection[HostObject], made: Objects, indexes: Mapping[str, int]
    ) -> TopologyChange:
        """Return what leads back to a captured state. Of what is there besides, only what is `made` is removed.

        `indexes` are those of the captured links: a link that has another name by now gets everything all the same.
        """
        now = ((name, self._links.by_index(index)) for name, index in indexes.items() if self._links.link(name) is None)
        names = {name: link.name for name, link in now if link is not None}
        desired = by_key([_renamed(item, names) for item in captured])
        # An address may be in `made` as the configuration's, and in the captured state as the host's.
        kept = {key.name for key in desired if key.kind == "ip address"}
        known = {key: item for key, item in made.items() if key.kind != "address" or key.name not in kept}
        known |= by_key((*self._host_links.list_owned(), *self._offloads.of_host()))
        self._entries.read()
        surplus = {key: item for key, item in known.items() if key not in desired and self._is_there(item)}
        return TopologyChange(TopologyPlan(), desired, surplus)

    async def bring(
        self,
        change: TopologyChange,
        withheld: Mapping[Key, str] | None = None,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> Brought:
        """Execute Steps until the host is as desired, but for what is `withheld`, and what needs that.

        Before each Step `goes_on` says whether the work is still wanted.
        """
        broken: dict[Key, str] = dict(withheld or {})
        waiting: set[Key] = set()
        done: list[str] = []
        for _ in range(_ROUNDS):
            observed = self._observed(change.desired, change.surplus)
            steps = difference(change.desired, observed)
            waiting.clear()
            progress = False
            for step in steps:
                if step.object.key in broken or self._waits(step, change, broken.keys() | waiting):
                    waiting.add(step.object.key)
                    continue
                if not goes_on():
                    return Brought(tuple(done), broken, frozenset(waiting), stopped=True)
                self._execute(step, broken, done)
                progress = True
                await asyncio.sleep(0)  # Others are served between two Steps.
            if not progress:
                break
        else:
            broken.update({step.object.key: f"`{step.describe()}` does not last" for step in steps})
        return Brought(tuple(done), broken, frozenset(waiting))

    def _waits(self, step: HostStep, change: TopologyChange, missing: Collection[Key]) -> bool:
        """Return whether a Step needs what is missing: what it requires, or for a removal the successor."""
        if not isinstance(step, Remove):
            return not step.object.requires.isdisjoint(missing)
        successor = change.successors.get(step.object.key)
        wanted = change.desired.get(successor) if successor is not None else None
        if successor is None or wanted is None:
            return False
        if successor in missing:
            return True
        if isinstance(wanted, IpEntry):
            return not self._entries.is_there(wanted)
        return self._adapters[successor.kind].present(wanted) != wanted

    def _execute(self, step: HostStep, broken: dict[Key, str], done: list[str]) -> None:
        adapter = self._adapters[step.object.key.kind]
        try:
            adapter.remove([step.object]) if isinstance(step, Remove) else adapter.apply([step.object])
        except HostError as error:
            broken[step.object.key] = error.detail
        except Shortage as error:
            broken[step.object.key] = shortage(error).detail
        else:
            done.append(step.describe())


def _renamed(item: HostObject, names: dict[str, str]) -> HostObject:
    """Return an object about links that have other names by now."""
    match item:
        case HostLink():
            return replace(item, name=names.get(item.name, item.name), parent=names.get(item.parent, item.parent))
        case HostPort():
            return HostPort(names.get(item.link, item.link), names.get(item.master, item.master))
        case Offload():
            return Offload(names.get(item.link, item.link), item.tx_checksum)
        case IpEntry():
            return item.on(names)
        case _:
            return item


def _names(item: HostObject) -> tuple[str, ...]:
    """Return the names of the links that an object is about."""
    match item:
        case HostLink():
            return (item.name, *((item.parent,) if item.parent else ()))
        case HostPort():
            return (item.link, item.master)
        case HostAddress() | Offload():
            return (item.link,)
        case IpEntry():
            return item.links
        case _:
            return ()


def _machine() -> str:
    with suppress(OSError):
        return _MACHINE_ID.read_text().strip()
    return ""

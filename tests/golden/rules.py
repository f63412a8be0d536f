"""What must be so whenever a policy changes, whatever the change is. A rule that is broken is said in a sentence.

What no plan may ever ask for, `tests.golden.host` notes itself. Besides:

Rule 1: no Step touches a guest that the change is not about (`tests.golden.change` says whom it is about).
Rule 2: nothing is removed and made again, no object and no route: a change is one in place.
Rule 3: afterwards nothing is left to be done.
Rule 4: nobody is worse off than after a start with the new configuration: no network and no guest is in an error that
it would not be in then, not even for a moment.
Rule 5: what the host has for its networks is what it would have after such a start, unless one can't be had then, or
a guest still has it whose script was given away.
Rule 6: no guest is in the bridge of a network that no policy leads it to.
Rule 7: a guest that goes from one bridge to another, or stays in one, is not taken down for that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import ip_address

from tests.golden.change import Part
from tests.golden.examples import Guest
from tests.golden.host import SimulatedHost
from tests.golden.serving import Done, Serving
from xennetd.kernel.links import is_guest_port
from xennetd.model.ip import IPAddress
from xennetd.model.link import Link
from xennetd.model.marks import BRIDGE_GROUP
from xennetd.model.objects import DhcpHost, HostObject, ProxyNeighbour, SetElement
from xennetd.model.offload import Offload
from xennetd.model.status import VifState
from xennetd.model.vif import Vif, VifId
from xennetd.plan.desired import Owner
from xennetd.plan.difference import Change, Make, Remove
from xennetd.plan.steps import AddRoute, DeleteRoute, SetLink, Step

Addresses = Mapping[IPAddress, VifId]
"""Whose each address is, or was."""


def addresses_of(daemon: Serving) -> dict[IPAddress, VifId]:
    """Return whose each address of a guest is."""
    attached = ((vif, record.attachment) for vif, record in daemon.records.items())
    return {each.network_address: vif for vif, found in attached if found is not None for each in found.ips}


def untouched(
    daemon: Serving, done: Sequence[Done], addresses: Addresses, concerned: Mapping[VifId, tuple[Guest, Part]]
) -> Iterator[str]:
    """Yield what breaks rule 1."""
    macs = {record.vif.mac: vif for vif, record in daemon.records.items()}
    for each in done:
        match each.what:
            case str():
                continue
            case Change():
                vifs = {_guest_of(one, macs, addresses) for one in (each.what.was, each.what.object)}
            case Make() | Remove():
                vifs = {_guest_of(each.what.object, macs, addresses)}
            case _:
                vifs = {each.owner if isinstance(each.owner, VifId) else None}
        part = Part.HOST if isinstance(each.what, Make | Change | Remove) else Part.LINK
        for vif in vifs:
            if vif is not None and part not in concerned[vif][1]:
                yield f"the change is not about {concerned[vif][0].title}: {each.what.describe()}"


def in_place(done: Sequence[Done]) -> Iterator[str]:
    """Yield what breaks rule 2."""
    removed: set[object] = set()
    for step in [each.what for each in done]:
        match step:
            case Remove():
                removed.add(step.object.key)
            case Make() | Change() if step.object.key in removed:
                yield f"removed and made again: {step.object.key}"
            case DeleteRoute():
                removed.add((step.index, step.route.destination))
            case AddRoute() if (step.index, step.route.destination) in removed:
                yield f"removed and made again: the route to {step.route.destination}"


def finished(left: Sequence[Step]) -> Iterator[str]:
    """Yield what breaks rule 3: the Steps that are still to be done."""
    yield from (f"still to be done: {step.describe()}" for step in left)


def no_worse(daemon: Serving, errors: Sequence[tuple[Owner, str]], started: Serving) -> Iterator[str]:
    """Yield what breaks rule 4. `errors` were told of; `started` is a daemon that was started with the new policy."""
    problems = started.networks.problems()
    for owner, said in errors:
        record = started.records.get(owner) if isinstance(owner, VifId) else None
        if record is not None and record.state is VifState.CONNECTED:
            yield f"not so after a start: {said}"
        if isinstance(owner, str) and not any(problem in said for problem in problems):
            yield f"not so after a start: {said}"
    for vif, record in daemon.records.items():
        if record.error is not None and started.records[vif].state is VifState.CONNECTED:
            yield f"not so after a start: {record.title} is in error: {record.error.detail}"


def same_host(daemon: Serving, started: Serving) -> Iterator[str]:
    """Yield what breaks rule 5."""
    if started.networks.problems():
        return  # What guests have of a network stays although it can't be had.
    if any(record.state is VifState.IGNORED and record.attachment is not None for record in daemon.records.values()):
        return  # What a guest has whose script was given away stays until the guest is gone.
    now, then = _of_the_host(daemon.host), _of_the_host(started.host)
    for name in sorted(now.keys() | then.keys()):
        if name not in then:
            yield f"not there after a start: {name}"
        elif now.get(name) != then[name]:
            yield f"not as after a start: {name}"


def not_taken_down(daemon: Serving, done: Sequence[Done], before: Collection[Link]) -> Iterator[str]:
    """Yield what breaks rule 7. `before` are the host's links as they were before the change."""
    bridged = {link.index for link in before if link.parent is not None and link.master and link.up}
    for step in [each.what for each in done]:
        if isinstance(step, SetLink) and (step.property, step.value) == ("up", False):
            link = daemon.host.links.by_index(step.index)
            if step.index in bridged and link is not None and link.master and link.up:
                yield f"{link.name} was taken down in between"


def as_the_example_says(daemon: Serving, vifs: Mapping[Guest, Vif]) -> Iterator[str]:
    """Yield which guests are not where `tests.golden.examples` says."""
    for guest, vif in vifs.items():
        assignment = daemon.records[vif.id].assignment
        found = (assignment.policy, assignment.network) if assignment is not None else (None, None)
        if found != (guest.policy, guest.network):
            yield f"{guest.title} is led by policy {found[0]} to network {found[1]}"


def where_policy_has_them(daemon: Serving) -> Iterator[str]:
    """Yield what breaks rule 6."""
    for vif, record in daemon.records.items():
        link = daemon.host.links.of(vif)
        bridge = daemon.host.links.by_index(link.master) if link is not None else None
        network = daemon.policy.networks.get(record.assignment.network or "") if record.assignment is not None else None
        if bridge is None or bridge.group != BRIDGE_GROUP or record.state is VifState.IGNORED:
            continue
        if network is None or network.bridge != bridge.name:
            yield f"{record.title} is still in {bridge.name}, to which no policy leads it"


def _guest_of(there: HostObject, macs: Mapping[str | None, VifId], addresses: Addresses) -> VifId | None:
    match there:
        case DhcpHost():
            return macs.get(there.mac)
        case Offload():
            return there.vif
        case ProxyNeighbour():
            return addresses.get(there.address)
        case SetElement(value=(address, *_)):
            return addresses.get(ip_address(address))
    return None


def _of_the_host(host: SimulatedHost) -> dict[str, object]:
    """Return what belongs to no guest, by what it is."""
    links = {link.name: link for link in host.links.links if not is_guest_port(link)}
    found: dict[str, object] = {
        f"link {name}": (link.address, link.group, link.up, set(link.addresses)) for name, link in links.items()
    }
    found |= {
        f"sysctl net/ipv{version}/conf/{link}/{setting}": value
        for (version, link, setting), value in host.settings.items()
        if link == "all" or link in links
    }
    return found | {str(key): there for key, there in host.objects.items() if key.kind in ("table", "dnsmasq")}

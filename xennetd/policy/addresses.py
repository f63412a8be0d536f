"""Which addresses a guest has: fixed by a policy, named in its vif= line, or allocated from its network's subnets.

An allocated address stays with (domain's uuid, devid): where it starts to look for a free one is a hash of these, and
an address that the same pair, or a lease of the same MAC, has already is taken first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from itertools import chain
from typing import Protocol

from xennetd.config.grammar import for_guests
from xennetd.model.attachment import Name
from xennetd.model.configuration import Network
from xennetd.model.errors import GuestError, HostError, XennetdError
from xennetd.model.ip import IPAddress, IPInterface, IPNetwork
from xennetd.model.vif import Vif, VifId
from xennetd.policy.network_reader import unfit

_MOST_PROBES = 1 << 16
"""Addresses that are tried before a subnet counts as full; an IPv4 subnet that is larger is never that full."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A vif that has an address, a prefix or a name, or wants it. `since` is in which order its domain came."""

    vif: VifId
    uuid: str | None
    title: str
    has: bool
    since: int


class OtherGuests(Protocol):
    """What deciding code may ask about all other guests."""

    def claims(self, destination: IPNetwork, asking: VifId) -> Collection[Claim]:
        """Return the live claims of others on a destination that this one overlaps."""
        ...

    def since(self, asking: VifId) -> int:
        """Return in which order the domain of the vif that asks came: of two, the lower came first."""
        ...

    def has(self, asking: VifId, what: IPNetwork | Name) -> bool:
        """Return whether the vif that asks has this already, as a `Claim` says of others."""
        ...

    def namesakes(self, name: Name, asking: VifId) -> Collection[Claim]:
        """Return the other live vifs that go by this name."""
        ...

    def allocated(self, network: str, key: tuple[str, int]) -> Collection[IPAddress]:
        """Return the addresses in this network of a live vif with this (uuid, devid)."""
        ...

    def taken(self, network: str) -> Collection[IPAddress]:
        """Return all addresses of live vifs in this network."""
        ...

    def lease(self, instance: str, mac: str) -> Collection[IPAddress]:
        """Return the addresses that a dnsmasq has last given, or is to give, to this MAC."""
        ...

    def leased(self, instance: str) -> Collection[IPAddress]:
        """Return the addresses that a dnsmasq has given to somebody, who may be gone for a while only."""
        ...

    def problem(self, network: str) -> XennetdError | None:
        """Return why the host can't have this network now."""
        ...


def destination(ip: IPInterface) -> IPNetwork:
    """Return what an address of a vif= line means as a route: a prefix if it is written as one, else the host.

    `192.0.2.5/24` is how a guest would write its own address: the host. `192.0.2.0/28` is a prefix routed to the guest.
    """
    prefix = ip.network.prefixlen
    if ip.ip != ip.network.network_address:
        prefix = ip.max_prefixlen
    return IPv4Network((ip.ip, prefix)) if ip.version == 4 else IPv6Network((ip.ip, prefix))


def guest_destinations(
    vif: Vif,
    network: Network | None,
    fixed: tuple[IPAddress, ...],
    reserved: Callable[[], Collection[IPAddress]],
    others: OtherGuests,
) -> tuple[IPNetwork, ...]:
    """Return the addresses and prefixes of a guest, IPv4 first: fixed ones, else its own, and allocated ones.

    `reserved` returns the addresses that policies fix for others; only a new allocation asks for them.
    Raises GuestError for an address outside of its network or of the network's own, HostError for a full subnet.
    """
    faults = [fault.sentence for fault in vif.faults if fault.node == "ip"]
    if faults and not fixed:
        raise GuestError(faults[0], detail="; ".join(faults))
    found = [_host(ip) for ip in fixed] or [destination(ip) for ip in vif.ips]
    for each in found:
        if not for_guests(each):
            raise GuestError(f"ip {_text(each)} is no address that a guest can have")
    if network is not None:
        for each in found:
            if (why := unfit(network, each)) is not None:
                raise GuestError(f"ip {_text(each)}: {why}")
        found += _allocate_missing(vif, network, {each.version for each in found}, reserved, others)
    return tuple(sorted(dict.fromkeys(found), key=lambda each: each.version))


def uncontested(
    vif: Vif, destinations: tuple[IPNetwork, ...], others: OtherGuests
) -> tuple[tuple[IPNetwork, ...], tuple[str, ...]]:
    """Return those of the destinations that are this vif's now, and what there is to say of those that are not.

    In a reboot or a migration two vifs of one domain (by its uuid) have the same addresses for a while: the later has
    them, and the earlier does without. With anybody else's, who has it first keeps it: raises HostError.
    """
    kept, said = [], []
    for each in destinations:
        other = holder(vif, each, others.claims(each, vif.id), others)
        if other is None:
            kept.append(each)
        elif other.uuid is not None and other.uuid == vif.uuid:
            said.append(f"{_text(each)} has gone over to a later vif of the same domain")
        else:
            raise HostError(
                f"address {_text(each)} is in use by another guest",
                detail=f"address {_text(each)} is {other.title}'s already",
                waits_on=frozenset({claims_of(other.vif)}),
            )
    return tuple(kept), tuple(said)


def holder(vif: Vif, what: IPNetwork | Name, claims: Collection[Claim], others: OtherGuests) -> Claim | None:
    """Return who has what only one can have, of a vif that wants it and others that claim it; None: the vif itself.

    Among domains (by their uuid) who has it keeps it, else the one that came first gets it. Of one domain's vifs it is,
    as in a reboot or a migration, the one in the later domid, and there the first.
    """
    if not claims:
        return None
    mine = Claim(vif.id, vif.uuid, "", others.has(vif.id, what), others.since(vif.id))
    domains: dict[str | VifId, list[Claim]] = {}
    for claim in (mine, *claims):
        domains.setdefault(claim.uuid or claim.vif, []).append(claim)
    domain = min(domains.values(), key=lambda vifs: min((not each.has, each.since, each.vif) for each in vifs))
    found = max(domain, key=lambda each: (each.since, -each.vif.devid))
    return found if found is not mine else None


def claims_of(vif: VifId) -> str:
    """Return what others wait on who want an address that this vif has, as in an error's `waits_on`."""
    return f"the addresses of {vif}"


def _text(wanted: IPNetwork) -> str:
    return str(wanted.network_address if wanted.prefixlen == wanted.max_prefixlen else wanted)


def _allocate_missing(
    vif: Vif, network: Network, has: set[int], reserved: Callable[[], Collection[IPAddress]], others: OtherGuests
) -> list[IPNetwork]:
    """Return addresses for the IP versions in which the guest has none and dnsmasq is to give it one."""
    if not network.dhcp:
        return []
    found: list[IPNetwork] = []
    if network.subnet4 is not None and 4 not in has:
        found.append(_allocate(vif, network, network.subnet4, reserved, others))
    # A routed guest can have no address that nobody routes to it: there is no SLAAC.
    stateful = network.ra == "stateful" or (network.ra == "slaac" and network.mode.routed)
    if network.subnet6 is not None and 6 not in has and stateful:
        found.append(_allocate(vif, network, network.subnet6, reserved, others))
    return found


def _allocate(
    vif: Vif, network: Network, subnet: IPNetwork, reserved: Callable[[], Collection[IPAddress]], others: OtherGuests
) -> IPNetwork:
    key = allocation_key(vif)
    for ip in others.allocated(network.name, key):
        if ip in subnet and not _unusable(network, subnet, ip):
            return _host(ip)
    taken = {*others.taken(network.name), *reserved()}
    mine = [ip for ip in others.lease(network.served_link, vif.mac) if ip in subnet] if vif.mac else []
    asked = chain(mine, _candidates(subnet, key))
    free = (ip for ip in asked if ip not in taken and not _unusable(network, subnet, ip))
    first = next(free, None)
    if first is not None:
        # What a guest would get on an empty host is most likely its own, if it is leased: by another MAC of its.
        spared = set(others.leased(network.served_link)).difference(mine, [_home(network, subnet, key)])
        return _host(next((ip for ip in chain([first], free) if ip not in spared), first))
    raise HostError(
        f'network "{network.name}" has no free address left in {subnet}', waits_on=frozenset({full(network.name)})
    )


def allocation_key(vif: Vif) -> tuple[str, int]:
    """Return whom an allocated address stays with: the domain, by what is known of it, and the device's number."""
    return vif.uuid or vif.mac or str(vif.id), vif.id.devid


def _host(ip: IPAddress) -> IPNetwork:
    return IPv4Network(ip) if ip.version == 4 else IPv6Network(ip)


def _unusable(network: Network, subnet: IPNetwork, ip: IPAddress) -> bool:
    gateway = network.gateway4 if ip.version == 4 else network.gateway6
    return (
        ip == subnet.network_address
        or (ip.version == 4 and ip == subnet.broadcast_address)
        or (gateway is not None and ip == gateway.ip)
    )


def _home(network: Network, subnet: IPNetwork, key: tuple[str, int]) -> IPAddress | None:
    """Return the address that nobody but this guest would be given first, or hardly anybody."""
    return next((ip for ip in _candidates(subnet, key) if not _unusable(network, subnet, ip)), None)


def _candidates(subnet: IPNetwork, key: tuple[str, int]) -> Iterator[IPAddress]:
    """Return the addresses of a subnet, each once, from one on that only `key` decides."""
    count = min(subnet.num_addresses, _MOST_PROBES)
    start = int.from_bytes(hashlib.sha256(f"{key[0]}/{key[1]}".encode()).digest()[:8]) % count
    for i in range(count):
        yield subnet[(start + i) % count]


def full(network: str) -> str:
    """Return what a vif waits on for which its network has no address left, as in an error's `waits_on`."""
    return f"an address of network {network}"

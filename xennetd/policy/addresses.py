"""The addresses of a guest: fixed by a policy, named in its vif= line, or allocated from its network's subnets.

An allocated address stays with the pair (domain's uuid, devid). A hash of the pair determines where the search for a
free address starts. Before the search, an address is reused that a live vif of the same pair has, or that a lease of
the same MAC has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv4Network, IPv6Network
from itertools import chain
from typing import Protocol

from msgspec import Struct

from xennetd.config.grammar import for_guests
from xennetd.model.attachment import Name
from xennetd.model.configuration import Network
from xennetd.model.errors import GuestError, HostError, XennetdError
from xennetd.model.ip import IPAddress, IPInterface, IPNetwork
from xennetd.model.vif import Vif, VifId
from xennetd.policy.network_reader import unfit

_BLOCK = 6
"""The binary logarithm of the number of addresses in one question about taken addresses."""

_MOST_PROBES = 1 << 16
"""The most addresses that are tried before a subnet counts as full. No host has guests enough to fill a larger one."""


class Claim(Struct, frozen=True):
    """A vif's claim to an address, a prefix or a name. `has` says whether the vif has it, or only wants it.

    `title` names the vif for people. `since` is the rank of its domain in the order of arrival.
    """

    vif: VifId
    uuid: str | None
    title: str
    has: bool
    since: int


class OtherGuests(Protocol):
    """The questions about all other guests that deciding code may ask.

    `asking` is the vif that the decision is about.
    """

    def claims(self, destination: IPNetwork, asking: VifId) -> Collection[Claim]:
        """Return the claims of other live vifs on a destination that overlaps `destination`."""
        ...

    def since(self, asking: VifId) -> int:
        """Return the rank of the asking vif's domain in the order of arrival: the lower rank came first."""
        ...

    def has(self, asking: VifId, what: IPNetwork | Name) -> bool:
        """Return whether the asking vif itself has this address or name already (`Claim.has`)."""
        ...

    def namesakes(self, name: Name, asking: VifId) -> Collection[Claim]:
        """Return the claims of the other live vifs with this name."""
        ...

    def allocated(self, network: str, key: tuple[str, int]) -> Collection[IPAddress]:
        """Return the addresses in this network of live vifs with this `allocation_key`."""
        ...

    def taken(self, network: str, block: IPNetwork) -> Collection[IPAddress]:
        """Return the addresses of live vifs in this network that are in a block of at most 64 addresses."""
        ...

    def lease(self, instance: str, mac: str) -> Collection[IPAddress]:
        """Return the addresses that a dnsmasq instance has last given, or is to give, to this MAC."""
        ...

    def leased(self, instance: str, address: IPAddress) -> bool:
        """Return whether a dnsmasq instance has leased this address. Its guest may be absent only for a while."""
        ...

    def problem(self, network: str) -> XennetdError | None:
        """Return the error why this network is not ready now, None if it is ready."""
        ...


def destination(ip: IPInterface) -> IPNetwork:
    """Return the destination that an address of a vif= line means.

    `192.0.2.5/24` has host bits: a guest writes its own address so, and the destination is this single host.
    `192.0.2.0/28` has none: it is a prefix that is routed to the guest.
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
    """Return the addresses and prefixes of a guest, IPv4 first.

    They are `fixed`, else those of the vif= line; for an IP version in which these have none, one is allocated if the
    network assigns addresses. `reserved` returns the addresses that policies fix for other guests; it is called for an
    allocation only. Raises GuestError for an address that a guest of the network can't have, HostError for a full
    subnet.
    """
    faults = [fault.sentence for fault in vif.faults if fault.node == "ip"]
    if faults and not fixed:
        raise GuestError(faults[0], detail="; ".join(faults))
    wanted = [_host(ip) for ip in fixed] or [destination(ip) for ip in vif.ips]
    for ip in wanted:
        if not for_guests(ip):
            raise GuestError(f"ip {_text(ip)}: not an address that a guest can have")
    if network is not None:
        for ip in wanted:
            if (reason := unfit(network, ip)) is not None:
                raise GuestError(f"ip {_text(ip)}: {reason}")
        wanted += _allocate_missing(vif, network, {ip.version for ip in wanted}, reserved, others)
    return tuple(sorted(dict.fromkeys(wanted), key=lambda ip: ip.version))


def uncontested(
    vif: Vif, destinations: tuple[IPNetwork, ...], others: OtherGuests
) -> tuple[tuple[IPNetwork, ...], tuple[str, ...]]:
    """Return the destinations that this vif owns now, and warnings about the others.

    During a reboot or a migration, two vifs of one domain (by its uuid) claim the same addresses for a while. The later
    vif owns them then. Raises HostError for an address that a vif of another domain owns.
    """
    kept, warnings = [], []
    for ip in destinations:
        other = holder(vif, ip, others.claims(ip, vif.id), others)
        if other is None:
            kept.append(ip)
        elif other.uuid is not None and other.uuid == vif.uuid:
            warnings.append(f"{_text(ip)} belongs to a later vif of the same domain now")
        else:
            raise HostError(
                f"address {_text(ip)} is in use by another guest",
                detail=f"address {_text(ip)} belongs to {other.title} already",
                waits_on=frozenset({claims_of(other.vif)}),
            )
    return tuple(kept), tuple(warnings)


def holder(vif: Vif, what: IPNetwork | Name, claims: Collection[Claim], others: OtherGuests) -> Claim | None:
    """Return the claim that wins an address or name that only one vif can have, None if `vif` itself wins.

    `claims` are those of the other vifs. Between domains (by their uuid), the domain that has it keeps it; if none has
    it, the domain that came first gets it. Within a domain the vif of the latest domid wins, as in a reboot or a
    migration, and within this domid the vif with the lowest devid.
    """
    if not claims:
        return None
    own = Claim(vif.id, vif.uuid, "", others.has(vif.id, what), others.since(vif.id))
    domains: dict[str | VifId, list[Claim]] = {}
    for claim in (own, *claims):
        domains.setdefault(claim.uuid or claim.vif, []).append(claim)
    domain = min(domains.values(), key=lambda vifs: min((not claim.has, claim.since, claim.vif) for claim in vifs))
    winner = max(domain, key=lambda claim: (claim.since, -claim.vif.devid))
    return winner if winner is not own else None


def claims_of(vif: VifId) -> str:
    """Return the element of an error's `waits_on` for a vif that wants an address which `vif` has."""
    return f"the addresses of {vif}"


def _text(wanted: IPNetwork) -> str:
    return str(wanted.network_address if wanted.prefixlen == wanted.max_prefixlen else wanted)


def _allocate_missing(
    vif: Vif, network: Network, has: set[int], reserved: Callable[[], Collection[IPAddress]], others: OtherGuests
) -> list[IPNetwork]:
    """Return an address for each IP version that is not in `has` and in which dnsmasq assigns addresses."""
    if not network.dhcp:
        return []
    allocated: list[IPNetwork] = []
    if network.subnet4 is not None and 4 not in has:
        allocated.append(_allocate(vif, network, network.subnet4, reserved, others))
    # A routed guest can't use SLAAC: the host must know an address to route it to the guest.
    stateful = network.ra == "stateful" or (network.ra == "slaac" and network.mode.routed)
    if network.subnet6 is not None and 6 not in has and stateful:
        allocated.append(_allocate(vif, network, network.subnet6, reserved, others))
    return allocated


def _allocate(
    vif: Vif, network: Network, subnet: IPNetwork, reserved: Callable[[], Collection[IPAddress]], others: OtherGuests
) -> IPNetwork:
    key = allocation_key(vif)
    for ip in others.allocated(network.name, key):
        if ip in subnet and not _unusable(network, subnet, ip) and ip not in reserved():
            return _host(ip)
    never = frozenset(reserved())
    leased = [ip for ip in others.lease(network.served_link, vif.mac) if ip in subnet] if vif.mac else []
    candidates = chain(leased, _candidates(subnet, key))
    is_taken = _taken_in(network.name, others)
    free = (ip for ip in candidates if not (is_taken(ip) or ip in never or _unusable(network, subnet, ip)))
    first = next(free, None)
    if first is not None:
        # Addresses with another MAC's lease are avoided while there are others. The exception is the address that this
        # guest would get on an empty host: most likely the guest itself has leased it, with another MAC.
        own = {*leased, _home(network, subnet, key)}
        good = (ip for ip in chain([first], free) if ip in own or not others.leased(network.served_link, ip))
        return _host(next(good, first))
    raise HostError(
        f'network "{network.name}" has no free address left in {subnet}', waits_on=frozenset({full(network.name)})
    )


def _taken_in(network: str, others: OtherGuests) -> Callable[[IPAddress], bool]:
    """Return a function that says whether a live vif in this network has an address.

    It asks for few addresses at a time: the cost of a free address must not grow with the number of guests.
    """
    blocks: dict[tuple[int, int], Collection[IPAddress]] = {}

    def is_taken(ip: IPAddress) -> bool:
        block = ip.version, int(ip) >> _BLOCK
        if block not in blocks:
            first, length = block[1] << _BLOCK, ip.max_prefixlen - _BLOCK
            asked = IPv4Network((first, length)) if ip.version == 4 else IPv6Network((first, length))
            blocks[block] = others.taken(network, asked)
        return ip in blocks[block]

    return is_taken


def allocation_key(vif: Vif) -> tuple[str, int]:
    """Return the pair that an allocated address stays with: the domain's uuid and the devid.

    Where the uuid can't be read, the MAC stands for the domain; without a MAC, the vif's name does.
    """
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
    """Return the address that the guest with this `key` would get on an empty host. Few other guests share it."""
    return next((ip for ip in _candidates(subnet, key) if not _unusable(network, subnet, ip)), None)


def _candidates(subnet: IPNetwork, key: tuple[str, int]) -> Iterator[IPAddress]:
    """Yield the addresses of a subnet once, starting at one that a hash of `key` determines."""
    count = min(subnet.num_addresses, _MOST_PROBES)
    start = int.from_bytes(hashlib.sha256(f"{key[0]}/{key[1]}".encode()).digest()[:8]) % count
    for i in range(count):
        yield subnet[(start + i) % count]


def full(network: str) -> str:
    """Return the element of an error's `waits_on` for a vif whose network has no free address."""
    return f"an address of network {network}"

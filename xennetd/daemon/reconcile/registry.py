"""The addresses, MACs and names that guests claim. A decision about one guest depends on the claims of all others.

The registry holds the claims of every vif's latest decision, so it is complete when every vif has been decided once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

from msgspec import Struct

from xennetd.model.attachment import Attachment, Name, dns_scope
from xennetd.model.empty import NONE
from xennetd.model.errors import XennetdError
from xennetd.model.ip import IPAddress, IPNetwork
from xennetd.model.text import dns_label
from xennetd.model.value import replace
from xennetd.model.vif import Vif, VifId
from xennetd.policy.addresses import Claim, allocation_key, claims_of, full

_Key = TypeVar("_Key")


class _Entry(Struct, frozen=True):
    """The claims of one live vif.

    `hosts` are single addresses, `prefixes` whole networks. `names` are the MAC within its segment and the VM's name
    within its network. `held`: the addresses and names that this guest owns exclusively. All follow from the vif's
    attachment, `vm` (the domain's name), `key` and `claim`.
    """

    claim: Claim
    names: frozenset[Name]
    network: str | None
    key: tuple[str, int]
    hosts: frozenset[IPAddress]
    prefixes: frozenset[IPNetwork]
    held: frozenset[IPNetwork | Name]
    vm: str | None

    @property
    def addresses(self) -> tuple[object, ...]:
        """The claimed addresses and prefixes, and their network."""
        return self.hosts, self.prefixes, self.network

    def has(self, what: IPNetwork | Name) -> bool:
        """Return whether the connected guest owns this name, or an address in this destination."""
        if not self.claim.has or isinstance(what, tuple):
            return self.claim.has and what in self.held
        return any(not isinstance(held, tuple) and _overlap(held, what) for held in self.held)

    def to(self, what: IPNetwork | Name) -> Claim:
        """Return the claim to this name or destination."""
        return replace(self.claim, has=self.has(what))


class Affected(Struct, frozen=True):
    """The vifs that a change of one vif's claims concerns.

    `rivals` claim the same addresses or names. `freed` names what other vifs may wait for (an error's `waits_on`).
    """

    rivals: frozenset[VifId] = frozenset()
    freed: frozenset[str] = frozenset()


_NOBODY = Affected()


class GuestRegistry:
    """Implements `policy.addresses.OtherGuests`.

    `lease`, `leased` and `problem` answer the methods of the same names: the first two for dnsmasq's leases, the third
    for the problems of networks.
    """

    def __init__(
        self,
        lease: Callable[[str, str], Collection[IPAddress]],
        leased: Callable[[str, IPAddress], bool],
        problem: Callable[[str], XennetdError | None],
    ) -> None:
        self.lease = lease
        self.leased = leased
        self.problem = problem
        self._entries: dict[VifId, _Entry] = {}
        self._attachments: dict[VifId, Attachment] = {}
        """The attachments from which the entries were made."""
        self._since: dict[int, int] = {}
        self._there: dict[int, set[VifId]] = {}
        self._in_service: dict[VifId, bool] = {}
        """The connected vifs. The value says whether the vif's link is up."""
        self._count = 0
        self._by_host: dict[IPAddress, set[VifId]] = {}
        self._by_name: dict[Name, set[VifId]] = {}
        self._by_key: dict[tuple[str, tuple[str, int]], set[VifId]] = {}
        self._with_prefix: set[VifId] = set()

    def came(self, vif: VifId) -> None:
        """Register that a vif exists. The order of the calls is the order in which domains came."""
        self._there.setdefault(vif.domid, set()).add(vif)
        if vif.domid not in self._since:
            self._count += 1
            self._since[vif.domid] = self._count

    def meet(self, vif: VifId, *, connected: bool, in_service: bool) -> None:
        """Register whether a vif is connected and its link is up, before the vif is decided.

        A connected vif owns the addresses and names that it was granted. After the daemon's start these are not known
        yet. Until its first decision the vif owns every address and name that it asks for, if its link is up. The link
        of a refused vif is down.
        """
        self.came(vif)
        self._in_service.pop(vif, None)
        if connected:
            self._in_service[vif] = in_service

    def since(self, asking: VifId) -> int:
        """Return the position of a vif's domain in the order in which domains came."""
        return self._since.get(asking.domid, self._count + 1)

    def has(self, asking: VifId, what: IPNetwork | Name) -> bool:
        """Return whether a connected vif owns this address, network or name."""
        in_service = self._in_service.get(asking)
        entry = self._entries.get(asking)
        if in_service is None or entry is None:
            return bool(in_service)
        return what in entry.held

    def claims(self, destination: IPNetwork, asking: VifId) -> list[Claim]:
        """Return the claims of vifs other than `asking` on addresses or prefixes that overlap this destination."""
        claimants = self.claimants(destination)
        return [self._entries[vif].to(destination) for vif in sorted(claimants) if vif != asking]

    def claimants(self, destination: IPNetwork) -> set[VifId]:
        """Return the vifs that claim addresses or prefixes that overlap this destination."""
        claimants: set[VifId] = set()
        if destination.prefixlen == destination.max_prefixlen:
            claimants |= self._by_host.get(destination.network_address, set())
        else:
            for host, vifs in self._by_host.items():
                if host in destination:
                    claimants |= vifs
        for vif in self._with_prefix:
            if any(_overlap(prefix, destination) for prefix in self._entries[vif].prefixes):
                claimants.add(vif)
        return claimants

    def namesakes(self, name: Name, asking: VifId) -> list[Claim]:
        """Return the claims of vifs other than `asking` to this name."""
        return [self._entries[vif].to(name) for vif in sorted(self._by_name.get(name, ())) if vif != asking]

    def allocated(self, network: str, key: tuple[str, int]) -> list[IPAddress]:
        """Return the addresses in this network of the live vifs with this (uuid, devid)."""
        vifs = sorted(self._by_key.get((network, key), ()))
        return [host for vif in vifs for host in sorted(self._entries[vif].hosts, key=int)]

    def taken(self, network: str, block: IPNetwork) -> set[IPAddress]:
        """Return the addresses of live vifs in this network that are in a block of few addresses."""
        return {
            host for host in block if any(self._entries[vif].network == network for vif in self._by_host.get(host, ()))
        }

    def set(self, vif: Vif, title: str, attachment: Attachment, *, connected: bool) -> Affected:
        """Register the claims of a vif's new attachment in place of its earlier claims.

        `title` names the vif in errors about other vifs. Returns the vifs that the change concerns.
        """
        claim, key = Claim(vif.id, vif.uuid, title, connected, self.since(vif.id)), allocation_key(vif)
        old = self._entries.get(vif.id)
        if (
            old is not None
            and old.vm == vif.vm
            and old.key == key
            and old.claim == claim
            and self._attachments[vif.id] == attachment
        ):
            return _NOBODY
        self._attachments[vif.id] = attachment
        ips = attachment.ips
        entry = _Entry(
            claim=claim,
            names=frozenset(_names(vif, attachment)) or NONE,
            network=attachment.network,
            key=key,
            hosts=frozenset(ip.network_address for ip in ips if ip.prefixlen == ip.max_prefixlen) or NONE,
            prefixes=frozenset(ip for ip in ips if ip.prefixlen != ip.max_prefixlen) or NONE,
            held=attachment.granted,
            vm=vif.vm,
        )
        if old == entry:
            return _NOBODY
        if old is not None:
            self._forget(vif.id, old)
        self._entries[vif.id] = entry
        for host in entry.hosts:
            self._by_host.setdefault(host, set()).add(vif.id)
        for name in entry.names:
            self._by_name.setdefault(name, set()).add(vif.id)
        if entry.network is not None:
            self._by_key.setdefault((entry.network, entry.key), set()).add(vif.id)
        if entry.prefixes:
            self._with_prefix.add(vif.id)
        rivals = {claim.vif for ip in ips for claim in self.claims(ip, vif.id)}
        for name in entry.names | (old.names if old is not None else frozenset()):
            rivals |= self._by_name.get(name, set())
        rivals.discard(vif.id)
        freed = _freed(vif.id, old) if old is not None and old.addresses != entry.addresses else frozenset()
        return Affected(frozenset(rivals), freed)

    def drop(self, vif: VifId, *, gone: bool = False) -> Affected:
        """Forget a vif's claims. With `gone`, forget the vif itself and when its domain came.

        Returns the vifs that the change concerns.
        """
        if gone:
            _discard(self._there, vif.domid, vif)
            self._in_service.pop(vif, None)
            if vif.domid not in self._there:
                self._since.pop(vif.domid, None)
        entry = self._entries.pop(vif, None)
        if entry is None:
            return _NOBODY
        del self._attachments[vif]
        self._forget(vif, entry)
        rivals = {claim.vif for host in entry.hosts for claim in self._claims_on(host)}
        for name in entry.names:
            rivals |= self._by_name.get(name, set())
        return Affected(frozenset(rivals), _freed(vif, entry))

    def _claims_on(self, host: IPAddress) -> list[Claim]:
        return [self._entries[vif].claim for vif in self._by_host.get(host, ())]

    def _forget(self, vif: VifId, entry: _Entry) -> None:
        for host in entry.hosts:
            _discard(self._by_host, host, vif)
        for name in entry.names:
            _discard(self._by_name, name, vif)
        if entry.network is not None:
            _discard(self._by_key, (entry.network, entry.key), vif)
        self._with_prefix.discard(vif)


def _names(vif: Vif, attachment: Attachment) -> Iterator[Name]:
    if attachment.mac is not None:
        yield attachment.mac, attachment.segment
    if attachment.network is not None and vif.vm is not None:
        yield vif.vm, attachment.network
        if (label := dns_label(vif.vm)) is not None:
            yield label, dns_scope(attachment.network)


def _freed(vif: VifId, entry: _Entry) -> frozenset[str]:
    freed = {claims_of(vif)} if entry.hosts or entry.prefixes else set()
    if entry.network is not None and entry.hosts:
        freed.add(full(entry.network))
    return frozenset(freed)


def _discard(index: dict[_Key, set[VifId]], key: _Key, vif: VifId) -> None:
    vifs = index.get(key)
    if vifs is not None:
        vifs.discard(vif)
        if not vifs:
            del index[key]


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and (one.network_address in other or other.network_address in one)

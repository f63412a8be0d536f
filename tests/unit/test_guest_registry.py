"""Who has an address that several want: always just one of them, and nobody takes it from who has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.hosts import TableHost, nobody
from xennetd.daemon.reconcile.registry import GuestRegistry
from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Network
from xennetd.model.errors import HostError
from xennetd.model.placement import BridgePort, Routed
from xennetd.model.value import replace
from xennetd.model.vif import Vif, VifId, XenbusState
from xennetd.policy.addresses import destination, guest_destinations, holder, uncontested
from xennetd.policy.facts import Facts
from xennetd.policy.modes import NAT, ROUTE

WANTED = ("198.51.100.7", "198.51.100.0/29", "198.51.100.9")
IDS = (VifId(3, 0), VifId(3, 1), VifId(4, 0), VifId(9, 0))

ROUTED = Assignment(ROUTE.name)
BY_ETH0 = Routed("eth0", gateways=(), source=None, destinations=(), neighbours=frozenset(), sysctls=())


@dataclass
class Guest:
    """One guest, told that it is connected as soon as it has its address."""

    vif: Vif
    connected: bool = False
    denied: bool = False
    has: bool = False


class Guests:
    def __init__(self, wants: Sequence[str], uuids: Sequence[str]) -> None:
        self.claims = nobody()
        self.guests = [
            Guest(Vif(vif, XenbusState.INIT_WAIT, True, "", ips=(IPv4Interface(wanted),), uuid=uuid))
            for vif, wanted, uuid in zip(IDS, wants, uuids, strict=True)
        ]

    def look(self, number: int) -> None:
        """As the reconciler looks at one."""
        guest = self.guests[number]
        vif = guest.vif
        self.claims.meet(vif.id, connected=guest.connected, in_service=guest.has)
        wanted = (destination(vif.ips[0]),)
        try:
            if guest.denied:
                raise HostError("denied")
            kept, _ = uncontested(vif, wanted, self.claims)
        except HostError:
            self.claims.drop(vif.id)
            guest.has = False
            return
        attachment = Attachment(vif.id, ROUTED, BY_ETH0, ips=wanted, granted=frozenset(kept))
        self.claims.set(vif, str(vif.id), attachment, connected=guest.connected)
        guest.has = guest.connected = bool(kept)

    def restart(self) -> None:
        self.claims = nobody()

    def rest(self) -> None:
        """Look at all of them until nothing changes; that it comes to that is part of what is tested."""
        for _ in range(5):
            before = [guest.has for guest in self.guests]
            for number in sorted(range(len(self.guests)), key=lambda number: not self.guests[number].has):
                self.look(number)
        assert before == [guest.has for guest in self.guests]


def overlap(one: Guest, other: Guest) -> bool:
    return destination(one.vif.ips[0]).overlaps(destination(other.vif.ips[0]))


_wants = st.lists(st.sampled_from(WANTED), min_size=4, max_size=4)
_uuids = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=4, max_size=4)
_moves = st.lists(st.tuples(st.sampled_from(["look", "deny", "allow", "restart"]), st.integers(0, 3)), max_size=20)


Moves = Sequence[tuple[str, int]]


def play(guests: Guests, moves: Moves) -> None:
    for move, number in moves:
        match move:
            case "look":
                guests.look(number)
            case "restart":
                guests.restart()
            case _:
                guests.guests[number].denied = move == "deny"
                guests.look(number)


@given(_wants, _uuids, _moves)
def test_one_has_what_several_want(wants: Sequence[str], uuids: Sequence[str], moves: Moves) -> None:
    guests = Guests(wants, uuids)
    play(guests, moves)
    guests.rest()
    for guest in guests.guests:
        rivals = [other for other in guests.guests if other is not guest and overlap(guest, other)]
        assert not (guest.has and any(other.has for other in rivals))
        assert guest.has or guest.denied or any(other.has for other in rivals), "nobody has it"


@given(_wants, _moves)
def test_nobody_takes_an_address_from_another_domain(wants: Sequence[str], moves: Moves) -> None:
    guests = Guests(wants, "abcd")
    play(guests, moves)
    guests.rest()
    having = [guest for guest in guests.guests if guest.has]
    for guest in guests.guests:
        guest.denied = False
    guests.rest()
    assert all(guest.has for guest in having)
    guests.restart()
    guests.rest()
    assert all(guest.has for guest in having)


def test_of_two_that_are_both_told_that_they_are_connected_one_has_it() -> None:
    claims = nobody()
    wanted = destination(IPv4Interface(WANTED[0]))
    vifs = [vif_of(domid, str(domid)) for domid in (1, 2)]
    for connected in (False, True):
        for vif in vifs:
            claims.meet(vif.id, connected=connected, in_service=True)
            attachment = Attachment(vif.id, ROUTED, BY_ETH0, ips=(wanted,), granted=frozenset({wanted}))
            claims.set(vif, "", attachment, connected=connected)
    assert [holder(vif, wanted, claims.claims(wanted, vif.id), claims) is None for vif in vifs] == [True, False]


NAME = ("00:16:3e:00:00:01", 'bridge "xn-lab"')


def vif_of(domid: int, uuid: str) -> Vif:
    vif = VifId(domid, 0)
    return Vif(vif, XenbusState.INIT_WAIT, True, "", mac=NAME[0], ips=(IPv4Interface(WANTED[0]),), uuid=uuid)


def look_at_name(claims: GuestRegistry, vif: Vif) -> bool:
    """As the reconciler looks at a connected vif; who does not have the name is connected all the same."""
    claims.meet(vif.id, connected=True, in_service=True)
    has = holder(vif, NAME, claims.namesakes(NAME, vif.id), claims) is None
    granted = frozenset({NAME}) if has else frozenset()
    port = BridgePort("xn-lab", 9)
    attachment = Attachment(vif.id, Assignment(NAT.name), port, mac=NAME[0], granted=granted)
    claims.set(vif, "", attachment, connected=True)
    return has


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.sampled_from("ab"), min_size=4, max_size=4))
def test_of_many_with_one_name_one_has_it_and_no_stranger_takes_it(looks: list[int], uuids: list[str]) -> None:
    claims = nobody()
    vifs = [vif_of(domid, uuid) for domid, uuid in zip((3, 4, 5, 9), uuids, strict=True)]
    owner: str | None = None
    for number in looks:
        if look_at_name(claims, vifs[number]):
            assert owner in (None, vifs[number].uuid), "another domain has it already"
            owner = vifs[number].uuid
    for _ in range(4):
        having = [vif.uuid for vif in vifs if look_at_name(claims, vif)]
    assert len(having) == 1
    assert owner in (None, *having)


def test_which_vif_of_a_domain_is_the_later_one_does_not_depend_on_who_is_looked_at_first() -> None:
    claims = nobody()
    wanted = destination(IPv4Interface(WANTED[0]))
    old, new = vif_of(5, "a"), vif_of(9, "a")
    for vif in (old, new):
        claims.came(vif.id)
    for vif, connected in ((new, True), (old, False)):
        claims.meet(vif.id, connected=connected, in_service=connected)
        found = holder(vif, wanted, claims.claims(wanted, vif.id), claims)
        assert (found is None) == (vif is new)
        claims.set(vif, "", Attachment(vif.id, ROUTED, BY_ETH0, ips=(wanted,)), connected=connected)


def test_who_is_connected_at_last_frees_nothing() -> None:
    claims = nobody()
    wanted = destination(IPv4Interface(WANTED[0]))
    vif = vif_of(1, "a")
    edge = Assignment(ROUTE.name, network="edge")
    attachment = Attachment(vif.id, edge, BY_ETH0, ips=(wanted,), granted=frozenset({wanted}))
    claims.set(vif, "", attachment, connected=False)
    assert claims.set(vif, "", attachment, connected=True).freed == frozenset()
    assert claims.set(vif, "", replace(attachment, ips=()), connected=True).freed


def test_the_registry_keeps_the_latest_attachment_even_if_its_claims_are_the_former_ones() -> None:
    """A second look with the same attachment costs nothing, and no former attachment stays in memory."""
    claims = nobody()
    vif = vif_of(1, "a")
    attachment = Attachment(vif.id, Assignment(ROUTE.name, network="edge"), BY_ETH0)
    claims.set(vif, "", attachment, connected=True)
    moved = replace(attachment, mtu=9000)
    claims.set(vif, "", moved, connected=True)
    assert claims._attachments[vif.id] is moved


def test_a_vif_with_the_same_attachment_claims_anew_what_follows_from_the_vif() -> None:
    claims = nobody()
    vif, other = vif_of(1, "a"), vif_of(2, "b")
    attachment = Attachment(
        vif.id, Assignment(ROUTE.name, network="edge"), BY_ETH0, ips=(destination(IPv4Interface(WANTED[0])),)
    )
    claims.set(vif, "", attachment, connected=True)
    claims.set(replace(vif, vm="web"), "", attachment, connected=True)
    assert [claim.vif for claim in claims.namesakes(("web", "edge"), other.id)] == [vif.id]
    claims.set(replace(vif, vm="web", uuid="c"), "", attachment, connected=True)
    assert claims.allocated("edge", ("a", vif.id.devid)) == []
    assert claims.allocated("edge", ("c", vif.id.devid))
    claims.set(replace(vif, vm="web", uuid=None, mac="00:16:3e:00:00:01"), "", attachment, connected=True)
    claims.set(replace(vif, vm="web", uuid=None, mac="00:16:3e:00:00:02"), "", attachment, connected=True)
    assert claims.allocated("edge", ("00:16:3e:00:00:02", vif.id.devid))


def test_an_allocation_asks_for_few_addresses_with_any_number_of_guests_and_gives_none_twice() -> None:
    network = Network("lab", NAT, "xn-lab", subnet4=IPv4Network("10.64.0.0/22"), dhcp=True)
    others, given = nobody(), set[object]()
    for domid in range(1, 1001):
        vif = Vif(VifId(domid, 0), XenbusState.INIT_WAIT, True, "", uuid=f"domain {domid}")
        facts = Facts(TableHost(()), others)
        (address,) = guest_destinations(vif, network, (), lambda: (), facts)
        answers = [answer for question, answer in facts.answers.items() if question[0] == "taken"]
        assert address.network_address not in given
        given.add(address.network_address)
        # The subnet has 1,022 addresses, so the last guests have few left.
        assert domid > 700 or sum(map(len, answers)) <= 4 * 64
        assignment = Assignment(NAT.name, network="lab")
        attachment = Attachment(vif.id, assignment, BridgePort("xn-lab", 9, 1500), ips=(address,), granted=frozenset())
        others.set(vif, str(vif.id), attachment, connected=True)
    elsewhere = replace(network, name="dmz")
    (address,) = guest_destinations(vif, elsewhere, (), lambda: (), Facts(TableHost(()), others))
    assert address.network_address in given, "another network's guests take nothing"
